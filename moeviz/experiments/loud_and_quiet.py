"""A raw top-2 MoE beside its dense twin, at every scale of its start (two minutes a seed).

What 03c_trained_and_compared opens on: the curves of seed 0 at each scale, how loud each starts,
and by how much the end differs from seed to seed. That is measured here, with few windows of text
and at this rate: the figures of `experiment scale` are of more text and differ less. The dense twin
always starts at the fair scale, and the learning rate is constant, so that the curves may be
compared at any step.

runs/loud_and_quiet.safetensors: seed 0 of the dense twin, then of the MoE by scale, WRITTEN first.
runs/loud_and_quiet.json: "residual stream" and "dense", their size and values (see `loudness`);
"MoE", by scale the same, and "ahead": dense minus MoE at the last step, mean, sd, values over
seeds.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moeviz.experiments import Progress
from moeviz.experiments.recording import (
    collect,
    compact,
    mean_sd,
    packed,
    resumed,
    small_model,
    unpacked,
    write_json,
)
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.scale import sample_text
from moeviz.records.metrics import gap
from moeviz.records.runs import save_snapshots
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig
from moeviz.training.trainer import Trainer

STEPS = 300
SCALES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
WRITTEN = 0.0  # the scale of a model that is as its paper writes it
DENSE, MOE = "dense", "MoE"


def contestants(scale: float) -> dict[str, ModelConfig]:
    """The dense twin, at the fair scale, and the MoE at this one."""
    experts = MoEConfig(16, 2, 128, options={"weighting": "raw"})
    moe = small_model(experts, ffn_scale=None if scale == WRITTEN else scale)
    return {DENSE: small_model(experts).dense_twin(), MOE: moe}


def training(seed: int) -> TrainConfig:
    return TrainConfig(
        steps=STEPS, seed=seed, learning_rate=4e-3, schedule="constant", validate_every=25
    )


def build(scale: float, seed: int) -> dict[str, Trainer]:
    """Both, ready to train on the same batches."""
    corpus = load_corpus()
    models = contestants(scale)
    return {label: Trainer(model, training(seed), corpus) for label, model in models.items()}


def resume(folder: Path, scale: float, seed: int) -> dict[str, Trainer]:
    """Both as an interrupted run left them in a folder; none where one is not of this run."""
    corpus = load_corpus()
    found = {
        label: resumed(folder / f"{label}.safetensors", model, training(seed), corpus)
        for label, model in contestants(scale).items()
    }
    return {label: trainer for label, trainer in found.items() if trainer and all(found.values())}


def train(label: str, scale: float, seed: int) -> dict[str, Any]:
    """One of the two to its end: its snapshot, packed."""
    trainer = Trainer(contestants(scale)[label], training(seed), load_corpus())
    for _ in trainer:
        pass
    return packed(compact(trainer.snapshot(label)))


@torch.no_grad()
def first_ffn(label: str, scale: float) -> tuple[Tensor, Tensor]:
    """What the first FFN of one of the two reads from the residual stream, and what it adds to it,
    before training: [T, D] each, of the random text that scales are measured on."""
    model = Trainer(contestants(scale)[label], training(0), load_corpus()).model
    block, seen = model.blocks[0], []
    block.ffn_norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    block.ffn.register_forward_hook(lambda _, args, out: seen.append(out[0]))
    model(sample_text(model.config.vocab_size))
    stream_TD, added_TD = seen
    return stream_TD, added_TD


def loudness() -> dict[str, Any]:
    """The size of the residual stream, of what the dense FFN adds to it, and of what the MoE adds
    at each scale: "size", the root of the mean square over all tokens, and "values", those of the
    one token at which the fair MoE is of middling size."""
    stream_TD, dense_TD = first_ffn(DENSE, 1.0)
    moe_TD = {scale: first_ffn(MOE, scale)[1] for scale in (WRITTEN, *SCALES)}
    token = int(moe_TD[1.0].square().mean(1).argsort()[len(stream_TD) // 2])

    def told(values_TD: Tensor) -> dict[str, Any]:
        size = round(float(values_TD.square().mean().sqrt()), 4)
        return {"size": size, "values": [round(float(v), 4) for v in values_TD[token]]}

    moe = [{"scale": scale, **told(values_TD)} for scale, values_TD in moe_TD.items()]
    return {"residual stream": told(stream_TD), DENSE: told(dense_TD), MOE: moe}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Every scale with every seed; writes runs/loud_and_quiet under `out`. Returns the last
    validation losses of seed 0."""
    runs = {DENSE: partial(train, DENSE, 1.0)}
    runs |= {f"{MOE} {scale:g}": partial(train, MOE, scale) for scale in (WRITTEN, *SCALES)}
    results = collect(out / "runs" / "loud_and_quiet.part", meta, runs, seeds, on_step)
    of_seeds = {name: [unpacked(kept) for kept in each] for name, each in results.items()}
    twins, *of_scales = of_seeds.values()
    figures = loudness()
    for start, moes in zip(figures[MOE], of_scales, strict=True):
        pairs = zip(twins, moes, strict=True)
        start["ahead"] = mean_sd([gap(dense.curve, moe.curve, "step") for dense, moe in pairs])
    write_json(out / "runs" / "loud_and_quiet.json", meta, figures)
    first = {name: each[0] for name, each in of_seeds.items()}
    save_snapshots(out / "runs" / "loud_and_quiet.safetensors", [*first.values()], meta)
    return {name: float(one.curve.validation[-1]) for name, one in first.items()}
