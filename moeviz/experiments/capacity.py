"""Capacity factors; expert choice's look ahead (5 minutes a seed on two cores).

What a limit costs and saves, and what an expert that sees the future gains by it: 05_capacity.
What would make the comparison unfair, and how it is closed:

1. The pool. A limit counts the slots of a batch, and expert choice compares the tokens of one. A
   batch of a single domain or a single text overflows far sooner than a training batch, which mixes
   the domains. So every loss under a limit is measured with each pool: "mixed" as in training, one
   "domain" at a time, one "sequence" at a time. The cost of a limit is that of the mixed pool; the
   others are what a change of pool costs on top.
2. Training with a limit, and evaluating with one. The cost of capacity is the loss of one trained
   model with its limit minus the loss of the same model without. What training with the limit did
   to the model is the other difference: both evaluated without one.
3. Scale. All models start at the fair scale (ModelConfig.ffn_scale), the dense twin too: raw top-1
   weights begin at 1/E, those of expert choice too.
4. The yardstick. The dense twin stands beside all arms: limits (E = 8, K = 1, F = 256) and leaks
   (E = 16, K = 2, F = 128) have the same one.
5. A prefix is a smaller pool. Predicting a token from its prefix takes the later tokens away, and
   with them most of the pool: C is rounded up, and few tokens get more experts each. So every token
   is also predicted with later tokens of *another* text behind its prefix: the pool keeps its size,
   and what comes later says nothing. The worth of the later tokens is the difference from that.
6. The text and luck. Final figures are measured on "reserve" windows, which no choice has seen. All
   arms of a seed see the same batches; differences are paired, their intervals Student's t, their
   verdicts Holm's over each table. Shuffled pools differ from those in order by the order alone.

Not closed: one learning rate for all arms, and 300 steps. The later tokens of another text are of
another domain, so the pool is not the same in kind.

runs/capacity.json. dense: {"loss"}. limits: by CAPACITY_ARMS; leaks: by TOKEN_CHOICE and LEAK_ARMS;
figures over seeds (mean_sd), differences as recording.differences:
    limits: loss                            evaluated without a limit
            loss_mixed, _domain, _sequence  under the limit of training, by pool
            dropped_mixed, …                share of assignments dropped there
            drop_rate                       of the last 50 steps of training
            max_violation, dead_experts, effective_experts, domain_information, active_experts
            cost_mixed, …                   loss_mixed - loss, …: one table over arms and pools
            loss_minus_no_limit, loss_minus_dense, loss_mixed_minus_dense
    leaks:  training_loss                   of the last 50 steps
            loss_mixed, …                   with the later tokens, by pool
            loss_with_later_tokens, loss_from_prefixes, loss_with_other_later_tokens
                                            on the same few windows, one sequence at a time
            worth_of_later_tokens           loss_with_other_later_tokens - loss_with_later_tokens
            worth_with_smaller_pool         loss_from_prefixes - loss_with_later_tokens
            loss_mixed_minus_dense
signature: training loss of each pool in order minus the same pool shuffled: what an expert that
    compares neighbours has learned from their future (Wang et al. 2024, appendix D, saw 10 %).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moeviz.experiments import Progress
from moeviz.experiments.recording import (
    balance_figures,
    collect,
    differences,
    figures_over,
    judged,
    means,
    untrained,
    write_trained,
)
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.routing import Capacity
from moeviz.text.corpus import load_corpus
from moeviz.training.evaluation import FINAL_WINDOWS, Pool
from moeviz.training.trainer import Trainer

STEPS = 300
SEQ_LEN = 64  # as trained with
# Windows per domain on which every prefix is evaluated by itself: S forward passes each.
PREFIX_WINDOWS = 4

POOLS: tuple[Pool, ...] = ("mixed", "domain", "sequence")
DENSE, NO_LIMIT, TOKEN_CHOICE = "dense", "no limit", "token choice"
# Switch's layer under different limits; the balancing loss is on in all (0.01) but the last.
# Batch priority is no arm: a token of K = 1 has one weight, so it is priority by probability.
CAPACITY_ARMS: dict[str, tuple[Capacity | None, float]] = {
    NO_LIMIT: (None, 0.01),
    "factor 2": (Capacity(2.0), 0.01),
    "factor 1.25": (Capacity(1.25), 0.01),
    "factor 1": (Capacity(1.0), 0.01),
    "factor 1, by probability": (Capacity(1.0, priority="probability"), 0.01),
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
# Pools of one size: in order, and shuffled.
SHUFFLED = {
    "pool of 16": ("pool of 16 neighbours", "pool of 16, shuffled"),
    "pool of 64": ("pool of one sequence", "pool of 64, shuffled"),
}


def build_capacity(arm: str, seed: int) -> Trainer:
    """Top-1 routing, E = 8, under one of the limits, or the dense twin of all arms, ready to
    train."""
    capacity, balance_weight = CAPACITY_ARMS.get(arm, (None, 0.0))
    experts = MoEConfig(8, 1, 256, options={"weighting": "raw"}, capacity=capacity)
    return untrained(
        experts, seed, STEPS, load_corpus(), dense=arm == DENSE, balance_weight=balance_weight
    )


def build_leak(arm: str, seed: int, steps: int = STEPS) -> Trainer:
    """Expert choice with one of the pools, or token choice, E = 16 and K = 2, ready to train."""
    experts = (
        MoEConfig(16, 2, 128)
        if arm == TOKEN_CHOICE
        else MoEConfig(16, 2, 128, router="expert_choice", options=LEAK_ARMS[arm])
    )
    return untrained(experts, seed, steps, load_corpus())


# One run.


def run_dense(seed: int) -> dict[str, float]:
    """Train the dense twin of all arms."""
    trainer = build_capacity(DENSE, seed)
    for _ in trainer:
        pass
    return {"loss": trainer.evaluate(FINAL_WINDOWS, part="reserve").loss}


def run_capacity(arm: str, seed: int) -> dict[str, float]:
    """Train one arm; its loss without a limit, and under the limit of training with each pool."""
    trainer = build_capacity(arm, seed)
    for _ in trainer:
        pass
    free = trainer.evaluate(FINAL_WINDOWS, part="reserve")
    figures = {"loss": free.loss, **balance_figures(trainer, free)}
    _limit_evaluation(trainer)
    for pool in POOLS:
        bound = trainer.evaluate(FINAL_WINDOWS, part="reserve", pool=pool)
        figures[f"loss_{pool}"] = bound.loss
        figures[f"dropped_{pool}"] = 1 - float(bound.active_experts.mean())  # of K = 1
    return figures


def _limit_evaluation(trainer: Trainer) -> None:
    """From now on the limit of training holds in evaluation too."""
    for block in trainer.model.blocks:
        limit = getattr(block.ffn.router, "capacity", None)
        if limit is not None:
            block.ffn.router.capacity = dataclasses.replace(limit, eval_factor=limit.factor)


def run_leak(arm: str, seed: int) -> dict[str, float]:
    """Train one arm; its loss with the text at hand, by pool, and with each token predicted without
    what comes later."""
    trainer = build_leak(arm, seed)
    last = [result.loss for result in trainer][-50:]
    figures = {"training_loss": float(np.mean(last))}
    for pool in POOLS:
        figures[f"loss_{pool}"] = trainer.evaluate(FINAL_WINDOWS, part="reserve", pool=pool).loss
    whole, prefixes = prefix_losses(trainer)
    return figures | {
        "loss_with_later_tokens": whole,
        "loss_from_prefixes": prefixes,
        "loss_with_other_later_tokens": other_future_loss(trainer),
    }


def _windows(trainer: Trainer) -> torch.Tensor:
    batch = trainer.corpus.windows("reserve", seq_len=SEQ_LEN, windows_per_domain=PREFIX_WINDOWS)
    return torch.from_numpy(batch.tokens)


@torch.no_grad()
def prefix_losses(trainer: Trainer) -> tuple[float, float]:
    """Nats per token of the same windows, one sequence at a time: all at once, and every token from
    its prefix alone, which is a smaller pool too. The two are equal for a causal router."""
    model = trainer.model.eval()
    whole, prefixes = [], []
    for tokens_S in _windows(trainer):
        whole.append(_losses(model, tokens_S).mean().item())
        parts = [_losses(model, tokens_S[: end + 1])[-1].item() for end in range(1, SEQ_LEN + 1)]
        prefixes.append(float(np.mean(parts)))
    return float(np.mean(whole)), float(np.mean(prefixes))


@torch.no_grad()
def other_future_loss(trainer: Trainer) -> float:
    """Nats per token of those windows, every token from its prefix with the later tokens of the
    window of the next domain behind it: a pool of the same size, and nothing to look ahead to."""
    model = trainer.model.eval()
    tokens_BS = _windows(trainer)
    losses = []
    for tokens_S, other_S in _beside_another(tokens_BS):
        for end in range(1, SEQ_LEN + 1):
            mixed_S = torch.cat((tokens_S[:end], other_S[end:SEQ_LEN]))
            logits_V = model(mixed_S[None]).logits[0, end - 1].float()
            losses.append(torch.nn.functional.cross_entropy(logits_V, tokens_S[end]).item())
    return float(np.mean(losses))


def _beside_another(tokens_BS: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each window with one of another domain: windows come domain by domain."""
    return zip(tokens_BS, tokens_BS.roll(PREFIX_WINDOWS, 0), strict=True)


