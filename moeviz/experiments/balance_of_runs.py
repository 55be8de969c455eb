"""How a run's balance went, layer by layer: at its end, around a restart, along its curve."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from moeviz.records.metrics import collapsed, dead_experts, effective_experts, max_violation
from moeviz.records.runs import Curve
from moeviz.training.trainer import StepResult, Trainer

BIN = 5  # steps in a point of a curve
AROUND = 25  # steps before and after a restart
KEPT_WINDOWS = 8  # per domain, on which choices are looked at again
BALANCE = {
    "max_violation": max_violation,
    "dead_experts": dead_experts,
    "effective_experts": effective_experts,
}


def by_layer(load_LE: np.ndarray) -> dict[str, list[float]]:
    """Each figure of BALANCE for every MoE layer."""
    return {name: [float(of(load_E)) for load_E in load_LE] for name, of in BALANCE.items()}


def fallen_layers(curve: Curve) -> list[bool]:
    """Whether each layer has collapsed, as `collapsed` judges the least even one."""
    layers = range(curve.load.shape[1])
    return [collapsed(dataclasses.replace(curve, load=curve.load[:, [n]])) for n in layers]


@torch.no_grad()
def visits(trainer: Trainer) -> np.ndarray:
    """Which experts each token of fixed held-out windows visits, bool [L, T, E]."""
    model, config = trainer.model.eval(), trainer.config
    batch = trainer.corpus.windows(
        "validation", seq_len=config.seq_len, windows_per_domain=KEPT_WINDOWS
    )
    routes = model(torch.from_numpy(batch.tokens)[:, :-1]).routes
    tokens = batch.tokens[:, :-1].size
    rows = []
    for route in routes:
        if route is not None:
            visits_TE = np.zeros((tokens, route.stats.load.numel()), bool)
            visits_TE[route.plan.token.numpy(), route.plan.expert.numpy()] = True
            rows.append(visits_TE)
    return np.array(rows)


def kept(before_LTE: np.ndarray, after_LTE: np.ndarray) -> list[float]:
    """By layer, the share of tokens that visit the same experts as before, among those that visited
    any."""
    return [
        float((before_TE == after_TE).all(1)[before_TE.any(1)].mean())
        for before_TE, after_TE in zip(before_LTE, after_LTE, strict=True)
    ]


def around(results: list[StepResult], step: int) -> dict[str, Any]:
    """Balance by layer over the steps just before and just after this one."""

    def of(some: list[StepResult]) -> dict[str, list[float]]:
        return by_layer(np.sum([result.load for result in some], axis=0))

    return {"before": of(results[step - AROUND : step]), "after": of(results[step : step + AROUND])}


def curves_of(results: list[StepResult]) -> dict[str, list[Any]]:
    """A run in points of BIN steps: the last step of each, and means over them. max_violation: by
    layer, each step's own; losses that the router does not have are left out."""
    bins = [results[start : start + BIN] for start in range(0, len(results), BIN)]
    curves: dict[str, list[Any]] = {
        "step": [points[-1].step for points in bins],
        "loss": [float(np.mean([r.loss for r in points])) for points in bins],
    }
    for name in ("balance", "z"):
        if name in results[0].router_losses:
            values = [[r.router_losses[name] for r in points] for points in bins]
            curves[f"{name}_loss"] = [float(np.mean(v)) for v in values]
    if len(results[0].load):
        curves["max_violation"] = [
            [float(np.mean([max_violation(r.load[layer]) for r in points])) for points in bins]
            for layer in range(len(results[0].load))
        ]
    return curves
