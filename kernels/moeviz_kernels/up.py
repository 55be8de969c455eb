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

Paths "tma" and "flat", drawn in tma.py, read W13 by descriptor, gate rows above up rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from moeviz_kernels.configs import Gemm, launch_options
from moeviz_kernels.sizes import cdiv, next_power_of_2
from moeviz_kernels.support import interpreted
from moeviz_kernels.tiles import count_tiles, grouped_order
from moeviz_kernels.tma import programs_that_stay, takes_tma


@triton.jit
def logistic(x, FAST: tl.constexpr):
    """The sigmoid. FAST: by the chip's own 2^x and 1/x, right to 2^-16 of its size from x = -87 on,
    for what is rounded to 16 bits (2^-9, 2^-12) right after. Else by an exact division."""
    if FAST:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [1 + tl.exp2(x * -1.4426950408889634)],
            dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    return tl.sigmoid(x)


@triton.jit
def store_hidden(
    gate, up, weight, first, real, m, f, z_ptr, h_ptr, F, SAVE: tl.constexpr, FAST: tl.constexpr
):
    """h, and z with SAVE, of the rows first + m and the units f."""
    inside = real[:, None] & (f < F)[None, :]
    if SAVE:
        z_at = z_ptr + first.to(tl.int64) * (2 * F) + m[:, None] * (2 * F) + f[None, :]
        tl.store(z_at, gate.to(z_ptr.dtype.element_ty), mask=inside)
        tl.store(z_at + F, up.to(z_ptr.dtype.element_ty), mask=inside)
    h = weight[:, None] * (gate * logistic(gate, FAST)) * up
    h_at = h_ptr + first.to(tl.int64) * F + m[:, None] * F + f[None, :]
    tl.store(h_at, h.to(h_ptr.dtype.element_ty), mask=inside)


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
    FAST: tl.constexpr,  # see logistic
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
    weight = tl.load(weight_ptr + first + m, mask=real, other=0.0)
    f = column * UNITS + tl.arange(0, UNITS)
    store_hidden(gate, up, weight, first, real, m, f, z_ptr, h_ptr, F, SAVE, FAST)


@triton.jit(do_not_specialize=["E", "num_programs"])
def up_tma_kernel(
    x_ptr,  # [T, D]
    token_ptr,  # [N] int32: row -> token
    weight_ptr,  # [N] float32
    w13,  # descriptor of [2E, F, D]: the gate rows of an expert, then its up rows
    tile_expert_ptr,
    tile_row_ptr,
    offsets_ptr,  # [E + 1] int32
    z_ptr,  # [N, 2F], written with SAVE
    h_ptr,  # [N, F]
    D,
    F,
    E,
    num_programs,
    SAVE: tl.constexpr,
    FAST: tl.constexpr,
    EVEN_K: tl.constexpr,  # D is a multiple of BLOCK_K
    FLAT: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    UNITS: tl.constexpr = BLOCK_N // 2
    num_tiles = count_tiles(offsets_ptr, E, BLOCK_M, BLOCK_E)
    columns = tl.cdiv(F, UNITS)
    m = tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    for block in tl.range(tl.program_id(0), num_tiles * columns, num_programs, flatten=FLAT):
        tile, column = grouped_order(block, num_tiles, columns, GROUP)
        expert = tl.load(tile_expert_ptr + tile)
        first = tl.load(tile_row_ptr + tile)
        real = first + m < tl.load(offsets_ptr + expert + 1)
        token = tl.load(token_ptr + first + m, mask=real, other=0).to(tl.int64)
        x_at = x_ptr + token[:, None] * D + k[None, :]
        z = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for start in range(0, D, BLOCK_K):
            if EVEN_K:
                x = tl.load(x_at)
            else:
                x = tl.load(x_at, mask=(start + k < D)[None, :], other=0.0)
            rows = w13.load([2 * expert, column * UNITS, start]).reshape(BLOCK_N, BLOCK_K)
            z = tl.dot(x, rows.T, z, input_precision=PRECISION)
            x_at += BLOCK_K

        # Gate and up side by side: columns c and UNITS + c of a product lie in one thread, too.
        gate, up = tl.split(tl.permute(tl.reshape(z, [BLOCK_M, 2, UNITS]), [0, 2, 1]))
        weight = tl.load(weight_ptr + first + m, mask=real, other=0.0)
        f = column * UNITS + tl.arange(0, UNITS)
        store_hidden(gate, up, weight, first, real, m, f, z_ptr, h_ptr, F, SAVE, FAST)


def takes_fast_sigmoid(dtype: torch.dtype) -> bool:
    return dtype != torch.float32 and not interpreted()


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
    num_rows, (num_experts, two_f, d_model) = token.numel(), w13_E2FD.shape
    d_expert = two_f // 2
    h_NF = x_TD.new_empty(num_rows, d_expert)
    z_N2F = x_TD.new_empty(num_rows if save else 0, two_f)
    flags = dict(
        SAVE=save, FAST=takes_fast_sigmoid(x_TD.dtype), EVEN_K=d_model % config.block_k == 0
    )
    options = launch_options(config, x_TD.dtype)
    units = config.block_n // 2
    most_blocks = tiles[0].numel() * cdiv(d_expert, units)
    rows_2EFD = w13_E2FD.view(-1, d_expert, d_model)
    if config.path == "pointer" or not takes_tma(rows_2EFD):
        up_kernel[(most_blocks,)](
            x_TD, token, weight, w13_E2FD, *tiles, offsets, z_N2F, h_NF,
            d_model, d_expert, tiles[0].numel(), **flags, **options,
        )  # fmt: skip
    else:
        w13 = TensorDescriptor.from_tensor(rows_2EFD, [2, units, config.block_k])
        programs = programs_that_stay(config, x_TD, most_blocks)
        up_tma_kernel[(programs,)](
            x_TD, token, weight, w13, *tiles, offsets, z_N2F, h_NF,
            d_model, d_expert, num_experts, programs,
            FLAT=config.path == "flat", BLOCK_E=next_power_of_2(num_experts),
            **flags, **options,
        )  # fmt: skip
    return h_NF, z_N2F
