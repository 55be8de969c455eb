"""Token choice with capacity: GShard, Switch, ST-MoE."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from moeviz.ops import count, softmax_topk
from moeviz.routing.balance import load_balancing_loss, z_loss
from moeviz.routing.base import BaseRouter, Waits, uniform
from moeviz.routing.capacity import NEVER_FULL, Capacity, Priority, WithCapacity
from moeviz.routing.context import RouteContext
from moeviz.routing.gate import Basics, Gate, LinearRouter
from moeviz.routing.out import RouterOut
from moeviz.routing.plan import Plan
from moeviz.routing.token_choice import TokenChoice


class CoinTossTopK(LinearRouter):
    """GShard's choice, before its capacity (algorithm 1).

    1. expert_TK: the K largest softmax scores; weight_TK: those, renormalised to sum to 1
    2. in training, every choice but the first is kept with probability min(1, 2 weight)
    Loss "balance": sum_e (share of first choices) * (mean score) * E. The paper has K = 2.
    """

    renormalises = True

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        logits_TE = self.logits(x_TD, context)
        scores_TE, weight_TK, expert_TK = softmax_topk(logits_TE, self.top_k, renormalise=True)
        keep_TK = torch.ones_like(expert_TK, dtype=torch.bool)
        if context.training:
            coin_TK = uniform(weight_TK.shape, weight_TK, context)
            keep_TK = coin_TK < 2 * weight_TK.detach()
            keep_TK[:, 0] = True
        plan = Plan.from_kept(expert_TK, weight_TK, keep_TK, num_experts=self.num_experts)
        first_E = count(expert_TK[:, 0], self.num_experts)
        losses = {"balance": load_balancing_loss(scores_TE, first_E), "z": z_loss(logits_TE)}
        return RouterOut.of(logits_TE, scores_TE, plan, losses)


class Limited(WithCapacity):
    """A published router that has a capacity of its own. capacity_factor, priority: as in its paper
    by default; eval_capacity_factor: see Capacity."""

    family = "token choice"
    default_gate = Gate()
    matrices = 1
    waits: ClassVar[Waits] = "in training"
    waits_for = "which rows found a slot"
    causal = False
    substitute = NEVER_FULL
    # What makes the router before its capacity, and the paper's capacity.
    chooses: ClassVar[Callable[..., BaseRouter]] = TokenChoice
    paper_factor: ClassVar[float] = 1.25
    paper_priority: ClassVar[Priority] = "choice"

    def __init__(
        self,
        *,
        capacity_factor: float | None = None,
        eval_capacity_factor: float | None = None,
        priority: Priority | None = None,
        **basics: Unpack[Basics],
    ) -> None:
        factor = self.paper_factor if capacity_factor is None else capacity_factor
        capacity = Capacity(factor, eval_capacity_factor, priority or self.paper_priority)
        basics.setdefault("gate", self.default_gate)
        super().__init__(type(self).chooses(**basics), capacity)

    @classmethod
    def limit(cls, factor: float | None, *, top_k: int, share: float) -> dict[str, Any]:
        return {} if factor is None else {"capacity_factor": factor}


class Switch(Limited):
    """Switch Transformers (Fedus et al. 2021, 2101.03961): one expert a token, weighted by its
    probability, first come first served; what finds no slot passes by on the residual.

    By default inputs are jittered by 1 % in training and the initial weights are a tenth of ours
    (their section 2.4). The paper has K = 1; a larger K is weighted and placed the same way.
    """

    title = "Switch"
    rule = "K best, first come first served; full: dropped"
    paper = "Fedus et al. 2021, 2101.03961"
    causal = True
    substitute = ""
    default_gate = Gate(jitter=0.01, init_scale=0.1)
    chooses = functools.partial(TokenChoice, weighting="raw")
    paper_priority = "position"


class STMoE(Limited):
    """ST-MoE (Zoph et al. 2022, 2202.08906): top-2 with renormalised weights, capacity, and the
    z-loss that the paper brought (every router here that has logits returns it)."""

    title = "ST-MoE"
    rule = "K best, placed after all first choices"
    paper = "Zoph et al. 2022, 2202.08906"


class GShard(Limited):
    """GShard (Lepikhin et al. 2020, 2006.16668): top-2 with a coin for the second expert, and
    C = 2T/E slots per expert, all first choices placed before any second one.

    So a later token's first choice displaces an earlier one's second: not causal.
    """

    title = "GShard"
    rule = "second choices by coin, placed after all first ones"
    paper = "Lepikhin et al. 2020, 2006.16668"
    waits = "always"
    waits_for = "the number of rows of each token"
    chooses = CoinTossTopK
    paper_factor = 1.0
