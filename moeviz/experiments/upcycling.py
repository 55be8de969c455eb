"""A sparse model grown from a dense one, or begun from scratch (5 CPU minutes a seed).

A dense model, the parent, is trained for PARENT_STEPS. Then, for STEPS more: it goes on as it is
("dense"), or it grows into a sparse one, of 8 experts of its FFN's width of which a token visits 2
(surgery.upcycle): "copies"; "copies with noise", of a tenth of each matrix's own deviation;
"half drawn anew", which is Drop-Upcycling with r = 0.5. "from scratch" is the same sparse model
without a parent. Komatsuzaki et al. (2212.05055) say beforehand: copies beat the dense model that
goes on, and beat a start from scratch unless that is trained for long. Nakamura et al.
(2502.19261): copies lead early and lose late; half drawn anew keeps the lead. What would make this
comparison unfair, and how it is closed:

1. Another answer at the start. Weights are renormalised, so that copies answer as the parent does,
   to rounding; what noise and new neurons cost is part of what is measured. From scratch begins at
   the fair scale, as the parent did.
2. Another schedule. All arms, the dense one too, begin with a fresh optimiser, warm up again for 50
   steps and keep their rate: a curve may be read at any of its steps.
3. One rate that suits one of them. Each has its own: of GRID the one with the lowest loss on
   "validation" after GRID_STEPS, with a seed that is no final one. Noise has the copies' rate.
4. Text seen twice. The parent's batches are drawn with another seed than the arms', and all arms of
   a seed see the same ones, from the first on.
5. The parent's cost, and that of two experts instead of one FFN. Both are counted, in FLOPs: "at
   equal steps" counts from the moment of growing and gives the parent for nothing; "at equal
   compute" lets the model from scratch train for as many FLOPs as the parent and the grown one
   together, and compares the dense model with a grown one that took fewer steps.
6. Choices made on what is reported: figures are of "reserve" windows.
7. Luck: differences are paired over seeds, the verdicts of one table (Holm).

Not closed: the moments of the parent's optimiser are thrown away; model and text are small, and
their STEPS are a start of training, not what the papers call late.

runs/upcycling.json; figures are {mean, sd, values} over the seeds:
    steps, parent_steps, early, seeds, cosine_steps
    rates: by arm and for the "parent": routers_compared.best_rate
    parent: loss when it is grown from
    arms: by name: steps [P] and loss [P], nats per token; for sparse ones also cosine [P], the mean
        over pairs and layers at cosine_steps, and effective_experts at the end, in the last layer;
        parameters, active_parameters, gigaflops_per_step
    gaps: by "early" or "late" and the name of a pair (growth.PAIRS): the difference of loss
        (recording.judged; one table of all)
    lead_ends: by the name of a pair (growth.LEADS): "seeds", the step at which the first one's
        lead ended for good, null where it did not, and "mean", "low", "high" where it ended with
        every seed
runs/upcycling.safetensors: seed 0 of every arm, in the order of ARMS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.recorded import recorded_figures
from moeviz.experiments.recording import (
    collect,
    compact,
    figures_over,
    judged,
    mean_sd,
    packed,
    small_model,
    unpacked,
    write_trained,
)
from moeviz.experiments.routers_compared import best_rate
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.records.growth import (
    COPIES,
    DENSE,
    DROP,
    EARLY,
    EQUAL_STEPS,
    GROWN,
    LATE,
    LEADS,
    LEARNERS,
    NOISE,
    PAIRS,
    SCRATCH,
    WAY,
    WAYS,
    Pair,
    lead_ends,
    mean_cosines,
    mean_interval,
    name_of,
)
from moeviz.records.metrics import effective_experts
from moeviz.records.runs import save_snapshots
from moeviz.surgery.upcycle import upcycled
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig
from moeviz.training.grown import GrownTrainer
from moeviz.training.trainer import NonFiniteLossError

EXPERTS, TOP_K, WIDTH = 8, 2, 128
PARENT_STEPS, STEPS, EARLY_STEP = 400, 800, 100
MEASURE_EVERY, WINDOWS = 50, 44
GRID, GRID_STEPS, GRID_SEEDS = (4e-3, 8e-3, 16e-3), 300, (1000,)
PARENT = "parent"
LIVE_STEPS, LIVE_EVERY = 300, 25
ARMS = (DENSE, *GROWN, SCRATCH)
Figures = dict[str, Any]
Results = dict[str, Figures]


def experts() -> MoEConfig:
    return MoEConfig(EXPERTS, TOP_K, WIDTH)


def training(rate: float, seed: int, steps: int, every: int) -> TrainConfig:
    return TrainConfig(
        steps=steps, learning_rate=rate, schedule="constant", seed=seed, validate_every=every
    )


# The parent, and what begins with it.


def parent_seed(seed: int) -> int:
    """Whose batches no arm of this seed sees."""
    return 10_000 + seed


def parent_trainer(rate: float, seed: int) -> GrownTrainer:
    config = training(rate, parent_seed(seed), PARENT_STEPS, 0)
    return GrownTrainer(small_model(None, d_ff=WIDTH), config, load_corpus())


def flops_before() -> float:
    """FLOPs that the parent's training took."""
    config = small_model(None, d_ff=WIDTH)
    train = training(GRID[0], 0, PARENT_STEPS, 0)
    per_step = 3 * config.flops_per_token(train.seq_len) * train.batch_size * train.seq_len
    return PARENT_STEPS * per_step


