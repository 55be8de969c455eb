"""Softmax and top-K of the router's logits, one read of the logits.

    logits_TE          scores_TE            expert_TK  weight_TK
    t0  .1 2. .3 1. -> .07 .51 .09 .19  ->     1 3      .51 .19
    t1  4. .2 .1 .5    .89 .02 .02 .03         0 3      .89 .03
        K rounds: take the largest, of equals the first, and strike it out

A program holds BLOCK_T rows of all E logits in registers (E padded to a power of two with -inf).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moeviz_kernels.sort import MAX_EXPERTS

ELEMENTS = 2048  # logits held by one program


@triton.jit(do_not_specialize=["T"])
def topk_kernel(
    logits_ptr,  # [T, E] float32
    scores_ptr,  # [T, E] float32, written with SOFTMAX
    weight_ptr,  # [T, K] float32, written with SOFTMAX
    expert_ptr,  # [T, K] int32
    T,
    E,
    K: tl.constexpr,
    SOFTMAX: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    t = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    e = tl.arange(0, BLOCK_E)
    inside = (t < T)[:, None] & (e < E)[None, :]
    at = t[:, None] * E + e[None, :]
    logits = tl.load(logits_ptr + at, mask=inside, other=-float("inf"))
    # What lies outside must not make NaN of its own row; no row inside is all -inf.
    logits = tl.where((t < T)[:, None], logits, 0.0)
    left = logits
    if SOFTMAX:
        largest = tl.max(logits, axis=1)
        power = tl.exp(logits - largest[:, None])
        total = tl.sum(power, axis=1)
        tl.store(scores_ptr + at, power / total[:, None], mask=inside)
    # Not unrolled: 32 rounds would spill, and take ptxas half a minute.
    for k in range(K):
        value, index = tl.max(left, axis=1, return_indices=True, return_indices_tie_break_left=True)
        index = tl.minimum(index, E - 1)  # NaN compares with nothing: stay inside all the same
        tl.store(expert_ptr + t * K + k, index, mask=t < T)
        if SOFTMAX:
            tl.store(weight_ptr + t * K + k, tl.exp(value - largest) / total, mask=t < T)
        left = tl.where(e[None, :] == index[:, None], -float("inf"), left)


def launch(logits_TE: Tensor, k: int, softmax: bool) -> tuple[Tensor, Tensor, Tensor]:
    """scores_TE, weight_TK (both empty without softmax) and expert_TK int32, on float32 logits."""
    num_tokens, num_experts = logits_TE.shape
    scores_TE = torch.empty_like(logits_TE if softmax else logits_TE[:0])
    weight_TK = logits_TE.new_empty(num_tokens if softmax else 0, k)
    expert_TK = torch.empty(num_tokens, k, device=logits_TE.device, dtype=torch.int32)
    block_e = triton.next_power_of_2(num_experts)
    block_t = max(1, ELEMENTS // block_e)
    if num_tokens:
        with torch.cuda.device_of(logits_TE):  # where Triton launches
            topk_kernel[(triton.cdiv(num_tokens, block_t),)](
                logits_TE, scores_TE, weight_TK, expert_TK, num_tokens, num_experts,
                K=k, SOFTMAX=softmax, BLOCK_T=block_t, BLOCK_E=block_e, num_warps=4,
            )  # fmt: skip
    return scores_TE, weight_TK, expert_TK


@torch.library.custom_op("moeviz::topk", mutates_args=())
def _topk(scores_TE: Tensor, k: int) -> Tensor:
    return launch(scores_TE, k, softmax=False)[2]


@_topk.register_fake
def _(scores_TE: Tensor, k: int) -> Tensor:
    return scores_TE.new_empty(scores_TE.shape[0], k, dtype=torch.int32)


@torch.library.custom_op("moeviz::softmax_topk", mutates_args=())
def _softmax_topk(logits_TE: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    return launch(logits_TE, k, softmax=True)


@_softmax_topk.register_fake
def _(logits_TE: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    weight_TK = logits_TE.new_empty(logits_TE.shape[0], k)
    return torch.empty_like(logits_TE), weight_TK, weight_TK.new_empty(weight_TK.shape).int()


def _keep(ctx, inputs, output) -> None:
    scores_TE, _, expert_TK = output
    ctx.mark_non_differentiable(expert_TK)
    ctx.save_for_backward(scores_TE, expert_TK)


def _softmax_backward(ctx, grad_TE: Tensor, grad_TK: Tensor, _: None) -> tuple[Tensor, None]:
    """d logits = s (g - sum g s), where the chosen scores' gradient joins that of all scores."""
    scores_TE, expert_TK = ctx.saved_tensors
    grad_TE = grad_TE.scatter_add(1, expert_TK.long(), grad_TK)
    return scores_TE * (grad_TE - (grad_TE * scores_TE).sum(1, keepdim=True)), None


_softmax_topk.register_autograd(_softmax_backward, setup_context=_keep)


def check(scores_TE: Tensor, k: int) -> None:
    if scores_TE.ndim != 2 or scores_TE.dtype != torch.float32:
        raise ValueError(
            f"scores must be a float32 matrix [T, E], got {scores_TE.dtype} "
            f"{tuple(scores_TE.shape)}."
        )
    num_experts = scores_TE.shape[1]
    if not 1 <= num_experts <= MAX_EXPERTS:
        raise ValueError(f"The number of experts must lie in 1..{MAX_EXPERTS}, got {num_experts}.")
    if not 1 <= k <= num_experts:
        raise ValueError(f"k must lie in 1..{num_experts}, the number of experts, got {k}.")


def topk(scores_TE: Tensor, k: int) -> Tensor:
    """The k best experts of each token, int32 [T, k], best first; of equal scores the lower index.

    scores_TE: float32, no NaN, at least k of each row above -inf. Not differentiable. ValueError on
    other shapes and dtypes, and outside 1 <= k <= E <= 4096.
    """
    check(scores_TE, k)
    return _topk(scores_TE.detach().contiguous(), k)


def softmax_topk(logits_TE: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """scores_TE = softmax(logits_TE), the k largest of each row weight_TK, and whose they are,
    expert_TK int32: as `topk` on the logits. Gradients flow through scores and weights."""
    check(logits_TE, k)
    return _softmax_topk(logits_TE.contiguous(), k)
