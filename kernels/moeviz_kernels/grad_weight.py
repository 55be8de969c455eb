"""Gradients of the expert weights: for each expert, its rows' outer products summed up.

dW[e] [A, B] = sum over the rows n of expert e:  left[n] (outer) right[n]

left_NA     right_NB          one program: one expert, a block of its A x B matrix,
| | |       | | |             BLOCK_K rows a step, however many the expert has
| | |  x    | | |   ->  dW    an expert without rows writes zeros: no clearing beforehand
dW2  = dO[token]  x  h        one side is gathered from the tokens where it is read
dW13 = dz         x  x[token]

Only an expert's last block is ragged. Paths of a cut, which add in one order:

rows       0 .. 63   64 .. 127   128 .. 140     BLOCK_K 64
pointer    masked    masked      masked
ahead      whole     whole       masked         a block's tokens are read one block earlier, so that
                                                no row waits for its address
tma        whole     whole       masked         and the side that is not gathered comes by TMA
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from moeviz_kernels.configs import Gemm, launch_options
from moeviz_kernels.sizes import cdiv
from moeviz_kernels.tiles import grouped_order
from moeviz_kernels.tma import takes_tma


@triton.jit
def gathered_rows(x_ptr, token_K, first_column, width, real_K, COLUMNS: tl.constexpr):
    """[BLOCK_K, COLUMNS] of the tokens' rows. Zeros where real_K, if it is given, says that a row
    is another expert's."""
    column = (first_column + tl.arange(0, COLUMNS)) % width
    at = x_ptr + (token_K.to(tl.int64) * width)[:, None] + column[None, :]
    return tl.load(at) if real_K is None else tl.load(at, mask=real_K[:, None], other=0.0)


@triton.jit
def next_rows(
    rows, first, first_column, width, real_K,
    BLOCK_K: tl.constexpr, COLUMNS: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """[BLOCK_K, COLUMNS] of the rows from `first` on; zeros as there."""
    if TMA:  # reads zeros outside of the matrix, but also the next expert's rows
        block = rows.load([first, first_column])
        return block if real_K is None else tl.where(real_K[:, None], block, 0.0)
    else:
        column = (first_column + tl.arange(0, COLUMNS)) % width
        # The step's address is one number: what is added to it stays the same.
        at = rows + tl.cast(first, tl.int64) * width
        at += (tl.arange(0, BLOCK_K) * width)[:, None] + column[None, :]
        return tl.load(at) if real_K is None else tl.load(at, mask=real_K[:, None], other=0.0)


@triton.jit
def grad_weight_kernel(
    x_ptr,  # [T, A] with GATHER_LEFT, else [T, B]: the side that is gathered
    rows,  # pointer, or with TMA a descriptor: [N, B] with GATHER_LEFT, else [N, A]
    token_ptr,  # [N] int32
    offsets_ptr,  # [E + 1] int32
    out_ptr,  # [E, A, B]
    A,
    B,
    GATHER_LEFT: tl.constexpr,
    PATH: tl.constexpr,
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
    first_a, first_b = block_a * BLOCK_M, block_b * BLOCK_N
    first_x, first_r = (first_a, first_b) if GATHER_LEFT else (first_b, first_a)
    width_x, width_r = (A, B) if GATHER_LEFT else (B, A)
    COLUMNS_X: tl.constexpr = BLOCK_M if GATHER_LEFT else BLOCK_N
    COLUMNS_R: tl.constexpr = BLOCK_N if GATHER_LEFT else BLOCK_M
    TMA: tl.constexpr = PATH == "tma"
    k = tl.arange(0, BLOCK_K)
    start, end = tl.load(offsets_ptr + expert), tl.load(offsets_ptr + expert + 1)
    out = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    whole = start  # up to here no block needs a mask
    if PATH != "pointer":
        whole += (end - start) // BLOCK_K * BLOCK_K
        token = tl.load(token_ptr + start + k, mask=start < whole, other=0)
        for first in range(start, whole, BLOCK_K):
            following = first + BLOCK_K
            ahead = tl.load(token_ptr + following + k, mask=following < whole, other=0)
            x = gathered_rows(x_ptr, token, first_x, width_x, None, COLUMNS_X)
            r = next_rows(rows, first, first_r, width_r, None, BLOCK_K, COLUMNS_R, TMA)
            left, right = (x, r) if GATHER_LEFT else (r, x)
            out = tl.dot(tl.trans(left), right, out, input_precision=PRECISION)
            token = ahead
    # Behind whole blocks one is left at most: nothing to load while another is multiplied.
    for first in tl.range(whole, end, BLOCK_K, num_stages=None if PATH == "pointer" else 1):
        real = k < end - first
        token = tl.load(token_ptr + first + k, mask=real, other=0)
        x = gathered_rows(x_ptr, token, first_x, width_x, real, COLUMNS_X)
        r = next_rows(rows, first, first_r, width_r, real, BLOCK_K, COLUMNS_R, TMA)
        left, right = (x, r) if GATHER_LEFT else (r, x)
        out = tl.dot(tl.trans(left), right, out, input_precision=PRECISION)
    a, b = first_a + tl.arange(0, BLOCK_M), first_b + tl.arange(0, BLOCK_N)
    out_at = out_ptr + (expert.to(tl.int64) * A + a[:, None]) * B + b[None, :]
    tl.store(out_at, out.to(out_ptr.dtype.element_ty), mask=(a < A)[:, None] & (b < B)[None, :])


def grad_weight(
    left: Tensor, right: Tensor, token: Tensor, offsets: Tensor, config: Gemm, *, gather_left: bool
) -> Tensor:
    """dW_EAB of one bank of weights. left [N, A], right [N, B]; the one that is gathered is [T, .]
    and read by `token`. Path "tma" is "ahead" where TMA cannot read the other."""
    num_experts, width_a, width_b = offsets.numel() - 1, left.shape[1], right.shape[1]
    out_EAB = left.new_empty(num_experts, width_a, width_b)
    blocks = cdiv(width_a, config.block_m) * cdiv(width_b, config.block_n)
    x_TX, rows_NR = (left, right) if gather_left else (right, left)
    rows, path = rows_NR, config.path
    if path == "tma" and takes_tma(rows_NR):
        columns = config.block_n if gather_left else config.block_m
        rows = TensorDescriptor.from_tensor(rows_NR, [config.block_k, columns])
    elif path == "tma":
        path = "ahead"
    grad_weight_kernel[(num_experts * blocks,)](
        x_TX, rows, token, offsets, out_EAB, width_a, width_b,
        GATHER_LEFT=gather_left, PATH=path,
        **launch_options(config, left.dtype),
    )  # fmt: skip
    return out_EAB
