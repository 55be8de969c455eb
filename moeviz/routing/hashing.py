"""Hash routing: the token's id decides, and nothing is learned."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from moeviz.checks import check_choice, check_whole
from moeviz.ops import can_look
from moeviz.routing.base import BaseRouter
from moeviz.routing.context import RouteContext
from moeviz.routing.out import RouterOut
from moeviz.routing.plan import Plan

Hashing = Literal["random", "bigram"]


class Hash(BaseRouter):
    """Hash layers (Roller et al. 2021, 2106.04426): expert = table[token id], fixed from the start.

    The table is drawn from torch's random numbers when the router is made, as a gate is: every
    layer and every seed has its own.
    variant "random": ids are dealt to experts at random, evenly by number of ids.
    "bigram": a hash of the token and the one before it in its sequence.
    With K > 1, K hashes that never agree (MultiHash), each weight 1/K. No parameters, no loss. A
    random table is uneven wherever some ids are frequent. Raises ValueError without token ids. What
    a token holds is not looked at, NaN included.
    """

    title = "Hash"
    rule = "a fixed table of token ids"
    family = "without learning"
    paper = "Roller et al. 2021, 2106.04426"
    matrices = 0
    needs = ("token_ids",)
    table_VK: Tensor

    def __init__(
        self,
        *,
        d_model: int,
        num_experts: int,
        top_k: int = 1,
        variant: Hashing = "random",
        vocab_size: int = 2048,
    ) -> None:
        super().__init__(d_model, num_experts, top_k)
        check_choice("variant", variant, get_args(Hashing))
        check_whole("vocab_size", vocab_size)
        self.variant, self.vocab_size = variant, vocab_size
        order_V = torch.randperm(vocab_size)
        first_V = torch.empty(vocab_size, dtype=torch.int64)
        first_V[order_V] = torch.arange(vocab_size) % num_experts
        # The other hashes are the first one's experts, each shifted by amounts of its own: never
        # the same expert twice for one token.
        shift_EK = torch.stack([torch.randperm(num_experts - 1) + 1 for _ in range(num_experts)])[
            :, : top_k - 1
        ]
        others_VK = (first_V[:, None] + shift_EK[first_V]) % num_experts
        self.register_buffer("table_VK", torch.cat((first_V[:, None], others_VK), dim=1))

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        ids_T = context.token_ids
        assert ids_T is not None
        if self.variant == "bigram":
            ids_T = (ids_T * 31 + 1 + 17 * self._before(ids_T, context)) % self.vocab_size
        elif can_look(ids_T) and not 0 <= int(ids_T.min()) <= int(ids_T.max()) < self.vocab_size:
            raise ValueError(
                f"token_ids must lie in 0..{self.vocab_size - 1}, the table's vocab_size, got "
                f"{int(ids_T.min())} to {int(ids_T.max())}."
            )
        expert_TK = self.table_VK[ids_T]
        weight_TK = x_TD.new_full(expert_TK.shape, 1 / self.top_k)
        plan = Plan.from_topk(expert_TK, weight_TK, num_experts=self.num_experts)
        scores_TE = plan.dense_weights()
        return RouterOut.of(torch.zeros_like(scores_TE), scores_TE, plan)

    def _before(self, ids_T: Tensor, context: RouteContext) -> Tensor:
        """The id before each token in its sequence, -1 for a first one."""
        if context.previous_ids is not None:
            return context.previous_ids
        before_T = torch.cat((ids_T.new_full((1,), -1), ids_T[:-1]))
        if context.sequence is not None:
            starts_T = context.sequence[1:] != context.sequence[:-1]
            before_T[1:] = before_T[1:].masked_fill(starts_T, -1)
        return before_T
