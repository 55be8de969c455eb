"""Dense against MoE at equal active parameters, seed by seed (1 minute a seed).

What 01_dense_vs_moe shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moeviz.experiments import Progress
from moeviz.experiments.larger import SMALL, at_size
from moeviz.experiments.recording import mean_sd, resumed, small_model, write_json
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import ModelConfig
from moeviz.records.metrics import gap, last_common, validation_at
from moeviz.records.runs import Snapshot, save_snapshots
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig, leave_a_core_free
from moeviz.training.trainer import Trainer

# What both models' FFNs hold per token: K experts of this width over K, or one dense FFN.
ACTIVE_WIDTH = 256
AXES = ("step", "flops", "seconds")


def race_models(num_experts: int, top_k: int) -> dict[str, ModelConfig]:
    """The two contestants; ValueError on sizes that cannot be. With K = 1 the weight is the raw
    probability: divided by its own sum it would be 1, and the router would learn nothing."""
    if ACTIVE_WIDTH % top_k:
        raise ValueError(f"K must divide {ACTIVE_WIDTH}, the active width, got {top_k}.")
    options = {"weighting": "raw"} if top_k == 1 else {}
    experts = MoEConfig(num_experts, top_k, ACTIVE_WIDTH // top_k, options=options)
    moe = small_model(experts)
    return {"dense": moe.dense_twin(), "MoE": moe}


def race_training(seed: int, steps: int = 600) -> TrainConfig:
    """A constant learning rate, so that the curves may be compared at any step or second."""
    return TrainConfig(
        steps=steps, seed=seed, learning_rate=4e-3, schedule="constant", validate_every=25
    )


def _contestants(
    num_experts: int, top_k: int, train: TrainConfig, size: str
) -> dict[str, tuple[ModelConfig, TrainConfig]]:
    models = race_models(num_experts, top_k)
    return {label: at_size(size, model, train) for label, model in models.items()}


def build_race(
    num_experts: int, top_k: int, seed: int, steps: int = 600, size: str = SMALL
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


def race_once(seed: int) -> list[Snapshot]:
    """Race to the end, in turns of one step so that other load on the machine meets both alike."""
    leave_a_core_free()  # as the live race does
    learners = build_race(16, 2, seed)
    for _ in zip(*learners.values(), strict=True):
        pass
    return [trainer.snapshot(label) for label, trainer in learners.items()]


def summary(snapshots: list[Snapshot]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds of the losses and gaps of recorded races
    (dense and MoE in turn)."""
    pairs = list(zip(snapshots[::2], snapshots[1::2], strict=True))
    result: dict[str, Any] = {"seeds": [dense.meta["train"]["seed"] for dense, _ in pairs]}
    for axis in AXES:
        result[f"gap_at_equal_{axis}"] = mean_sd([gap(d.curve, m.curve, axis) for d, m in pairs])
        ends = [last_common([dense.curve, moe.curve], axis) for dense, moe in pairs]
        for i, label in enumerate(("dense", "MoE")):
            losses = zip(pairs, ends, strict=True)
            result[f"{label}_at_equal_{axis}"] = mean_sd(
                [validation_at(pair[i].curve, axis, x) for pair, x in losses]
            )
    return result


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Race with every seed; write runs/race under `out`."""
    snapshots = []
    for seed in range(seeds):
        snapshots += race_once(seed)
        on_step(seed + 1, seeds)
    figures = summary(snapshots)
    save_snapshots(out / "runs" / "race.safetensors", snapshots, meta)
    write_json(out / "runs" / "race.json", meta, figures)
    return figures
