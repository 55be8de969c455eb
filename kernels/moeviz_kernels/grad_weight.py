"""Gradients of the expert weights: for each expert, its rows' outer products summed up.

dW[e] [A, B] = sum over the rows n of expert e:  left[n] (outer) right[n]

left_NA     right_NB          one program: one expert, a block of its A x B matrix,
| | |       | | |             BLOCK_K rows a step, however many the expert has
| | |  x    | | |   ->  dW    an expert without rows writes zeros: no clearing beforehand
dW2  = dO[token]  x  h        one side is gathered from the tokens where it is read
dW13 = dz         x  x[token]
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from moeviz_kernels.configs import Gemm, launch_options
from moeviz_kernels.tiles import grouped_order


@triton.jit
def grad_weight_kernel(
    left_ptr,  # [N, A], or [T, A] with GATHER_LEFT
    right_ptr,  # [N, B], or [T, B] without
    token_ptr,  # [N] int32
    offsets_ptr,  # [E + 1] int32
    out_ptr,  # [E, A, B]
    A,
    B,
    GATHER_LEFT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    blocks_a, blocks_b = tl.cdiv(A, BLOCK_M), tl.cdiv(B, BLOCK_N)
    expert = tl.program_id(0) // (blocks_a * blocks_b)
    inside = tl.program_id(0) % (blocks_a * blocks_b)
    block_a, block_b = grouped_order(inside, blocks_a, blocks_b, GROUP)
    a = block_a * BLOCK_M + tl.arange(0, BLOCK_M)
    b = block_b * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    start, end = tl.load(offsets_ptr + expert), tl.load(offsets_ptr + expert + 1)
    out = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(start, end, BLOCK_K):
        row = first + k
        token = tl.load(token_ptr + row, mask=row < end, other=0).to(tl.int64)
        row64 = row.to(tl.int64)
        left_row = token if GATHER_LEFT else row64
        right_row = row64 if GATHER_LEFT else token
        real = (row < end)[:, None]
        left = tl.load(left_ptr + left_row[:, None] * A + (a % A)[None, :], mask=real, other=0.0)
        right = tl.load(right_ptr + right_row[:, None] * B + (b % B)[None, :], mask=real, other=0.0)
        out = tl.dot(tl.trans(left), right, out, input_precision=PRECISION)
    out_at = out_ptr + (expert.to(tl.int64) * A + a[:, None]) * B + b[None, :]
    tl.store(out_at, out.to(out_ptr.dtype.element_ty), mask=(a < A)[:, None] & (b < B)[None, :])


def grad_weight(
    left: Tensor, right: Tensor, token: Tensor, offsets: Tensor, config: Gemm, *, gather_left: bool
) -> Tensor:
    """dW_EAB of one bank of weights. left [N, A], right [N, B]; the one that is gathered is [T, .]
    and read by `token`."""
    num_experts, width_a, width_b = offsets.numel() - 1, left.shape[1], right.shape[1]
    out_EAB = left.new_empty(num_experts, width_a, width_b)
    blocks = triton.cdiv(width_a, config.block_m) * triton.cdiv(width_b, config.block_n)
    grad_weight_kernel[(num_experts * blocks,)](
        left, right, token, offsets, out_EAB, width_a, width_b,
        GATHER_LEFT=gather_left,
        **launch_options(config, left.dtype),
    )  # fmt: skip
    return out_EAB
