"""Capacity: how many tokens an expert takes, who comes first, and what happens to the rest."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from moeviz.checks import check_choice, check_number
from moeviz.ops import count, number_in_group
from moeviz.routing.base import BaseRouter, groups_of
from moeviz.routing.context import RouteContext
from moeviz.routing.out import RouterOut, RouterStats
from moeviz.routing.plan import Plan

MOST_SLOTS = 2**31 - 1  # as many rows as a plan can number
NEVER_FULL = "outside training no expert is ever full, so nothing is dropped"
Priority = Literal["position", "choice", "probability", "batch"]
Overflow = Literal["drop", "pad"]
Pool = Literal["batch", "sequence"]


@dataclass(frozen=True)
class Capacity:
    """At most C = ceil(factor * K * T / E) tokens per expert; ValueError on impossible values.

    factor: in training; eval_factor: elsewhere, None for no limit (generation, which sees one
    token at a time, can never fill an expert: without a limit, evaluation agrees with it).
    priority, who is placed first:
        position     tokens in their order, each with all its choices: causal, among a given number
                     of tokens (C itself grows with them)
        choice       all first choices, then all second ones, each by position (GShard, Switch)
        probability  the largest combine weights (Megatron-LM)
        batch        as choice, but tokens by their largest weight, not by position (batch
                     prioritised routing: V-MoE, Riquelme et al. 2021)
    overflow: "drop" the assignments that find no slot (the token keeps its residual), or "pad":
    drop nothing and give every expert as many slots as the busiest needs.
    pool: whether slots are counted over the "batch" or in each "sequence", T then being its own
    number of tokens.
    """

    factor: float = 1.25
    eval_factor: float | None = None
    priority: Priority = "position"
    overflow: Overflow = "drop"
    pool: Pool = "batch"

    def __post_init__(self) -> None:
        check_number("The capacity factor", self.factor, open_low=True)
        if self.eval_factor is not None:
            check_number("The capacity eval_factor", self.eval_factor, open_low=True)
        check_choice("The capacity's priority", self.priority, get_args(Priority))
        check_choice("The capacity's overflow", self.overflow, get_args(Overflow))
        check_choice("The capacity's pool", self.pool, get_args(Pool))


def capacity_of(share: float, most: float = math.inf) -> int:
    """C, a whole number of slots, at least 1 and at most `most`, for an expert that gets `share`
    assignments on average; what float rounding adds is not rounded up."""
    return max(1, math.ceil(min(share - 1e-9, most)))


class WithCapacity(BaseRouter):
    """Any discrete router, with a limited number of slots per expert.

    Losses and weights are those of the router before anything is dropped.
    """

    def __init__(self, router: BaseRouter, capacity: Capacity) -> None:
        super().__init__(router.d_model, router.num_experts, router.top_k)
        if not isinstance(capacity, Capacity):
            raise ValueError(f"capacity must be a routing.Capacity, got {capacity!r}.")
        if router.soft:
            raise ValueError(
                f"{type(router).__name__} has no assignments to drop: its slots are its capacity. "
                "Leave the capacity out."
            )
        self.router, self.capacity = router, capacity
        self.renormalises, self.never_kills = router.renormalises, router.never_kills
        ordered = capacity.priority == "position" or capacity.overflow == "pad"
        self.causal = router.causal and ordered
        self.substitute = router.substitute
        if not ordered and capacity.eval_factor is not None:
            self.substitute = ""
        elif not ordered and router.causal:
            self.substitute = NEVER_FULL

    def forward(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        out = self.router(x_TD, context)
        factor = self.capacity.factor if context.training else self.capacity.eval_factor
        if factor is None:
            return out
        assert isinstance(out.plan, Plan)
        per_token = factor * self.top_k / self.num_experts
        sequence_T = context.sequence if self.capacity.pool == "sequence" else None
        plan, limit = limit_plan(out.plan, per_token, self.capacity, sequence_T, context.mask)
        stats = dataclasses.replace(out.stats, load=plan.load().long(), capacity=limit)
        return dataclasses.replace(out, plan=plan, stats=stats)

    def post_step(self, stats: RouterStats) -> None:
        self.router.post_step(stats)

    def active_experts(self, seq_len: int) -> float:
        return self.router.active_experts(seq_len)

    def flops(self, seq_len: int) -> float:
        return self.router.flops(seq_len)

    def gate_matrix(self) -> Tensor | None:
        return self.router.gate_matrix()

    def take_gate(self, gate_ED: Tensor, x_TD: Tensor, context: RouteContext) -> None:
        self.router.take_gate(gate_ED, x_TD, context)

    def cannot_generate(self) -> str:
        if self.capacity.eval_factor is not None and self.capacity.overflow == "drop":
            return (
                "outside training its capacity grows with the number of tokens, so that a token "
                "that has no slot may get one later; leave the capacity's eval_factor out"
            )
        return self.router.cannot_generate() or super().cannot_generate()

    def kill(self, expert: int) -> None:
        self.router.kill(expert)


def limit_plan(
    plan: Plan,
    per_token: float,
    capacity: Capacity,
    pool_T: Tensor | None,
    mask_T: Tensor | None = None,
) -> tuple[Plan, int]:
    """The plan with at most `per_token` rows per expert for each real token of a pool, rounded up,
    and the limit of the largest pool. pool_T: one pool where it is None.

    Rows are ordered by priority, numbered within their expert, and those numbered C or more are
    dropped; an expert's rows then stand in the order in which they were placed.
    """
    num_tokens, num_experts = plan.num_tokens, plan.num_experts
    if capacity.overflow == "pad":
        return plan, int(plan.load().max())
    token_N, expert_N, choice_N = plan.token.long(), plan.expert.long(), plan.choice.long()
    order_N = _arrival(plan, capacity.priority)
    pool_T, num_pools = groups_of(pool_T, num_tokens, token_N.device)
    real_T = pool_T if mask_T is None else pool_T[mask_T]
    sizes_P = count(real_T, num_pools).tolist()
    limits_P = [capacity_of(per_token * size, MOST_SLOTS) for size in sizes_P]
    limit_P = torch.tensor(limits_P, device=token_N.device)
    limit_N = limit_P[pool_T[token_N]][order_N]
    # Number the rows of each (pool, expert) in order of arrival.
    cell_N = (pool_T[token_N] * num_experts + expert_N)[order_N]
    number_N = number_in_group(cell_N, num_pools * num_experts)
    kept, lost = order_N[number_N < limit_N], order_N[number_N >= limit_N]
    lost_M3 = torch.stack((token_N[lost], expert_N[lost], choice_N[lost]), dim=1)
    limited = Plan.from_rows(
        token_N[kept],
        expert_N[kept],
        plan.weight[kept],
        num_tokens=num_tokens,
        num_experts=num_experts,
        choice_N=choice_N[kept],
        dropped_M3=torch.cat((plan.dropped.long(), lost_M3)),
    )
    return limited, max(limits_P)


def _arrival(plan: Plan, priority: Priority) -> Tensor:
    """Rows int64 [N] in the order in which they are placed; equals by position."""
    token_N, choice_N, weight_N = plan.token.long(), plan.choice, plan.weight.detach()
    best_T = weight_N.new_zeros(plan.num_tokens).scatter_reduce(0, token_N, weight_N, "amax")
    more = {
        "position": (),
        "choice": (choice_N,),
        "probability": (-weight_N,),
        "batch": (-best_T[token_N], choice_N),
    }[priority]
    order_N = torch.arange(len(token_N), device=token_N.device)
    for key_N in (choice_N, token_N, *more):  # the last key counts most
        order_N = order_N[torch.argsort(key_N[order_N], stable=True)]
    return order_N
