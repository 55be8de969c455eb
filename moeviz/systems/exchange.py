"""Experts in other processes: tokens travel there and back by all_to_all_single."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from torch import Tensor

from moeviz.model.experts import apply_experts, combine, dispatch
from moeviz.routing import Plan

Copies = Literal["expert", "device"]  # of costs.cost.traffic

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
    copies: Copies = "expert",
    backend: str = "auto",
) -> Tensor:
    """apply_experts where each of the R processes of a group holds E / R experts, in their order.

    copies: how often a token's vector travels, as in costs.cost.traffic: once for each chosen
    "expert", or once to each process ("device") that has some of them.
    1. a plan's rows are sorted by expert, so by process too: x_ND. Their numbers travel first: a
       process that would round a choice otherwise cannot make the others wait for rows
    2. the rows travel: x_MD, by sender, and of each sender by expert
    3. the experts here run on a plan of their own, each row a token with one expert
    4. their outputs travel back, y_ND, are weighted and added up
    A process without rows takes part in all of it.
    """
    size, here = dist.get_world_size(group), len(w2_eDF)
    sent_Re = plan.load().view(size, here)
    came_Re = torch.empty_like(sent_Re)
    dist.all_to_all_single(came_Re, sent_Re, group=group)
    sends, receives = torch.stack((sent_Re.sum(1), came_Re.sum(1))).tolist()
    if copies == "device":
        return _one_copy_each(x_TD, plan, w13_e2FD, w2_eDF, group, sends, receives, backend)
    x_MD = all_to_all(dispatch(x_TD, plan), receives, sends, group)
    y_MD = own_experts(x_MD, came_Re, w13_e2FD, w2_eDF, backend)
    y_ND = all_to_all(y_MD, sends, receives, group)
    return combine(y_ND * plan.weight[:, None].to(y_ND.dtype), plan)


def _one_copy_each(
    x_TD: Tensor, plan: Plan, w13_e2FD: Tensor, w2_eDF: Tensor, group: dist.ProcessGroup,
    sends: list[int], receives: list[int], backend: str,
) -> Tensor:  # fmt: skip
    """The same with one copy of a token for each process. sends, receives: assignments by process.

    With the copies, x_CD, travels which experts each is for, and their weights: the sum over the
    experts of one process is made there, and one row comes back for each copy.
    """
    size, here, tokens = len(sends), len(w2_eDF), len(x_TD)
    pair_N = plan.expert.long() // here * tokens + plan.token.long()
    pair_C, copy_N = pair_N.unique(return_inverse=True)  # by process, then by token
    token_C, process_C = pair_C % tokens, pair_C // tokens
    sent_R = process_C.bincount(minlength=size)
    came_R = torch.empty_like(sent_R)
    dist.all_to_all_single(came_R, sent_R, group=group)
    sent, came = torch.stack((sent_R, came_R)).tolist()
    # Of each assignment: which of the copies to its process, and which of the experts there.
    first_N = (sent_R.cumsum(0) - sent_R)[plan.expert.long() // here]
    label_N2 = torch.stack((copy_N - first_N, plan.expert.long() % here), dim=1)
    label_M2 = label_N2.new_empty(sum(receives), 2)
    dist.all_to_all_single(label_M2, label_N2, receives, sends, group=group)
    weight_M1 = all_to_all(plan.weight[:, None], receives, sends, group)
    x_MD = all_to_all(x_TD.index_select(0, token_C), came, sent, group)
    sender_M = torch.arange(size, device=x_TD.device).repeat_interleave(
        torch.tensor(receives, device=x_TD.device), output_size=sum(receives)
    )
    copy_M = label_M2[:, 0] + (came_R.cumsum(0) - came_R)[sender_M]
    y_MD = _assigned(x_MD, copy_M, label_M2[:, 1], weight_M1[:, 0], w13_e2FD, w2_eDF, backend)
    y_CD = all_to_all(y_MD, sent, came, group)
    return torch.zeros_like(x_TD).index_add(0, token_C, y_CD)


def own_experts(
    x_MD: Tensor, came_Re: Tensor, w13_e2FD: Tensor, w2_eDF: Tensor, backend: str
) -> Tensor:
    """The outputs, y_MD, of the experts here; came_Re: rows of each sender for each of them."""
    size, here = came_Re.shape
    rows = len(x_MD)
    expert_M = torch.arange(here, device=x_MD.device).repeat(size)
    expert_M = expert_M.repeat_interleave(came_Re.flatten().long(), output_size=rows)
    token_M = torch.arange(rows, device=x_MD.device)
    weight_M = x_MD.new_ones(rows)
    return _assigned(x_MD, token_M, expert_M, weight_M, w13_e2FD, w2_eDF, backend, ordered=True)


def _assigned(
    x_CD: Tensor, token_M: Tensor, expert_M: Tensor, weight_M: Tensor, w13_e2FD: Tensor,
    w2_eDF: Tensor, backend: str, *, ordered: bool = False,
) -> Tensor:  # fmt: skip
    """y_CD of the experts here: row token_M of x_CD goes to expert_M with weight_M. ordered:
    token_M never falls."""
    rows = len(x_CD)
    # No backend takes 0 rows; one of zeros keeps the graph, and gives gradients of zero.
    if not rows:
        x_CD = x_CD.new_zeros(1, x_CD.shape[1]) + x_CD.sum() + weight_M.sum()
        token_M = expert_M = expert_M.new_zeros(1)
        weight_M = x_CD.new_ones(1)
    plan = Plan.from_rows(
        token_M,
        expert_M,
        weight_M,
        num_tokens=len(x_CD),
        num_experts=len(w2_eDF),
        in_token_order=ordered,
    )
    return apply_experts(x_CD, plan, w13_e2FD, w2_eDF, backend=backend)[:rows]
