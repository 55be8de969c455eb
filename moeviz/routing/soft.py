"""Soft routers: experts read mixtures of tokens, so nothing is chosen and nothing is dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moeviz.checks import check_whole
from moeviz.ops import number_in_group
from moeviz.routing.base import BaseRouter, check_finite, groups_of
from moeviz.routing.capacity import capacity_of
from moeviz.routing.context import RouteContext
from moeviz.routing.out import RouterOut
from moeviz.routing.plan import SoftPlan, at_places


class SoftMoE(BaseRouter):
    """Soft MoE (Puigcerver et al. 2023, 2308.00951, algorithm 1).

    1. logits_TEP = scale * norm(x) . norm(phi): cosine similarity of tokens and slots
    2. dispatch: softmax over the tokens of a sequence; slot p of expert e reads sum_t D_tep x_t
    3. combine: softmax over all slots; token t gets sum_ep C_tep FFN_e(slot ep)
    Every expert works on every sequence: balanced, but neither causal nor local, so it cannot
    generate. Every sequence has slots of its own. slots: P per expert; E P slots cost as much as a
    top-K router on E P / K tokens (default: top_k, enough for E tokens).
    """

    title = "Soft MoE"
    rule = "experts read mixtures of all tokens"
    family = "soft"
    paper = "Puigcerver et al. 2023, 2308.00951"
    causal = False
    soft = True

    def __init__(
        self, *, d_model: int, num_experts: int, top_k: int, slots: int | None = None
    ) -> None:
        super().__init__(d_model, num_experts, top_k)
        self.slots = top_k if slots is None else slots
        check_whole("slots", self.slots)
        self.phi_EPD = nn.Parameter(torch.empty(num_experts, self.slots, d_model))
        nn.init.normal_(self.phi_EPD, std=d_model**-0.5)
        self.scale = nn.Parameter(torch.ones(()))

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        phi_EPD = nn.functional.normalize(self.phi_EPD.to(x_TD.dtype), dim=-1)
        similar_TEP = torch.einsum(
            "td,epd->tep", nn.functional.normalize(x_TD, dim=-1), self.scale * phi_EPD
        )
        check_finite(similar_TEP.flatten(1))
        dispatch, place_T = by_group(similar_TEP, context.sequence)
        combine_TEP = similar_TEP.flatten(1).softmax(-1).view_as(similar_TEP)
        combine = at_places(combine_TEP, place_T, *dispatch.shape[:2])
        plan = SoftPlan(dispatch, combine, place_T)
        return RouterOut.of(torch.logsumexp(similar_TEP, dim=-1), combine_TEP.sum(-1), plan)

    @classmethod
    def limit(cls, factor: float | None, *, top_k: int, share: float) -> dict[str, Any]:
        return {"slots": capacity_of((factor or 1) * share)}

    @torch.no_grad()
    def take_gate(self, gate_ED: Tensor, x_TD: Tensor, context: RouteContext) -> None:
        self.phi_EPD.copy_(gate_ED[:, None].expand_as(self.phi_EPD))

    def active_experts(self, seq_len: int) -> float:
        return self.num_experts * self.slots / seq_len

    def flops(self, seq_len: int) -> float:
        """Scores, and the two mixtures of all tokens and all slots."""
        return 6.0 * self.num_experts * self.slots * self.d_model


def by_group(logits_TEP: Tensor, group_T: Tensor | None) -> tuple[Tensor, Tensor]:
    """A softmax over the tokens of each group, [G, S, E, P] with S the size of the largest one, and
    place int64 [T] of each token: nothing passes between groups."""
    group_T, num_groups = groups_of(group_T, len(logits_TEP), logits_TEP.device)
    number_T = number_in_group(group_T, num_groups)
    largest = int(number_T.max()) + 1
    place_T = group_T * largest + number_T
    return at_places(logits_TEP, place_T, num_groups, largest, -torch.inf).softmax(1), place_T


class MixtureOfTokens(BaseRouter):
    """Mixture of Tokens (Antoniak et al. 2023, 2310.15961).

    1. groups of `group_size` tokens, one from each of as many sequences, all at one position
    2. every expert reads one mixture of each group, weights a softmax over the group's tokens
    3. the token gets the expert's output by the same weight
    Nothing passes between positions of one sequence, but it does between sequences: the text of
    another is seen, later tokens of the batch included. group_size: default num_experts / top_k, so
    that a token costs K experts. A single sequence has nobody to mix with at its positions: its
    tokens, in order, then make up the groups.
    """

    title = "Mix of tokens"
    rule = "experts read mixtures of small groups"
    family = "soft"
    paper = "Antoniak et al. 2023, 2310.15961"
    causal = False
    soft = True

    def __init__(
        self, *, d_model: int, num_experts: int, top_k: int, group_size: int | None = None
    ) -> None:
        super().__init__(d_model, num_experts, top_k)
        self.group_size = max(1, num_experts // top_k) if group_size is None else group_size
        check_whole("group_size", self.group_size)
        self.weight_ED = nn.Parameter(torch.empty(num_experts, d_model))
        nn.init.normal_(self.weight_ED, std=d_model**-0.5)

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        logits_TE = nn.functional.linear(x_TD, self.weight_ED.to(x_TD.dtype))
        check_finite(logits_TE)
        group_T = self._groups(context, len(x_TD), x_TD.device)
        dispatch, place_T = by_group(logits_TE[..., None], group_T)
        plan = SoftPlan(dispatch, dispatch, place_T)
        return RouterOut.of(logits_TE, plan.by_token(dispatch.squeeze(-1)), plan)

    def _groups(self, context: RouteContext, num_tokens: int, device: torch.device) -> Tensor:
        sequence_T, num_sequences = groups_of(context.sequence, num_tokens, device)
        if num_sequences == 1 or context.position is None:
            return torch.arange(num_tokens, device=device) // self.group_size
        parts = -(-num_sequences // self.group_size)
        return context.position * parts + sequence_T // self.group_size

    @classmethod
    def limit(cls, factor: float | None, *, top_k: int, share: float) -> dict[str, Any]:
        return {}  # an expert reads one mixture of each group, however many tokens are in it

    def gate_matrix(self) -> Tensor | None:
        return self.weight_ED

    @torch.no_grad()
    def take_gate(self, gate_ED: Tensor, x_TD: Tensor, context: RouteContext) -> None:
        self.weight_ED.copy_(gate_ED)

    def active_experts(self, seq_len: int) -> float:
        return self.num_experts / self.group_size

    def flops(self, seq_len: int) -> float:
        """Scores, and the two mixtures."""
        return 6.0 * self.num_experts * self.d_model
