"""The tile map: which expert and which rows each program of a grouped GEMM works on.

    rows     0 1 2 3 4 | 5 6 | 7 8 9            offsets 0 5 7 10, BLOCK_M 4
    expert       0     |  1  |   2
    tiles    [0    ][0 ] [1] [2   ] [-] [-]     a tile never mixes experts: its last rows are
    row      0      4    5   7      -1  -1      padding, computed and thrown away

The number of tiles depends on the routing, which only the GPU knows. Its bound does not: so the
grid is as long as the bound, and the programs behind the last tile return at once. No host sync,
and a CUDA graph can replay it with any other routing.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from moeviz_kernels.sizes import cdiv, next_power_of_2

ELEMENTS = 4096  # of the comparison of tiles with experts held by one program
LEAST_HEIGHT = 16  # rows of a tile, of a layer


@triton.jit(do_not_specialize=["num_tiles"])
def tile_map_kernel(
    offsets_ptr,  # [E + 1] int32
    expert_ptr,  # [tiles] int32, -1: no tile
    row_ptr,  # [tiles] int32: first row
    E,
    num_tiles,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    e = tl.arange(0, BLOCK_E)
    start = tl.load(offsets_ptr + e, mask=e < E, other=0)
    end = tl.load(offsets_ptr + e + 1, mask=e < E, other=0)
    tiles = (end - start + BLOCK_M - 1) // BLOCK_M
    last = tl.cumsum(tiles, axis=0)  # the first tile behind the expert's own
    tile = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    own = (tile[:, None] >= (last - tiles)[None, :]) & (tile[:, None] < last[None, :])
    expert = tl.sum(own.to(tl.int32) * (e + 1)[None, :], axis=1) - 1
    skipped = tile[:, None] - (last - tiles)[None, :]
    row = tl.sum(own.to(tl.int32) * (start[None, :] + skipped * BLOCK_M), axis=1)
    tl.store(expert_ptr + tile, expert, mask=tile < num_tiles)
    tl.store(row_ptr + tile, tl.where(expert < 0, -1, row), mask=tile < num_tiles)


def most_tiles(num_rows: int, num_experts: int, block_m: int) -> int:
    """The most tiles that any routing of N rows to E experts can fill: every expert that has rows
    ends in a tile with a single one."""
    return (num_rows + min(num_rows, num_experts) * (block_m - 1)) // block_m


def room_for_tiles(num_rows: int, num_experts: int) -> int:
    """A length that holds the tile map of every height from LEAST_HEIGHT on. What is kept for the
    backward pass has it: torch.compile must know a length without asking for the height."""
    return (num_rows + num_experts * (LEAST_HEIGHT - 1)) // LEAST_HEIGHT


def tile_map(
    offsets: Tensor, num_rows: int, block_m: int, room: int | None = None
) -> tuple[Tensor, Tensor]:
    """The tiles' expert and first row, int32 [most_tiles] each, -1 behind the last tile; with
    `room` int32 [room], where what lies behind most_tiles is left as it is.

    offsets: int32 [E + 1]. 1. every expert's number of tiles, ceil(rows / block_m)  2. their
    running sum  3. each tile finds the expert whose range holds it.
    """
    num_experts = offsets.numel() - 1
    num_tiles = most_tiles(num_rows, num_experts, block_m)
    # Not halves of one array: Triton compiles anew for a pointer that is no multiple of 16 bytes.
    expert, row = (offsets.new_empty(num_tiles if room is None else room) for _ in range(2))
    block_e = next_power_of_2(num_experts)
    block = max(1, ELEMENTS // block_e)
    tile_map_kernel[(cdiv(num_tiles, block),)](
        offsets, expert, row, num_experts, num_tiles,
        BLOCK_M=block_m, BLOCK=block, BLOCK_E=block_e, num_warps=4,
    )  # fmt: skip
    return expert, row


@triton.jit
def count_tiles(offsets_ptr, E, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr):
    """How many tiles are real, for programs that stay and need no others."""
    e = tl.arange(0, BLOCK_E)
    start = tl.load(offsets_ptr + e, mask=e < E, other=0)
    end = tl.load(offsets_ptr + e + 1, mask=e < E, other=0)
    return tl.sum(tl.cdiv(end - start, BLOCK_M))


@triton.jit
def grouped_order(pid, num_tiles, num_columns, GROUP: tl.constexpr):
    """(tile, column) of a program: GROUP tiles walk all columns together.

    The programs that run at one time then share few tiles of rows and few columns of weights,
    which stay in the L2 cache:   0 2 4 ..    GROUP = 2: down two tiles, then one column on
                                  1 3 5 ..
    """
    group = pid // (GROUP * num_columns)
    first = group * GROUP
    height = tl.minimum(num_tiles - first, GROUP)
    inside = pid % (GROUP * num_columns)
    return first + inside % height, inside // height