def _losses(model: LanguageModel, tokens_S: torch.Tensor) -> torch.Tensor:
    """Nats of each next token of one sequence."""
    logits_SV = model(tokens_S[None, :-1]).logits[0].float()
    return torch.nn.functional.cross_entropy(logits_SV, tokens_S[1:], reduction="none")


# All runs.

Runs = dict[str, list[dict[str, float]]]  # by arm, of each seed


def summary(dense: list[dict[str, float]], limits: Runs, leaks: Runs) -> dict[str, Any]:
    """Every arm's figures over seeds, and the paired differences: see the head of this file."""
    of_limits = {arm: figures_over(seeds) for arm, seeds in limits.items()}
    of_leaks = {arm: figures_over(seeds) for arm, seeds in leaks.items()}
    base = {DENSE: _column(dense, "loss")}
    for figures, runs, names in (
        (of_limits, limits, ("loss", "loss_mixed")),
        (of_leaks, leaks, ("loss_mixed",)),
    ):
        for name in names:
            gaps = differences(base | _columns(runs, name), DENSE)
            for arm in runs:
                figures[arm][f"{name}_minus_dense"] = gaps[arm]
    for arm, gap in differences(_columns(limits, "loss"), NO_LIMIT).items():
        of_limits[arm]["loss_minus_no_limit"] = gap
    costs = {
        (arm, pool): (_column(seeds, f"loss_{pool}"), _column(seeds, "loss"))
        for arm, seeds in limits.items()
        for pool in POOLS
        if arm != NO_LIMIT
    }
    for (arm, pool), gap in judged(costs).items():
        of_limits[arm][f"cost_{pool}"] = gap
    for worth, without in (
        ("worth_of_later_tokens", "loss_with_other_later_tokens"),
        ("worth_with_smaller_pool", "loss_from_prefixes"),
    ):
        with_and_without = {
            arm: (_column(seeds, without), _column(seeds, "loss_with_later_tokens"))
            for arm, seeds in leaks.items()
        }
        for arm, gap in judged(with_and_without).items():
            of_leaks[arm][worth] = gap
    training = _columns(leaks, "training_loss")
    signature = {
        pool: (training[ordered], training[shuffled])
        for pool, (ordered, shuffled) in SHUFFLED.items()
    }
    return {
        "steps": STEPS,
        "dense": figures_over(dense),
        "limits": of_limits,
        "leaks": of_leaks,
        "signature": judged(signature),
    }


def _column(seeds: list[dict[str, float]], name: str) -> list[float]:
    return [run[name] for run in seeds]


def _columns(runs: Runs, name: str) -> dict[str, list[float]]:
    return {arm: _column(seeds, name) for arm, seeds in runs.items()}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Train every arm with every seed; write runs/capacity under `out`."""
    limits = {arm: partial(run_capacity, arm) for arm in CAPACITY_ARMS}
    leaks = {arm: partial(run_leak, arm) for arm in (TOKEN_CHOICE, *LEAK_ARMS)}
    runs = {DENSE: run_dense} | limits | leaks
    results = collect(out / "runs" / "capacity.part", meta, runs, seeds, on_step)
    figures = summary(
        results[DENSE], {a: results[a] for a in limits}, {a: results[a] for a in leaks}
    )
    write_trained(out / "runs" / "capacity.json", meta, figures)
    return means(figures["limits"], "loss", "loss_mixed", "drop_rate") | means(
        figures["leaks"], "loss_with_later_tokens", "loss_with_other_later_tokens"
    )
