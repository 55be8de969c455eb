"""Counting sort: the rows of each expert side by side, in the order in which they came.

    expert_N    2 0 | 2 1 | 0 2            three blocks of two assignments (one program each)
                                 expert    0  1  2
    1. histogram: block x expert           1  0  1     each program counts its own
                                           0  1  1
                                           1  0  1
    2. scan: down each column              0  0  0     the expert's rows in earlier blocks
                                           1  0  1
                                           1  1  2
       and the expert's total              2  1  3  -> offsets 0 2 3 6
    3. scatter: row = offsets[expert] + earlier blocks + earlier in this block
       order_N (row -> assignment)         1 4 | 3 | 0 2 5
       rank_N  (assignment -> row)         3 0 4 2 1 5
       of K = 2 choices a token: token_N   0 2 | 1 | 0 1 2      order // K
                                 choice_N  1 0 | 1 | 0 0 1      order % K

No atomics: the counts come from comparing with every expert and summing, so the result is the
stable one, the same in every run. Nothing is read by the host: all sizes follow from N and E.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moeviz_kernels.sizes import cdiv, next_power_of_2

MAX_EXPERTS = 4096  # one program compares a block of assignments with all experts
MAX_BLOCKS = 1024  # so that one program can scan a whole column
ELEMENTS = 8192  # of the comparison held by one program


@triton.jit(do_not_specialize=["N", "ROWS"])
def histogram_kernel(
    expert_ptr,  # [N], whole numbers
    count_ptr,  # [blocks, E] int32
    N,
    E,
    ROWS,  # assignments of one program, a multiple of BLOCK
    BLOCK: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    e = tl.arange(0, BLOCK_E)
    count = tl.zeros([BLOCK_E], tl.int32)
    first = tl.program_id(0) * ROWS
    for start in range(0, ROWS, BLOCK):
        i = first + start + tl.arange(0, BLOCK)
        expert = tl.load(expert_ptr + i, mask=i < N, other=-1).to(tl.int32)
        count += tl.sum((expert[:, None] == e[None, :]).to(tl.int32), axis=0)
    tl.store(count_ptr + tl.program_id(0) * E + e, count, mask=e < E)


@triton.jit(do_not_specialize=["num_blocks"])
def scan_kernel(
    count_ptr,  # [blocks, E] int32; becomes: the expert's rows in the blocks before
    total_ptr,  # [E] int32
    num_blocks,
    E,
    BLOCKS: tl.constexpr,
):
    block = tl.arange(0, BLOCKS)
    column = count_ptr + block * E + tl.program_id(0)
    count = tl.load(column, mask=block < num_blocks, other=0)
    tl.store(column, tl.cumsum(count, axis=0) - count, mask=block < num_blocks)
    tl.store(total_ptr + tl.program_id(0), tl.sum(count, axis=0))


@triton.jit(do_not_specialize=["N", "ROWS", "K"])
def scatter_kernel(
    expert_ptr,  # [N], whole numbers
    before_ptr,  # [blocks, E] int32, from the scan
    total_ptr,  # [E] int32
    order_ptr,  # [N] int32: row -> assignment
    rank_ptr,  # [N] int32: assignment -> row
    sorted_ptr,  # [N] int32: row -> expert
    slot_ptr,  # [N] int32: row -> its place among the rows of its expert
    offsets_ptr,  # [E + 1] int32
    token_ptr,  # [N] int32: row -> t, where its assignment is t * K + k; written with OF_TOKENS
    choice_ptr,  # [N] int32: row -> k
    token_offsets_ptr,  # [T + 1] int32: 0, K, 2K ..
    N,
    E,
    ROWS,
    K,
    OF_TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    e = tl.arange(0, BLOCK_E)
    total = tl.load(total_ptr + e, mask=e < E, other=0)
    end = tl.cumsum(total, axis=0)
    if tl.program_id(0) == 0:
        tl.store(offsets_ptr + e + 1, end, mask=e < E)
        tl.store(offsets_ptr, 0)
        if OF_TOKENS:
            tl.store(token_offsets_ptr + N // K, N)
    start = end - total
    taken = tl.load(before_ptr + tl.program_id(0) * E + e, mask=e < E, other=0)
    first = tl.program_id(0) * ROWS
    for step in range(0, ROWS, BLOCK):
        i = first + step + tl.arange(0, BLOCK)
        expert = tl.load(expert_ptr + i, mask=i < N, other=-1).to(tl.int32)
        same = (expert[:, None] == e[None, :]).to(tl.int32)
        slot_of_each = taken[None, :] + tl.cumsum(same, axis=0) - 1
        slot = tl.sum(same * slot_of_each, axis=1)
        row = slot + tl.sum(same * start[None, :], axis=1)
        tl.store(order_ptr + row, i, mask=i < N)
        tl.store(rank_ptr + i, row, mask=i < N)
        tl.store(sorted_ptr + row, expert, mask=i < N)
        tl.store(slot_ptr + row, slot, mask=i < N)
        if OF_TOKENS:
            tl.store(token_ptr + row, i // K, mask=i < N)
            tl.store(choice_ptr + row, i % K, mask=i < N)
            tl.store(token_offsets_ptr + i // K, i, mask=(i < N) & (i % K == 0))
        taken += tl.sum(same, axis=0)


def blocking(num_rows: int, num_experts: int, block: int | None = None) -> dict[str, int]:
    """How a sort of this size is cut: the block held at once (a power of two; None: what is fast),
    the warps that hold it, the rows and number of programs."""
    block_e = next_power_of_2(num_experts)
    if block is None:
        block = max(16, min(128, ELEMENTS // block_e))
    rows = block * max(1, cdiv(num_rows, block * MAX_BLOCKS))
    warps = max(4, block * block_e // 4096)
    programs = cdiv(num_rows, rows)
    return dict(block=block, block_e=block_e, warps=warps, rows=rows, programs=programs)


def histogram(expert_N: Tensor, num_experts: int, block: int | None = None) -> Tensor:
    """Step 1: count int32 [blocks, E]."""
    cut = blocking(expert_N.numel(), num_experts, block)
    count = torch.empty(cut["programs"], num_experts, device=expert_N.device, dtype=torch.int32)
    histogram_kernel[(cut["programs"],)](
        expert_N, count, expert_N.numel(), num_experts, cut["rows"],
        BLOCK=cut["block"], BLOCK_E=cut["block_e"], num_warps=cut["warps"],
    )  # fmt: skip
    return count


def scan(count: Tensor) -> Tensor:
    """Step 2: total int32 [E]; `count` becomes, in place, the rows in the blocks before."""
    programs, num_experts = count.shape
    total_E = torch.empty(num_experts, device=count.device, dtype=torch.int32)
    scan_kernel[(num_experts,)](
        count, total_E, programs, num_experts,
        BLOCKS=next_power_of_2(programs), num_warps=4,
    )  # fmt: skip
    return total_E


Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Eight = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def room(expert: Tensor, num_experts: int) -> Five:
    """Arrays for order, rank, expert, slot and offsets, with nothing in them yet."""
    sizes = (*[expert.numel()] * 4, num_experts + 1)
    order, rank, row_expert, slot, offsets = (
        expert.new_empty(size, dtype=torch.int32) for size in sizes
    )
    return order, rank, row_expert, slot, offsets


def room_topk(expert_TK: Tensor, num_experts: int) -> Eight:
    """The same, then for token, choice and token_offsets."""
    order, rank, expert, slot, offsets = room(expert_TK, num_experts)
    token, choice = torch.empty_like(order), torch.empty_like(order)
    token_offsets = offsets.new_empty(expert_TK.shape[0] + 1)
    return order, rank, expert, slot, offsets, token, choice, token_offsets


def scatter(
    expert: Tensor, before: Tensor, total_E: Tensor, block: int | None = None
) -> tuple[Tensor, ...]:
    """Step 3: order, rank, expert of each row, slot (all int32 [N]) and offsets int32 [E + 1]; the
    block is that of step 1. Of every token's choices [T, K] in place of a list [N], then also
    token, choice (int32 [N]) and token_offsets int32 [T + 1]."""
    num_rows, num_experts = expert.numel(), total_E.numel()
    cut = blocking(num_rows, num_experts, block)
    of_tokens = expert.ndim == 2
    out = room_topk(expert, num_experts) if of_tokens else room(expert, num_experts)
    scatter_kernel[(cut["programs"],)](
        expert, before, total_E, *out, *(() if of_tokens else out[:3]),
        num_rows, num_experts, cut["rows"], expert.shape[1] if of_tokens else 0,
        OF_TOKENS=of_tokens,
        BLOCK=cut["block"], BLOCK_E=cut["block_e"], num_warps=cut["warps"],
    )  # fmt: skip
    return out


def launch_sort(expert: Tensor, num_experts: int) -> tuple[Tensor, ...]:
    """All three steps; at least one assignment."""
    with torch.cuda.device_of(expert):  # where Triton launches
        count = histogram(expert, num_experts)
        return scatter(expert, count, scan(count))


@torch.library.custom_op("moeviz::sort_by_expert", mutates_args=())
def _sort(expert_N: Tensor, num_experts: int) -> Five:
    if expert_N.numel():
        order, rank, expert, slot, offsets = launch_sort(expert_N, num_experts)
    else:
        order, rank, expert, slot, offsets = room(expert_N, num_experts)
        offsets.zero_()
    return order, rank, expert, slot, offsets


@_sort.register_fake
def _(expert_N: Tensor, num_experts: int) -> Five:
    return room(expert_N, num_experts)


def check(expert: Tensor, num_experts: int) -> None:
    if expert.dtype.is_floating_point:
        raise ValueError(f"Experts are given by integers, got {expert.dtype}.")
    if not 1 <= num_experts <= MAX_EXPERTS:
        raise ValueError(f"num_experts must lie in 1..{MAX_EXPERTS}, got {num_experts}.")


def sort_by_expert(expert_N: Tensor, num_experts: int) -> Five:
    """The stable order of assignments by expert: order, rank, expert, slot (int32 [N] each) and
    offsets int32 [E + 1], as drawn above.

    expert_N: integers in [0, num_experts); the values are not looked at (that would make a GPU
    wait), one outside scatters to a wrong row inside. ValueError above 4096 experts.
    """
    if expert_N.ndim != 1:
        raise ValueError(f"expert_N must be [N], got {tuple(expert_N.shape)}.")
    check(expert_N, num_experts)
    return _sort(expert_N.contiguous(), num_experts)


@torch.library.custom_op("moeviz::sort_topk", mutates_args=())
def _sort_topk(expert_TK: Tensor, num_experts: int) -> Eight:
    if expert_TK.numel():
        out = launch_sort(expert_TK, num_experts)
    else:  # K may be 0
        out = room_topk(expert_TK, num_experts)
        out[4].zero_(), out[7].zero_()  # both offsets
    order, rank, expert, slot, offsets, token, choice, token_offsets = out
    return order, rank, expert, slot, offsets, token, choice, token_offsets


@_sort_topk.register_fake
def _(expert_TK: Tensor, num_experts: int) -> Eight:
    return room_topk(expert_TK, num_experts)


def sort_topk(expert_TK: Tensor, num_experts: int) -> Eight:
    """sort_by_expert of K choices per token, and what follows from there being K each: order, rank,
    expert, slot, offsets, then token and choice of each row (int32 [T * K]) and token_offsets
    int32 [T + 1] = 0, K, 2K ... ValueError as sort_by_expert."""
    if expert_TK.ndim != 2:
        raise ValueError(f"expert_TK must be [T, K], got {tuple(expert_TK.shape)}.")
    check(expert_TK, num_experts)
    return _sort_topk(expert_TK.contiguous(), num_experts)
