"""Collapse and its cures (4 minutes a seed).

What 04_collapse shows.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from moeviz.experiments import Progress
from moeviz.experiments.cures import ARMS, Cures
from moeviz.experiments.larger import SMALL, at_size
from moeviz.experiments.recording import (
    compact,
    figures_over,
    finish,
    means,
    paired,
    resumed,
    small_model,
    write_json,
)
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import ModelConfig
from moeviz.records.metrics import collapsed, noise_floor
from moeviz.records.runs import Snapshot, save_snapshots
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig, leave_a_core_free
from moeviz.training.trainer import Trainer

ACTIVE_WIDTH = 256
STEPS = 300


def collapse_model(cures: Cures) -> ModelConfig:
    """Two layers of 16 experts: as small as the effect allows."""
    return small_model(collapse_experts(cures, ACTIVE_WIDTH))


def collapse_experts(cures: Cures, active_width: int) -> MoEConfig:
    """The experts of a layer under these cures."""
    width = active_width // (cures.top_k + cures.shared)
    options: dict[str, Any] = {}
    if cures.router != "hash":
        options = {"noise": cures.noise, "learning": cures.learning}
    if cures.router == "token_choice":
        options |= {"weighting": "raw", "bias": cures.bias, "scope": cures.scope}
    if cures.bias != "none":
        options["bias_rate"] = 0.01 if cures.bias == "sign" else 1.0
    return MoEConfig(
        num_experts=cures.num_experts,
        top_k=cures.top_k,
        d_expert=width,
        router=cures.router,
        options=options,
        num_shared=int(cures.shared),
    )


def collapse_training(cures: Cures, seed: int, steps: int = STEPS) -> TrainConfig:
    """A low learning rate, at which collapse is surest, held constant."""
    return TrainConfig(
        steps=steps,
        seed=seed,
        learning_rate=1e-3,
        schedule="constant",
        balance_weight=cures.aux,
        z_weight=cures.z,
        validate_every=25,
    )


def build_collapse(cures: Cures, seed: int, steps: int = STEPS, size: str = SMALL) -> Trainer:
    """The model under these cures, ready to train on the embedded corpus."""
    training = collapse_training(cures, seed, steps)
    return Trainer(*at_size(size, collapse_model(cures), training), load_corpus())


def resume_collapse(path: Path, cures: Cures, seed: int, size: str = SMALL) -> Trainer | None:
    """The training that was interrupted and saved there; None where there is none, or it is of
    other cures, another seed, size or text, or damaged."""
    pair = at_size(size, collapse_model(cures), collapse_training(cures, seed))
    return resumed(path, *pair, load_corpus())


def train_arm(arm: str, seed: int) -> Snapshot:
    """Train one arm to the end; its curve, and in its meta the figures on validation."""
    leave_a_core_free()
    trainer = build_collapse(ARMS[arm], seed)
    figures = finish(trainer)
    snapshot = trainer.snapshot(arm)
    return compact(dataclasses.replace(snapshot, meta=snapshot.meta | figures))


def summary(runs: list[Snapshot]) -> dict[str, Any]:
    """Per arm: every figure's mean and spread over seeds, the loss paired with the arm "nothing",
    and how many runs collapsed."""
    figures: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    fallen = dict.fromkeys(ARMS, 0)
    for run in runs:
        numbers = {k: v for k, v in run.meta.items() if isinstance(v, int | float)}
        figures[run.label].append(numbers)
        fallen[run.label] += collapsed(run.curve)
    arms = {
        arm: {
            "runs": len(seeds),
            "collapsed": fallen[arm],
            **figures_over(seeds),
            "loss_minus_nothing": paired(seeds, figures["nothing"]),
        }
        for arm, seeds in figures.items()
    }
    train = collapse_training(Cures(), 0)
    floor = noise_floor(train.batch_size * train.seq_len, 16, 1)
    return {"steps": STEPS, "noise_floor_of_a_batch": round(floor, 3), "arms": arms}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Train every arm with every seed; write runs/collapse under `out`."""
    snapshots: list[Snapshot] = []
    for seed in range(seeds):
        for arm in ARMS:
            snapshots.append(train_arm(arm, seed))
            on_step(len(snapshots), seeds * len(ARMS))
    figures = summary(snapshots)
    save_snapshots(out / "runs" / "collapse.safetensors", snapshots, meta)
    write_json(out / "runs" / "collapse.json", meta, figures)
    return means(figures["arms"], "validation_loss", "max_violation", "dead_experts")
