"""The pieces of a grouped GEMM, tile by block of columns, and the programs that take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moeviz.records.dispatch import DispatchTrace

BLOCK_N = 64  # columns of [gate, up] that a program computes
ITEM = 2  # bytes of a 16-bit number


@dataclass(frozen=True)
class Piece:
    """One tile of rows times one block of columns."""

    tile: int
    column: int
    expert: int
    rows: int

    @property
    def words(self) -> str:
        rows = "1 row" if self.rows == 1 else f"{self.rows} rows"
        return f"tile {self.tile}, {rows} of expert {self.expert} × column block {self.column}"


Walk = Sequence[Sequence[Piece]]


def order(num_tiles: int, columns: int, group: int) -> list[tuple[int, int]]:
    """(tile, column) in the order of the kernels' `grouped_order`: `group` tiles walk all columns
    together."""
    return [
        (tile, column)
        for first in range(0, num_tiles, group)
        for column in range(columns)
        for tile in range(first, min(first + group, num_tiles))
    ]


def column_blocks(trace: DispatchTrace) -> int:
    """Into how many blocks the columns of [gate, up] are cut."""
    return -(-2 * trace.hidden.shape[1] // BLOCK_N)


def lanes(trace: DispatchTrace, columns: int, group: int, programs: int) -> list[list[Piece]]:
    """The pieces of each program that runs at a time, one after the other.

    All pieces are taken to last equally long, so the next one begins where one has ended. What has
    no tile ends at once and is not counted.
    """
    pieces = []
    for tile, column in order(len(trace.tile_expert), columns, group):
        expert, row = int(trace.tile_expert[tile]), int(trace.tile_row[tile])
        if expert >= 0:
            rows = min(trace.tile_block, int(trace.offsets[expert + 1]) - row)
            pieces.append(Piece(tile, column, expert, rows))
    return [pieces[lane::programs] for lane in range(programs)]


def moments(walk: Walk, d_model: int) -> list[tuple[int, int, int]]:
    """For each moment: pieces, bytes that they read, bytes of them that differ."""
    reads = []
    for at in range(max(map(len, walk))):
        pieces = [lane[at] for lane in walk if at < len(lane)]
        weights = BLOCK_N * d_model * ITEM
        rows = {p.tile: p.rows * d_model * ITEM for p in pieces}
        different = sum(rows.values()) + weights * len({(p.expert, p.column) for p in pieces})
        asked = sum(rows[p.tile] + weights for p in pieces)
        reads.append((len(pieces), asked, different))
    return reads


def followed(walk: Walk, follow: str) -> list[tuple[int, int]]:
    """(program, moment) of the pieces of what is followed, "tile 3" or "program 2"."""
    return sorted(
        (
            (lane, at)
            for lane, pieces in enumerate(walk)
            for at, piece in enumerate(pieces)
            if follow in (f"tile {piece.tile}", f"program {lane}")
        ),
        key=lambda place: place[1],
    )
