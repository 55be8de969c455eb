"""What GROUP buys: the same pieces of work in two orders, and the bytes that each order reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moeviz.pictures.axes import Scale, y_axis
from moeviz.pictures.colours import expert_colour
from moeviz.pictures.kernels.tile_pieces import Piece, Walk
from moeviz.pictures.plot import KNOB, Key, box, expert_box, heading, legend, paragraph
from moeviz.pictures.svg import INK, MUTED, Svg, si
from moeviz.records.dispatch import DispatchTrace
from moeviz.words import percent

WIDTH, SIDE = 560.0, 380.0
LEFT, TOP, CELL = 96.0, 118.0, 26.0  # of the maps, and the height of a tile's line
BARS = 84.0  # the height of what is read
FIRST = Key("from memory", KNOB, mark="box")
AGAIN = Key("asked for again: from the L2 cache", "#8a939d", mark="box")
# By GROUP, of each moment: pieces, bytes asked for, bytes of them that differ.
Reads = Mapping[int, list[tuple[int, int, int]]]


def from_memory(reads: list[tuple[int, int, int]]) -> int:
    return sum(different for *_, different in reads)


def another(reads: Reads, group: int) -> int:
    """The GROUP that one is compared with: tile by tile, and that with what reads least."""
    if group > 1:
        return 1
    return min((g for g in reads if g > 1), key=lambda g: from_memory(reads[g]))


def finding(reads: Reads, group: int) -> str:
    """What one order reads, against another."""
    high, low = sorted((another(reads, group), group), key=lambda g: -from_memory(reads[g]))
    most, least = (from_memory(reads[g]) for g in (high, low))
    if most == least:
        return f"With GROUP {low} and with GROUP {high} {si(least, 'B')} come from memory."
    words = f"GROUP {low} reads {si(least, 'B')} from memory, {percent(1 - least / most)} less than"
    return f"{words} GROUP {high}."


def draw_orders(
    trace: DispatchTrace, walks: Mapping[int, Walk], reads: Reads, group: int, now: int,
    follow: str, marked: list[tuple[int, int]], summary: str,
) -> Svg:  # fmt: skip
    """Two maps side by side, the chosen GROUP's on the right; beside them what is read."""
    tiles = [g for g, e in enumerate(trace.tile_expert) if e >= 0]
    low = TOP + CELL * len(tiles)
    svg = Svg(WIDTH, low + 92, "What GROUP buys", summary)
    heading(svg, "GROUP: so many tiles go together. What does it buy?")
    svg.text(0, 38, finding(reads, group), bold=True)
    svg.text(0, 58, "A line: a tile of rows. A column: a block of weights. The number in a cell:",
             fill=MUTED)  # fmt: skip
    svg.text(0, 75, "the moment in which a program computes it.", fill=MUTED)
    wide = (WIDTH - LEFT - 28) / 2
    for i, tile in enumerate(tiles):
        _tile_name(svg, trace, tile, TOP + CELL * i, follow)
    orders = ((another(reads, group), LEFT, "o"), (group, LEFT + wide + 28, "m"))
    for shown, left, moment in orders:
        part = _Map(svg, left, wide, tiles, walks[shown], min(now, len(reads[shown]) - 1), moment)
        part.draw(shown, marked if shown == group else [], is_chosen=shown == group)
        part.reads(low, reads[shown])
    svg.text(LEFT, low + 84, "Blue frame: a block of weights that is read in this moment.",
             fill=MUTED)  # fmt: skip
    _bytes(svg.beside(SIDE, 248 + BARS), walks[group], reads, group, now)
    return svg


class _Map:
    """Every piece in the line of its tile and the column of its block, with its moment. moment: the
    letter by which what is computed together is kin."""

    def __init__(
        self, svg: Svg, left: float, wide: float, tiles: list[int], walk: Walk, now: int,
        moment: str,
    ) -> None:  # fmt: skip
        self.svg, self.left, self.wide, self.now, self.moment = svg, left, wide, now, moment
        self.top = {tile: TOP + CELL * i for i, tile in enumerate(tiles)}
        placed = ((p, *each) for p, pieces in enumerate(walk) for each in enumerate(pieces))
        self.placed = [*placed]  # program, moment, piece
        self.column = wide / (1 + max(piece.column for *_, piece in self.placed))

    def draw(self, group: int, framed: list[tuple[int, int]], *, is_chosen: bool) -> None:
        svg = self.svg
        with svg.thing(f"GROUP {group}", tip=f"GROUP {group}", press={"group": group}):
            together = "tile by tile" if group == 1 else f"{group} tiles together"
            svg.text(self.left, TOP - 10, f"GROUP {group}: {together}", bold=is_chosen)
        for program, at, piece in self.placed:
            x, y = self.left + piece.column * self.column, self.top[piece.tile]
            kin = f"g{piece.tile}", f"e{piece.expert}", f"{self.moment}{at}", f"p{program}"
            press = {"step": at + 1, "follow": f"tile {piece.tile}"}
            with svg.thing(*kin, tip=f"moment {at + 1}: {piece.words}", press=press):
                self._cell(x + 4, y + 4, piece, at)
                if (program, at) in framed:
                    svg.rect(x + 4, y + 4, self.column - 8, CELL - 8, "none", stroke=INK,
                             stroke_width=3)  # fmt: skip
        for (_, column), tops in self._read_now().items():
            svg.rect(self.left + column * self.column + 1, min(tops) + 1, self.column - 2,
                     max(tops) - min(tops) + CELL - 2, "none", stroke=KNOB, stroke_width=2.5,
                     radius=4)  # fmt: skip

    def _cell(self, x: float, y: float, piece: Piece, at: int) -> None:
        """Filled once it is computed, an outline before."""
        wide, high, text = self.column - 8, CELL - 8, str(at + 1)
        if at <= self.now:
            expert_box(self.svg, x, y, wide, high, piece.expert, text, bold=at == self.now)
        else:
            box(self.svg, x, y, wide, high, "transparent", text,
                stroke=expert_colour(piece.expert), ink=MUTED)  # fmt: skip

    def _read_now(self) -> dict[tuple[int, int], list[float]]:
        """The blocks of weights of this moment, each with where its tiles stand."""
        blocks: dict[tuple[int, int], list[float]] = {}
        for _, at, piece in self.placed:
            if at == self.now:
                blocks.setdefault((piece.expert, piece.column), []).append(self.top[piece.tile])
        return blocks

    def reads(self, y: float, reads: list[tuple[int, int, int]]) -> None:
        """What this moment takes from memory, in words."""
        blocks = len(self._read_now())
        tiles = len({piece.tile for _, at, piece in self.placed if at == self.now})
        weights = f"{blocks} block{'s' * (blocks > 1)} of weights"
        rows = f"{tiles} tile{'s' * (tiles > 1)} of rows"
        size = si(reads[self.now][2], "B")
        self.svg.text(self.left, y + 22, f"moment {self.now + 1} reads {size}:", bold=True)
        self.svg.text(self.left, y + 40, f"{weights}, {rows}")
        total = si(from_memory(reads), "B")
        self.svg.text(self.left, y + 60, f"all {len(reads)} moments: {total}", bold=True)


