"""Experts in groups: a choice in every group (M6-T), or a choice of groups first (Shazeer)."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeviz.ops import topk
from moeviz.routing.balance import cv_squared, load_balancing_loss, z_loss
from moeviz.routing.base import IN_GROUPS, check_finite
from moeviz.routing.context import RouteContext
from moeviz.routing.gate import Basics, LinearRouter
from moeviz.routing.out import RouterOut
from moeviz.routing.plan import Plan
from moeviz.routing.token_choice import check_groups


class ExpertPrototyping(LinearRouter):
    """Expert prototyping (M6-T, Yang et al. 2021, 2105.15082): K top-1 routers side by side.

    1. the E experts are split into K prototypes of E/K; softmax inside each
    2. every token takes the best expert of each prototype, weighted by its probability there
    Not top-K: exactly one expert per prototype. Losses, averaged over prototypes: "balance", "z".
    """

    title = "Prototypes"
    rule = "the best expert of each of K groups"
    family = "in groups"
    paper = "Yang et al. 2021, 2105.15082"
    never_kills = IN_GROUPS

    def __init__(self, **basics: Unpack[Basics]) -> None:
        super().__init__(**basics)
        if self.num_experts % self.top_k:
            raise ValueError(
                f"top_k = {self.top_k} prototypes must divide num_experts = {self.num_experts}."
            )

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        logits_TE = self.logits(x_TD, context)
        logits_TKe = logits_TE.unflatten(1, (self.top_k, -1))
        scores_TKe = logits_TKe.softmax(-1)
        width = logits_TKe.shape[-1]
        inside_TK = topk(logits_TKe.flatten(0, 1), 1).view(-1, self.top_k)
        weight_TK = scores_TKe.gather(2, inside_TK[..., None])[..., 0]
        expert_TK = inside_TK + width * torch.arange(self.top_k, device=inside_TK.device)
        plan = Plan.from_topk(expert_TK, weight_TK, num_experts=self.num_experts)
        load_Ke = plan.load().view(self.top_k, width)
        balance = [load_balancing_loss(scores_TKe[:, k], load_Ke[k]) for k in range(self.top_k)]
        losses = {
            "balance": torch.stack(balance).mean(),
            "z": z_loss(logits_TKe.flatten(0, 1)),
        }
        scores_TE = scores_TKe.flatten(1) / self.top_k
        return RouterOut.of(logits_TE, scores_TE, plan, losses)


class Hierarchical(LinearRouter):
    """Two-level gating (Shazeer et al. 2017, 1701.06538, appendix B).

    1. groups: a softmax over the `top_groups` best of `num_groups` groups
    2. experts: in each of them, a softmax over the K / top_groups best of its experts
    3. weight = the product of the two, so that a token's weights sum to 1
    scores_TE = p(group) p(expert | group), over all experts. Losses: "importance", the CV^2 of the
    weights given out to groups plus that to experts; "balance"; "z".
    """

    title = "Hierarchical"
    rule = "the best groups first, then experts in them"
    family = "in groups"
    paper = "Shazeer et al. 2017, 1701.06538"
    renormalises = True
    matrices = None
    never_kills = IN_GROUPS
    group_GD: nn.Parameter

    def __init__(
        self,
        *,
        num_groups: int | None = None,
        top_groups: int | None = None,
        **basics: Unpack[Basics],
    ) -> None:
        super().__init__(**basics)
        num_experts, top_k = self.num_experts, self.top_k
        if num_groups is None:
            # The divisor of E nearest to its square root.
            divisors = [g for g in range(1, num_experts + 1) if num_experts % g == 0]
            num_groups = min(divisors, key=lambda g: (abs(g - num_experts**0.5), g))
        if top_groups is None:
            width = num_experts // max(num_groups, 1)
            fits = [
                g
                for g in range(1, min(top_k, num_groups) + 1)
                if top_k % g == 0 and top_k // g <= width
            ]
            top_groups = max(fits, default=1)
        check_groups(num_experts, num_groups, top_groups, 1)
        if top_k % top_groups or top_k // top_groups > num_experts // num_groups:
            raise ValueError(
                f"top_k = {top_k} must be a multiple of top_groups = {top_groups}, with at most "
                f"{num_experts // num_groups} experts in each, the size of a group."
            )
        self.num_groups, self.top_groups = num_groups, top_groups
        self.add_parameter("group_GD", (num_groups, self.d_model))

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        inside_TGe = self.logits(x_TD, context).unflatten(1, (self.num_groups, -1))
        group_TG = F.linear(x_TD, self.group_GD.to(x_TD.dtype)) / self.gate.temperature
        check_finite(group_TG)
        width, per_group = inside_TGe.shape[-1], self.top_k // self.top_groups
        chosen_Tg = topk(group_TG, self.top_groups)
        weight_Tg = group_TG.gather(1, chosen_Tg).softmax(-1)
        open_Tge = inside_TGe.gather(1, chosen_Tg[..., None].expand(-1, -1, width))
        best_Tgk = topk(open_Tge.flatten(0, 1), per_group).unflatten(0, (-1, self.top_groups))
        weight_Tgk = weight_Tg[..., None] * open_Tge.gather(2, best_Tgk).softmax(-1)
        expert_Tgk = chosen_Tg[..., None] * width + best_Tgk
        plan = Plan.from_topk(
            expert_Tgk.flatten(1), weight_Tgk.flatten(1), num_experts=self.num_experts
        )
        scores_TGe = group_TG.softmax(-1)[..., None] * inside_TGe.softmax(-1)
        logits_TE = (torch.log_softmax(group_TG, -1)[..., None] + inside_TGe).flatten(1)
        importance_TE = plan.dense_weights()
        importance_TG = importance_TE.unflatten(1, (self.num_groups, -1)).sum(-1)
        losses = {
            "importance": cv_squared(importance_TE.sum(0)) + cv_squared(importance_TG.sum(0)),
            "balance": load_balancing_loss(scores_TGe.flatten(1), plan.load()),
            "z": z_loss(logits_TE),
        }
        scores_TE = scores_TGe.flatten(1)
        return RouterOut.of(logits_TE, scores_TE, plan, losses)

    @torch.no_grad()
    def take_gate(self, gate_ED: Tensor, x_TD: Tensor, context: RouteContext) -> None:
        """A group scores like the mean of its experts."""
        super().take_gate(gate_ED, x_TD, context)
        self.group_GD.copy_(gate_ED.unflatten(0, (self.num_groups, -1)).mean(1))

    def flops(self, seq_len: int) -> float:
        return 2.0 * (self.num_experts + self.num_groups) * self.d_model
