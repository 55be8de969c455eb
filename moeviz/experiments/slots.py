"""The two decisions under a capacity that 05_capacity opens on.

Who gets a slot: a top-K router under a limit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moeviz.experiments import Progress
from moeviz.experiments.recording import recorded_model
from moeviz.experiments.slots_at_once import (
    NO_LIMIT,
    NUM_EXPERTS,
    SEQUENCES,
    SPREAD,
    UNLIMITED,
    visit_chances,
)
from moeviz.records.routes import Decision
from moeviz.routing import Capacity, Plan, RouteContext, RouterOut
from moeviz.routing.base import BaseRouter
from moeviz.routing.capacity import Priority, WithCapacity
from moeviz.text.tokenizer import Tokenizer
from moeviz.watch.routers import Tokens, decide, router_for, synthetic_tokens, text_tokens

TEXT = (
    "def mean(values):\n    return sum(values) / len(values)\n"
    "An expert has few seats.\n12 + 7 = 19, 8 + 8 = 16\n"
)
LAYER = 1
# What a panel's controls say of the recorded decisions, by file in data/traces. The seed is one
# whose drop rate lies near what is expected, so that the first picture does not mislead.
RECORDED: dict[str, dict[str, Any]] = {
    "slots_zipf": {
        "source": "synthetic", "skew": 1.0, "tokens": 40, "seed": 7, "factor": 1.25, "top_k": 1,
        "priority": "position", "overflow": "drop", "pool": "batch",
    },
    "slots": {
        "source": "text", "text": TEXT, "layer": LAYER, "factor": 1.0, "top_k": 2,
        "priority": "position", "overflow": "drop", "pool": "batch",
    },
}  # fmt: skip

# What a learner writes: token_N, choice_N, weight_N -> a number a row; the largest come first.
OwnPriority = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]


class Ranked(BaseRouter):
    """A router whose rows carry the learner's number in place of their weight."""

    def __init__(self, router: BaseRouter, priority: OwnPriority) -> None:
        super().__init__(router.d_model, router.num_experts, router.top_k)
        self.router, self.priority = router, priority

    def forward(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        out = self.router(x_TD, context)
        assert isinstance(out.plan, Plan)
        ranked = dataclasses.replace(out.plan, weight=_numbers(out.plan, self.priority))
        return dataclasses.replace(out, plan=ranked)


class OwnOrder(WithCapacity):
    """A limit whose slots go to the rows with the largest numbers of a rule of one's own."""

    def __init__(self, router: BaseRouter, capacity: Capacity, priority: OwnPriority) -> None:
        ranked = Ranked(router, priority)
        super().__init__(ranked, dataclasses.replace(capacity, priority="probability"))

    def forward(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        out = super().forward(x_TD, context)
        assert isinstance(out.plan, Plan) and isinstance(self.router, Ranked)
        weight_TE = self.router.router(x_TD, context).plan.dense_weights()
        weight_N = weight_TE[out.plan.token.long(), out.plan.expert.long()]
        return dataclasses.replace(out, plan=dataclasses.replace(out.plan, weight=weight_N))


def _numbers(plan: Plan, priority: OwnPriority) -> Tensor:
    """The learner's number of each row; ValueError where it is not one finite number a row."""
    columns = (plan.token.long(), plan.choice.long(), plan.weight.detach())
    numbers = np.asarray(priority(*(column.numpy().copy() for column in columns)))
    if numbers.shape != plan.token.shape or numbers.dtype.kind not in "iuf":
        raise ValueError(
            f"a priority gives one number a row, shape ({len(plan.token)},); this gave "
            f"{numbers.dtype} of shape {numbers.shape}."
        )
    if not np.isfinite(numbers).all():
        raise ValueError("a priority gives finite numbers; this gave NaN or infinity.")
    return torch.from_numpy(numbers.astype(np.float64))


def synthetic(num_tokens: int, *, skew: float, seed: int = 0) -> Tokens:
    """Tokens whose first choices follow Zipf's law exactly, later ones at random, in SEQUENCES."""
    return in_sequences(
        synthetic_tokens(num_tokens, NUM_EXPERTS, skew=skew, spread=SPREAD, seed=seed)
    )


def in_sequences(tokens: Tokens) -> Tokens:
    """The same tokens, cut into SEQUENCES of nearly equal length."""
    sequence_T = torch.arange(len(tokens.pieces)) * SEQUENCES // len(tokens.pieces)
    context = dataclasses.replace(tokens.context, sequence=sequence_T)
    return dataclasses.replace(tokens, context=context)


def placed(
    tokens: Tokens,
    *,
    top_k: int,
    capacity: Capacity | None,
    priority: OwnPriority | None = None,
    visits: np.ndarray | None = None,
) -> Decision:
    """The decision of a top-K router for the tokens, weights raw, under a limit (None: no limit).

    priority: the learner's own, in place of the capacity's. visits: the chance that a token asks
    for each expert, where it is known; else its share of these tokens. meta: the rule, the parts
    of the pool, and every row [expert, token, choice] in the order in which it was placed or lost.
    """
    router = placing_router(tokens, top_k, capacity, priority)
    context = dataclasses.replace(tokens.context, training=True)
    plan = router(tokens.x_TD, context).plan
    decision = decide(router, tokens, label="own" if priority else _label(capacity))
    per_sequence = capacity is not None and capacity.pool == "sequence"
    sequence_T = tokens.context.sequence
    assert sequence_T is not None
    part_T = sequence_T if per_sequence else torch.zeros_like(sequence_T)
    if visits is None:
        visits = decision.demand / len(tokens.pieces)
    placed_N3 = torch.stack((plan.expert, plan.token, plan.choice), dim=1)
    lost_M3 = plan.dropped[:, [1, 0, 2]]
    rule = {name: getattr(capacity, name, unset) for name, unset in NO_LIMIT.items()}
    meta = {
        **decision.meta, **rule,
        "own": priority is not None,
        "part": part_T.unique(return_inverse=True)[1].tolist(),
        "placed": placed_N3.tolist(),
        "lost": lost_M3.tolist(),
        "visits": [round(float(v), 6) for v in visits],
    }  # fmt: skip
    return dataclasses.replace(decision, meta=meta)


def _label(capacity: Capacity | None) -> str:
    return "no limit" if capacity is None else f"factor {capacity.factor:g}, {capacity.priority}"


def placing_router(
    tokens: Tokens, top_k: int, capacity: Capacity | None, priority: OwnPriority | None = None
) -> BaseRouter:
    """Top-K on the tokens' own gate, with places by the capacity or by a rule of one's own."""
    if priority is None:
        return router_for(tokens, "token_choice", top_k=top_k, capacity=capacity, weighting="raw")
    inner = router_for(tokens, "token_choice", top_k=top_k, weighting="raw")
    return OwnOrder(inner, capacity or Capacity(), priority)


def capacity_of(values: dict[str, Any]) -> Capacity | None:
    """The limit that a panel's controls name; None where factor is "no limit"."""
    if values["factor"] == UNLIMITED:
        return None
    return Capacity(**{name: values[name] for name in NO_LIMIT})


def drops_by_place(*, top_k: int, factor: float, seeds: int = 20) -> dict[str, np.ndarray]:
    """The share of assignments dropped along a batch of 128 tokens, float [16], mean over batches:
    for each priority, and for position with the places of each sequence counted apart."""
    num_tokens, bins = 128, 16
    priorities: tuple[Priority, ...] = ("position", "choice", "probability", "batch")
    rules: dict[str, Capacity] = {n: Capacity(factor, priority=n) for n in priorities}
    rules["position, by sequence"] = Capacity(factor, pool="sequence")
    lost = {name: np.zeros(bins) for name in rules}
    for seed in range(seeds):
        tokens = synthetic(num_tokens, skew=1.0, seed=seed)
        context = dataclasses.replace(tokens.context, training=True)
        for name, capacity in rules.items():
            plan = placing_router(tokens, top_k, capacity)(tokens.x_TD, context).plan
            place_M = plan.dropped[:, 0].numpy() * bins // num_tokens
            lost[name] += np.bincount(place_M, minlength=bins)
    asked = seeds * num_tokens * top_k / bins
    return {name: counts / asked for name, counts in lost.items()}


def tokens_of(values: dict[str, Any], loaded: tuple[Any, Tokenizer]) -> Tokens:
    """The tokens that a panel's controls name; loaded: the model and its tokenizer, for a text."""
    if values["source"] == "synthetic":
        return synthetic(values["tokens"], skew=values["skew"], seed=values["seed"])
    return in_sequences(text_tokens(*loaded, values["text"], layer=values["layer"]))


def decision_of(values: dict[str, Any], tokens: Tokens) -> Decision:
    """What a panel with these controls shows."""
    known = values["source"] == "synthetic"
    visits = visit_chances(values["skew"], values["top_k"]) if known else None
    return placed(tokens, top_k=values["top_k"], capacity=capacity_of(values), visits=visits)


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Write traces/slots and traces/slots_zipf under `out`. Returns the figures worth telling."""
    loaded = recorded_model()
    facts = {}
    for name, values in RECORDED.items():
        decision = decision_of(values, tokens_of(values, loaded))
        kept = {**meta, **decision.meta, "controls": values}
        dataclasses.replace(decision, meta=kept).save(out / "traces" / f"{name}.safetensors")
        lost, asked = len(decision.meta["lost"]), int(decision.demand.sum())
        facts[name] = {"capacity": decision.capacity, "dropped": lost, "asked_for": asked}
    return facts