def grow(
    parent: LanguageModel, way: dict[str, float], config: TrainConfig, name: str = ""
) -> GrownTrainer:
    """A sparse model grown from the parent in this way (arguments of surgery.upcycle)."""
    model = upcycled(parent, experts(), seed=config.seed, **way)
    trainer = GrownTrainer(model.config, config, load_corpus())
    trainer.begin_from(model, flops_before())
    trainer.notes[WAY] = name
    return trainer


def go_on(parent: LanguageModel, config: TrainConfig) -> GrownTrainer:
    """The parent, trained further as it is."""
    trainer = GrownTrainer(parent.config, config, load_corpus())
    trainer.begin_from(parent, flops_before())
    return trainer


def from_scratch(config: TrainConfig) -> GrownTrainer:
    """The same sparse model without a parent."""
    return GrownTrainer(small_model(experts()), config, load_corpus())


# When arms have spent the same.


def steps_of_equal_compute(step: int) -> tuple[int, int]:
    """Beside a grown model's step: at which step the dense model has spent as much since growing,
    and the one from scratch as much as the parent and the grown model together."""
    dense, sparse = small_model(None, d_ff=WIDTH), small_model(experts())
    ratio = dense.flops_per_token(64) / sparse.flops_per_token(64)
    return round(step / ratio), round(step + PARENT_STEPS * ratio)


def marks() -> dict[str, list[int]]:
    """The steps at which each arm's loss is measured, to its end. A grown model is compared with
    the dense one where it has spent what the dense one has at EARLY_STEP and at STEPS."""
    every = set(range(0, STEPS + 1, MEASURE_EVERY)) | {EARLY_STEP}
    grown = every | {_cheaper(EARLY_STEP), _cheaper(STEPS)}
    scratch = {steps_of_equal_compute(step)[1] for step in every}
    return {
        DENSE: sorted(every),
        **{way: sorted(grown) for way in GROWN},
        SCRATCH: sorted(every | scratch),
    }


def _cheaper(step: int) -> int:
    """The step at which a grown model has spent what the dense one has at this step."""
    return next(s for s in range(step, 0, -1) if steps_of_equal_compute(s)[0] <= step)


def compared_at(pair: Pair, step: int) -> tuple[int, int]:
    """The steps of the first and of the second arm at which a pair is compared."""
    _, other, how = pair
    if how == EQUAL_STEPS:
        return step, step
    if other == DENSE:
        return _cheaper(step), step
    return step, steps_of_equal_compute(step)[1]


# Runs.


def measured(trainer: GrownTrainer, steps: Sequence[int], seed: int, name: str) -> Figures:
    """Train, and measure the loss on "reserve" at these steps."""
    losses = []
    for step in steps:
        while trainer.step < step:
            next(trainer)
        losses.append(trainer.evaluate(WINDOWS, part="reserve").loss)
    snapshot = trainer.snapshot(name)
    figures: Figures = {
        "loss": losses,
        "parameters": trainer.model.num_parameters(),
        "active_parameters": trainer.model.num_active_parameters(),
        "gigaflops_per_step": round(trainer.flops_per_step / 1e9, 4),
        "snapshot": packed(compact(snapshot)) if seed == 0 else None,
    }
    if trainer.moe_layers:
        load_E = trainer.evaluate(WINDOWS).load[-1].sum(0)
        figures["cosine"] = [
            mean
            for step, mean in mean_cosines(snapshot)
            if step % MEASURE_EVERY == 0 and step <= STEPS
        ]
        figures["effective_experts"] = effective_experts(load_E)
    return figures


