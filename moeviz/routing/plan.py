"""The contract of routing: what a router decides, and all that experts and kernels consume.

Legend of the project's tensor names: B batch, S sequence, T = B*S tokens, D model width,
F expert width, E experts, K choices per token, N assignments, P slots of a soft router,
G groups of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moeviz.ops import can_look, count, sort_by_expert, sort_topk


@dataclass(frozen=True)
class Plan:
    """What a discrete router decides: one row per assignment of a token to an expert.

    token, expert: int32 [N], sorted by expert, then by slot
    weight: float [N], the combine weight; carries the router's gradient
    slot: int32 [N], the row's number in its expert's buffer
    choice: int32 [N], which of its token's choices this is, 0 first; -1 where choices have no order
    offsets: int32 [E + 1], the row range of each expert: the segments of a grouped GEMM
    inverse: int32 [N], the rows in token order: those of token t are
        inverse[token_offsets[t] : token_offsets[t + 1]]
    token_offsets: int32 [T + 1]
    dropped: int32 [M, 3], (token, expert, choice) of each assignment that found no slot
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
        order_N, inverse, *rows, token_offsets = sort_topk(expert_TK, num_experts)
        expert, slot, offsets, token, choice = rows
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
    def from_kept(
        expert_TK: Tensor, weight_TK: Tensor, keep_TK: Tensor, *, num_experts: int
    ) -> Plan:
        """As from_topk, of those choices that keep_TK (bool) says. Rows stand in token order."""
        token_N, choice_N = keep_TK.nonzero(as_tuple=True)
        return Plan.from_rows(
            token_N,
            expert_TK[keep_TK],
            weight_TK[keep_TK],
            num_tokens=len(expert_TK),
            num_experts=num_experts,
            choice_N=choice_N,
            in_token_order=True,
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

    def of_tokens(self, start: int, end: int) -> Plan:
        """The plan of the tokens start to end - 1 alone, numbered from 0. Nothing is decided again:
        rows keep their order, their weights and their slots."""
        kept_N = (self.token >= start) & (self.token < end)
        before_N1 = F.pad(kept_N.cumsum(0), (1, 0)).int()  # rows kept before each row
        row_n = kept_N.nonzero()[:, 0]
        first, last = self.token_offsets[[start, end]].tolist()
        gone_M = (self.dropped[:, 0] >= start) & (self.dropped[:, 0] < end)
        shift_3 = self.dropped.new_tensor([start, 0, 0])
        return Plan(
            token=self.token[row_n] - start,
            expert=self.expert[row_n],
            weight=self.weight.index_select(0, row_n),
            slot=self.slot[row_n],
            choice=self.choice[row_n],
            offsets=before_N1[self.offsets.long()],
            inverse=before_N1[self.inverse[first:last].long()],
            token_offsets=self.token_offsets[start : end + 1] - first,
            dropped=self.dropped[gone_M] - shift_3,
        )

    def load(self) -> Tensor:
        """Assignments each expert takes, int32 [E]."""
        return self.offsets.diff()


def _offsets(group_N: Tensor, num_groups: int) -> Tensor:
    """Row ranges int32 [num_groups + 1] of the groups, once the rows are sorted by group."""
    return count(group_N + 1, num_groups + 1).cumsum(0).int()


@dataclass(frozen=True)
class SoftPlan:
    """What a soft router decides: G sequences (or groups of tokens), each mixed within itself.

    dispatch, combine: float [G, S, E, P]: slot p of expert e in group g reads the mixture
        dispatch[g, :, e, p] of the group's tokens, and the token at place s of group g reads the
        mixture combine[g, s] of the group's slots; both are 0 at an empty place
    place: int64 [T], where each token stands among the G * S places, -1 for padding, which stands
        nowhere; None where the tokens stand in order
    """

    dispatch: Tensor
    combine: Tensor
    place: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        groups, places = self.dispatch.shape[:2]
        return groups * places if self.place is None else len(self.place)

    @property
    def num_experts(self) -> int:
        return self.dispatch.shape[2]

    def load(self) -> Tensor:
        """Slots of each expert in all groups, int32 [E]: each is one row that it works on."""
        groups, _, num_experts, slots = self.dispatch.shape
        size, device = (num_experts,), self.dispatch.device
        return torch.full(size, groups * slots, dtype=torch.int32, device=device)

    def by_token(self, values_GS: Tensor) -> Tensor:
        """Values of places [G, S, ...] as values of tokens [T, ...], 0 for padding."""
        values_C = values_GS.flatten(0, 1)
        if self.place is None:
            return values_C
        values_T = values_C.index_select(0, self.place.clamp(min=0))
        return values_T * _like(self.place >= 0, values_T)

    def by_place(self, values_T: Tensor) -> Tensor:
        """Values of tokens [T, ...] as values of places [G, S, ...], 0 at an empty place."""
        groups, places = self.dispatch.shape[:2]
        if self.place is None:
            return values_T.view(groups, places, *values_T.shape[1:])
        return at_places(values_T, self.place, groups, places)


def at_places(
    values_T: Tensor, place_T: Tensor, groups: int, places: int, fill: float = 0.0
) -> Tensor:
    """Values of tokens [T, ...] where SoftPlan.place puts them [G, S, ...], `fill` elsewhere."""
    # Padding goes to one place more, which is cut off.
    last = groups * places
    place_T = torch.where(place_T < 0, last, place_T)
    values_C = values_T.new_full((last + 1, *values_T.shape[1:]), fill)
    values_C = values_C.index_copy(0, place_T, values_T)
    return values_C[:-1].view(groups, places, *values_T.shape[1:])


def _like(mask_T: Tensor, values_T: Tensor) -> Tensor:
    """A mask that multiplies values [T, ...]."""
    return mask_T.to(values_T.dtype).view(-1, *[1] * (values_T.ndim - 1))
