"""Mixture of Depths: only some tokens are worked on at all."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeviz.checks import check_number
from moeviz.ops import softmax_topk, topk
from moeviz.routing.balance import load_balancing_loss, z_loss
from moeviz.routing.base import check_finite, groups_of
from moeviz.routing.capacity import capacity_of
from moeviz.routing.context import RouteContext
from moeviz.routing.gate import Basics, LinearRouter
from moeviz.routing.out import RouterOut
from moeviz.routing.plan import Plan

PREDICTOR_WEIGHT = 0.01


class MixtureOfDepths(LinearRouter):
    """Mixture of Depths (Raposo et al. 2024, 2404.02258), here of a block's FFN.

    1. r_t = x_t . w_depth; of every sequence the ceil(capacity_factor S) tokens with the largest r
       go on, the others keep their residual
    2. those that go on take the K best of E experts, as token choice ("staged" MoDE; with E = 1 it
       is the paper's plain mixture of depths); weight = sigmoid(r) * renormalised score
    3. outside training a token goes on where r > 0: loss "predictor", a binary cross-entropy of
       sigmoid(r) with step 1's choice, teaches it to (the paper's section 3.5), weighted by 0.01
    Where the paper multiplies by r itself, the sigmoid keeps weights positive; and where it skips
    attention too, attention runs for all tokens here. capacity_factor: share of tokens that go on.
    Losses beside it: "balance" and "z" of the experts.
    """

    title = "Depths"
    rule = "half of the tokens, each with its K best"
    family = "a variable number"
    paper = "Raposo et al. 2024, 2404.02258"
    waits = "always"
    waits_for = "the number of sequences and of tokens that go on"
    renormalises = True
    matrices = None
    causal = False
    substitute = "outside training a token goes on where its own depth score is above 0"

    depth_D: nn.Parameter

    def __init__(self, *, capacity_factor: float = 0.5, **basics: Unpack[Basics]) -> None:
        super().__init__(**basics)
        self.capacity_factor = check_number(
            "capacity_factor, the share of tokens that go on,",
            capacity_factor,
            high=1,
            open_low=True,
        )
        self.add_parameter("depth_D", (self.d_model,))

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        depth_T = F.linear(x_TD, self.depth_D[None].to(x_TD.dtype))[:, 0]
        check_finite(depth_T[:, None])
        chosen_T = self._largest(depth_T.detach(), context.sequence)
        goes_T = chosen_T if context.training else depth_T > 0
        logits_TE = self.logits(x_TD, context)
        scores_TE, share_TK, expert_TK = softmax_topk(logits_TE, self.top_k, renormalise=True)
        weight_TK = depth_T.sigmoid()[:, None] * share_TK
        keep_TK = goes_T[:, None].expand_as(expert_TK)
        plan = Plan.from_kept(expert_TK, weight_TK, keep_TK, num_experts=self.num_experts)
        losses = {
            "balance": load_balancing_loss(scores_TE, plan.load()),
            "z": z_loss(logits_TE),
            "predictor": PREDICTOR_WEIGHT
            * F.binary_cross_entropy_with_logits(depth_T, chosen_T.to(depth_T.dtype)),
        }
        return RouterOut.of(logits_TE, scores_TE, plan, losses)

    def _largest(self, depth_T: Tensor, sequence_T: Tensor | None) -> Tensor:
        """bool [T]: the largest of each sequence; of equals the earlier."""
        group_T, num_groups = groups_of(sequence_T, len(depth_T), depth_T.device)
        chosen_T = torch.zeros_like(depth_T, dtype=torch.bool)
        for group in range(num_groups):
            member_t = (group_T == group).nonzero()[:, 0]
            capacity = capacity_of(self.capacity_factor * len(member_t), len(member_t))
            chosen_T[member_t[topk(depth_T[member_t][None], capacity)[0]]] = True
        return chosen_T

    @torch.no_grad()
    def take_gate(self, gate_ED: Tensor, x_TD: Tensor, context: RouteContext) -> None:
        super().take_gate(gate_ED, x_TD, context)
        self.depth_D.copy_(gate_ED.sum(0))

    def active_experts(self, seq_len: int) -> float:
        return self.capacity_factor * self.top_k

    def flops(self, seq_len: int) -> float:
        return super().flops(seq_len) + 2.0 * self.d_model
