"""Experts in other processes: tokens travel there and back by all_to_all_single."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from torch import Tensor

from moeviz.model.experts import apply_experts, combine, dispatch
from moeviz.routing import Plan

# torch's collectives that know their own gradient. torch.distributed.nn.functional has them too,
# but names these as its successors (torch 2.13), and torch.compile follows these alone. What they
# return waits for its rows when it is computed with: a copy does, before a kernel reads its memory.
_all_gather = getattr(  # the second is its name before torch 2.13
    collectives, "all_gather_single_autograd", collectives.all_gather_tensor_autograd
)


def all_to_all(
    x_ND: Tensor, receives: list[int], sends: list[int], group: dist.ProcessGroup
) -> Tensor:
    """The rows that the processes of the group send here, in their order. sends: how many of x_ND
    go to each, receives: how many come from each. The gradient goes back the same ways."""
    return collectives.all_to_all_single_autograd(x_ND.contiguous(), receives, sends, group).clone()


def all_gather(x_tD: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The rows of all processes, in their order; the gradient of a row is the sum over those of
    all."""
    return _all_gather(x_tD.contiguous(), 0, group).clone()


def exchanged_experts(
    x_TD: Tensor,
    plan: Plan,
    w13_e2FD: Tensor,
    w2_eDF: Tensor,
    group: dist.ProcessGroup,
    *,
    backend: str = "auto",
) -> Tensor:
    """apply_experts where each of the R processes of a group holds E / R experts, in their order.

    1. a plan's rows are sorted by expert, so by process too: x_ND. Their numbers travel first: a
       process that would round a choice otherwise cannot make the others wait for rows
    2. the rows travel: x_MD, by sender, and of each sender by expert
    3. the experts here run on a plan of their own, each row a token with one expert
    4. their outputs travel back, y_ND, are weighted and added up
    Each chosen expert of a token is one copy of it (copies="expert" in costs.cost.traffic). A
    process without rows takes part in all of it.
    """
    size, here = dist.get_world_size(group), len(w2_eDF)
    sent_Re = plan.load().view(size, here)
    came_Re = torch.empty_like(sent_Re)
    dist.all_to_all_single(came_Re, sent_Re, group=group)
    sends, receives = torch.stack((sent_Re.sum(1), came_Re.sum(1))).tolist()
    x_MD = all_to_all(dispatch(x_TD, plan), receives, sends, group)
    y_MD = _own_experts(x_MD, came_Re, w13_e2FD, w2_eDF, backend)
    y_ND = all_to_all(y_MD, sends, receives, group)
    return combine(y_ND * plan.weight[:, None].to(y_ND.dtype), plan)


def _own_experts(
    x_MD: Tensor, came_Re: Tensor, w13_e2FD: Tensor, w2_eDF: Tensor, backend: str
) -> Tensor:
    """The outputs, y_MD, of the experts here; came_Re: rows of each sender for each of them."""
    size, here = came_Re.shape
    rows = len(x_MD)
    expert_M = torch.arange(here, device=x_MD.device).repeat(size)
    expert_M = expert_M.repeat_interleave(came_Re.flatten().long(), output_size=rows)
    # No backend takes 0 rows; one of zeros keeps the graph, and gives gradients of zero.
    if not rows:
        x_MD, expert_M = x_MD.new_zeros(1, x_MD.shape[1]) + x_MD.sum(), expert_M.new_zeros(1)
    plan = Plan.from_rows(
        torch.arange(len(x_MD), device=x_MD.device),
        expert_M,
        x_MD.new_ones(len(x_MD)),
        num_tokens=len(x_MD),
        num_experts=here,
        in_token_order=True,
    )
    return apply_experts(x_MD, plan, w13_e2FD, w2_eDF, backend=backend)[:rows]
