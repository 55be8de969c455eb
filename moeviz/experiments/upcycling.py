"""A sparse model grown from a dense one, or begun from scratch (6 CPU minutes a seed).

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
3. One rate that suits one of them. Each has its own: the one with the lowest mean loss on
   "validation" at the last step of its whole run, over GRID_SEEDS, which are of no final run. Where
   that is an end of what was tried, the next rate beyond it, half or twice of it, is tried too
   (rates.settled_rates). The parent's is chosen first, at its own end. Noise has the copies' rate.
4. Text seen twice. The parent's batches are drawn with another seed than the arms', and all arms of
   a seed see the same ones, from the first on.
5. The parent's cost, and that of two experts instead of one FFN. Both are counted, in FLOPs: "at
   equal steps" counts from the moment of growing and gives the parent for nothing; "at equal
   compute" lets the model from scratch train for as many FLOPs as the parent and the grown one
   together, and compares the dense model with a grown one that took fewer steps.
6. Choices made on what is reported: figures are of "reserve" windows.
7. Luck: differences are paired over seeds, the verdicts of one table (Holm).

Not closed: the moments of the parent's optimiser are thrown away; rates are chosen by two seeds,
and early figures are those of the rates that are best at the end; model and text are small, and
their STEPS are a start of training, not what the papers call late.

runs/upcycling.json; figures are {mean, sd, values} over the seeds:
    steps, parent_steps, early, seeds, cosine_steps
    rates: for the "parent" and by arm: routers_compared.best_rate
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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.grown_models import (
    FROM_NOTHING,
    GRID_SEEDS,
    OWN_RATE,
    PARENT,
    PARENT_STEPS,
    STEPS,
    WINDOWS,
    from_scratch,
    go_on,
    grow,
    steps_of_equal_compute,
    train_parent,
    training,
    try_arm,
    try_parent,
)
from moeviz.experiments.rates import looked_for
from moeviz.experiments.recording import (
    collect,
    compact,
    figures_over,
    judged,
    mean_sd,
    packed,
    unpacked,
    write_trained,
)
from moeviz.records.growth import (
    COPIES,
    DENSE,
    EARLY,
    EQUAL_STEPS,
    GROWN,
    LATE,
    LEADS,
    NOISE,
    PAIRS,
    SCRATCH,
    WAYS,
    Pair,
    lead_ends,
    mean_cosines,
    mean_interval,
    name_of,
)
from moeviz.records.metrics import effective_experts
from moeviz.records.runs import save_snapshots
from moeviz.training.grown import GrownTrainer

EARLY_STEP, MEASURE_EVERY = 100, 50
ARMS = (DENSE, *GROWN, SCRATCH)
Figures = dict[str, Any]
Results = dict[str, Figures]


# What is compared when.


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
    of_parent = len(FROM_NOTHING) * len(GRID_SEEDS)
    before = of_parent + len(GRID_SEEDS) * sum(map(len, OWN_RATE.values()))
    total = before + 2 * seeds
    rates = looked_for(
        part, meta, {PARENT: FROM_NOTHING}, lambda _, rate: partial(try_parent, rate),
        len(GRID_SEEDS), lambda done, _: on_step(done, total),
    )  # fmt: skip
    grown_from = rates[PARENT]["chosen"]
    rates |= looked_for(
        part, meta, OWN_RATE,
        lambda arm, rate: partial(try_arm, arm, grown_from, rate), len(GRID_SEEDS),
        lambda done, _: on_step(of_parent + done, total),
    )  # fmt: skip
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
