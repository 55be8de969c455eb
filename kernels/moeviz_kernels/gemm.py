"""Grouped matrix product: rows sorted by expert, each times its expert's matrix.

    rows_NK           matrix_e              out_NC
    [ expert 0 ]  x   W[0]  [K, C]    ->    [ expert 0 ]
    [ expert 0 ]                            [ expert 0 ]
    [ expert 1 ]  x   W[1]            ->    [ expert 1 ]
        one program: BLOCK_M rows of one expert, BLOCK_N columns

Forward it is the down-projection h W2^T; backward, the gradient of the gathered rows, dz W13. The
two differ in the strides of the matrix alone. Paths "tma" and "flat", drawn in tma.py, read both
operands by descriptor.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from moeviz_kernels.configs import Gemm, launch_options
from moeviz_kernels.sizes import cdiv, next_power_of_2
from moeviz_kernels.tiles import count_tiles, grouped_order
from moeviz_kernels.tma import programs_that_stay, takes_tma


@triton.jit(do_not_specialize=["num_tiles"])
def gemm_kernel(
    rows_ptr,  # [N, K]
    matrix_ptr,  # [E, ...], element (e, k, c) at e * K * C + k * stride_k + c * stride_c
    tile_expert_ptr,
    tile_row_ptr,
    offsets_ptr,  # [E + 1] int32
    out_ptr,  # [N, C]
    K,
    C,
    stride_k,
    stride_c,
    num_tiles,
    EVEN_K: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    tile, column = grouped_order(tl.program_id(0), num_tiles, tl.cdiv(C, BLOCK_N), GROUP)
    expert = tl.load(tile_expert_ptr + tile)
    if expert < 0:
        return
    first = tl.load(tile_row_ptr + tile)
    rows_left = tl.load(offsets_ptr + expert + 1) - first
    m = tl.arange(0, BLOCK_M)
    c = column * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # Padding rows read the tile's last real row, padding columns wrap: no mask in the loop.
    rows_at = rows_ptr + first.to(tl.int64) * K
    rows_at += tl.minimum(m, rows_left - 1)[:, None] * K + k[None, :]
    matrix_at = (
        matrix_ptr
        + expert.to(tl.int64) * K * C
        + k[:, None] * stride_k
        + (c % C).to(tl.int64)[None, :] * stride_c
    )
    out = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, K, BLOCK_K):
        if EVEN_K:
            rows, matrix = tl.load(rows_at), tl.load(matrix_at)
        else:
            inside = start + k < K
            rows = tl.load(rows_at, mask=inside[None, :], other=0.0)
            matrix = tl.load(matrix_at, mask=inside[:, None], other=0.0)
        out = tl.dot(rows, matrix, out, input_precision=PRECISION)
        rows_at += BLOCK_K
        matrix_at += BLOCK_K * stride_k
    out_at = out_ptr + first.to(tl.int64) * C + m[:, None] * C + c[None, :]
    inside = (m < rows_left)[:, None] & (c < C)[None, :]
    tl.store(out_at, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["E", "num_programs"])
def gemm_tma_kernel(
    rows,  # descriptor of [N, K]
    matrix,  # descriptor of [E, C, K], or with K_FIRST of [E, K, C]
    tile_expert_ptr,
    tile_row_ptr,
    offsets_ptr,  # [E + 1] int32
    out_ptr,  # [N, C]
    K,
    C,
    E,
    num_programs,
    K_FIRST: tl.constexpr,
    FLAT: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    num_tiles = count_tiles(offsets_ptr, E, BLOCK_M, BLOCK_E)
    columns = tl.cdiv(C, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    for block in tl.range(tl.program_id(0), num_tiles * columns, num_programs, flatten=FLAT):
        tile, column = grouped_order(block, num_tiles, columns, GROUP)
        expert = tl.load(tile_expert_ptr + tile)
        first = tl.load(tile_row_ptr + tile)
        rows_left = tl.load(offsets_ptr + expert + 1) - first
        out = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        # Padding rows are the next expert's: whatever they hold stays in their own sums.
        for start in range(0, K, BLOCK_K):
            left = rows.load([first, start])
            if K_FIRST:
                right = matrix.load([expert, start, column * BLOCK_N]).reshape(BLOCK_K, BLOCK_N)
            else:
                right = matrix.load([expert, column * BLOCK_N, start]).reshape(BLOCK_N, BLOCK_K).T
            out = tl.dot(left, right, out, input_precision=PRECISION)
        c = column * BLOCK_N + tl.arange(0, BLOCK_N)
        out_at = out_ptr + first.to(tl.int64) * C + m[:, None] * C + c[None, :]
        inside = (m < rows_left)[:, None] & (c < C)[None, :]
        tl.store(out_at, out.to(out_ptr.dtype.element_ty), mask=inside)


def grouped_gemm(
    rows_NK: Tensor,
    matrix_EKC: Tensor,
    offsets: Tensor,
    tiles: tuple[Tensor, Tensor],
    config: Gemm,
) -> Tensor:
    """out_NC: row n times the matrix of its expert. matrix_EKC: one [K, C] or transposed [C, K]
    block per expert, as a view of contiguous weights."""
    num_rows, (num_experts, depth, width) = rows_NK.shape[0], matrix_EKC.shape
    out_NC = rows_NK.new_empty(num_rows, width)
    most_blocks = tiles[0].numel() * cdiv(width, config.block_n)
    options = launch_options(config, rows_NK.dtype)
    k_first = matrix_EKC.stride(2) == 1
    matrix = matrix_EKC if k_first else matrix_EKC.transpose(1, 2)
    if config.path == "pointer" or not takes_tma(rows_NK, matrix):
        gemm_kernel[(most_blocks,)](
            rows_NK, matrix_EKC, *tiles, offsets, out_NC,
            depth, width, matrix_EKC.stride(1), matrix_EKC.stride(2), tiles[0].numel(),
            EVEN_K=depth % config.block_k == 0, **options,
        )  # fmt: skip
    else:
        box = (config.block_k, config.block_n) if k_first else (config.block_n, config.block_k)
        programs = programs_that_stay(config, rows_NK, most_blocks)
        gemm_tma_kernel[(programs,)](
            TensorDescriptor.from_tensor(rows_NK, [config.block_m, config.block_k]),
            TensorDescriptor.from_tensor(matrix, [1, *box]), *tiles, offsets, out_NC,
            depth, width, num_experts, programs, K_FIRST=k_first, FLAT=config.path == "flat",
            BLOCK_E=next_power_of_2(num_experts), **options,
        )  # fmt: skip
    return out_NC
