"""Experts that compute nothing, so that easy tokens may use fewer FFNs than hard ones."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeviz.checks import check_whole
from moeviz.ops import count, softmax_topk
from moeviz.routing.balance import load_balancing_loss, z_loss
from moeviz.routing.context import RouteContext
from moeviz.routing.gate import Basics, LinearRouter, zeros
from moeviz.routing.out import RouterOut
from moeviz.routing.plan import Plan


class NullExperts(LinearRouter):
    """Null experts (AdaMoE, Zeng et al. 2024, 2406.13233; MoE++, Jin et al. 2024, 2410.07348).

    1. the gate scores E FFN experts and Z = zero + copy + constant ones that have no FFN; softmax
    2. every token takes the K best of all E + Z, weights renormalised over them
    3. a zero expert adds nothing, a copy expert its weight times x, a constant expert its weight
       times a_1 x + a_2 v with a = softmax(W_c x) and a learned v
    Only FFN experts make rows in the plan: how many a token uses is learned. scores_TE are of the E
    FFN experts; what a row lacks to 1 went to the others, whose sum of contributions is the bypass.
    Loss "balance": over E + Z, where all Z share one count (AdaMoE: which of them is of no matter).
    """

    title = "Null experts"
    rule = "the K best, some of which do nothing"
    family = "a variable number"
    paper = "Zeng et al. 2024, 2406.13233; Jin et al. 2024, 2410.07348"
    waits = "always"
    waits_for = "the number of rows of each token"
    renormalises = True
    matrices = None
    null_ZD: nn.Parameter
    mix_c2D: nn.Parameter
    value_cD: nn.Parameter

    def __init__(
        self,
        *,
        zero: int = 1,
        copy: int = 1,
        constant: int = 1,
        **basics: Unpack[Basics],
    ) -> None:
        super().__init__(**basics)
        self.zero = check_whole("zero", zero, low=0)
        self.copy = check_whole("copy", copy, low=0)
        self.constant = check_whole("constant", constant, low=0)
        if not zero + copy + constant:
            raise ValueError(
                "zero, copy and constant count experts without an FFN: at least one of them, or "
                "router='token_choice'."
            )
        self.add_parameter("null_ZD", (zero + copy + constant, self.d_model))
        self.add_parameter("mix_c2D", (constant, 2, self.d_model), zeros)
        self.add_parameter("value_cD", (constant, self.d_model), zeros)

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        logits_TE = self.logits(x_TD, context)
        null_TZ = F.linear(x_TD, self.null_ZD.to(x_TD.dtype)) / self.gate.temperature
        all_TA = torch.cat((logits_TE, null_TZ), dim=1)
        scores_TA, weight_TK, expert_TK = softmax_topk(all_TA, self.top_k, renormalise=True)
        real_TK = expert_TK < self.num_experts
        plan = Plan.from_kept(expert_TK, weight_TK, real_TK, num_experts=self.num_experts)
        weight_TA = torch.zeros_like(scores_TA).scatter(1, expert_TK, weight_TK)
        scores_TE = scores_TA[:, : self.num_experts]
        losses = {"balance": self._balance(scores_TA, expert_TK), "z": z_loss(all_TA)}
        bypass_TD = self._bypass(x_TD, weight_TA[:, self.num_experts :])
        return RouterOut.of(logits_TE, scores_TE, plan, losses, bypass_TD=bypass_TD)

    def _bypass(self, x_TD: Tensor, weight_TZ: Tensor) -> Tensor:
        """What the experts without an FFN add."""
        _, copy_Tz, constant_Tc = weight_TZ.split((self.zero, self.copy, self.constant), dim=1)
        mix_Tc2 = torch.einsum("td,cmd->tcm", x_TD, self.mix_c2D.to(x_TD.dtype)).softmax(-1)
        of_x_T = copy_Tz.sum(1) + (constant_Tc * mix_Tc2[..., 0]).sum(1)
        of_v_TD = (constant_Tc * mix_Tc2[..., 1]) @ self.value_cD.to(x_TD.dtype)
        return of_x_T[:, None] * x_TD + of_v_TD

    def _balance(self, scores_TA: Tensor, expert_TK: Tensor) -> Tensor:
        load_A = count(expert_TK.flatten(), scores_TA.shape[1]).to(scores_TA.dtype)
        shared_Z = load_A[self.num_experts :].mean().expand(self.null_ZD.shape[0])
        return load_balancing_loss(scores_TA, torch.cat((load_A[: self.num_experts], shared_Z)))

    @torch.no_grad()
    def take_gate(self, gate_ED: Tensor, x_TD: Tensor, context: RouteContext) -> None:
        """Null experts score like an average expert."""
        super().take_gate(gate_ED, x_TD, context)
        self.null_ZD.copy_(gate_ED.mean(0).expand_as(self.null_ZD))

    def active_experts(self, seq_len: int) -> float:
        """At an even load; what a trained model really uses is in its stats."""
        return self.top_k * self.num_experts / (self.num_experts + self.null_ZD.shape[0])

    def flops(self, seq_len: int) -> float:
        """Scores of all E + Z, and per constant expert its two mixing scores and its vector."""
        return 2.0 * self.d_model * (self.num_experts + len(self.null_ZD) + 3 * self.constant)
