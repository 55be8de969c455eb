"""The contract of routing: what a router decides, and all that experts and kernels consume.

Legend of the project's tensor names: B batch, S sequence, T = B*S tokens, D model width,
F expert width, E experts, K choices per token, N assignments, P slots of a soft router.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from moeviz.backend import kernels_for


@dataclass(frozen=True)
class RouteContext:
    """What a router may know of the tokens besides their hidden states; every field is optional.

    token_ids, sequence, position: int64 [T] (hash routing, pools of tokens, capacity); without
    sequence all tokens are one. previous_ids: int64 [T], the id before each token, -1 for a first
    one (bigram hashes, where the token before is not among these). mask: bool [T], True for real
    tokens; generator: the source of all noise.
    """

    token_ids: Tensor | None = None
    sequence: Tensor | None = None
    position: Tensor | None = None
    previous_ids: Tensor | None = None
    mask: Tensor | None = None
    training: bool = False
    step: int = 0
    generator: torch.Generator | None = None

    def select(self, mask_T: Tensor) -> RouteContext:
        """The same of the tokens under a mask, all of them real."""

        def of(values_T: Tensor | None) -> Tensor | None:
            return None if values_T is None else values_T[mask_T]

        return dataclasses.replace(
            self,
            token_ids=of(self.token_ids),
            sequence=of(self.sequence),
            position=of(self.position),
            previous_ids=of(self.previous_ids),
            mask=None,
        )


@dataclass(frozen=True)
class Plan:
    """What a discrete router decides: one row per assignment of a token to an expert.

    token, expert: int32 [N], sorted by expert, then by slot
    weight: float [N], the combine weight; carries the router's gradient
    slot: int32 [N], the row's place in its expert's buffer
    choice: int32 [N], which of its token's choices this is, 0 first; -1 where choices have no order
    offsets: int32 [E + 1], the row range of each expert: the segments of a grouped GEMM
    inverse: int32 [N], the rows in token order: those of token t are
        inverse[token_offsets[t] : token_offsets[t + 1]]
    token_offsets: int32 [T + 1]
    dropped: int32 [M, 3], (token, expert, choice) of each assignment that found no place
    """

    token: Tensor
    expert: Tensor
    weight: Tensor
    slot: Tensor
    choice: Tensor
    offsets: Tensor
    inverse: Tensor
    token_offsets: Tensor
    dropped: Tensor

    @property
    def num_tokens(self) -> int:
        return self.token_offsets.numel() - 1

    @property
    def num_experts(self) -> int:
        return self.offsets.numel() - 1

    @staticmethod
    def from_topk(expert_TK: Tensor, weight_TK: Tensor, *, num_experts: int) -> Plan:
        """The dropless plan of a token-choice router: every token keeps its K choices.

        expert_TK: integers in [0, num_experts) [T, K]; weight_TK: float [T, K].
        An expert's rows stand in token order. Raises ValueError on a wrong shape, dtype or index.
        """
        if expert_TK.ndim != 2 or expert_TK.shape != weight_TK.shape:
            raise ValueError(
                f"expert_TK and weight_TK must both be [T, K], got {tuple(expert_TK.shape)} "
                f"and {tuple(weight_TK.shape)}."
            )
        if expert_TK.dtype.is_floating_point or not weight_TK.dtype.is_floating_point:
            raise ValueError(
                f"expert_TK must hold integers and weight_TK floats, got {expert_TK.dtype} "
                f"and {weight_TK.dtype}."
            )
        if expert_TK.numel() and can_look(expert_TK):
            low, high = (int(index) for index in expert_TK.aminmax())
            if low < 0 or high >= num_experts:
                raise ValueError(
                    f"expert_TK holds an index {low if low < 0 else high} outside "
                    f"0..{num_experts - 1} (num_experts={num_experts})."
                )
        num_tokens, top_k = expert_TK.shape
        triton = kernels_for(expert_TK, num_experts=num_experts)
        if triton is not None:
            order_N, inverse, *rows, token_offsets = triton.sort_topk(expert_TK, num_experts)
            expert, slot, offsets, token, choice = rows
        else:
            expert_N, device = expert_TK.reshape(-1), expert_TK.device
            order_N, inverse, expert, slot, offsets = sort_by_expert(expert_N, num_experts)
            token, choice = order_N // top_k, order_N % top_k
            token_offsets = torch.arange(num_tokens + 1, device=device, dtype=torch.int32) * top_k
        return Plan(
            token=token,
            expert=expert,
            # Not weight_TK[...]: its gradient on a GPU would sort the indices once more.
            weight=weight_TK.reshape(-1).index_select(0, order_N),
            slot=slot,
            choice=choice,
            offsets=offsets,
            inverse=inverse,
            token_offsets=token_offsets,
            dropped=token.new_empty(0, 3),
        )

    @staticmethod
    def from_rows(
        token_N: Tensor,
        expert_N: Tensor,
        weight_N: Tensor,
        *,
        num_tokens: int,
        num_experts: int,
        choice_N: Tensor | None = None,
        dropped_M3: Tensor | None = None,
        in_token_order: bool = False,
    ) -> Plan:
        """The plan of any list of assignments: any number per token, in any order.

        An expert's rows keep the order in which they are given. in_token_order: token_N never
        falls, which spares a sort.
        """
        order_N, rank_N, expert, slot, offsets = sort_by_expert(expert_N, num_experts)
        token = token_N.index_select(0, order_N)
        choice = torch.full_like(token, -1)
        if choice_N is not None:
            choice = choice_N.index_select(0, order_N)
        if dropped_M3 is None:
            dropped_M3 = torch.empty(0, 3, device=token.device, dtype=torch.int32)
        inverse = rank_N if in_token_order else torch.argsort(token, stable=True)
        return Plan(
            token=token.int(),
            expert=expert,
            weight=weight_N.index_select(0, order_N),
            slot=slot,
            choice=choice.int(),
            offsets=offsets,
            inverse=inverse.int(),
            token_offsets=_offsets(token_N, num_tokens),
            dropped=dropped_M3.int(),
        )

    @staticmethod
    def from_dense(weight_TE: Tensor, visits_TE: Tensor) -> Plan:
        """The plan of a matrix of weights, where visits_TE (bool) says which of them count: the
        way back from dense_weights. An expert's rows stand in token order."""
        token_N, expert_N = visits_TE.nonzero(as_tuple=True)
        num_tokens, num_experts = weight_TE.shape
        return Plan.from_rows(
            token_N,
            expert_N,
            weight_TE[token_N, expert_N],
            num_tokens=num_tokens,
            num_experts=num_experts,
            in_token_order=True,
        )

    def dense_weights(self) -> Tensor:
        """The plan as a matrix weight_TE (zero where a token does not visit an expert): the
        plain form that tests compare every fast path with."""
        weight_TE = self.weight.new_zeros(self.num_tokens, self.num_experts)
        index = (self.token.long(), self.expert.long())
        return weight_TE.index_put(index, self.weight, accumulate=True)

    def load(self) -> Tensor:
        """Assignments each expert takes, int32 [E]."""
        return self.offsets.diff()


