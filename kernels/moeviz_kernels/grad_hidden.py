"""Backward through the down-projection and SwiGLU, in one kernel.

    dO_TD           w2[e]                  dh = dO[token] W2     (float32, in registers)
    t0 ....         [D, F]             ->  [BM, BF]
    t1 ....  token                           |   and z_N2F, from which a = silu(gate) * up again
    t2 .... ------> each tile: BM rows       +-> h_NF       weight * a         (for dW2)
    t3 ....         of one expert            +-> dz_N2F     gradient of z      (for dW13 and dx)
                                             +-> dweight    sum over F of dh * a

<dO, W2 a> = <dO W2, a>: the weight's gradient falls out here, and neither the experts' output nor
its gradient is ever stored. A program sees BLOCK_N of the F columns and writes its part of the sum;
the parts are added in a fixed order. W2 comes by pointers alone: an H200 was slower by descriptors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moeviz_kernels.configs import Gemm, launch_options
from moeviz_kernels.sizes import cdiv
from moeviz_kernels.tiles import grouped_order
from moeviz_kernels.up import logistic, takes_fast_sigmoid


@triton.jit
def swiglu_backward(dh, weight, real, m, f, z_ptr, h_ptr, dz_ptr, F, FAST: tl.constexpr):
    """Stores h and dz of some columns f, returns their part of the weights' gradient."""
    inside = real[:, None] & (f < F)[None, :]
    h_at = m[:, None] * F + f[None, :]
    z_at = h_at + m[:, None] * F
    gate = tl.load(z_ptr + z_at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(z_ptr + z_at + F, mask=inside, other=0.0).to(tl.float32)
    sigmoid = logistic(gate, FAST)
    silu = gate * sigmoid
    a = silu * up
    da = weight[:, None] * dh
    dgate = da * up * (sigmoid + silu * (1 - sigmoid))
    tl.store(h_ptr + h_at, (weight[:, None] * a).to(h_ptr.dtype.element_ty), mask=inside)
    tl.store(dz_ptr + z_at, dgate.to(dz_ptr.dtype.element_ty), mask=inside)
    tl.store(dz_ptr + z_at + F, (da * silu).to(dz_ptr.dtype.element_ty), mask=inside)
    # Outside, gate and up are 0 and so is a: padding columns add nothing.
    return tl.sum(dh * a, axis=1)


@triton.jit
def in_parts(
    dh, weight, real, m, first_f, z_ptr, h_ptr, dz_ptr, F,
    FAST: tl.constexpr, EPILOGUE: tl.constexpr,
):  # fmt: skip
    """swiglu_backward of few columns at a time: all at once would not fit the registers."""
    COLUMNS: tl.constexpr = dh.shape[1]
    HALF: tl.constexpr = COLUMNS // 2
    if COLUMNS <= EPILOGUE:
        f = first_f + tl.arange(0, COLUMNS)
        part = swiglu_backward(dh, weight, real, m, f, z_ptr, h_ptr, dz_ptr, F, FAST)
    else:
        left, right = tl.split(tl.permute(tl.reshape(dh, [dh.shape[0], 2, HALF]), [0, 2, 1]))
        part = in_parts(left, weight, real, m, first_f, z_ptr, h_ptr, dz_ptr, F, FAST, EPILOGUE)
        first_f += HALF
        part += in_parts(right, weight, real, m, first_f, z_ptr, h_ptr, dz_ptr, F, FAST, EPILOGUE)
    return part


@triton.jit(do_not_specialize=["N", "num_tiles"])
def grad_hidden_kernel(
    grad_ptr,  # [T, D], gradient of the layer's output
    token_ptr,  # [N] int32
    weight_ptr,  # [N] float32
    w2_ptr,  # [E, D, F]
    z_ptr,  # [N, 2F]
    tile_expert_ptr,
    tile_row_ptr,
    offsets_ptr,  # [E + 1] int32
    h_ptr,  # [N, F], written
    dz_ptr,  # [N, 2F], written
    part_ptr,  # [column blocks, N] float32, written: parts of the weights' gradient
    N,
    D,
    F,
    num_tiles,
    FAST: tl.constexpr,  # see up.logistic
    EPILOGUE: tl.constexpr,  # columns of dh that become h and dz at a time
    EVEN_K: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    tile, column = grouped_order(tl.program_id(0), num_tiles, tl.cdiv(F, BLOCK_N), GROUP)
    expert = tl.load(tile_expert_ptr + tile)
    if expert < 0:
        return
    first = tl.load(tile_row_ptr + tile)
    m = tl.arange(0, BLOCK_M)
    real = first + m < tl.load(offsets_ptr + expert + 1)
    f = column * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    token = tl.load(token_ptr + first + m, mask=real, other=0).to(tl.int64)
    grad_at = grad_ptr + token[:, None] * D + k[None, :]
    w2_at = w2_ptr + expert.to(tl.int64) * D * F + k.to(tl.int64)[:, None] * F + (f % F)[None, :]
    dh = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, D, BLOCK_K):
        if EVEN_K:
            grad, w2 = tl.load(grad_at), tl.load(w2_at)
        else:
            inside = start + k < D
            grad = tl.load(grad_at, mask=inside[None, :], other=0.0)
            w2 = tl.load(w2_at, mask=inside[:, None], other=0.0)
        dh = tl.dot(grad, w2, dh, input_precision=PRECISION)
        grad_at += BLOCK_K
        w2_at += BLOCK_K * F

    weight = tl.load(weight_ptr + first + m, mask=real, other=0.0)
    z_ptr += first.to(tl.int64) * (2 * F)
    h_ptr += first.to(tl.int64) * F
    dz_ptr += first.to(tl.int64) * (2 * F)
    first_f = column * BLOCK_N
    part = in_parts(dh, weight, real, m, first_f, z_ptr, h_ptr, dz_ptr, F, FAST, EPILOGUE)
    tl.store(part_ptr + column.to(tl.int64) * N + first + m, part, mask=real)


def grad_hidden(
    grad_TD: Tensor,
    token: Tensor,
    weight: Tensor,
    w2_EDF: Tensor,
    z_N2F: Tensor,
    offsets: Tensor,
    tiles: tuple[Tensor, Tensor],
    config: Gemm,
) -> tuple[Tensor, Tensor, Tensor]:
    """h_NF, dz_N2F and the gradient of the weights, float32 [N], as drawn above."""
    num_rows, (_, d_model, d_expert) = token.numel(), w2_EDF.shape
    columns = cdiv(d_expert, config.block_n)
    h_NF, dz_N2F = grad_TD.new_empty(num_rows, d_expert), torch.empty_like(z_N2F)
    part = torch.empty(columns, num_rows, device=grad_TD.device, dtype=torch.float32)
    flags = dict(
        FAST=takes_fast_sigmoid(grad_TD.dtype), EPILOGUE=min(config.epilogue, config.block_n // 4),
        EVEN_K=d_model % config.block_k == 0,
    )  # fmt: skip
    options = launch_options(config, grad_TD.dtype)
    grad_hidden_kernel[(tiles[0].numel() * columns,)](
        grad_TD, token, weight, w2_EDF, z_N2F, *tiles, offsets, h_NF, dz_N2F, part,
        num_rows, d_model, d_expert, tiles[0].numel(), **flags, **options,
    )  # fmt: skip
    return h_NF, dz_N2F, part.sum(0)
