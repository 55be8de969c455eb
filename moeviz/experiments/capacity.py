"""Capacity factors; expert choice's look ahead (2 minutes a seed on two cores).

What a limit costs and saves, and what an expert that sees the future gains by it: 05_capacity.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moeviz.experiments import Progress
from moeviz.experiments.recording import (
    collect,
    figures_over,
    finish,
    mean_sd,
    means,
    paired,
    untrained,
    write_json,
)
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.routing import Capacity
from moeviz.text.corpus import load_corpus
from moeviz.training.trainer import Trainer

STEPS = 300
SEQ_LEN = 64  # as trained with
# Windows per domain on which every prefix is evaluated by itself: S forward passes each.
PREFIX_WINDOWS = 4

# Switch's layer under different limits; the balancing loss is on in all (0.01) but the last.
CAPACITY_ARMS: dict[str, tuple[Capacity | None, float]] = {
    "no limit": (None, 0.01),
    "factor 2": (Capacity(2.0), 0.01),
    "factor 1.25": (Capacity(1.25), 0.01),
    "factor 1": (Capacity(1.0), 0.01),
    "factor 1, by probability": (Capacity(1.0, priority="probability"), 0.01),
    "factor 1, batch prioritised": (Capacity(1.0, priority="batch"), 0.01),
    "factor 0.5": (Capacity(0.5), 0.01),
    "factor 1.25, no balancing loss": (Capacity(1.25), 0.0),
}

# Expert choice by the pool its experts choose from: one sequence, a quarter of one, the whole
# batch, or as many tokens shuffled together from all sequences.
LEAK_ARMS: dict[str, dict[str, Any]] = {
    "pool of 16 neighbours": {"chunk": 16},
    "pool of one sequence": {"chunk": SEQ_LEN},
    "pool of the whole batch": {"chunk": None},
    "pool of 64, shuffled": {"chunk": SEQ_LEN, "shuffle": True},
    "pool of 16, shuffled": {"chunk": 16, "shuffle": True},
}
TOKEN_CHOICE = "token choice"


def build_capacity(arm: str, seed: int, steps: int = STEPS) -> Trainer:
    """Top-1 routing, E = 8, under one of the limits, ready to train."""
    capacity, balance_weight = CAPACITY_ARMS[arm]
    experts = MoEConfig(8, 1, 256, options={"weighting": "raw"}, capacity=capacity)
    return untrained(experts, seed, steps, load_corpus(), balance_weight=balance_weight)


def build_leak(arm: str, seed: int, steps: int = STEPS) -> Trainer:
    """Expert choice with one of the pools, or token choice, E = 16 and K = 2, ready to train."""
    experts = (
        MoEConfig(16, 2, 128)
        if arm == TOKEN_CHOICE
        else MoEConfig(16, 2, 128, router="expert_choice", options=LEAK_ARMS[arm])
    )
    return untrained(experts, seed, steps, load_corpus())


def run_capacity(arm: str, seed: int) -> dict[str, float]:
    """Train one arm; validation loss without a limit, and under the limit of training."""
    trainer = build_capacity(arm, seed)
    figures = finish(trainer)
    limited = figures["validation_loss"]
    if CAPACITY_ARMS[arm][0] is not None:
        for block in trainer.model.blocks:
            limit = block.ffn.router.capacity
            block.ffn.router.capacity = dataclasses.replace(limit, eval_factor=limit.factor)
        limited = trainer.evaluate().loss
    return figures | {"validation_loss_limited": limited}


def run_leak(arm: str, seed: int) -> dict[str, float]:
    """Train one arm; its loss with the text at hand, as validation has it, and with each token
    predicted from the tokens before it alone, as generation has it."""
    trainer = build_leak(arm, seed)
    last = [result.loss for result in trainer][-50:]
    with_future, without = prefix_losses(trainer)
    return {
        "training_loss": float(np.mean(last)),
        "validation_loss": trainer.evaluate().loss,
        "loss_with_later_tokens": with_future,
        "loss_from_prefixes": without,
    }


@torch.no_grad()
def prefix_losses(trainer: Trainer) -> tuple[float, float]:
    """Nats per token of the same windows, one sequence at a time: all at once, and every token from
    its prefix alone. The two are equal for a causal router."""
    corpus, model = trainer.corpus, trainer.model.eval()
    batch = corpus.windows("validation", seq_len=SEQ_LEN, windows_per_domain=PREFIX_WINDOWS)
    tokens_BS = torch.from_numpy(batch.tokens)
    whole, prefixes = [], []
    for tokens_S in tokens_BS:
        whole.append(_losses(model, tokens_S).mean().item())
        parts = [_losses(model, tokens_S[: end + 1])[-1].item() for end in range(1, SEQ_LEN + 1)]
        prefixes.append(float(np.mean(parts)))
    return float(np.mean(whole)), float(np.mean(prefixes))


def _losses(model: LanguageModel, tokens_S: torch.Tensor) -> torch.Tensor:
    """Nats of each next token of one sequence."""
    logits_SV = model(tokens_S[None, :-1]).logits[0].float()
    return torch.nn.functional.cross_entropy(logits_SV, tokens_S[1:], reduction="none")


def summary(
    limits: dict[str, list[dict[str, float]]], leaks: dict[str, list[dict[str, float]]]
) -> dict[str, Any]:
    """Per arm: every figure's mean and spread over seeds; losses paired with "no limit", and what
    the later tokens are worth."""
    of_limits = {}
    for arm, seeds in limits.items():
        of_limits[arm] = figures_over(seeds)
        for name in ("validation_loss", "validation_loss_limited"):
            of_limits[arm][f"{name}_minus_no_limit"] = paired(seeds, limits["no limit"], name)
    of_leaks = {}
    for arm, seeds in leaks.items():
        of_leaks[arm] = figures_over(seeds)
        worth = [run["loss_from_prefixes"] - run["loss_with_later_tokens"] for run in seeds]
        of_leaks[arm]["worth_of_later_tokens"] = mean_sd(worth)
    return {"steps": STEPS, "limits": of_limits, "leaks": of_leaks}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Train every arm with every seed; write runs/capacity under `out`."""
    limits = {arm: partial(run_capacity, arm) for arm in CAPACITY_ARMS}
    leaks = {arm: partial(run_leak, arm) for arm in (TOKEN_CHOICE, *LEAK_ARMS)}
    results = collect(out / "runs" / "capacity.part", meta, limits | leaks, seeds, on_step)
    figures = summary({a: results[a] for a in limits}, {a: results[a] for a in leaks})
    write_json(out / "runs" / "capacity.json", meta, figures)
    return means(figures["limits"], "validation_loss", "drop_rate") | means(
        figures["leaks"], "loss_with_later_tokens", "loss_from_prefixes"
    )