def train_parent(rate: float, seed: int) -> GrownTrainer:
    trainer = parent_trainer(rate, seed)
    for _ in trainer:
        pass
    return trainer


def train_grown(rates: dict[str, float], seed: int) -> Results:
    """The parent, and every arm that begins with it."""
    parent = train_parent(rates[PARENT], seed)
    at = marks()

    def run(name: str, trainer: GrownTrainer) -> Figures:
        return measured(trainer, at[name], seed, name)

    dense = go_on(parent.model, training(rates[DENSE], seed, STEPS, MEASURE_EVERY))
    results = {
        PARENT: {"loss": parent.evaluate(WINDOWS, part="reserve").loss},
        DENSE: run(DENSE, dense),
    }
    for name in GROWN:
        config = training(rates[name], seed, STEPS, MEASURE_EVERY)
        results[name] = run(name, grow(parent.model, WAYS[name], config, name))
    return results


def train_scratch(rates: dict[str, float], seed: int) -> Results:
    steps = marks()[SCRATCH]
    trainer = from_scratch(training(rates[SCRATCH], seed, steps[-1], MEASURE_EVERY))
    return {SCRATCH: measured(trainer, steps, seed, SCRATCH)}


# Rates.


def final_loss(trainer: GrownTrainer) -> float | None:
    """The validation loss at the end; None where training diverges."""
    try:
        for _ in trainer:
            pass
    except NonFiniteLossError:
        return None
    return trainer.evaluate(WINDOWS).loss


def try_parent(rate: float, seed: int) -> float | None:
    return final_loss(parent_trainer(rate, GRID_SEEDS[seed]))


def try_rates(parent_rate: float, rate: float, seed: int) -> dict[str, float | None]:
    """What a rate leads to, by arm."""
    parent = train_parent(parent_rate, GRID_SEEDS[seed]).model
    config = training(rate, GRID_SEEDS[seed], GRID_STEPS, 0)
    return {
        DENSE: final_loss(go_on(parent, config)),
        COPIES: final_loss(grow(parent, WAYS[COPIES], config)),
        DROP: final_loss(grow(parent, WAYS[DROP], config)),
        SCRATCH: final_loss(from_scratch(config)),
    }


# What it says.


def summary(grown: Sequence[Results], scratch: Sequence[Results]) -> Figures:
    """Arms over their seeds, all differences as one table, and where leads ended."""
    at = marks()
    runs = {name: [results[name] for results in grown] for name in (DENSE, *GROWN)}
    runs[SCRATCH] = [results[SCRATCH] for results in scratch]

    def losses(name: str, step: int) -> list[float]:
        place = at[name].index(step)
        return [run["loss"][place] for run in runs[name]]

    def two(pair: Pair, step: int) -> tuple[list[float], list[float]]:
        first, other = compared_at(pair, step)
        return losses(pair[0], first), losses(pair[1], other)

    moments = {EARLY: EARLY_STEP, LATE: STEPS}
    gaps = judged(
        {
            (moment, name_of(pair)): two(pair, step)
            for moment, step in moments.items()
            for pair in PAIRS
        }
    )
    return {
        "parent": {"loss": mean_sd([results[PARENT]["loss"] for results in grown])},
        "arms": {name: _arm(at[name], of_seeds) for name, of_seeds in runs.items()},
        "gaps": {
            moment: {name_of(pair): gaps[moment, name_of(pair)] for pair in PAIRS}
            for moment in moments
        },
        "lead_ends": {name_of(pair): _lead_ends(pair, losses) for pair in LEADS},
    }


def _arm(steps: list[int], of_seeds: list[Figures]) -> Figures:
    over = ("loss", "cosine", "effective_experts")
    same = ("parameters", "active_parameters", "gigaflops_per_step")
    first = of_seeds[0]
    return {
        "steps": steps,
        **{key: figures_over([run[key] for run in of_seeds]) for key in over if key in first},
        **{key: first[key] for key in same},
    }


