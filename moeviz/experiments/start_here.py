"""The small MoE model that ships, and the recordings that notebooks open on (3 minutes)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.text.corpus import load_corpus
from moeviz.training import TrainConfig, Trainer
from moeviz.watch.text import dissect, load_model, trace_text

MODEL = ModelConfig(
    d_model=64, num_layers=3, num_heads=4, moe=MoEConfig(num_experts=8, top_k=2, d_expert=128)
)
TRAINING = TrainConfig(
    steps=4000, batch_size=16, seq_len=96, learning_rate=3e-3, validate_every=250, seed=0
)
TEXT = (
    "def area(width, height):\n    return width * height\n"
    "The router sends each token to two experts.\n"
    "12 + 7 = 19\n"
    "int main(void) { return 0; }"
)
LAYER_TEXT = "if x > 3: return the value of 12 + 7"
LAYER = 1


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Train MODEL, then write models/start_here, traces/start_here and traces/inside_layer under
    `out`. Returns the figures worth telling."""
    corpus = load_corpus()
    trainer = Trainer(MODEL, TRAINING, corpus)
    for result in trainer:
        on_step(result.step, TRAINING.steps)
    evaluation = trainer.evaluate()
    figures = {
        "validation_loss": round(evaluation.loss, 3),
        "domain_loss": {
            name: round(float(loss), 3)
            for name, loss in zip(corpus.domains, evaluation.domain_loss, strict=True)
        },
        "share_of_domain_per_expert_last_layer": np.round(
            evaluation.load[-1] / evaluation.load[-1].sum(-1, keepdims=True), 3
        ).tolist(),
    }
    meta = {**meta, "corpus": corpus.manifest.fingerprint, **figures}
    model_file = out / "models" / "start_here.safetensors"
    trainer.export(model_file, meta)
    # Read back, so that the recordings are of the float16 weights that ship.
    model = load_model(model_file, corpus.tokenizer)
    trace = trace_text(model, corpus.tokenizer, TEXT, meta={**meta, "text": TEXT})
    trace.save(out / "traces" / "start_here.safetensors")
    layer = dissect(model, corpus.tokenizer, LAYER_TEXT, layer=LAYER, weighting="renormalise")
    dataclasses.replace(layer, meta=meta).save(out / "traces" / "inside_layer.safetensors")
    return figures