def can_look(tensor: Tensor) -> bool:
    """Whether values may be checked: reading them would make a GPU wait for the host, and break
    torch.compile's graph. There the caller is trusted."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def sort_by_expert(
    expert_N: Tensor, num_experts: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The stable order of assignments by expert, all int32: order [N] (row -> assignment) and rank
    [N], its inverse; expert and slot [N] of each row; offsets [E + 1]. On a GPU by the counting
    sort of kernels/moeviz_kernels/sort.py."""
    triton = kernels_for(expert_N, num_experts=num_experts)
    if triton is not None:
        return triton.sort_by_expert(expert_N, num_experts)
    order_N = torch.argsort(expert_N, stable=True)
    rows_N = torch.arange(order_N.numel(), device=expert_N.device)
    rank_N = torch.empty_like(order_N).scatter_(0, order_N, rows_N)
    expert = expert_N[order_N]
    experts_E1 = torch.arange(num_experts + 1, dtype=expert.dtype, device=expert.device)
    offsets = torch.searchsorted(expert, experts_E1, out_int32=True)
    slot = rows_N - offsets[expert]
    return order_N.int(), rank_N.int(), expert.int(), slot.int(), offsets


def _offsets(group_N: Tensor, num_groups: int) -> Tensor:
    """Row ranges int32 [num_groups + 1] of the groups, once the rows are sorted by group."""
    return count(group_N + 1, num_groups + 1).cumsum(0).int()


