"""Dense against MoE at nine numbers of experts and choices, seed by seed (four minutes a seed).

What the panel of 01_dense_vs_moe shows beside its race: who is ahead at each E and K over the
seeds, and how far luck alone takes a race there. What would make the comparison unfair, and how it
is closed:

1. How loud the FFN is at the start, and what a token costs. As in `experiment race`: all MoE models
   have K experts of a Kth of the width of the one dense twin.
2. Luck, and text that a choice has seen. The verdicts are of 528 "reserve" windows at the last
   step, paired by seed. The nine are one table, for Holm's correction, which holds though all have
   the same dense runs.
3. How far luck goes at each moment of a race. A race is watched by the validation loss of 48
   windows, which varies more than the reserve: of every seed all its evaluations are kept.
4. Speed on a machine that does other things. Seed 0 races in turns of one step, so that other load
   meets both alike: that is what the panel replays. For the verdicts each model trains once a seed,
   alone: no loss depends on the turns.

Not closed: the learning rate is the best of three at E = 16, K = 2, and may suit other settings
less. With K = 1 the weight is the raw probability, with more choices it is renormalised. At equal
steps an MoE model has the FLOPs of its router on top, which grow with E. 600 steps. Whether two
settings differ from each other is not judged.

runs/race_settings.safetensors: seed 0, dense and MoE in turn, of all settings but that of
`experiment race`. runs/race_settings.json:
    seeds
    steps     of the evaluations
    dense     validation: of each seed at those steps; reserve: at the end, as recording.mean_sd
    MoE       of each setting: experts, top_k, validation, reserve, and ahead: dense minus MoE on
              the reserve, as recording.judged
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from moeviz.experiments import Progress
from moeviz.experiments.race import (
    MEASURE_EVERY,
    NUM_EXPERTS,
    TOP_K,
    build_race,
    race_models,
    race_training,
)
from moeviz.experiments.recording import (
    collect,
    compact,
    judged,
    mean_sd,
    packed,
    unpacked,
    write_trained,
)
from moeviz.records.runs import save_snapshots
from moeviz.text.corpus import load_corpus
from moeviz.training.evaluation import FINAL_WINDOWS
from moeviz.training.trainer import Trainer

SETTINGS = tuple(product((4, 16, 32), (1, 2, 4)))  # experts and choices
OF_RACE = NUM_EXPERTS, TOP_K  # `experiment race` has its snapshots


def race_at(num_experts: int, top_k: int, seed: int) -> list[dict[str, Any]]:
    """Race to the end, in turns of one step: the snapshots of dense and MoE, packed."""
    learners = build_race(num_experts, top_k, seed)
    for _ in zip(*learners.values(), strict=True):
        pass
    return [packed(compact(trainer.snapshot(label))) for label, trainer in learners.items()]


def losses_of(label: str, num_experts: int, top_k: int, seed: int) -> dict[str, Any]:
    """Train one of the two alone, on the batches of the race: "validation", the race's own, at each
    evaluation, and its "steps"; "reserve", the loss at the end."""
    model, train = race_models(num_experts, top_k)[label], race_training(seed)
    trainer = Trainer(model, train, load_corpus())
    validation = {}
    for _ in trainer:
        if trainer.step % MEASURE_EVERY == 0 or trainer.step == train.steps:
            validation[trainer.step] = round(float(trainer.history.curve().validation[-1]), 4)
    return {
        "steps": [*validation],
        "validation": [*validation.values()],
        "reserve": trainer.evaluate(FINAL_WINDOWS, part="reserve").loss,
    }


def over(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """One model's losses over its seeds."""
    return {
        "validation": [of_seed["validation"] for of_seed in seeds],
        "reserve": mean_sd([of_seed["reserve"] for of_seed in seeds]),
    }


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Race seed 0, train every seed; write runs/race_settings under `out`. Returns the verdicts."""
    part = out / "runs" / "race_settings.part"
    raced = {f"race, {two}": partial(race_at, *two) for two in SETTINGS if two != OF_RACE}
    races = collect(part, meta, raced, 1, on_step)
    snapshots = [unpacked(kept) for (race,) in races.values() for kept in race]

    alone = {"dense": partial(losses_of, "dense", *OF_RACE)}
    alone |= {f"MoE, {two}": partial(losses_of, "MoE", *two) for two in SETTINGS}
    dense, *of_settings = collect(part, meta, alone, seeds, on_step).values()
    reserve_MR = [[one["reserve"] for one in of_seeds] for of_seeds in (dense, *of_settings)]
    pairs = [(reserve_MR[0], moe_R) for moe_R in reserve_MR[1:]]
    ahead = judged(dict(zip(SETTINGS, pairs, strict=True)))
    rows = [
        {"experts": two[0], "top_k": two[1], **over(of_seeds), "ahead": ahead[two]}
        for two, of_seeds in zip(SETTINGS, of_settings, strict=True)
    ]
    figures = {
        "seeds": [*range(seeds)],
        "steps": dense[0]["steps"],
        "dense": over(dense),
        "MoE": rows,
    }
    save_snapshots(out / "runs" / "race_settings.safetensors", snapshots, meta)
    write_trained(out / "runs" / "race_settings.json", meta, figures)
    return {f"E = {e}, K = {k}": ahead[e, k] for e, k in SETTINGS}
