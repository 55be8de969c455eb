"""Token choice: every token picks its K best experts."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

import torch
from torch import Tensor

from moeviz.checks import check_choice, check_number, check_whole
from moeviz.ops import count, renormalised, softmax_topk, topk
from moeviz.routing.balance import (
    BiasRule,
    Scope,
    build_bias,
    load_balancing_loss,
    sequence_balancing_loss,
    z_loss,
)
from moeviz.routing.base import IN_GROUPS, overridden
from moeviz.routing.context import RouteContext
from moeviz.routing.gate import Basics, LinearRouter
from moeviz.routing.out import RouterOut, RouterStats
from moeviz.routing.plan import Plan

BIAS_RATE = 1e-3  # DeepSeek-V3's
Weighting = Literal["renormalise", "raw"]
Score = Literal["softmax", "sigmoid"]
GroupScore = Literal["max", "top2"]


class TokenChoice(LinearRouter):
    """Top-K routing (Shazeer et al. 2017, 1701.06538) in four steps: score, adjust, select, weight.

    1. score: logits_TE = x W^T, scores_TE = softmax(logits) or sigmoid(logits)
    2. adjust: for the choice alone, add a bias per expert (`bias`: see balance.SignBias,
       QuantileBias) and leave only the experts of the `top_groups` best of `num_groups` groups
    3. select: expert_TK = the K largest of each token, ties to the lower index
    4. weight: weight_TK = their scores, "raw" (OLMoE, Switch; a token's weights sum to less than 1)
       or "renormalise"d to sum to 1 (Mixtral; for softmax the same as a softmax over the K chosen
       logits), times `scale`

    With K = 1, renormalised weights are all 1 and the router gets no gradient from the task.
    Losses: "balance" of the `scope` ("sequence" or "batch"; absent for "none"), and "z"
    (ST-MoE). Under a bias, "balance" counts the choices that would be made without it (DeepSeek-V3,
    eq. 18). gate: options of the scores (see gate.Gate).
    """

    title = "Top-K"
    rule = "each token takes its K best experts"
    family = "token choice"
    paper = "Shazeer et al. 2017, 1701.06538"

    def __init__(
        self,
        *,
        score: Score = "softmax",
        weighting: Weighting = "renormalise",
        scale: float = 1.0,
        bias: BiasRule = "none",
        bias_rate: float = BIAS_RATE,
        num_groups: int = 1,
        top_groups: int | None = None,
        group_score: GroupScore = "max",
        scope: Scope = "batch",
        **basics: Unpack[Basics],
    ) -> None:
        super().__init__(**basics)
        check_choice("score", score, get_args(Score))
        check_choice("weighting", weighting, get_args(Weighting))
        check_choice("scope", scope, get_args(Scope))
        check_choice("group_score", group_score, get_args(GroupScore))
        check_number("scale", scale, open_low=True)
        for idle, what, needs in (
            (bias == "none" and bias_rate != BIAS_RATE, "bias_rate", "a bias rule: give bias"),
            (num_groups > 1 and top_groups is None, "num_groups", "a choice: give top_groups"),
            (num_groups == 1 and group_score != "max", "group_score", "groups: give num_groups"),
        ):
            if idle:
                raise ValueError(f"{what} does nothing without {needs} too, or leave it out.")
        top_groups = num_groups if top_groups is None else top_groups
        check_groups(self.num_experts, num_groups, top_groups, self.top_k)
        self.score_by, self.weighting, self.scale = score, weighting, scale
        self.num_groups, self.top_groups, self.group_score = num_groups, top_groups, group_score
        self.scope = scope
        self.bias = build_bias(bias, self.num_experts, bias_rate)
        self.renormalises = weighting == "renormalise"
        if num_groups > 1:
            self.never_kills = IN_GROUPS

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        logits_TE = self.logits(x_TD, context)
        scores_TE, weight_TK, expert_TK = self.choose(logits_TE)
        plan = Plan.from_topk(expert_TK, weight_TK, num_experts=self.num_experts)
        cut_E = None if self.bias is None else self.bias.cut(scores_TE, self.top_k)
        losses = {"z": z_loss(logits_TE)}
        if self.scope != "none":
            losses["balance"] = self._balance(scores_TE, expert_TK, plan, context)
        return RouterOut.of(logits_TE, scores_TE, plan, losses, cut_E=cut_E)

    def choose(self, logits_TE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The four steps: scores_TE, weight_TK and expert_TK."""
        plain = self.score_by == "softmax" and self.bias is None and self.num_groups == 1
        if plain and not overridden(self, TokenChoice, "score", "adjust", "select", "weight"):
            renormalise = self.weighting == "renormalise"
            scores_TE, weight_TK, expert_TK = softmax_topk(
                logits_TE, self.top_k, renormalise=renormalise
            )
            return scores_TE, self._scaled(weight_TK), expert_TK
        scores_TE = self.score(logits_TE)
        expert_TK = self.select(self.adjust(scores_TE, logits_TE), logits_TE)
        return scores_TE, self.weight(scores_TE.gather(1, expert_TK)), expert_TK

    def score(self, logits_TE: Tensor) -> Tensor:
        """Step 1, scores_TE."""
        return logits_TE.softmax(-1) if self.score_by == "softmax" else logits_TE.sigmoid()

    def adjust(self, scores_TE: Tensor, logits_TE: Tensor) -> Tensor:
        """Step 2, adjusted_TE: what the choice is made by, and nothing else. Where there is neither
        bias nor group these are the logits: a softmax may round two of them to one score, and a
        sigmoid saturates."""
        if self.bias is None and self.num_groups == 1:
            return logits_TE
        adjusted_TE = scores_TE.detach()
        if self.bias is not None:
            adjusted_TE = adjusted_TE + self.bias.bias_E
        return self._in_best_groups(adjusted_TE.masked_fill(self.killed_E, -torch.inf))

    def select(self, adjusted_TE: Tensor, logits_TE: Tensor) -> Tensor:
        """Step 3, expert_TK: the experts that each token takes, best first."""
        return topk(adjusted_TE, self.top_k)

    def weight(self, chosen_TK: Tensor) -> Tensor:
        """Step 4, weight_TK, from the scores of the chosen experts."""
        if self.weighting == "renormalise":
            chosen_TK = renormalised(chosen_TK)
        return self._scaled(chosen_TK)

    def _scaled(self, weight_TK: Tensor) -> Tensor:
        return weight_TK if self.scale == 1 else weight_TK * self.scale

    def _in_best_groups(self, biased_TE: Tensor) -> Tensor:
        """-inf for all experts outside a token's best groups: 0 could beat a negative bias."""
        if self.top_groups == self.num_groups:
            return biased_TE
        grouped_TGe = biased_TE.unflatten(1, (self.num_groups, -1))
        if self.group_score == "max":
            score_TG = grouped_TGe.amax(-1)
        else:
            score_TG = grouped_TGe.topk(min(2, grouped_TGe.shape[-1]), dim=-1).values.sum(-1)
        open_TG = torch.zeros_like(score_TG, dtype=torch.bool)
        open_TG = open_TG.scatter(1, topk(score_TG, self.top_groups), True)
        return grouped_TGe.masked_fill(~open_TG[..., None], -torch.inf).flatten(1)

    def _balance(
        self, scores_TE: Tensor, expert_TK: Tensor, plan: Plan, context: RouteContext
    ) -> Tensor:
        load_E = plan.load()
        if self.bias is not None:
            expert_TK = topk(scores_TE, self.top_k)
            load_E = count(expert_TK.flatten(), self.num_experts)
        share_TE = scores_TE if self.score_by == "softmax" else renormalised(scores_TE)
        if self.scope == "sequence":
            chosen_TE = torch.zeros_like(scores_TE).scatter(1, expert_TK, 1.0)
            return sequence_balancing_loss(share_TE, chosen_TE, context.sequence)
        return load_balancing_loss(share_TE, load_E)

    def post_step(self, stats: RouterStats) -> None:
        super().post_step(stats)
        if self.bias is not None:
            self.bias.update(stats)


def check_groups(num_experts: int, num_groups: int, top_groups: int, top_k: int) -> None:
    """ValueError where experts cannot be grouped so, or the best groups hold fewer than K."""
    check_whole("num_groups", num_groups)
    if num_experts % num_groups:
        raise ValueError(f"num_groups must divide num_experts = {num_experts}, got {num_groups}.")
    check_whole("top_groups", top_groups, 1, num_groups)
    if top_k > top_groups * (num_experts // num_groups):
        raise ValueError(
            f"{top_groups} groups of {num_experts // num_groups} experts hold fewer than "
            f"top_k = {top_k}; give more top_groups or fewer num_groups."
        )