def _lead_ends(pair: Pair, losses: Callable[[str, int], list[float]]) -> Figures:
    steps = range(0, STEPS + 1, MEASURE_EVERY)
    places = [compared_at(pair, step) for step in steps]
    first = np.array([losses(pair[0], own) for own, _ in places])
    other = np.array([losses(pair[1], at_step) for _, at_step in places])
    ends = [lead_ends(steps, a, b) for a, b in zip(first.T, other.T, strict=True)]
    told: Figures = {"seeds": [None if math.isnan(end) else round(end) for end in ends]}
    if None not in told["seeds"]:
        names = ("mean", "low", "high")
        values = mean_interval(ends)
        told |= {
            name: round(value) if math.isfinite(value) else None
            for name, value in zip(names, values, strict=True)
        }
    return told


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Choose the rates and train every arm with every seed; runs/upcycling under `out` is written
    again with each whole seed."""
    path = out / "runs" / "upcycling.json"
    part = path.with_suffix(".part")
    before = 2 * len(GRID) * len(GRID_SEEDS)
    total = before + 2 * seeds

    def chosen(runs: dict[str, Any], after: int) -> dict[str, list[Any]]:
        return collect(
            part, meta, runs, len(GRID_SEEDS), lambda done, _: on_step(after + done, total)
        )

    parents = chosen({f"{PARENT} {rate:g}": partial(try_parent, rate) for rate in GRID}, 0)
    rates = {PARENT: best_rate(dict(zip(GRID, parents.values(), strict=True)))}
    rate = rates[PARENT]["chosen"]
    tried = chosen({f"rate {r:g}": partial(try_rates, rate, r) for r in GRID}, before // 2)
    for arm in (DENSE, COPIES, DROP, SCRATCH):
        losses = [[seed[arm] for seed in of_rate] for of_rate in tried.values()]
        rates[arm] = best_rate(dict(zip(GRID, losses, strict=True)))
    best = {arm: found["chosen"] for arm, found in rates.items()}
    best[NOISE] = best[COPIES]

    def write(results: dict[str, list[Any]]) -> Figures:
        figures = {
            "steps": STEPS,
            "parent_steps": PARENT_STEPS,
            "early": EARLY_STEP,
            "seeds": list(range(len(results["grown"]))),
            "cosine_steps": list(range(0, STEPS + 1, MEASURE_EVERY)),
            "rates": rates,
            **summary(results["grown"], results["scratch"]),
        }
        write_trained(path, meta, figures)
        first = results["grown"][0] | results["scratch"][0]
        snapshots = [unpacked(first[arm]["snapshot"]) for arm in ARMS]
        save_snapshots(path.with_suffix(".safetensors"), snapshots, meta)
        return figures

    runs = {"grown": partial(train_grown, best), "scratch": partial(train_scratch, best)}
    results = collect(part, meta, runs, seeds, lambda done, _: on_step(before + done, total), write)
    arms = write(results)["arms"]
    return {arm: figures["loss"][-1]["mean"] for arm, figures in arms.items()}


# The live run.


def live_rates() -> dict[str, float]:
    """Those that the recording chose, or the grid's middle one."""
    recorded = recorded_figures("upcycling")
    if recorded is None:
        return dict.fromkeys((PARENT, DENSE, COPIES, DROP, SCRATCH), GRID[1])
    return {arm: found["chosen"] for arm, found in recorded["rates"].items()}


@lru_cache(maxsize=2)
def live_parent(seed: int) -> GrownTrainer:
    """The parent of a live run, not yet trained; once it is, it is kept for the next run."""
    return parent_trainer(live_rates()[PARENT], seed)


def build(name: str, seed: int, on_step: Progress) -> dict[str, GrownTrainer]:
    """The three learners of a live run: the parent that goes on, the sparse model from scratch,
    for as many FLOPs as the parent and the grown one take together, and what grew from the parent
    in this way of WAYS. on_step is told how far the parent's training is."""
    way = WAYS[name]
    parent = live_parent(seed)
    for result in parent:
        on_step(result.step, PARENT_STEPS)
    rates = live_rates()
    rate = rates[DROP if "drop" in way else COPIES]
    learners = (
        go_on(parent.model, training(rates[DENSE], seed, LIVE_STEPS, LIVE_EVERY)),
        from_scratch(
            training(rates[SCRATCH], seed, steps_of_equal_compute(LIVE_STEPS)[1], LIVE_EVERY)
        ),
        grow(parent.model, way, training(rate, seed, LIVE_STEPS, LIVE_EVERY), name),
    )
    return dict(zip(LEARNERS, learners, strict=True))


def resume(folder: Path, name: str, seed: int) -> dict[str, GrownTrainer]:
    """The learners as an interrupted run left them; none where one is not of this run."""
    found: dict[str, GrownTrainer] = {}
    for label in LEARNERS:
        try:
            kept = GrownTrainer.resume(folder / f"{label}.safetensors", load_corpus())
        except (OSError, ValueError):
            return {}
        if kept.config.seed != seed or kept.notes.get(WAY, name) != name:
            return {}
        found[label] = kept
    return found
