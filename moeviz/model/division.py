"""How the work on a batch is divided: into pieces, one after the other, or among processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moeviz.model.experts import apply_experts
from moeviz.routing import BaseRouter, Plan, RouteContext, RouterOut, SoftPlan

Work = Callable[..., tuple[Tensor, ...]]


class Division:
    """All rows and all experts are here, in one process; systems.shared has that of many.

    pieces: so many parts of the batch go through attention, experts and head one after the other.
    What the gradient of a piece needs is computed again when its turn comes, so that memory holds
    one piece, and of the others what passes between blocks. A router alone sees the tokens of all
    pieces at once: choices that compare tokens, capacities, losses and biases are those of the
    whole batch, and not means over pieces (which is how an auxiliary loss comes to be weighed n
    times).
    """

    size = 1  # processes
    device: torch.device | None = None  # where they work; None: wherever it is asked for

    def __init__(self, pieces: int = 1) -> None:
        self.pieces = pieces

    def check(self, model: Any, batch_size: int, precision: torch.dtype, *, compiled: bool) -> None:
        """ValueError where a model of this ModelConfig cannot be divided so."""

    def divide(self, model: nn.Module) -> None:
        """Let a LanguageModel, from now on, work so."""
        for part in (model, *model.blocks, *(block.ffn for block in model.blocks)):
            part.division = self

    def replicated(self, model: nn.Module) -> Any:
        """What runs the model and keeps equal, in the backward pass, what all processes have."""
        return model

    def spread(self, model: nn.Module) -> list[tuple[str, nn.Parameter]]:
        """The parameters of which this process has a part of its own, by name."""
        return []

    def as_parts(self, tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """State by name, of which each process's part is told as a part of the whole."""
        return tensors

    # --- a batch ---

    def own_rows(self, values_BS: Tensor) -> Tensor:
        """Of values of all sequences, those of the sequences that are worked on here."""
        return values_BS

    def own_plan(self, plan: Plan | SoftPlan) -> Plan | SoftPlan:
        """Of the whole batch's plan, that of the tokens that are worked on here."""
        return plan

    def own_tokens(self, values_TD: Tensor) -> Tensor:
        """Of values of all tokens, those of the tokens that are worked on here."""
        return values_TD

    def route(self, router: BaseRouter, x_TD: Tensor, context: RouteContext) -> RouterOut:
        """What the router says of all tokens of the batch; x_TD: those that are worked on here."""
        out: RouterOut = router(x_TD, context)
        return out

    def experts(
        self, x_TD: Tensor, plan: Plan | SoftPlan, w13_E2FD: Tensor, w2_EDF: Tensor, backend: str
    ) -> Tensor:
        """apply_experts, wherever the experts are."""
        return apply_experts(x_TD, plan, w13_E2FD, w2_EDF, backend=backend)

    # --- a step ---

    def clip_gradients(self, model: nn.Module, most: float) -> Tensor:
        """Make the gradients the whole batch's, their norm `most` at most; the norm before."""
        return nn.utils.clip_grad_norm_(model.parameters(), most)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes of such values of each."""
        return values

    def all_rows(self, values_b: Tensor) -> Tensor:
        """Of values of own_rows, those of all."""
        return values_b

    def in_pieces(self, work: Work, x_N: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """work(rows of x_N, number of the first, rows of the others), piece by piece, and its
        results put together."""
        pieces = min(self.pieces, len(x_N))
        if pieces < 2:
            return work(x_N, 0, *more)
        each, longer = divmod(len(x_N), pieces)
        sizes = [each + (piece < longer) for piece in range(pieces)]
        results, start = [], 0
        # Not slices: each would bring a gradient of all rows.
        for parts in zip(*(values_N.split(sizes) for values_N in (x_N, *more)), strict=True):
            results.append(
                checkpoint(
                    work, parts[0], start, *parts[1:], use_reentrant=False, preserve_rng_state=False
                )
            )
            start += len(parts[0])
        return tuple(torch.cat(parts) for parts in zip(*results, strict=True))
