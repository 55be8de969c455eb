"""Every operation that has a fast and a slow form, once, with one signature.

Where Triton runs (backend.kernels_for) the kernels of kernels/moeviz_kernels do the work, elsewhere
plain PyTorch, and both give the same result. Routers, plans and experts call these and never ask
which it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moeviz.backend import kernels_for

MAX_ROUNDS = 32  # of the top-k kernel, which takes one choice a round


def can_look(tensor: Tensor) -> bool:
    """Whether values may be checked: reading them would make a GPU wait for the host, and break
    torch.compile's graph. There the caller is trusted."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def topk(scores_TE: Tensor, k: int) -> Tensor:
    """Indices int64 [T, k] of the k largest scores, best first; of equal scores the lower index.

    torch.topk leaves ties open, and an open tie is a different route on another machine. So each
    score of 32 bits or fewer becomes an integer key of the same order with the index in its low
    bits; float64, which has no room for one, is sorted.
    """
    scores_TE = scores_TE.detach()
    if scores_TE.dtype == torch.float64:
        return scores_TE.sort(dim=1, descending=True, stable=True).indices[:, :k]
    triton = kernels_for(scores_TE, num_experts=scores_TE.shape[1])
    if triton is not None and k <= MAX_ROUNDS:
        return triton.topk(scores_TE.float(), k)
    # -0.0 equals 0.0, but not in its bits; their sum is 0.0.
    bits_TE = (scores_TE.float() + 0.0).contiguous().view(torch.int32)
    # Negative floats order backwards as integers: flip all their bits but the sign.
    ordered_TE = bits_TE ^ ((bits_TE >> 31) & 0x7FFFFFFF)
    num_experts = scores_TE.shape[1]
    lower_first_E = torch.arange(num_experts - 1, -1, -1, device=scores_TE.device)
    return ((ordered_TE.long() << 32) | lower_first_E).topk(k, dim=1).indices


def softmax_topk(
    logits_TE: Tensor, k: int, *, renormalise: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """scores_TE = softmax(logits_TE); the k best of each token, [T, k]: their scores, with
    `renormalise` over their sum, and their indices int64. They are chosen by the logits: a softmax
    may round two of them to one score."""
    triton = kernels_for(logits_TE, num_experts=logits_TE.shape[1])
    if triton is not None and logits_TE.dtype == torch.float32 and k <= MAX_ROUNDS:
        return triton.softmax_topk(logits_TE, k, renormalise=renormalise)
    scores_TE, expert_TK = logits_TE.softmax(-1), topk(logits_TE, k)
    chosen_TK = scores_TE.gather(1, expert_TK)
    return scores_TE, renormalised(chosen_TK) if renormalise else chosen_TK, expert_TK


def renormalised(values_TK: Tensor) -> Tensor:
    """The values of each token over their sum; where that is too small to divide by, all equal."""
    sum_T1 = values_TK.sum(-1, keepdim=True)
    lost_T1 = sum_T1 < torch.finfo(sum_T1.dtype).tiny
    share_TK = values_TK / sum_T1.masked_fill(lost_T1, 1.0)
    return share_TK.masked_fill(lost_T1, 1 / values_TK.shape[-1])


def sort_by_expert(
    expert_N: Tensor, num_experts: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The stable order of assignments by expert, all int32: order [N] (row -> assignment) and rank
    [N], its inverse; expert and slot [N] of each row; offsets [E + 1]."""
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


def sort_topk(expert_TK: Tensor, num_experts: int) -> tuple[Tensor, ...]:
    """As sort_by_expert, of every token's K choices; after the offsets come token and choice [N] of
    each row, and token_offsets [T + 1]."""
    triton = kernels_for(expert_TK, num_experts=num_experts)
    if triton is not None:
        return triton.sort_topk(expert_TK, num_experts)
    num_tokens, top_k = expert_TK.shape
    order_N, rank_N, expert, slot, offsets = sort_by_expert(expert_TK.reshape(-1), num_experts)
    tokens_T1 = torch.arange(num_tokens + 1, device=expert_TK.device, dtype=torch.int32)
    token, choice = order_N // top_k, order_N % top_k
    return order_N, rank_N, expert, slot, offsets, token, choice, tokens_T1 * top_k


def count(group_N: Tensor, num_groups: int) -> Tensor:
    """How often each of 0..num_groups - 1 stands in group_N, int64; unlike bincount it does not let
    a GPU wait for the host."""
    zeros = torch.zeros(num_groups, device=group_N.device, dtype=torch.int64)
    return zeros.scatter_add_(0, group_N.long(), torch.ones_like(group_N, dtype=torch.int64))


def number_in_group(group_N: Tensor, num_groups: int) -> Tensor:
    """Each row's number among those of its group, in their order, int64 [N]."""
    _, rank_N, _, slot_N, _ = sort_by_expert(group_N, num_groups)
    return slot_N[rank_N.long()].long()


def gather(x_TD: Tensor, token_N: Tensor) -> Tensor:
    """Each assignment's token, x_ND."""
    triton = kernels_for(x_TD)
    if triton is not None:
        return triton.gather(x_TD, token_N)
    return x_TD.index_select(0, token_N)


def gather_sum(
    y_ND: Tensor, inverse_N: Tensor, token_offsets: Tensor, weight_N: Tensor | None = None
) -> Tensor:
    """Each token's rows added up, y_TD, each times its weight where there are weights; the last two
    tensors before the weights as in a Plan.

    embedding_bag gathers and sums at once, without a copy of the rows in token order. Unlike a
    scatter-add it needs no atomics, so the result does not depend on the order of threads. The
    kernel does the same, with a float32 sum.
    """
    triton = kernels_for(y_ND)
    if triton is not None:
        rows_ND = y_ND if weight_N is None else y_ND * weight_N[:, None]
        return triton.gather_sum(rows_ND, inverse_N, token_offsets)
    return F.embedding_bag(
        inverse_N,
        y_ND,
        token_offsets,
        mode="sum",
        include_last_offset=True,
        per_sample_weights=None if weight_N is None else weight_N.index_select(0, inverse_N),
    )
