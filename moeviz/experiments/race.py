"""Dense against MoE at equal active parameters, seed by seed (3 minutes a seed).

What 01_dense_vs_moe shows. What would make the comparison unfair, and how it is closed:

1. How loud the FFN is at the start. Both contestants start at the fair scale
   (ModelConfig.ffn_scale): renormalised top-2 alone would start with half of the dense twin's
   variance.
2. Active or total. The dense twin costs a token what the MoE's experts cost, and holds an eighth of
   their parameters. A third model is recorded beside the two: dense, with as many FFN parameters as
   the MoE has in all. It takes several times the FLOPs, and says what the parameters are worth when
   all of them work.
3. Speed on a machine that does other things. The contestants take turns of one step, so that other
   load meets all alike; the seconds are those of training alone.
4. The moment of comparison. The learning rate is constant, so that every moment of a run is a fair
   end of it. Losses are compared at the furthest step, FLOP and second that both have reached.
5. "Better" in one unit. The compute and the time multiplier say how many times the FLOPs and the
   seconds of the MoE its dense twin needs for the same loss: two numbers that may lie on two sides
   of 1. They are taken at the last moment of the MoE whose loss the dense twin reached at all.
6. The text and luck. Final figures come from "reserve" windows, which no choice has seen, 528 of
   them every 25 steps. Differences are paired by seed, with Student's interval and Holm's verdicts.
7. A rate that suits one of them. Of 0.004, 0.008 and 0.016 it is the one with the lowest mean
   validation loss of both after 600 steps, over two seeds that are no final ones (1000, 1001):
   dense 3.143, 3.127, 3.141; MoE 3.099, 3.103, 3.127.

Not closed: the MoE alone would have 0.004, by 0.004 nats; and 600 steps.

runs/race.safetensors: dense and MoE in turn, seed by seed; race_control.safetensors: the third. The
curve's `validation` is the live race's; meta["reserve"] the final one: rows of step, FLOPs,
seconds and loss. runs/race.json, all of the reserve:
    seeds, steps
    gap_at_equal_step, _flops, _seconds     dense minus MoE, as recording.judged: one table
    dense_at_equal_step, MoE_at_equal_…     the losses there
    control                                 loss at the last step, minus_dense, minus_MoE (a table),
                                            parameters, gigaflops_per_step and, for comparison,
                                            those of dense and MoE
    multipliers                             compute, time, at_step: over the seeds that have one
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.larger import SMALL, at_size
from moeviz.experiments.recording import (
    collect,
    judged,
    mean_sd,
    packed,
    resumed,
    small_model,
    unpacked,
    write_trained,
)
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.records.compare import Multipliers, Spent, multipliers
from moeviz.records.metrics import last_common, validation_at
from moeviz.records.runs import Curve, Snapshot, save_snapshots
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig
from moeviz.training.evaluation import FINAL_WINDOWS
from moeviz.training.trainer import Trainer

# What both models' FFNs hold per token: K experts of this width over K, or one dense FFN.
ACTIVE_WIDTH = 256
NUM_EXPERTS, TOP_K, STEPS = 16, 2, 600  # of the recorded races
MEASURE_EVERY = 25
AXES = ("step", "flops", "seconds")
CONTROL = "dense, all parameters"


def race_models(num_experts: int, top_k: int) -> dict[str, ModelConfig]:
    """The two contestants; ValueError on sizes that cannot be. With K = 1 the weight is the raw
    probability: divided by its own sum it would be 1, and the router would learn nothing."""
    if ACTIVE_WIDTH % top_k:
        raise ValueError(f"K must divide {ACTIVE_WIDTH}, the active width, got {top_k}.")
    options = {"weighting": "raw"} if top_k == 1 else {}
    experts = MoEConfig(num_experts, top_k, ACTIVE_WIDTH // top_k, options=options)
    moe = small_model(experts)
    return {"dense": moe.dense_twin(), "MoE": moe}


def race_training(seed: int, steps: int = STEPS) -> TrainConfig:
    """A constant learning rate, so that the curves may be compared at any step or second."""
    return TrainConfig(
        steps=steps, seed=seed, learning_rate=8e-3, schedule="constant", validate_every=25
    )


def _contestants(
    num_experts: int, top_k: int, train: TrainConfig, size: str
) -> dict[str, tuple[ModelConfig, TrainConfig]]:
    models = race_models(num_experts, top_k)
    return {label: at_size(size, model, train) for label, model in models.items()}


def build_race(
    num_experts: int, top_k: int, seed: int, steps: int = STEPS, size: str = SMALL
) -> dict[str, Trainer]:
    """Both contestants, ready to train on the embedded corpus with the same batches."""
    corpus = load_corpus()
    pairs = _contestants(num_experts, top_k, race_training(seed, steps), size)
    return {label: Trainer(*pair, corpus) for label, pair in pairs.items()}


def resume_race(
    folder: Path, num_experts: int, top_k: int, seed: int, size: str = SMALL
) -> dict[str, Trainer] | None:
    """The contestants that an interrupted race left in a folder; None where there are none, or
    they are of another race, or damaged."""
    corpus = load_corpus()
    learners = {}
    for label, pair in _contestants(num_experts, top_k, race_training(seed), size).items():
        trainer = resumed(folder / f"{label}.safetensors", *pair, corpus)
        if trainer is None:
            return None
        learners[label] = trainer
    return learners


# The recorded races.


def control_model() -> ModelConfig:
    """The dense model with as many FFN parameters as all experts of the recorded MoE together."""
    models = race_models(NUM_EXPERTS, TOP_K)
    moe = models["MoE"].moe
    assert moe is not None
    return dataclasses.replace(models["dense"], d_ff=moe.num_experts * moe.d_expert)


def race_once(seed: int) -> list[dict[str, Any]]:
    """Race to the end, in turns of one step; the snapshots of dense, MoE and control, packed, with
    the reserve's loss along the way in their meta."""
    learners = build_race(NUM_EXPERTS, TOP_K, seed)
    learners[CONTROL] = Trainer(control_model(), race_training(seed), load_corpus())
    reserve: dict[str, list[tuple[float, ...]]] = {label: [] for label in learners}
    for _ in zip(*learners.values(), strict=True):
        for label, trainer in learners.items():
            if trainer.step % MEASURE_EVERY == 0 or trainer.step == trainer.config.steps:
                loss = trainer.evaluate(FINAL_WINDOWS, part="reserve").loss
                flops = float(trainer.history.curve().flops[-1])
                reserve[label].append((trainer.step, flops, trainer.seconds, loss))
    snapshots = []
    for label, trainer in learners.items():
        snapshot = trainer.snapshot(label)
        meta = snapshot.meta | {
            "reserve": reserve[label],
            "gigaflops_per_step": trainer.flops_per_step / 1e9,
        }
        snapshots.append(packed(dataclasses.replace(snapshot, meta=meta)))
    return snapshots


