"""The two ends of sparse routing: every expert for every token, one set of experts for a text."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from moeviz.checks import check_number, check_whole
from moeviz.ops import softmax_topk
from moeviz.routing.balance import load_balancing_loss, z_loss
from moeviz.routing.base import FILLS, groups_of
from moeviz.routing.context import RouteContext
from moeviz.routing.gate import Basics, LinearRouter
from moeviz.routing.out import RouterOut
from moeviz.routing.plan import Plan

INFORMATION_WEIGHT = 0.01


class DenseMixture(LinearRouter):
    """A dense mixture: y = sum_e p_e FFN_e(x) over all experts (Jacobs et al. 1991), the form in
    which DS-MoE trains (Pan et al. 2024, 2404.05567).

    weight_TE = softmax(x W^T), and every token visits every expert.
    Loss "information" = -I(expert; token) = -H(mean p) + mean H(p), by which DS-MoE makes experts
    even and tokens decided, times `information_weight` (0.01). It costs all E experts per token: no
    MoE saving. DS-MoE saves when it answers: the same gate, and the K largest p alone
    (`experiments.dense_training` does so).
    """

    title = "Dense"
    rule = "every token visits every expert"
    family = "soft"
    paper = "Jacobs et al. 1991; Pan et al. 2024, 2404.05567"
    matrices = None
    never_kills = FILLS

    def __init__(
        self, *, information_weight: float = INFORMATION_WEIGHT, **basics: Unpack[Basics]
    ) -> None:
        super().__init__(**basics)
        self.information_weight = check_number("information_weight", information_weight)

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        logits_TE = self.logits(x_TD, context)
        scores_TE, weight_TE, expert_TE = softmax_topk(logits_TE, self.num_experts)
        plan = Plan.from_topk(expert_TE, weight_TE, num_experts=self.num_experts)
        information = entropy(scores_TE.mean(0)) - entropy(scores_TE).mean()
        losses = {"information": -self.information_weight * information, "z": z_loss(logits_TE)}
        return RouterOut.of(logits_TE, scores_TE, plan, losses)

    def active_experts(self, seq_len: int) -> float:
        return float(self.num_experts)


def entropy(share_E: Tensor) -> Tensor:
    """H over the last axis, whose gradient is finite where a share is 0: that of torch's entr is
    infinite there."""
    tiny = torch.finfo(share_E.dtype).tiny
    return -(share_E * share_E.clamp(min=tiny).log()).sum(-1)


class SequenceLevel(LinearRouter):
    """One set of experts for a whole sequence: what popular accounts of MoE describe ("the prompt
    activates the maths expert"), and no language model in wide use does.

    1. scores of a sequence: the mean of its tokens' logits, softmax
    2. all of its tokens take the K best experts, weights renormalised
    Not causal: the first token's experts depend on the last token. Losses: "balance" over
    sequences, "z".
    prompt: only the first so many tokens of a sequence decide, and those after them are routed
    without a look at what comes; None: all of them. ValueError where positions are not given.
    """

    title = "One set"
    rule = "the whole text shares K experts"
    family = "a whole text"
    paper = "none: popular accounts"
    causal = False
    waits = "always"
    waits_for = "the number of sequences"
    renormalises = True

    def __init__(self, *, prompt: int | None = None, **basics: Unpack[Basics]) -> None:
        super().__init__(**basics)
        self.prompt = None if prompt is None else check_whole("prompt", prompt)

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        group_T, num_groups = groups_of(context.sequence, len(x_TD), x_TD.device)
        logits_TE = self.logits(x_TD, context)
        decides_T = self._decides(group_T, context).to(logits_TE.dtype)
        tokens_G = logits_TE.new_zeros(num_groups).index_add(0, group_T, decides_T)
        if self.prompt is not None and not tokens_G.all():
            raise ValueError(
                "A sequence without its first tokens has no prompt to choose by; give it whole."
            )
        sum_GE = logits_TE.new_zeros(num_groups, self.num_experts).index_add(
            0, group_T, logits_TE * decides_T[:, None]
        )
        logits_TE = (sum_GE / tokens_G[:, None])[group_T]
        scores_TE, weight_TK, expert_TK = softmax_topk(logits_TE, self.top_k, renormalise=True)
        plan = Plan.from_topk(expert_TK, weight_TK, num_experts=self.num_experts)
        losses = {"balance": load_balancing_loss(scores_TE, plan.load()), "z": z_loss(logits_TE)}
        return RouterOut.of(logits_TE, scores_TE, plan, losses)

    def _decides(self, group_T: Tensor, context: RouteContext) -> Tensor:
        """Whether a token decides for its sequence: bool [T]."""
        if self.prompt is None:
            return torch.ones_like(group_T, dtype=torch.bool)
        if context.position is None:
            raise ValueError(
                "A choice by the prompt needs to know where it ends; give RouteContext(position=…)."
            )
        return context.position < self.prompt
