"""Softmax and top-K of the router's logits, one read of the logits.

    logits_TE          scores_TE            expert_TK  weight_TK   or renormalised
    t0  .1 2. .3 1. -> .09 .59 .11 .22  ->     1 3      .59 .22       .73 .27
    t1  4. .2 .1 .5    .93 .02 .02 .03         0 3      .93 .03       .97 .03
        K rounds: take the largest, of equals the first, and strike it out

A program holds BLOCK_T rows of all E logits in registers (E padded to a power of two with -inf).
Backward, one program again has whole rows: s a row's scores, g a gradient, c the chosen experts,
d logits = s (g_s - <g_s, s>)   where raw weights are scores too: g_s + g_w at c stands for g_s
         + w (g_w - <g_w, w>)   at c, of renormalised weights: they are a softmax over the chosen
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moeviz_kernels.sizes import cdiv, next_power_of_2
from moeviz_kernels.sort import MAX_EXPERTS

ELEMENTS = 2048  # logits held by one program


@triton.jit(do_not_specialize=["T"])
def topk_kernel(
    logits_ptr,  # [T, E] float32
    scores_ptr,  # [T, E] float32, written with SOFTMAX
    weight_ptr,  # [T, K] float32, written with SOFTMAX
    expert_ptr,  # [T, K] int64
    T,
    E,
    K: tl.constexpr,
    SOFTMAX: tl.constexpr,
    RENORMALISE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    t = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    e = tl.arange(0, BLOCK_E)
    j = tl.arange(0, BLOCK_K)
    inside = (t < T)[:, None] & (e < E)[None, :]
    at = t[:, None] * E + e[None, :]
    logits = tl.load(logits_ptr + at, mask=inside, other=-float("inf"))
    # What lies outside must not make NaN of its own row; no row inside is all -inf.
    logits = tl.where((t < T)[:, None], logits, 0.0)
    left = logits
    largest = tl.max(logits, axis=1)
    expert = tl.zeros([BLOCK_T, BLOCK_K], tl.int32)
    weight = tl.zeros([BLOCK_T, BLOCK_K], tl.float32)
    # Not unrolled: 32 rounds would spill, and take ptxas half a minute.
    for k in range(K):
        value, index = tl.max(left, axis=1, return_indices=True, return_indices_tie_break_left=True)
        index = tl.minimum(index, E - 1)  # NaN compares with nothing: stay inside all the same
        expert = tl.where((j == k)[None, :], index[:, None], expert)
        if SOFTMAX:
            weight = tl.where((j == k)[None, :], tl.exp(value - largest)[:, None], weight)
        left = tl.where(e[None, :] == index[:, None], -float("inf"), left)
    at_k = t[:, None] * K + j[None, :]
    inside_k = (t < T)[:, None] & (j < K)[None, :]
    tl.store(expert_ptr + at_k, expert.to(tl.int64), mask=inside_k)
    if SOFTMAX:
        power = tl.exp(logits - largest[:, None])
        total = tl.sum(power, axis=1)
        tl.store(scores_ptr + at, power / total[:, None], mask=inside)
        if RENORMALISE:
            total = tl.sum(weight, axis=1)
        tl.store(weight_ptr + at_k, weight / total[:, None], mask=inside_k)


@triton.jit(do_not_specialize=["T"])
def softmax_topk_backward_kernel(
    scores_ptr,  # [T, E] float32
    weight_ptr,  # [T, K] float32, read with RENORMALISE
    expert_ptr,  # [T, K] int64
    grad_scores_ptr,  # [T, E] float32, read with OF_SCORES
    grad_weight_ptr,  # [T, K] float32, read with OF_WEIGHTS
    out_ptr,  # [T, E] float32, the gradient of the logits
    T,
    E,
    K: tl.constexpr,
    RENORMALISE: tl.constexpr,
    OF_SCORES: tl.constexpr,
    OF_WEIGHTS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    t = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    e = tl.arange(0, BLOCK_E)
    inside = (t < T)[:, None] & (e < E)[None, :]
    at = t[:, None] * E + e[None, :]
    chosen = tl.zeros([BLOCK_T, BLOCK_E], tl.float32)
    if OF_WEIGHTS:
        mean = tl.zeros([BLOCK_T], tl.float32)
        if RENORMALISE:
            for k in range(K):
                weight = tl.load(weight_ptr + t * K + k, mask=t < T, other=0.0)
                mean += weight * tl.load(grad_weight_ptr + t * K + k, mask=t < T, other=0.0)
        for k in range(K):
            expert = tl.load(expert_ptr + t * K + k, mask=t < T, other=0).to(tl.int32)
            grad = tl.load(grad_weight_ptr + t * K + k, mask=t < T, other=0.0)
            if RENORMALISE:
                grad = (grad - mean) * tl.load(weight_ptr + t * K + k, mask=t < T, other=0.0)
            chosen = tl.where(e[None, :] == expert[:, None], grad[:, None], chosen)
    if OF_SCORES or not RENORMALISE:
        scores = tl.load(scores_ptr + at, mask=inside, other=0.0)
        grad_scores = tl.zeros([BLOCK_T, BLOCK_E], tl.float32)
        if OF_SCORES:
            grad_scores = tl.load(grad_scores_ptr + at, mask=inside, other=0.0)
        if not RENORMALISE:
            grad_scores += chosen
            chosen = tl.zeros([BLOCK_T, BLOCK_E], tl.float32)
        chosen += scores * (grad_scores - tl.sum(grad_scores * scores, axis=1)[:, None])
    tl.store(out_ptr + at, chosen, mask=inside)


def blocking(num_tokens: int, num_experts: int) -> tuple[tuple[int], dict[str, int]]:
    """The grid, and the blocks of a program."""
    block_e = next_power_of_2(num_experts)
    block_t = max(1, ELEMENTS // block_e)
    grid = (cdiv(num_tokens, block_t),)
    return grid, dict(BLOCK_T=block_t, BLOCK_E=block_e, num_warps=4)


def launch_topk(
    logits_TE: Tensor, k: int, *, softmax: bool, renormalise: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """scores_TE, weight_TK (both empty without softmax) and expert_TK int64, on float32 logits."""
    num_tokens, num_experts = logits_TE.shape
    scores_TE = torch.empty_like(logits_TE if softmax else logits_TE[:0])
    weight_TK = logits_TE.new_empty(num_tokens if softmax else 0, k)
    expert_TK = logits_TE.new_empty(num_tokens, k, dtype=torch.int64)
    grid, blocks = blocking(num_tokens, num_experts)
    if num_tokens:
        with torch.cuda.device_of(logits_TE):  # where Triton launches
            topk_kernel[grid](
                logits_TE, scores_TE, weight_TK, expert_TK, num_tokens, num_experts,
                K=k, SOFTMAX=softmax, RENORMALISE=renormalise,
                BLOCK_K=next_power_of_2(k), **blocks,
            )  # fmt: skip
    return scores_TE, weight_TK, expert_TK


@torch.library.custom_op("moeviz::topk", mutates_args=())
def _topk(scores_TE: Tensor, k: int) -> Tensor:
    return launch_topk(scores_TE, k, softmax=False)[2]


@_topk.register_fake
def _(scores_TE: Tensor, k: int) -> Tensor:
    return scores_TE.new_empty(scores_TE.shape[0], k, dtype=torch.int64)


@torch.library.custom_op("moeviz::softmax_topk", mutates_args=())
def _softmax_topk(logits_TE: Tensor, k: int, renormalise: bool) -> tuple[Tensor, Tensor, Tensor]:
    return launch_topk(logits_TE, k, softmax=True, renormalise=renormalise)


@_softmax_topk.register_fake
def _(logits_TE: Tensor, k: int, renormalise: bool) -> tuple[Tensor, Tensor, Tensor]:
    weight_TK = logits_TE.new_empty(logits_TE.shape[0], k)
    return torch.empty_like(logits_TE), weight_TK, torch.empty_like(weight_TK, dtype=torch.int64)


def launch_topk_backward(
    scores_TE: Tensor, weight_TK: Tensor, expert_TK: Tensor,
    grad_TE: Tensor | None, grad_TK: Tensor | None, renormalise: bool,
) -> Tensor:  # fmt: skip
    """The gradient of the logits."""
    (num_tokens, num_experts), k = scores_TE.shape, expert_TK.shape[1]
    out_TE = torch.empty_like(scores_TE)
    grid, blocks = blocking(num_tokens, num_experts)
    if num_tokens:
        with torch.cuda.device_of(scores_TE):
            softmax_topk_backward_kernel[grid](
                scores_TE, weight_TK, expert_TK,
                scores_TE if grad_TE is None else grad_TE.contiguous(),
                weight_TK if grad_TK is None else grad_TK.contiguous(),
                out_TE, num_tokens, num_experts,
                K=k, RENORMALISE=renormalise, OF_SCORES=grad_TE is not None,
                OF_WEIGHTS=grad_TK is not None, **blocks,
            )  # fmt: skip
    return out_TE


@torch.library.custom_op("moeviz::softmax_topk_backward", mutates_args=())
def _softmax_topk_backward(
    scores_TE: Tensor, weight_TK: Tensor, expert_TK: Tensor,
    grad_TE: Tensor | None, grad_TK: Tensor | None, renormalise: bool,
) -> Tensor:  # fmt: skip
    return launch_topk_backward(scores_TE, weight_TK, expert_TK, grad_TE, grad_TK, renormalise)


@_softmax_topk_backward.register_fake
def _(scores_TE, weight_TK, expert_TK, grad_TE, grad_TK, renormalise):
    return torch.empty_like(scores_TE)


def _keep(ctx, inputs, output) -> None:
    scores_TE, weight_TK, expert_TK = output
    ctx.renormalise = inputs[2]
    ctx.mark_non_differentiable(expert_TK)
    ctx.set_materialize_grads(False)  # scores that no loss reads have no gradient to fill with 0
    ctx.save_for_backward(scores_TE, weight_TK, expert_TK)


def _gradient(ctx, grad_TE: Tensor | None, grad_TK: Tensor | None, _: None):
    if grad_TE is None and grad_TK is None:
        return None, None, None
    return _softmax_topk_backward(*ctx.saved_tensors, grad_TE, grad_TK, ctx.renormalise), None, None


_softmax_topk.register_autograd(_gradient, setup_context=_keep)


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
    """The k best experts of each token, int64 [T, k], best first; of equal scores the lower index.

    scores_TE: float32, no NaN, at least k of each row above -inf. Not differentiable. ValueError on
    other shapes and dtypes, and outside 1 <= k <= E <= 4096.
    """
    check(scores_TE, k)
    return _topk(scores_TE.detach().contiguous(), k)


def softmax_topk(
    logits_TE: Tensor, k: int, *, renormalise: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """scores_TE = softmax(logits_TE), the k largest of each row weight_TK, with `renormalise` over
    their sum, and whose they are, expert_TK int64: as `topk` on the logits. Gradients flow through
    scores and weights."""
    check(logits_TE, k)
    return _softmax_topk(logits_TE.contiguous(), k, renormalise)
