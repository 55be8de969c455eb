"""What a small model loses when its weights are kept in fewer bits (2 minutes a seed).

Each seed trains the shipped model with a shared expert beside the others, STEPS steps. Then some
component's weights are rounded to a format and unpacked again; everything else stays in float32.
No calibration, and no training afterwards.

runs/quantised.json: steps; domains_of_text; weights: of each component; bits: of each format,
scales included; unpacked: the loss of the model as it was trained; figures over seeds, of the rise
of the held-out loss, nats per token:
    experts     by format: all routed experts
    components  by component: it alone in PROBE
    layers      by layer: its routed experts alone in PROBE
each with "domains", a list, the rise in each of them. judged: every other component minus the
routed experts, and every other layer minus the first, in PROBE, with the verdict of records.compare
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.costs.cost.parameters import parameters
from moeviz.costs.cost.quantisation import FORMATS, QuantPlan
from moeviz.experiments import Progress
from moeviz.experiments.killed_experts import held_out, losses
from moeviz.experiments.offloaded import experts_in
from moeviz.experiments.recording import collect, differences, figures_over, write_trained
from moeviz.experiments.start_here import MODEL, TRAINING
from moeviz.model.architecture import architecture_of
from moeviz.model.transformer import LanguageModel
from moeviz.systems.packed_model import quantised
from moeviz.text.corpus import Batch, Corpus, load_corpus
from moeviz.training.trainer import Trainer

STEPS = 800
FORMS = ("bf16", "int8", "fp8", "int4_g32", "mxfp4", "int4_zero", "int4", "int3", "int2")
PROBE = "int3"  # coarse enough that each component shows
COMPONENTS = ("routed_experts", "shared_experts", "attention", "router", "head")
RUN = "with a shared expert"
assert MODEL.moe is not None
SHARED = dataclasses.replace(MODEL, moe=dataclasses.replace(MODEL.moe, num_shared=1))

Figures = dict[str, Any]


def by_domain(model: LanguageModel, corpus: Corpus) -> np.ndarray:
    """The held-out loss of each domain, float64 [domains]."""
    return by_window(model, held_out(corpus))


def by_window(model: LanguageModel, windows: Batch) -> np.ndarray:
    """The loss of each domain over these windows, float64 [domains]."""
    nats_W = losses(model, windows)
    domains = np.unique(windows.domain)
    return np.array([nats_W[windows.domain == domain].mean() for domain in domains], float)


def rises(model: LanguageModel, corpus: Corpus) -> Figures:
    """What every format, component and layer costs this model; see the head of this file."""
    before = by_domain(model, corpus)

    def rise(plan: QuantPlan, layers: tuple[int, ...] | None = None) -> Figures:
        gap_D = by_domain(quantised(model, plan, layers=layers), corpus) - before
        return {"loss": float(gap_D.mean()), "domains": gap_D.tolist()}

    there = parameters(architecture_of(model.config)).components
    components = [component for component in COMPONENTS if component in there]
    return {
        "unpacked": float(before.mean()),
        "experts": {form: rise(experts_in(form)) for form in FORMS},
        "components": {c: rise(QuantPlan.mixed(c, "fp32", **{c: PROBE})) for c in components},
        "layers": {
            str(layer): rise(experts_in(PROBE), (layer,)) for layer in model.config.moe_layers
        },
    }


def train(seed: int) -> Figures:
    """Train once, and round its weights in every way."""
    corpus = load_corpus()
    training = dataclasses.replace(TRAINING, steps=STEPS, seed=seed, validate_every=0)
    trainer = Trainer(SHARED, training, corpus)
    for _ in trainer:
        pass
    return rises(trainer.model, corpus)


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Train with every seed; write runs/quantised.json under `out`."""
    part = out / "runs" / "quantised.part"
    runs = collect(part, meta, {RUN: train}, seeds, on_step)[RUN]

    def judged_against(kind: str, base: str) -> Figures:
        arms = {name: [run[kind][name]["loss"] for run in runs] for name in runs[0][kind]}
        return {n: gap for n, gap in differences(arms, base).items() if n != base}

    counted = parameters(architecture_of(SHARED)).components
    first = str(SHARED.moe_layers[0])
    figures = figures_over(runs) | {
        "steps": STEPS,
        "domains_of_text": list(load_corpus().domains),
        "probe": PROBE,
        "weights": {component: int(count) for component, count in counted.items()},
        "bits": {form: FORMATS[form].bits for form in FORMS},
        "judged": {
            "components": judged_against("components", COMPONENTS[0]),
            "layers": judged_against("layers", first),
        },
    }
    write_trained(out / "runs" / "quantised.json", meta, figures)
    return {"experts": {form: figures["experts"][form]["loss"] for form in FORMS}}