def final_curve(run: Snapshot) -> Curve:
    """The reserve's loss of a recorded run, as a curve's validation."""
    step, flops, seconds, loss = np.array(run.meta["reserve"], dtype=np.float64).T
    unknown = np.full(len(step), np.nan)
    return Curve(step, seconds, flops, unknown, np.zeros((len(step), 0, 0)), validation=loss)


def multipliers_of(dense: Snapshot, moe: Snapshot) -> tuple[Multipliers, int]:
    """At the last moment of the MoE whose loss the dense twin reached, and that step; with no such
    moment those of the last one, which say why."""
    twin, own = ([(row[0], Spent(row[3], *row[1:3])) for row in run.meta["reserve"]]
                 for run in (dense, moe))  # fmt: skip
    for step, spent in reversed(own):
        found = multipliers([point for _, point in twin], spent)
        if found.compute is not None:
            return found, int(step)
    return multipliers([point for _, point in twin], own[-1][1]), int(own[-1][0])


def summary(snapshots: list[Snapshot], controls: list[Snapshot]) -> dict[str, Any]:
    """The figures of recorded races (dense and MoE in turn) and of their third models, over seeds:
    see the head of this file."""
    pairs = list(zip(snapshots[::2], snapshots[1::2], strict=True))
    curves = [(final_curve(dense), final_curve(moe)) for dense, moe in pairs]
    losses = {}
    for axis in AXES:
        ends = [last_common([*two], axis) for two in curves]
        for i, label in enumerate(("dense", "MoE")):
            of_label = zip(curves, ends, strict=True)
            losses[label, axis] = [validation_at(two[i], axis, x) for two, x in of_label]
    gaps = judged({axis: (losses["dense", axis], losses["MoE", axis]) for axis in AXES})
    result: dict[str, Any] = {
        "seeds": [dense.meta["train"]["seed"] for dense, _ in pairs],
        "steps": pairs[0][0].total_steps,
    }
    for axis in AXES:
        result[f"gap_at_equal_{axis}"] = gaps[axis]
        for label in ("dense", "MoE"):
            result[f"{label}_at_equal_{axis}"] = mean_sd(losses[label, axis])
    return result | {"control": _of_control(pairs, controls), "multipliers": _over(pairs)}


def _of_control(pairs: list[tuple[Snapshot, Snapshot]], controls: list[Snapshot]) -> dict[str, Any]:
    runs = {"dense": [d for d, _ in pairs], "MoE": [m for _, m in pairs], CONTROL: controls}
    last = {label: [run.meta["reserve"][-1][3] for run in of] for label, of in runs.items()}
    gaps = judged({label: (last[CONTROL], last[label]) for label in ("dense", "MoE")})
    return {
        "loss": mean_sd(last[CONTROL]),
        **{f"minus_{label}": gap for label, gap in gaps.items()},
        "parameters": {label: of[0].parameters for label, of in runs.items()},
        "gigaflops_per_step": {
            label: round(of[0].meta["gigaflops_per_step"], 3) for label, of in runs.items()
        },
    }


def _over(pairs: list[tuple[Snapshot, Snapshot]]) -> dict[str, Any]:
    """The multipliers of the seeds that have one."""
    each = [multipliers_of(*pair) for pair in pairs]
    known = [(m.compute, m.time, step) for m, step in each if m.compute and m.time]
    if not known:
        return {"why": each[0][0].why}
    columns = zip(("compute", "time", "at_step"), zip(*known, strict=True), strict=True)
    return {name: mean_sd(values) for name, values in columns}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Race with every seed; write runs/race and runs/race_control under `out`."""
    results = collect(out / "runs" / "race.part", meta, {"race": race_once}, seeds, on_step)
    races = [[unpacked(kept) for kept in race] for race in results["race"]]
    snapshots = [run for dense, moe, _ in races for run in (dense, moe)]
    controls = [control for *_, control in races]
    figures = summary(snapshots, controls)
    save_snapshots(out / "runs" / "race.safetensors", snapshots, meta)
    save_snapshots(out / "runs" / "race_control.safetensors", controls, meta)
    write_trained(out / "runs" / "race.json", meta, figures)
    return figures
