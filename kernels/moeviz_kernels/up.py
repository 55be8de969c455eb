"""Up-projection: gather, grouped matrix product and SwiGLU in one kernel.

    x_TD            w13[e] [2F, D]         g0 u0 g1 u1 ..  (float32, in registers)
    t0 ....         gate row 0         ->  [BLOCK_M, BLOCK_N]
    t1 ....  token  up row 0                 |  split: even columns gate, odd columns up
    t2 .... ------> gate row 1               +-> z_N2F    gate and up, kept for the backward
    t3 ....         up row 1 ..              +-> h_NF     weight * silu(gate) * up
        BLOCK_M rows of one expert, BLOCK_N / 2 of its F hidden units

The rows of x are read where they lie: no gathered copy is made. Gate and up are interleaved as the
weights are read, row by row: so both are one product, and the pair that SwiGLU multiplies lands in
one thread. The combine weight multiplies the hidden rows: W2 is linear, so the sum over a token's
experts then needs no weights, and the gradient of the weight is <dO W2, a>, for which the experts'
output need not be kept.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from moeviz_kernels.configs import Gemm, launch_options
from moeviz_kernels.tiles import grouped_order


@triton.jit(do_not_specialize=["num_tiles"])
def up_kernel(
    x_ptr,  # [T, D]
    token_ptr,  # [N] int32: row -> token
    weight_ptr,  # [N] float32
    w13_ptr,  # [E, 2F, D]
    tile_expert_ptr,
    tile_row_ptr,
    offsets_ptr,  # [E + 1] int32
    z_ptr,  # [N, 2F], written with SAVE
    h_ptr,  # [N, F]
    D,
    F,
    num_tiles,
    SAVE: tl.constexpr,
    EVEN_K: tl.constexpr,  # D is a multiple of BLOCK_K
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    UNITS: tl.constexpr = BLOCK_N // 2
    tile, column = grouped_order(tl.program_id(0), num_tiles, tl.cdiv(F, UNITS), GROUP)
    expert = tl.load(tile_expert_ptr + tile)
    if expert < 0:
        return
    first = tl.load(tile_row_ptr + tile)
    m = tl.arange(0, BLOCK_M)
    real = first + m < tl.load(offsets_ptr + expert + 1)
    k = tl.arange(0, BLOCK_K)
    # Padding rows and columns read what is there, which costs no mask in the loop.
    token = tl.load(token_ptr + first + m, mask=real, other=0).to(tl.int64)
    n = tl.arange(0, BLOCK_N)
    w13_row = (column * UNITS + n // 2) % F + (n % 2) * F
    x_at = x_ptr + token[:, None] * D + k[None, :]
    w13_at = w13_ptr + (expert.to(tl.int64) * 2 * F + w13_row)[None, :] * D + k[:, None]
    z = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, D, BLOCK_K):
        if EVEN_K:
            x, w13 = tl.load(x_at), tl.load(w13_at)
        else:
            inside = start + k < D
            x = tl.load(x_at, mask=inside[None, :], other=0.0)
            w13 = tl.load(w13_at, mask=inside[:, None], other=0.0)
        z = tl.dot(x, w13, z, input_precision=PRECISION)
        x_at += BLOCK_K
        w13_at += BLOCK_K

    gate, up = tl.split(tl.reshape(z, [BLOCK_M, UNITS, 2]))
    f = column * UNITS + tl.arange(0, UNITS)
    inside = real[:, None] & (f < F)[None, :]
    if SAVE:
        z_at = z_ptr + first.to(tl.int64) * (2 * F) + m[:, None] * (2 * F) + f[None, :]
        tl.store(z_at, gate.to(z_ptr.dtype.element_ty), mask=inside)
        tl.store(z_at + F, up.to(z_ptr.dtype.element_ty), mask=inside)
    weight = tl.load(weight_ptr + first + m, mask=real, other=0.0)
    h = weight[:, None] * (gate * tl.sigmoid(gate)) * up
    h_at = h_ptr + first.to(tl.int64) * F + m[:, None] * F + f[None, :]
    tl.store(h_at, h.to(h_ptr.dtype.element_ty), mask=inside)


def up_swiglu(
    x_TD: Tensor,
    token: Tensor,
    weight: Tensor,
    w13_E2FD: Tensor,
    offsets: Tensor,
    tiles: tuple[Tensor, Tensor],
    config: Gemm,
    *,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """h_NF = weight * silu(gate) * up, and z_N2F = [gate, up] (empty without `save`)."""
    num_rows, (_, two_f, d_model) = token.numel(), w13_E2FD.shape
    d_expert = two_f // 2
    h_NF = x_TD.new_empty(num_rows, d_expert)
    z_N2F = x_TD.new_empty(num_rows if save else 0, two_f)
    up_kernel[(tiles[0].numel() * triton.cdiv(d_expert, config.block_n // 2),)](
        x_TD, token, weight, w13_E2FD, *tiles, offsets, z_N2F, h_NF,
        d_model, d_expert, tiles[0].numel(),
        SAVE=save, EVEN_K=d_model % config.block_k == 0,
        **launch_options(config, x_TD.dtype),
    )  # fmt: skip
    return h_NF, z_N2F
