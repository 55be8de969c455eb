"""How loud an FFN starts: from a sixteenth to four times the fair scale (4 minutes a seed).

The dense twin, token choice with raw weights, and hash routing (E = 16, K = 2, F = 128), 300 steps.
What would make the comparison unfair, and how it is closed:

1. Another scale than the one named: ModelConfig.ffn_scale measures each layer as it is built. "As
   written" is trained too, and its place on the axis is the scale that this measurement gives it.
2. Losses of a router that the others do not have: all weights of losses are 0.
3. Choices made on what is reported: there are none; the figures are of "reserve" windows.
4. Luck: arms and scales of one seed see the same batches, and differences are paired. Seeds draw
   hash tables too. Verdicts hold for the whole table (Holm).

Not closed: one learning rate, 8e-3, for all. A louder FFN learns faster by it too, and a part of
what the knob does may be had by another rate.

runs/scale.json: "steps", "seeds", "scales", and "arms" by name: "as_written" and, in the order of
the scales, "points": each {scale, loss (mean_sd), minus_dense}, the last being the difference from
the dense twin at scale 1 (mean, sd, low, high, p, verdict: recording.differences).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from moeviz.experiments import Progress
from moeviz.experiments.recording import (
    collect,
    differences,
    mean_sd,
    small_model,
    write_trained,
)
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig
from moeviz.training.evaluation import FINAL_WINDOWS
from moeviz.training.trainer import Trainer

STEPS = 300
SCALES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
ARMS: dict[str, MoEConfig | None] = {
    "dense": None,
    "token choice, raw": MoEConfig(16, 2, 128, options={"weighting": "raw"}),
    "hash": MoEConfig(16, 2, 128, router="hash"),
}
BASE = ("dense", 1.0)


def train_at(arm: str, scale: float | None, seed: int) -> float:
    """The final loss of one arm at one scale (None: as written)."""
    train = TrainConfig(
        steps=STEPS, seed=seed, learning_rate=8e-3, validate_every=0, balance_weight=0, z_weight=0
    )
    trainer = Trainer(small_model(ARMS[arm], ffn_scale=scale), train, load_corpus())
    for _ in trainer:
        pass
    return trainer.evaluate(FINAL_WINDOWS, part="reserve").loss


def written_scale(arm: str) -> float:
    """The scale at which an arm starts as it is written: one over the factor of the fair scale,
    over both layers of one model. The process's random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LanguageModel(small_model(ARMS[arm]))
    factors = [
        1.0 if ARMS[arm] is None else float(block.ffn.factor_P.mean()) for block in model.blocks
    ]
    return round(len(factors) / sum(factors), 4)


def summary(losses: dict[tuple[str, float | None], list[float]]) -> dict[str, Any]:
    """By arm the loss at each scale and as written, each minus the dense twin's at scale 1."""
    label = {place: f"{place[0]}, {place[1]}" for place in losses}
    gaps = differences({label[place]: values for place, values in losses.items()}, label[BASE])

    def point(arm: str, scale: float | None) -> dict[str, Any]:
        place = (arm, scale)
        gap = {name: v for name, v in gaps[label[place]].items() if name != "values"}
        return {
            "scale": written_scale(arm) if scale is None else scale,
            "loss": mean_sd(losses[place]),
            "minus_dense": gap,
        }

    return {
        "steps": STEPS,
        "seeds": list(range(len(losses[BASE]))),
        "scales": SCALES,
        "arms": {
            arm: {
                "as_written": point(arm, None),
                "points": [point(arm, scale) for scale in SCALES],
            }
            for arm in ARMS
        },
    }


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Train every arm at every scale with every seed; write runs/scale.json under `out`, again with
    each whole seed."""
    places = {f"{arm}, {scale}": (arm, scale) for arm in ARMS for scale in (*SCALES, None)}
    runs = {label: partial(train_at, *place) for label, place in places.items()}

    def write(results: dict[str, list[float]]) -> dict[str, Any]:
        figures = summary({places[label]: values for label, values in results.items()})
        write_trained(out / "runs" / "scale.json", meta, figures)
        return figures

    results = collect(out / "runs" / "scale.part", meta, runs, seeds, on_step, write)
    figures = write(results)
    return {arm: [p["loss"]["mean"] for p in one["points"]] for arm, one in figures["arms"].items()}
