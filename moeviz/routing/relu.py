"""ReMoE: routing by ReLU, differentiable, with a variable number of experts per token."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from moeviz.checks import check_number
from moeviz.routing.context import RouteContext
from moeviz.routing.gate import Basics, LinearRouter
from moeviz.routing.out import RouterOut, RouterStats
from moeviz.routing.plan import Plan


class ReMoE(LinearRouter):
    """ReMoE (Wang et al. 2024, 2412.14711).

    1. weight_TE = relu(x W^T); a token visits every expert with a positive weight
    2. loss "l1" = lambda * sum_e f_e * mean_t weight_te, f_e = E count_e / (K T): the weights of
       busy experts are pushed down hardest
    3. after each step lambda *= rate where the batch was denser than K/E, else /= rate
    The loss carries its own weight, lambda. Training starts nearly dense (half of all experts); a
    token may end with none.
    """

    title = "ReMoE"
    rule = "every expert with a positive score"
    family = "a variable number"
    paper = "Wang et al. 2024, 2412.14711"
    waits = "always"
    waits_for = "the number of rows of each token"
    matrices = None
    strength: Tensor

    def __init__(self, *, start: float = 1e-8, rate: float = 1.2, **basics: Unpack[Basics]) -> None:
        super().__init__(**basics)
        check_number("start", start, open_low=True)
        self.rate = check_number("rate", rate, low=1, open_low=True)
        self.register_buffer("strength", torch.tensor(float(start)))

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        logits_TE = self.logits(x_TD, context)
        weight_TE = logits_TE.relu()
        plan = Plan.from_dense(weight_TE, weight_TE > 0)
        load_E = plan.load().to(weight_TE.dtype)
        share_E = self.num_experts * load_E / (self.top_k * len(x_TD))
        losses = {"l1": self.strength * (share_E * weight_TE.mean(0)).sum()}
        return RouterOut.of(logits_TE, weight_TE, plan, losses)

    def post_step(self, stats: RouterStats) -> None:
        super().post_step(stats)
        active = stats.load.sum() / (stats.tokens * self.num_experts)
        self.strength.mul_(self.rate ** torch.sign(active - self.top_k / self.num_experts))
