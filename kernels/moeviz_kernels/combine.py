"""Gather and gather-sum: tokens to rows, rows back to tokens.

    rows_ND               inverse: token 0 has rows 1 4, token 1 none, token 2 rows 0 2 3
    0 ....
    1 ....  --+           y[0] = rows[1] + rows[4]
    2 ....    |--> sum    y[1] = 0
    3 ....    |           y[2] = rows[0] + rows[2] + rows[3]
    4 ....  --+

Every token adds its own rows, in one order, in float32: no atomics, so the sum is the same in every
run. Four of a token's rows are on their way at a time. The transpose of one kernel is the other.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moeviz_kernels.sizes import cdiv, next_power_of_2

MAX_BLOCK = 2048


@triton.jit
def row_of(inverse_ptr, i, end):
    """The i-th row; -1 behind a token's last."""
    return tl.load(inverse_ptr + i, mask=i < end, other=-1).to(tl.int64)


@triton.jit
def values(rows_ptr, row, d, D):
    return tl.load(rows_ptr + row * D + d, mask=(row >= 0) & (d < D), other=0.0).to(tl.float32)


@triton.jit
def gather_sum_kernel(
    rows_ptr,  # [N, D]
    inverse_ptr,  # [N] int32: the rows in token order
    token_offsets_ptr,  # [T + 1] int32
    y_ptr,  # [T, D]
    D,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start = tl.load(token_offsets_ptr + token)
    end = tl.load(token_offsets_ptr + token + 1)
    total = tl.zeros([BLOCK], tl.float32)
    for i in range(start, end, 4):
        # Zeros stand for rows that are not there: they change no total, as none is -0.
        row_0, row_1 = row_of(inverse_ptr, i, end), row_of(inverse_ptr, i + 1, end)
        row_2, row_3 = row_of(inverse_ptr, i + 2, end), row_of(inverse_ptr, i + 3, end)
        v_0, v_1 = values(rows_ptr, row_0, d, D), values(rows_ptr, row_1, d, D)
        v_2, v_3 = values(rows_ptr, row_2, d, D), values(rows_ptr, row_3, d, D)
        total = (((total + v_0) + v_1) + v_2) + v_3
    tl.store(y_ptr + token * D + d, total.to(y_ptr.dtype.element_ty), mask=d < D)


@triton.jit
def gather_kernel(
    x_ptr,  # [T, D]
    token_ptr,  # [N] int32
    rows_ptr,  # [N, D]
    D,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(token_ptr + row).to(tl.int64)
    tl.store(rows_ptr + row * D + d, tl.load(x_ptr + token * D + d, mask=d < D), mask=d < D)


def _block(width: int) -> int:
    return min(next_power_of_2(width), MAX_BLOCK)


def gather_sum(rows_ND: Tensor, inverse: Tensor, token_offsets: Tensor) -> Tensor:
    """y_TD: each token's rows added up, zeros for a token without rows."""
    num_tokens, width = token_offsets.numel() - 1, rows_ND.shape[1]
    y_TD = rows_ND.new_empty(num_tokens, width)
    block = _block(width)
    # A thread has eight numbers of a row, in 16-bit types one load, and registers for four rows:
    # ptxas by itself takes fewer and loads one row after the other.
    options = dict(BLOCK=block, num_warps=max(1, block // 256), maxnreg=64)
    inputs = (v.contiguous() for v in (rows_ND, inverse, token_offsets))
    if y_TD.numel():
        with torch.cuda.device_of(rows_ND):
            gather_sum_kernel[(num_tokens, cdiv(width, block))](*inputs, y_TD, width, **options)
    return y_TD


def gather(x_TD: Tensor, token: Tensor) -> Tensor:
    """rows_ND: each row its token's x."""
    num_rows, width = token.numel(), x_TD.shape[1]
    rows_ND = x_TD.new_empty(num_rows, width)
    block = _block(width)
    options = dict(BLOCK=block, num_warps=4 if block > 512 else 1)
    if rows_ND.numel():
        with torch.cuda.device_of(x_TD):
            gather_kernel[(num_rows, cdiv(width, block))](
                x_TD.contiguous(), token.contiguous(), rows_ND, width, **options
            )
    return rows_ND
