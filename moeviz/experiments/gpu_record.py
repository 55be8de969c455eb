"""Experiments that share a GPU's seconds: arms are probed, planned, trained and summed up."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moeviz.experiments import Progress
from moeviz.experiments.at_scale import (
    VALIDATIONS,
    Arm,
    Cost,
    Setting,
    Size,
    gpu_setting,
    probe,
    train,
)
from moeviz.experiments.recording import figures_over, mean_sd, means, write_json
from moeviz.records.compare import compare

SPARE = 0.93  # of the seconds is planned for
# Figures of a run that no seed changes.
FIXED = ("experts", "parameters", "active_parameters", "gigaflops_per_step")

# item(key, measure): keeps the result of an item under its key and gives it back, None where it
# failed or came too late; benchmarks/visit.py has one.
Item = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True)
class Experiment:
    """Arms that are compared with the first of them, each with so many seeds. more: figures that a
    summary of these arms has besides."""

    name: str
    arms: Callable[[Size], dict[str, Arm]]
    seeds: int
    more: Callable[[dict[str, Any]], dict[str, Any]] = lambda arms: {}

    def key(self, arm: str, seed: int) -> str:
        return f"{self.name}/{arm}/seed {seed}"

    def run(
        self, out: Path, meta: dict[str, Any], seeds: int, on_step: Progress, seconds: float = 100
    ) -> dict[str, Any]:
        """Train every arm with every seed on this GPU, in so many seconds; write runs/<name>.json
        under `out`, anew after each run."""
        experiment, setting = dataclasses.replace(self, seeds=seeds), gpu_setting()
        items: dict[str, Any] = {}
        end, path = time.monotonic() + seconds, out / "runs" / f"{self.name}.json"
        total = seeds * len(self.arms(setting.size))

        def item(key: str, measure: Callable[[], Any]) -> Any:
            try:
                items[key] = measure()
            except (ValueError, RuntimeError) as error:
                print(f"{key}: {error}", file=sys.stderr)
                return None
            if done := sum("/seed " in key for key in items):
                write_json(path, meta, summary(experiment, items))
                on_step(done, total)
            return items[key]

        record(experiment, setting, lambda: end - time.monotonic(), item)
        return means(summary(experiment, items)["arms"], "validation_loss", "tokens_per_second")


def seconds_of(cost: Cost, steps: int) -> float:
    """What a run of so many steps takes by its arm's probe."""
    return cost["build"] + steps * cost["step"] + (VALIDATIONS + 1) * cost["evaluate"]


def steps_that_fit(seconds: float, costs: Sequence[Cost], size: Size) -> int:
    """How many steps every run gets, so that all of them end in time; ValueError where that is not
    even twice the warm-up."""
    fixed = sum(seconds_of(cost, 0) for cost in costs)
    steps = int((SPARE * seconds - fixed) / sum(cost["step"] for cost in costs))
    if steps < 2 * size.warmup:
        raise ValueError(
            f"{seconds:.0f} s hold {max(steps, 0)} steps for each of {len(costs)} runs, and "
            f"{2 * size.warmup} are needed; give more seconds or fewer seeds."
        )
    return min(steps, size.most_steps)


def record(experiment: Experiment, setting: Setting, left: Callable[[], float], item: Item) -> None:
    """Probe every arm, plan one number of steps, and train seed by seed. left: seconds that there
    still are. Results go to `item`, run by run, under experiment.key."""
    arms = experiment.arms(setting.size)
    costs: dict[str, Cost] = {}
    for name, arm in arms.items():
        if cost := item(f"{experiment.name}/probe of {name}", partial(probe, arm, setting)):
            costs[name] = cost
    plan = item(f"{experiment.name}/plan", lambda: plan_of(experiment, setting, costs, left()))
    if plan is None:
        return

    slower = 1.0  # than the probes said, as the runs so far have shown

    def run(name: str, seed: int) -> dict[str, Any]:
        nonlocal slower
        planned, there = seconds_of(costs[name], plan["steps"]), left()
        if slower * planned > there:
            raise ValueError(
                f"it takes about {slower * planned:.0f} s, and {there:.0f} s are left."
            )
        figures = train(arms[name], seed, plan["steps"], setting)
        slower = max(slower, (there - left()) / planned)
        return figures

    for seed in range(experiment.seeds):
        for name in costs:
            item(experiment.key(name, seed), partial(run, name, seed))


def plan_of(
    experiment: Experiment, setting: Setting, costs: dict[str, Cost], seconds: float
) -> dict[str, Any]:
    """What is the same for all runs, with the number of steps that fit."""
    steps = steps_that_fit(seconds, [*costs.values()] * experiment.seeds, setting.size)
    corpus, size = setting.corpus, setting.size
    return {
        "base": next(iter(experiment.arms(size))),
        "arms": [*costs],
        "seeds": experiment.seeds,
        "steps": steps,
        "tokens": steps * size.tokens_per_step,
        "validation_tokens": setting.windows_per_domain * len(corpus.domains) * size.seq_len,
        "size": asdict(size),
        "text": {
            "corpus": corpus.manifest.corpus,
            "fingerprint": corpus.manifest.fingerprint,
            "training_tokens": sum(d.train_tokens for d in corpus.manifest.domains),
        },
        "peak_tflops": setting.peak_tflops,
    }


def summary(experiment: Experiment, items: Mapping[str, Any]) -> dict[str, Any]:
    """A record of the runs that `items` hold: per arm every figure over its seeds, the difference
    to the first arm with its interval, and each run's curves. ValueError where there is no run."""
    plan: dict[str, Any] = items.get(f"{experiment.name}/plan", {"arms": ()})
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for name in plan["arms"]:
        keys = {seed: experiment.key(name, seed) for seed in range(plan["seeds"])}
        runs[name] = {seed: items[key] for seed, key in keys.items() if key in items}
    if not any(runs.values()):
        raise ValueError(f"There is no run of {experiment.name} to sum up.")
    base = runs.get(plan["base"], {})
    arms = {
        name: of_arm(of_seed, base if name != plan["base"] else {})
        for name, of_seed in runs.items()
        if of_seed
    }
    return {**plan, "arms": arms, **experiment.more(arms)}


def of_arm(
    of_seed: Mapping[int, dict[str, Any]], base: Mapping[int, dict[str, Any]]
) -> dict[str, Any]:
    """One arm of a record, from its runs and the base's by seed. Lists and groups, a run's curves
    and what its chip did, stay apart."""
    runs = [*of_seed.values()]
    apart = [name for name, value in runs[0].items() if isinstance(value, list | dict)]
    numbers = [{n: float(v) for n, v in run.items() if n not in (*apart, *FIXED)} for run in runs]
    arm = {"runs": len(runs), "seeds": [*of_seed], **figures_over(numbers)}
    arm |= {name: runs[0][name] for name in FIXED if name in runs[0]}
    arm |= {name: [run[name] for run in runs] for name in apart}
    if both := [seed for seed in of_seed if seed in base]:
        arm["loss_minus_base"] = difference(
            *([of[seed]["validation_loss"] for seed in both] for of in (of_seed, base))
        )
    return arm


def difference(values: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Seed by seed: mean, spread, values, and half of the 95 % interval of Student's t, None for
    one seed."""
    gap = compare(values, base)
    half = round((gap.high - gap.low) / 2, 4) if len(gap.values) > 1 else None
    return mean_sd(gap.values) | {"interval": half}
