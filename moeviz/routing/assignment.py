"""Routing as an assignment: every expert gets its even share, and the sum of scores is maximal."""

from __future__ import annotations

from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn

from moeviz.ops import topk
from moeviz.routing.base import FILLS
from moeviz.routing.context import RouteContext
from moeviz.routing.gate import Basics, LinearRouter
from moeviz.routing.out import RouterOut
from moeviz.routing.plan import Plan

SINKHORN_ROUNDS = 100
SINKHORN_TOLERANCE = 1e-4


class Base(LinearRouter):
    """BASE layers (Lewis et al. 2021, 2103.16716).

    1. training: the assignment of tokens to experts with the largest sum of scores x . c_e under
       which every expert gets T/E tokens (rounded up where E does not divide T)
    2. elsewhere: each token's best expert, greedily: the stated train-test difference of the paper
    3. weight = sigmoid of the score, so that y = x + sigmoid(x . c_e) FFN_e(x)
    No loss. With K > 1 the assignment is made K times, each without the pairs already made (our
    extension; the paper has K = 1), and each weight is divided by K. Experts' embeddings c start
    orthogonal, as in the paper's code.
    """

    title = "BASE"
    rule = "the best assignment with an even load"
    family = "assignment"
    paper = "Lewis et al. 2021, 2103.16716"
    causal = False
    substitute = "outside training each token takes its best expert (the paper's own rule)"
    waits = "in training"
    waits_for = "the assignment, solved on the CPU by scipy"
    never_kills = FILLS

    def __init__(self, **basics: Unpack[Basics]) -> None:
        super().__init__(**basics)
        self.add_parameter("weight_ED", (self.num_experts, self.d_model), self._orthogonal)

    def _orthogonal(self, values: Tensor, generator: torch.Generator | None) -> None:
        nn.init.orthogonal_(values, gain=0.1 * self.gate.init_scale, generator=generator)

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        logits_TE = self.logits(x_TD, context)
        if context.training:
            expert_TK = balanced_assignment(logits_TE.detach(), self.top_k)
        else:
            expert_TK = topk(logits_TE, self.top_k)
        scores_TE = logits_TE.sigmoid()
        weight_TK = scores_TE.gather(1, expert_TK) / self.top_k
        plan = Plan.from_topk(expert_TK, weight_TK, num_experts=self.num_experts)
        return RouterOut.of(logits_TE, scores_TE, plan)


def balanced_assignment(logits_TE: Tensor, top_k: int) -> Tensor:
    """expert_TK, int64: K times the linear assignment of tokens to experts' slots, C = ceil(T/E)
    each, that maximises the sum of logits (scipy's modified Jonker-Volgenant algorithm), and never
    the same pair twice.

    After each round an expert must have few enough tokens left for the rounds that K = E would
    still have: then a next round without a repetition always exists. Where it would have more, it
    must fill some of its slots; rows that stand for no token take the others.
    """
    from scipy.optimize import linear_sum_assignment

    scores_TE = logits_TE.double().cpu().numpy()
    num_tokens, num_experts = scores_TE.shape
    capacity = -(-num_tokens // num_experts)
    # Below any sum of real scores.
    never = scores_TE.min() - (np.ptp(scores_TE) + 1) * (num_tokens + num_experts)
    every_t, empty = np.arange(num_tokens), capacity * num_experts - num_tokens
    taken_E = np.zeros(num_experts, dtype=np.int64)
    rounds = []
    for number in range(1, top_k + 1):
        must_E = num_tokens - taken_E - capacity * (num_experts - number)
        must_E *= number < top_k
        empty_Er = np.where(np.arange(capacity) < must_E[:, None], never, 0.0)
        cost = np.vstack([np.repeat(scores_TE, capacity, 1), np.tile(empty_Er.ravel(), (empty, 1))])
        _, slot = linear_sum_assignment(cost, maximize=True)
        rounds.append(slot[:num_tokens] // capacity)
        scores_TE = scores_TE.copy()
        scores_TE[every_t, rounds[-1]] = never
        taken_E += np.bincount(rounds[-1], minlength=num_experts)
    return torch.from_numpy(np.stack(rounds, axis=1)).to(logits_TE.device)


class Sinkhorn(LinearRouter):
    """Sinkhorn routing (S-BASE: Clark et al. 2022, 2202.01169; Megatron-LM).

    1. training: Pi = diag(u) exp(logits) diag(v) with row sums 1/T and column sums 1/E, the
       entropic optimal transport of tokens to experts; expert_TK = the K largest of each row
    2. elsewhere: the K largest logits of each token
    3. weight = sigmoid(logit) for K = 1, else the softmax scores of the chosen
    No gradient passes through Pi, and no loss: the transport balances. Its K largest entries do not
    keep the marginals, so the load is only nearly even.
    """

    title = "Sinkhorn"
    rule = "K best after the scores are evened out"
    family = "assignment"
    paper = "Clark et al. 2022, 2202.01169"
    causal = False
    substitute = "outside training each token takes its largest logits (as in Megatron-LM)"
    waits = "in training"
    waits_for = "each of up to 100 rounds, whether it has converged"
    never_kills = FILLS

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        logits_TE = self.logits(x_TD, context)
        ranked_TE = transport(logits_TE.detach()) if context.training else logits_TE
        expert_TK = topk(ranked_TE, self.top_k)
        scores_TE = logits_TE.sigmoid() if self.top_k == 1 else logits_TE.softmax(-1)
        plan = Plan.from_topk(
            expert_TK, scores_TE.gather(1, expert_TK), num_experts=self.num_experts
        )
        return RouterOut.of(logits_TE, scores_TE, plan)


def transport(logits_TE: Tensor) -> Tensor:
    """log of the plan Pi [T, E] between uniform marginals, cost -logits, regularisation 1.

    In logarithms, where exp(logits) of more than 88 would overflow; a fixed number of rounds at
    most, for a tolerance below float precision would never be met.
    """
    log_TE = logits_TE.double()
    for _ in range(SINKHORN_ROUNDS):
        log_TE = log_TE - torch.logsumexp(log_TE, 0, keepdim=True)
        row_T = torch.logsumexp(log_TE, 1, keepdim=True)
        log_TE = log_TE - row_T
        if (row_T - row_T.mean()).abs().max() < SINKHORN_TOLERANCE:
            break
    return (log_TE - torch.logsumexp(log_TE.flatten(), 0)).to(logits_TE.dtype)
