"""Expert choice: every expert picks its tokens; and its causal form, a threshold per expert."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, Unpack

import torch
from torch import Tensor

from moeviz.checks import check_number, check_whole
from moeviz.ops import count, topk
from moeviz.routing.balance import z_loss
from moeviz.routing.base import FILLS, groups_of
from moeviz.routing.capacity import capacity_of
from moeviz.routing.context import RouteContext
from moeviz.routing.gate import INIT_STD, Basics, LinearRouter
from moeviz.routing.out import RouterOut, RouterStats
from moeviz.routing.plan import Plan

CAP_ROUNDS = 50


class ExpertsChoose(LinearRouter):
    """What routers share in which experts take tokens, any number for a token: capacity_factor, the
    mean number of experts that a token gets (default: top_k)."""

    family = "experts choose"
    waits = "always"
    waits_for = "the number of rows of each token"
    matrices = None

    def __init__(self, *, capacity_factor: float | None = None, **basics: Unpack[Basics]) -> None:
        super().__init__(**basics)
        factor = self.top_k if capacity_factor is None else capacity_factor
        self.capacity_factor = check_number("capacity_factor", factor, open_low=True)

    def room(self, num_tokens: int) -> int:
        """C, how many of so many tokens an expert takes."""
        return capacity_of(self.capacity_factor * num_tokens / self.num_experts, num_tokens)

    @classmethod
    def limit(cls, factor: float | None, *, top_k: int, share: float) -> dict[str, Any]:
        return {} if factor is None else {"capacity_factor": factor * top_k}

    def active_experts(self, seq_len: int) -> float:
        return float(self.capacity_factor)


class ExpertChoice(ExpertsChoose):
    """Expert Choice (Zhou et al. 2022, 2202.09368): every expert takes its C best tokens.

    1. scores_TE = softmax over experts of x W^T
    2. of every pool of tokens, expert e takes the C = ceil(capacity_factor * tokens / E) with the
       largest score in its column, ties to the earlier token; weight = the score
    Balanced by construction; a token may get any number of experts, 0 included. Not causal: whether
    a token is taken depends on the ones after it. chunk: a pool is so many neighbours of one
    sequence (default: the whole batch); shuffle: in training, so many tokens at random from the
    batch. max_experts: at most so many experts per token, by the paper's section 3.3 (see
    `capped_choice`).
    """

    title = "Expert choice"
    rule = "each expert takes its best tokens"
    paper = "Zhou et al. 2022, 2202.09368"
    causal = False
    never_kills = FILLS

    def __init__(
        self,
        *,
        capacity_factor: float | None = None,
        chunk: int | None = None,
        shuffle: bool = False,
        max_experts: int | None = None,
        **basics: Unpack[Basics],
    ) -> None:
        super().__init__(capacity_factor=capacity_factor, **basics)
        num_experts = self.num_experts
        if chunk is not None:
            check_whole("chunk", chunk)
        if max_experts is not None and not self.capacity_factor <= max_experts <= num_experts:
            raise ValueError(
                f"max_experts must lie between capacity_factor = {self.capacity_factor:g} and "
                f"num_experts = {num_experts}, got {max_experts}: experts could not be filled."
            )
        if shuffle and chunk is None:
            raise ValueError("shuffle does nothing to one pool of the whole batch: give chunk too.")
        self.chunk, self.shuffle, self.max_experts = chunk, shuffle, max_experts

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        logits_TE = self.logits(x_TD, context)
        scores_TE = logits_TE.softmax(-1)
        num_tokens = len(x_TD)
        pools = self._pools(num_tokens, context, x_TD.device)
        taken = [self._take(scores_TE.detach()[pool_t], pool_t) for pool_t in pools]
        token_N, expert_N = (torch.cat(parts) for parts in zip(*taken, strict=True))
        plan = Plan.from_rows(
            token_N,
            expert_N,
            scores_TE[token_N, expert_N],
            num_tokens=num_tokens,
            num_experts=self.num_experts,
        )
        return RouterOut.of(logits_TE, scores_TE, plan, {"z": z_loss(logits_TE)})

    def _pools(self, num_tokens: int, context: RouteContext, device: torch.device) -> list[Tensor]:
        """The tokens, int64, of each pool."""
        if self.chunk is None:
            return [torch.arange(num_tokens, device=device)]
        if self.shuffle and context.training:
            order_T = torch.randperm(num_tokens, generator=context.generator, device=device)
            return list(order_T.split(self.chunk))
        group_T, num_groups = groups_of(context.sequence, num_tokens, device)
        sizes = count(group_T, num_groups).tolist()
        sequences = torch.argsort(group_T, stable=True).split(sizes)
        return [pool_t for token_t in sequences for pool_t in token_t.split(self.chunk)]

    def _take(self, scores_tE: Tensor, pool_t: Tensor) -> tuple[Tensor, Tensor]:
        """Token and expert of each assignment in one pool."""
        capacity = self.room(len(pool_t))
        best_EC = topk(scores_tE.T, capacity)
        taken_tE = torch.zeros_like(scores_tE, dtype=torch.bool).scatter(0, best_EC.T, True)
        if self.max_experts is not None:
            taken_tE = capped_choice(scores_tE, capacity, self.max_experts)
        expert_N, token_N = taken_tE.T.nonzero(as_tuple=True)
        return pool_t[token_N], expert_N


def capped_choice(scores_TE: Tensor, capacity: int, max_experts: int) -> Tensor:
    """bool [T, E]: Expert Choice with at most `max_experts` experts per token (EC-CAP: Zhou et al.
    2022, section 3.3).

    1. A_TE in [0, 1] maximises <S, A> + tau H(A) where every expert's column sums to `capacity` and
       no token's row to more than the cap, by Dykstra's alternating projections in Kullback-Leibler
       distance (the paper's relaxation)
    2. each expert takes its `capacity` largest entries of A; a token with too many keeps the
       largest, and the experts it sends away take their next best, until all caps hold (the paper
       stops before this step, and there some tokens keep more)
    """
    ranked_TE = _relaxed(scores_TE, capacity, max_experts)
    refused_TE = torch.zeros_like(ranked_TE, dtype=torch.bool)
    while True:
        open_TE = ranked_TE.masked_fill(refused_TE, -torch.inf)
        taken_TE = torch.zeros_like(refused_TE).scatter(0, topk(open_TE.T, capacity).T, True)
        taken_TE &= ~refused_TE  # an expert that all sent away takes fewer
        best_TK = topk(ranked_TE.masked_fill(~taken_TE, -torch.inf), max_experts)
        kept_TE = torch.zeros_like(taken_TE).scatter(1, best_TK, True) & taken_TE
        if torch.equal(kept_TE, taken_TE):
            return kept_TE
        refused_TE |= taken_TE & ~kept_TE


def _relaxed(scores_TE: Tensor, capacity: int, max_experts: int) -> Tensor:
    """log A of step 1 above, tau a tenth of the scores' standard deviation."""
    log_A = scores_TE.double() / (0.1 * scores_TE.double().std().clamp(min=1e-12))
    over_one, over_row = torch.zeros_like(log_A), torch.zeros_like(log_A)
    log_cap, log_capacity = math.log(max_experts), math.log(capacity)
    for _ in range(CAP_ROUNDS):
        # Columns: an affine set, whose projection needs no memory.
        log_A = log_A - torch.logsumexp(log_A, 0, keepdim=True) + log_capacity
        # Entries at most 1, then rows at most the cap, each remembering what it took off.
        raised = log_A + over_one
        log_A = raised.clamp(max=0.0)
        over_one = raised - log_A
        raised = log_A + over_row
        excess = (torch.logsumexp(raised, 1, keepdim=True) - log_cap).clamp(min=0.0)
        log_A = raised - excess
        over_row = raised - log_A
    return log_A


class ExpertThreshold(ExpertsChoose):
    """Expert Threshold (2603.11535): a token visits every expert whose score beats that expert's
    threshold, a running mean of the score of the last token that expert choice would have taken.

    1. scores_TE = softmax over experts of x W^T
    2. token t visits e where scores_te >= threshold_e; weight = the score
    3. after each step, threshold_e moves by 1 - memory towards the C-th largest score of column e
    Expert choice in expectation, but causal: the threshold comes from earlier steps. The start is
    the threshold that random weights would have on inputs of unit mean square.
    """

    title = "Threshold"
    rule = "an expert takes what scores above its threshold"
    paper = "Sun et al. 2026, 2603.11535"
    never_kills = "lets a token pass by each expert's own threshold, whatever the others score"
    threshold_E: Tensor

    def __init__(
        self,
        *,
        capacity_factor: float | None = None,
        memory: float = 0.9,
        **basics: Unpack[Basics],
    ) -> None:
        super().__init__(capacity_factor=capacity_factor, **basics)
        self.memory = check_number("memory", memory, high=0.999)
        taken = min(max(self.capacity_factor / self.num_experts, 1e-9), 1 - 1e-3)
        spread = INIT_STD * self.gate.init_scale * self.d_model**0.5 / self.gate.temperature
        logit = spread * NormalDist().inv_cdf(1 - taken) - spread**2 / 2
        start = math.exp(logit) / self.num_experts
        self.register_buffer("threshold_E", torch.full((self.num_experts,), start))

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        logits_TE = self.logits(x_TD, context)
        scores_TE = logits_TE.softmax(-1)
        plan = Plan.from_dense(scores_TE, scores_TE >= self.threshold_E)
        cut_E = scores_TE.detach().topk(self.room(len(x_TD)), dim=0).values[-1]
        return RouterOut.of(logits_TE, scores_TE, plan, {"z": z_loss(logits_TE)}, cut_E=cut_E)

    @torch.no_grad()
    def take_gate(self, gate_ED: Tensor, x_TD: Tensor, context: RouteContext) -> None:
        super().take_gate(gate_ED, x_TD, context)
        cut_E = self(x_TD, context).stats.cut  # what training on such tokens would arrive at
        self.threshold_E.copy_(cut_E)

    def post_step(self, stats: RouterStats) -> None:
        super().post_step(stats)
        assert stats.cut is not None
        self.threshold_E.lerp_(stats.cut.to(self.threshold_E.dtype), 1 - self.memory)
