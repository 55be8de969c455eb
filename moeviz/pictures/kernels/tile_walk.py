"""Which program computes which tile, in which order, and what the programs of a moment read."""

from __future__ import annotations

from dataclasses import dataclass

from moeviz.pictures.axes import Scale, y_axis
from moeviz.pictures.plot import Key, expert_box, heading, legend
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, si
from moeviz.records.dispatch import DispatchTrace

WIDTH, LEFT, RIGHT = 560.0, 84.0, 554.0
LANE, GAP = 30.0, 5.0
BARS = 120.0  # the height of what is read
BLOCK_N = 64  # columns of [gate, up] that a program computes
ITEM = 2  # bytes of a 16-bit number
WALKS = (("one program a piece", "one"), ("persistent", "persistent"))
COLUMNS = ("moment", "pieces", "bytes read", "of them different")
AGAIN = Key("asked for again: can come from the L2 cache", "#8a939d", mark="box")
FIRST = Key("asked for first: from memory", "#0072b2", mark="box")


@dataclass(frozen=True)
class Piece:
    """One tile of rows times one block of columns."""

    tile: int
    column: int
    expert: int
    rows: int


def order(num_tiles: int, columns: int, group: int) -> list[tuple[int, int]]:
    """(tile, column) in the order of the kernels' `grouped_order`: `group` tiles walk all columns
    together."""
    return [
        (tile, column)
        for first in range(0, num_tiles, group)
        for column in range(columns)
        for tile in range(first, min(first + group, num_tiles))
    ]


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


def moments(walk: list[list[Piece]], d_model: int) -> list[tuple[int, int, int]]:
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


def tile_walk(trace: DispatchTrace, *, walk: str, programs: int, group: int) -> Picture:
    """The up-projection of the batch: a line for each program that runs at a time, a box for each
    piece of work, and below it what the programs of that moment read."""
    d_model, two_f = trace.x.shape[1], 2 * trace.hidden.shape[1]
    columns = -(-two_f // BLOCK_N)
    per_program = lanes(trace, columns, group, programs)
    reads = moments(per_program, d_model)
    launched = len(trace.tile_expert) * columns
    num_pieces = sum(map(len, per_program))
    asked, different = sum(r[1] for r in reads), sum(r[2] for r in reads)
    started = launched if walk == "one" else programs
    idle = f", {launched - num_pieces} of them without a tile" if walk == "one" else ""
    summary = (
        f"{num_pieces} pieces of work, {programs} at a time. {started} programs start{idle}. "
        f"They read {si(asked, 'B')}; within each moment {si(different, 'B')} of it are different."
    )
    height = 62 + programs * (LANE + GAP) + 90 + BARS + 30
    svg = Svg(WIDTH, height, "The walk over the tiles", summary)
    note = "colour and number: the expert · second number: the block of columns · bar: a start"
    heading(svg, "Who computes what, in which order", note)
    base = _programs(svg, per_program, len(reads), walk)
    _reads(svg, reads, per_program, base + 90)
    rows = ((i + 1, n, si(a, "B"), si(d, "B")) for i, (n, a, d) in enumerate(reads))
    return svg.picture(COLUMNS, rows)


def _programs(svg: Svg, per_program: list[list[Piece]], count: int, walk: str) -> float:
    """The lines of boxes; returns where they end."""
    wide, y = (RIGHT - LEFT) / count, 62.0
    for lane, pieces in enumerate(per_program):
        with svg.thing(f"p{lane}", tip=f"program {lane} of those that run at a time"):
            svg.text(LEFT - 10, y + 0.65 * LANE, f"program {lane}", anchor="end", fill=MUTED)
        for i, piece in enumerate(pieces):
            x = LEFT + i * wide
            text = f"{piece.expert} ·{piece.column}" if wide > 44 else str(piece.expert)
            tip = (
                f"tile {piece.tile}: {piece.rows} rows of expert {piece.expert}, "
                f"column block {piece.column}"
            )
            with svg.thing(f"g{piece.tile}", f"e{piece.expert}", f"m{i}", f"p{lane}", tip=tip):
                expert_box(svg, x + 6, y, wide - 8, LANE, piece.expert, text)
            if walk == "one" or i == 0:
                svg.rect(x + 1, y, 4, LANE, INK)
        y += LANE + GAP
    return y


def _reads(
    svg: Svg, reads: list[tuple[int, int, int]], per_program: list[list[Piece]], top: float
) -> None:
    """Under each moment, what its programs read, and how much of it is different."""
    wide = (RIGHT - LEFT) / len(reads)
    svg.text(0, top - 54, "What the programs of a moment read", size=14, bold=True)
    legend(svg, 0, top - 28, (AGAIN, FIRST))
    y = Scale(0, max(asked for _, asked, _ in reads), top + BARS, top)
    y_axis(svg, y, LEFT, RIGHT, ticks=y.ticks(3), form=lambda value: si(value, "B"))
    for i, (_, asked, different) in enumerate(reads):
        x, width = LEFT + i * wide + 6, wide - 8
        tiles = dict.fromkeys(f"g{lane[i].tile}" for lane in per_program if i < len(lane))
        tip = f"moment {i + 1}: {si(asked, 'B')} asked for, {si(different, 'B')} of them different"
        with svg.thing(f"m{i}", *tiles, tip=tip):
            svg.rect(x, y(asked), width, y.start - y(asked), AGAIN.colour)
            svg.rect(x, y(different), width, y.start - y(different), FIRST.colour)
    svg.text((LEFT + RIGHT) / 2, top + BARS + 20, "moments, from left to right", anchor="middle")
