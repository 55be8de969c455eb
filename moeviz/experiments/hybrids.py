"""Which layers have experts: all eight choices of a model of three layers (2 minutes a seed).

A layer's FFN is dense, 256 wide, or an MoE of 16 experts 128 wide of which a token visits two.

What would make the comparison unfair, and how it is closed:

1. Unequal cost: a token meets FFNs of one width everywhere. FLOPs differ by the gate alone, below
   2 %; parameters differ, and stand beside the loss.
2. How loud an FFN starts: the fair scale, for both kinds (ModelConfig.ffn_scale).
3. One learning rate that suits one: 16e-3 was the best of a grid for the dense twin and for token
   choice, of two layers (`experiment routers`).
4. Choices made on what is reported: there are none; figures are of "reserve" windows.
5. Luck: models of one seed see the same batches, differences are paired. What experts in one layer
   do is the mean over the four choices of the others, so that each seed measures it four times.
   Each table is corrected on its own (Holm).

Not closed: three layers and 300 steps say little of sixty layers; DeepSeek-V3 keeps its first three
layers dense because their load was slow to become even (DeepSeekMoE, 2401.06066), which a model
without devices does not feel.

runs/hybrids.json: "steps", "layers", and "models" by the layers that have experts ("none", "0",
"0 2", …): each {parameters, active_parameters, gigaflops_per_step, loss}. "minus_dense": each loss
minus that of "none". "layer": by layer, the loss with experts there minus without, over the choices
of the others. "between": by two layers, "0 - 2", the first's of these minus the other's. Each of
the three is one table, judged (recording.judged).
"""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.recording import (
    collect,
    figures_over,
    judged,
    means,
    small_model,
    write_trained,
)
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig
from moeviz.training.evaluation import FINAL_WINDOWS
from moeviz.training.trainer import Trainer

STEPS, RATE, LAYERS = 300, 16e-3, 3
EXPERTS = MoEConfig(16, 2, 128)
NONE = "none"

Figures = dict[str, Any]


def name_of(layers: tuple[int, ...]) -> str:
    """How the recording calls the model with experts in these layers."""
    return " ".join(map(str, layers)) or NONE


CHOICES = {
    name_of(layers): layers
    for count in range(LAYERS + 1)
    for layers in combinations(range(LAYERS), count)
}


def model_with(layers: tuple[int, ...]) -> ModelConfig:
    """The model with experts in these layers, dense in the others."""
    dense = tuple(layer for layer in range(LAYERS) if layer not in layers)
    model = dataclasses.replace(small_model(EXPERTS), num_layers=LAYERS, dense_layers=dense)
    return model if layers else dataclasses.replace(model, moe=None, dense_layers=())


def train(layers: tuple[int, ...], seed: int) -> Figures:
    """Train one of them."""
    config = TrainConfig(steps=STEPS, seed=seed, learning_rate=RATE, validate_every=0, z_weight=0.0)
    trainer = Trainer(model_with(layers), config, load_corpus())
    for _ in trainer:
        pass
    return {
        "parameters": trainer.model.num_parameters(),
        "active_parameters": trainer.model.num_active_parameters(),
        "gigaflops_per_step": trainer.flops_per_step / 1e9,
        "loss": trainer.evaluate(FINAL_WINDOWS, part="reserve").loss,
    }


def summary(runs: dict[str, list[Figures]]) -> Figures:
    """All models over their seeds, and the three tables of differences."""
    losses = {name: [run["loss"] for run in seeds] for name, seeds in runs.items()}

    def over_others(layer: int, there: bool) -> list[float]:
        """By seed, the mean loss of the models that have experts in this layer, or have none."""
        chosen = [losses[n] for n, layers in CHOICES.items() if (layer in layers) == there]
        return np.mean(chosen, axis=0).tolist()

    sides = {
        layer: (over_others(layer, True), over_others(layer, False)) for layer in range(LAYERS)
    }
    effect = {layer: np.subtract(*pair).tolist() for layer, pair in sides.items()}
    return {
        "steps": STEPS,
        "layers": LAYERS,
        "seeds": list(range(len(losses[NONE]))),
        "models": {name: figures_over(seeds) for name, seeds in runs.items()},
        "minus_dense": judged(
            {name: (values, losses[NONE]) for name, values in losses.items() if name != NONE}
        ),
        "layer": judged({str(layer): pair for layer, pair in sides.items()}),
        "between": judged(
            {f"{a} - {b}": (effect[a], effect[b]) for a, b in combinations(range(LAYERS), 2)}
        ),
    }


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Train every model with every seed; write runs/hybrids.json under `out`, again with each whole
    seed."""

    def write(results: dict[str, list[Figures]]) -> Figures:
        figures = summary(results)
        write_trained(out / "runs" / "hybrids.json", meta, figures)
        return figures

    runs = {name: partial(train, layers) for name, layers in CHOICES.items()}
    figures = write(collect(out / "runs" / "hybrids.part", meta, runs, seeds, on_step, write))
    return means(figures["models"], "loss")
