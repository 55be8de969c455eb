"""Noisy top-K, the first sparsely gated router."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeviz.ops import topk
from moeviz.routing.balance import cv_squared
from moeviz.routing.base import check_finite, normal
from moeviz.routing.context import RouteContext
from moeviz.routing.gate import Basics, LinearRouter, Start, zeros
from moeviz.routing.out import RouterOut
from moeviz.routing.plan import Plan


class NoisyTopK(LinearRouter):
    """Noisy top-K gating (Shazeer et al. 2017, 1701.06538, section 2.1 and appendix A).

    1. clean_TE = x W_g^T, and in training noisy_TE = clean + eps * softplus(x W_n^T), eps ~ N(0, 1)
    2. expert_TK = the K largest noisy logits; weight_TK = softmax over them
    Losses: "importance" = CV(sum_t G)^2 over the gates G that were given out, and "load" = CV^2 of
    a smooth count, sum_t P(e is chosen when its own noise alone is drawn again). Both are 0 when
    even; the paper weighs each by 0.1. Both matrices start at zero there, so that all begins even;
    a gate that does not learn is drawn at random here, for zeros would choose the first K for ever.
    """

    title = "Noisy top-K"
    rule = "the K best after noise on the scores"
    family = "token choice"
    paper = "Shazeer et al. 2017, 1701.06538"
    renormalises = True
    matrices = 2
    noise_ED: nn.Parameter

    def __init__(self, **basics: Unpack[Basics]) -> None:
        super().__init__(**basics)
        start: Start | None = None
        if self.gate.learning == "learned":
            if self.gate.init_scale != 1:
                raise ValueError(
                    "noisy_topk starts from zero, as its paper does: leave init_scale out."
                )
            start = zeros
        for name in ("weight_ED", "noise_ED"):
            self.add_parameter(name, (self.num_experts, self.d_model), start)

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        clean_TE = self.logits(x_TD, context)
        noisy_TE, spread_TE = clean_TE, None
        if context.training:
            spread_TE = F.softplus(F.linear(x_TD, self.noise_ED.to(x_TD.dtype)))
            noisy_TE = clean_TE + normal(clean_TE.shape, clean_TE, context) * spread_TE
            check_finite(noisy_TE)
        expert_TK = topk(noisy_TE, self.top_k)
        weight_TK = noisy_TE.gather(1, expert_TK).softmax(-1)
        plan = Plan.from_topk(expert_TK, weight_TK, num_experts=self.num_experts)
        importance_E = plan.dense_weights().sum(0)
        losses = {"importance": cv_squared(importance_E)}
        if spread_TE is not None and self.top_k < self.num_experts:
            load_E = chosen_probability(clean_TE, noisy_TE, spread_TE, self.top_k).sum(0)
            losses["load"] = cv_squared(load_E)
        scores_TE = noisy_TE.softmax(-1)
        return RouterOut.of(clean_TE, scores_TE, plan, losses)

    def flops(self, seq_len: int) -> float:
        """Of training, where the noise has a matrix too."""
        return 4.0 * self.num_experts * self.d_model


def chosen_probability(clean_TE: Tensor, noisy_TE: Tensor, spread_TE: Tensor, top_k: int) -> Tensor:
    """P(expert e is among token t's K best when e's own noise is drawn again), [T, E], K < E.

    Phi((clean - bar) / spread), where the bar is the K-th largest of the *other* experts' noisy
    logits: the (K+1)-th of all for an expert that was chosen, the K-th for one that was not.
    """
    best_Tk = noisy_TE.topk(top_k + 1, dim=1).values
    inside_T1, outside_T1 = best_Tk[:, top_k - 1 : top_k], best_Tk[:, top_k : top_k + 1]
    bar_TE = torch.where(noisy_TE >= inside_T1, outside_T1, inside_T1)
    # A softplus goes down to 0, where neither the quotient nor its gradient is a number.
    return torch.special.ndtr((clean_TE - bar_TE) / spread_TE.clamp(min=1e-6))