def count(group_N: Tensor, num_groups: int) -> Tensor:
    """How often each of 0..num_groups - 1 stands in group_N, int64; unlike bincount it does not let
    a GPU wait for the host."""
    zeros = torch.zeros(num_groups, device=group_N.device, dtype=torch.int64)
    return zeros.scatter_add_(0, group_N.long(), torch.ones_like(group_N, dtype=torch.int64))


@dataclass(frozen=True)
class SoftPlan:
    """What a soft router decides: slot p of expert e reads the mixture dispatch[:, e, p] of all
    tokens, and token t reads the mixture combine[t] of all slots. Both float [T, E, P]."""

    dispatch: Tensor
    combine: Tensor


@dataclass(frozen=True)
class RouterStats:
    """Counts of one call, detached; what a router's rules between steps are made of.

    load: assignments each expert takes, int64 [E]; demand: those asked for, before any were
    dropped, int64 [E]; importance: summed scores, float [E]; entropy: mean over tokens of
    H(scores) / ln E, a scalar: 1 undecided, 0 certain; tokens: real tokens; capacity: places in
    each expert's buffer, None where there is no limit; cut: float [E], whatever statistic of the
    scores the router's own rule asked for.
    """

    load: Tensor
    demand: Tensor
    importance: Tensor
    entropy: Tensor
    tokens: int
    capacity: int | None = None
    cut: Tensor | None = None

    @staticmethod
    def of(plan: Plan | SoftPlan, scores_TE: Tensor, *, cut_E: Tensor | None = None) -> RouterStats:
        """The counts of a plan. A soft router's slots are its load: each is one expert's row."""
        scores_TE = scores_TE.detach()
        num_tokens, num_experts = scores_TE.shape
        if isinstance(plan, SoftPlan):
            load_E = torch.full((num_experts,), plan.dispatch.shape[2], device=scores_TE.device)
            demand_E = load_E
        else:
            load_E = plan.load().long()
            demand_E = load_E + count(plan.dropped[:, 1], num_experts)
        share_TE = scores_TE / scores_TE.sum(-1, keepdim=True).clamp(min=1e-20)
        entropy = -torch.xlogy(share_TE, share_TE).sum(-1).mean() / math.log(max(num_experts, 2))
        return RouterStats(load_E, demand_E, scores_TE.sum(0), entropy, num_tokens, cut=cut_E)


@dataclass(frozen=True)
class RouterOut:
    """All that a router says of one batch.

    logits, scores: float32 [T, E] (float64 where the input is); losses: unweighted scalars by name;
    "balance" is 1.0 where the load is even. bypass: float [T, D], what experts without an FFN add
    (null_experts.py), None where there are none.
    """

    logits: Tensor
    scores: Tensor
    plan: Plan | SoftPlan
    losses: dict[str, Tensor]
    stats: RouterStats
    bypass: Tensor | None = None


class Router(Protocol):
    """A router maps hidden states x_TD to a RouterOut.

    causal says whether the decision for a token is independent of later tokens, in training as
    elsewhere; substitute is the rule, in words, by which a router that is not decides outside
    training ("" where there is none: it cannot generate). post_step is called once after each
    optimiser step (bias rules keep their state there).
    """

    causal: bool
    substitute: str

    def __call__(self, x_TD: Tensor, context: RouteContext) -> RouterOut: ...

    def post_step(self, stats: RouterStats) -> None: ...
