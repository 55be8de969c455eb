"""Every router at equal active FLOPs (5 minutes a seed on two cores).

The same model on the same batches, with experts of equal active FLOPs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.recording import (
    collect,
    figures_over,
    finish,
    means,
    paired,
    untrained,
    write_json,
)
from moeviz.model.layer import MoEConfig
from moeviz.routing import ROUTERS, title_of
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.training.config import leave_a_core_free
from moeviz.training.trainer import Trainer

STEPS = 300
ACTIVE_WIDTH = 256
TIMED_STEPS = 12


@dataclass(frozen=True)
class Arm:
    """One router as it is compared: its experts and how its losses are weighed."""

    experts: MoEConfig
    training: dict[str, Any] = field(default_factory=dict)


def _arm(router: str, e: int = 16, k: int = 2, f: int = 128, **rest: Any) -> Arm:
    """E experts of width F, K a token: K F = 256 and E F = 2048 unless it must be otherwise."""
    weights = ("balance_weight", "z_weight")
    training: dict[str, Any] = {name: rest.pop(name) for name in weights if name in rest}
    layer = {name: rest.pop(name) for name in ("num_shared", "shared_gate") if name in rest}
    return Arm(MoEConfig(e, k, f, router=router, options=rest, **layer), training)


# Weights of losses are the papers'; u = 0.01 for the sign rule, whose 0.001 is meant for runs a
# thousand times longer.
_NAMED: dict[str, Arm] = {
    "token choice, renormalised (Mixtral)": _arm("token_choice"),
    "token choice, raw (OLMoE)": _arm("token_choice", weighting="raw"),
    "token choice, sigmoid": _arm("token_choice", score="sigmoid"),
    "noisy top-K (Shazeer)": _arm("noisy_topk"),
    "GShard": _arm("gshard"),
    "Switch": _arm("switch", 8, 1, 256),
    "ST-MoE": _arm("st_moe"),
    "expert prototyping (M6-T)": _arm("expert_prototyping"),
    "hierarchical": _arm("hierarchical"),
    "shared and fine-grained (DeepSeekMoE)": _arm(
        "token_choice", 32, 3, 64, weighting="raw", num_shared=1
    ),
    "dense residual (PR-MoE)": _arm(
        "token_choice", 16, 1, 128, weighting="raw", num_shared=1, shared_gate="softmax"
    ),
    "group-limited (DeepSeek-V2)": _arm("deepseek_v2", num_groups=4, top_groups=1),
    "group-limited, sign bias (DeepSeek-V3)": _arm(
        "deepseek_v3", bias_rate=0.01, balance_weight=1e-4
    ),
    "sign bias, no loss": _arm(
        "token_choice", score="sigmoid", bias="sign", bias_rate=0.01, scope="none"
    ),
    "quantile bias": _arm("quantile_balanced"),
    "expert choice": _arm("expert_choice"),
    "expert choice, at most 3 a token": _arm("expert_choice", max_experts=3),
    "expert threshold": _arm("expert_threshold"),
    "Soft MoE": _arm("soft_moe", slots=8),
    "Mixture of Tokens": _arm("mixture_of_tokens"),
    "BASE": _arm("base", 8, 1, 256),
    "Sinkhorn": _arm("sinkhorn"),
    "hash, random": _arm("hash"),
    "hash, bigram": _arm("hash", variant="bigram"),
    "ReMoE": _arm("remoe"),
    "null experts (MoE++)": _arm("null_experts"),
    "Mixture of Depths": _arm("mixture_of_depths", k=4),
    "dense mixture": _arm("dense_mixture", f=ACTIVE_WIDTH // 16),
    "one set a sequence": _arm("sequence_level"),
}
DENSE = "dense"


def arms() -> dict[str, Arm]:
    """Every router by at least one arm: what has none of its own trains as it is."""
    compared = {arm.experts.router for arm in _NAMED.values()}
    return _NAMED | {title_of(name): _arm(name) for name in ROUTERS if name not in compared}


def build(name: str, seed: int, corpus: Corpus, steps: int = STEPS) -> Trainer:
    """The trainer of one arm; "dense" is the twin without experts."""
    every = arms()
    arm = every.get(name, every["token choice, renormalised (Mixtral)"])
    return untrained(arm.experts, seed, steps, corpus, dense=name == DENSE, **arm.training)


def train_arm(name: str, seed: int) -> dict[str, float]:
    """Train one arm to the end; its figures on validation."""
    return finish(build(name, seed, load_corpus()))


def time_steps() -> dict[str, float]:
    """Median seconds of a training step of each arm, in turns of one step, so that other load on
    the machine meets all alike."""
    leave_a_core_free()
    corpus = load_corpus()
    trainers = {name: build(name, 0, corpus) for name in (DENSE, *arms())}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(TIMED_STEPS + 2):
        for name, trainer in trainers.items():
            start = time.perf_counter()
            next(trainer)
            if turn >= 2:  # the first ones warm caches
                seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(taken)) for name, taken in seconds.items()}


def summary(runs: dict[str, list[dict[str, float]]], seconds: dict[str, float]) -> dict[str, Any]:
    """Per arm: every figure's mean and spread over seeds, the loss paired with the dense twin's,
    what the router declares, and its steps per second."""
    corpus = load_corpus()
    figures: dict[str, Any] = {}
    for name, seeds in runs.items():
        trainer = build(name, 0, corpus)
        figures[name] = {
            **figures_over(seeds),
            "loss_minus_dense": paired(seeds, runs[DENSE]),
            "steps_per_second": round(1 / seconds[name], 2),
            "parameters": trainer.model.num_parameters(),
            "gigaflops_per_step": round(trainer.flops_per_step / 1e9, 3),
        }
        if name != DENSE:
            router, experts = trainer.model.routers()[0], arms()[name].experts
            figures[name] |= {
                "causal": router.causal,
                "substitute": router.substitute,
                "experts": experts.num_experts,
                "router": experts.router,
            }
    return {"steps": STEPS, "arms": figures}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Train every arm with every seed; write runs/routers under `out`."""
    runs = {name: partial(train_arm, name) for name in (DENSE, *arms())}
    results = collect(out / "runs" / "routers.part", meta, runs, seeds, on_step)
    figures = summary(results, time_steps())
    write_json(out / "runs" / "routers.json", meta, figures)
    return means(figures["arms"], "validation_loss", "max_violation", "dead_experts")