def _tile_name(svg: Svg, trace: DispatchTrace, tile: int, y: float, follow: str) -> None:
    """A tile with its expert, pressed to be followed."""
    name, expert = f"tile {tile}", int(trace.tile_expert[tile])
    rows, other = len(trace.tile_rows(tile)), "nothing" if follow == name else name
    tip = f"{name}: {rows} row{'s' * (rows > 1)} of expert {expert}. Press: follow {other}"
    with svg.thing(f"g{tile}", f"e{expert}", tip=tip, press={"follow": other}):
        edge = INK if follow == name else "transparent"
        svg.rect(1, y + 2, LEFT - 10, CELL - 4, "none", stroke=edge, stroke_width=2, radius=4)
        svg.text(8, y + 17, name, bold=follow == name)
        expert_box(svg, 58, y + 5, 26, 16, expert, f"e{expert}", bold=True, radius=3)


def _bytes(svg: Svg, walk: Walk, reads: Reads, group: int, now: int) -> None:
    """What each GROUP reads in all, and the chosen one moment by moment."""
    svg.text(0, 16, "From memory, all moments together", size=14, bold=True)
    most = max(map(from_memory, reads.values()))
    for i, (each, of) in enumerate(reads.items()):
        y, size = 34.0 + 32 * i, from_memory(of)
        tip = f"GROUP {each}: {si(size, 'B')} from memory"
        with svg.thing(f"GROUP {each}", tip=tip, press={"group": each}):
            edge = INK if each == group else "transparent"
            svg.rect(1, y - 3, SIDE - 2, 30, "none", stroke=edge, stroke_width=2, radius=4)
            svg.text(8, y + 16, f"GROUP {each}", bold=each == group)
            svg.rect(76, y + 3, 220 * size / most, 18, FIRST.colour)
            svg.text(SIDE - 8, y + 16, si(size, "B"), anchor="end", bold=each == group)
    why = ("Tiles of one expert need the same weights. In one moment",
           "they are read once for all of them.")  # fmt: skip
    paragraph(svg, 0, 178, why, 17, fill=MUTED)
    _moments(svg, walk, reads[group], now, 228)


def _moments(
    svg: Svg, walk: Walk, reads: Sequence[tuple[int, int, int]], now: int, top: float
) -> None:
    """What the programs of each moment ask for, and how much of it is different."""
    left = 62.0
    legend(svg, 0, top - 10, (FIRST, AGAIN))
    y = Scale(0, max(asked for _, asked, _ in reads), top + BARS, top + 6)
    y_axis(svg, y, left, SIDE, ticks=y.ticks(2), form=lambda value: si(value, "B"))
    wide = (SIDE - left) / len(reads)
    for i, (_, asked, different) in enumerate(reads):
        x, width = left + i * wide + 2, wide - 4
        tiles = dict.fromkeys(f"g{lane[i].tile}" for lane in walk if i < len(lane))
        tip = f"moment {i + 1}: {si(asked, 'B')} asked for, {si(different, 'B')} of them different"
        with svg.thing(f"m{i}", *tiles, tip=tip, press={"step": i + 1}, drag=True):
            svg.rect(x - 2, y.end, wide, BARS, "transparent")
            svg.rect(x, y(asked), width, y.start - y(asked), AGAIN.colour)
            svg.rect(x, y(different), width, y.start - y(different), FIRST.colour)
        if i == now:
            svg.rect(x - 1, y.end - 2, wide - 2, BARS - 4, "none", stroke=INK, stroke_width=2.5,
                     radius=3)  # fmt: skip
    for i in {0, now, len(reads) - 1}:
        words = f"moment {i + 1}" if i == now else str(i + 1)
        if i == now or abs(i - now) * wide > 56:
            half = 36.0 if i == now else 8.0
            x = min(max(left + (i + 0.5) * wide, left + half - 20), SIDE - half)
            svg.text(x, top + BARS + 16, words, anchor="middle", bold=i == now)
