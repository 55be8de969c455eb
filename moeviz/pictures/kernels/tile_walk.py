"""Which program computes which tile, moment by moment, and what the programs of a moment read."""

from __future__ import annotations

from dataclasses import dataclass

from moeviz.pictures.axes import Scale, y_axis
from moeviz.pictures.kernels.tile_pieces import (
    Piece,
    Walk,
    column_blocks,
    followed,
    lanes,
    moments,
)
from moeviz.pictures.plot import Key, box, expert_box, heading, legend
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, expert_colour, si
from moeviz.records.dispatch import DispatchTrace

# The programs over the moments, and beside them the same pieces by tile and column.
WIDTH, LEFT, RIGHT = 560.0, 84.0, 554.0
MAP, MAP_LEFT = 380.0, 148.0
TOP, LANE, GAP = 84.0, 28.0, 6.0
BARS = 96.0  # the height of what is read
NOW = "#0072b2"
WALKS = (("one program a piece", "one"), ("persistent", "persistent"))
COLUMNS = ("moment", "pieces", "bytes read", "of them different")
AGAIN = Key("asked for again: can come from the L2 cache", "#8a939d", mark="box")
FIRST = Key("asked for first: from memory", "#0072b2", mark="box")
EMPTY = Key("finds no tile", "#d55e00", mark="box", hatched=True)


def tile_walk(
    trace: DispatchTrace, *, walk: str, programs: int, group: int, step: int, follow: str
) -> Picture:
    """The up-projection of the batch at a moment, `step`, counted from 1: a line for each program
    that runs at a time, a box for each piece of work, and what the programs of a moment read.
    Beside it the same pieces by tile and column. follow: as `followed` has it, or another word."""
    d_model, columns = trace.x.shape[1], column_blocks(trace)
    per_program = lanes(trace, columns, group, programs)
    reads = moments(per_program, d_model)
    now = min(step, len(reads)) - 1
    launched = len(trace.tile_expert) * columns
    starts = _Starts(launched, sum(map(len, per_program)), min(programs, launched), walk)
    marked = followed(per_program, follow)
    summary = " ".join(
        [_of_moment(reads, now, programs), starts.sentence, *_of_followed(walk, follow, marked)]
    )
    height = TOP + programs * (LANE + GAP) + 70 + BARS + 96
    svg = Svg(WIDTH, height, "The walk over the tiles", summary)
    note = "A box: a tile × a block of weight columns. Numbers: tile · block. Colour: expert"
    heading(svg, "Who computes what, in which order", note)
    _key(svg)
    base = _programs(svg, per_program, now, len(reads), starts, follow, marked)
    _reads(svg, reads, per_program, now, base + 70)
    starts.draw(svg, base + 70 + BARS + 44)
    _map(svg, trace, per_program, now, group, follow, marked)
    rows = ((i + 1, n, si(a, "B"), si(d, "B")) for i, (n, a, d) in enumerate(reads))
    return svg.picture(COLUMNS, rows)


def _of_moment(reads: list[tuple[int, int, int]], now: int, programs: int) -> str:
    count, asked, different = reads[now]
    who = "1 program asks" if count == 1 else f"{count} programs ask"
    words = (
        f"In this moment {who} for {si(asked, 'B')}, of which {si(different, 'B')} must come from "
        "memory."
    )
    if idle := programs - reads[-1][0]:
        are = "is" if idle == 1 else "are"
        words += f" In the last moment {idle} of {programs} programs {are} idle."
    return words


def _of_followed(walk: str, follow: str, marked: list[tuple[int, int]]) -> list[str]:
    if follow.startswith("tile ") and marked:
        asked, fetched = len(marked), len({at for _, at in marked})
        times = f"{fetched} time{'s' if fetched > 1 else ''}"
        return [f"The rows of {follow} are asked for {asked} times and come from memory {times}."]
    if follow.startswith("program "):
        name = follow.capitalize()
        if not marked:
            return [f"{name} does not run."]
        started = 1 if walk == "persistent" else len(marked)
        return [f"{name} computes {len(marked)} pieces for {started} start{'s' * (started > 1)}."]
    return []


@dataclass(frozen=True)
class _Starts:
    """How often a program starts. most: by one program a piece, the empty ones too."""

    most: int
    pieces: int
    programs: int
    walk: str

    @property
    def persistent(self) -> bool:
        return self.walk == "persistent"

    @property
    def saved(self) -> int:
        return self.most - self.programs

    @property
    def sentence(self) -> str:
        if self.persistent:
            return f"{self.programs} persistent programs start, and {self.saved} starts are saved."
        empty = self.most - self.pieces
        return (
            f"{self.most} programs start, {empty} of them without a tile; persistent ones would be "
            f"{self.programs}."
        )

    def draw(self, svg: Svg, y: float) -> None:
        """A bar for each start, and for each that persistent programs save."""
        title = f"Starts of programs: {self.most}"
        if self.persistent:
            title = f"Starts of programs: {self.programs}, and {self.saved} saved"
        svg.text(0, y, title, size=14, bold=True)
        wide = (RIGHT - 2) / self.most
        worth = "the program looks up its tile and waits for its numbers"
        if self.persistent:
            last = self.most, "saved", "saved: a persistent program goes on to its next piece"
        else:
            last = self.most, "empty", "a start for nothing: the program finds no tile"
        done = self.programs if self.persistent else self.pieces
        first = 0
        for end, name, tip in ((done, "start", f"a start: {worth}"), last):
            if end == first:
                continue
            with svg.thing(name, tip=f"{end - first} × {tip}"):
                for i in range(first, end):
                    x, width = 2 + i * wide, max(wide - 3, 1.5)
                    if name == "saved":
                        svg.rect(x, y + 12, width, 18, "none", stroke=MUTED)
                    elif name == "empty":
                        box(svg, x, y + 12, width, 18, EMPTY.colour, hatched=True)
                    else:
                        svg.rect(x, y + 12, width, 18, INK)
                label = "saved" if name == "saved" else EMPTY.name if name == "empty" else ""
                svg.text(2 + first * wide, y + 46, label, fill=MUTED)
            first = end


def _key(svg: Svg) -> None:
    """What frames and fills mean."""
    x, y = 1.0, 50.0
    for name, wide in (("this moment", 110), ("followed", 92), ("filled: done", 86),
                       ("outline: to come", 118), ("a start", 84), ("idle", 60)):  # fmt: skip
        if name == "a start":
            svg.rect(x + 4, y, 4, 13, INK)
        elif name == "idle":
            _dashed(svg, x, y, 13, 13)
        elif name in ("this moment", "followed"):
            svg.rect(x, y, 13, 13, "none", stroke=NOW if name == "this moment" else INK,
                     stroke_width=2.5)  # fmt: skip
        # A swatch of what is filled would have some expert's colour: those two are words alone.
        svg.text(x + (0 if ":" in name else 19), y + 11, name, fill=MUTED)
        x += wide


def _dashed(svg: Svg, x: float, y: float, width: float, height: float) -> None:
    right, low = x + width, y + height
    corners = [(x, y), (right, y), (right, low), (x, low), (x, y)]
    svg.polyline(corners, stroke=MUTED, width=1, dash="3 3")


def _piece(svg: Svg, x: float, y: float, wide: float, piece: Piece, text: str, done: bool) -> None:
    """Filled once it is computed, an outline before."""
    if done:
        expert_box(svg, x, y, wide, LANE, piece.expert, text)
    else:
        box(svg, x, y, wide, LANE, "transparent", text, stroke=expert_colour(piece.expert),
            ink=MUTED)  # fmt: skip


def _programs(
    svg: Svg, per_program: Walk, now: int, count: int, starts: _Starts, follow: str,
    marked: list[tuple[int, int]],
) -> float:  # fmt: skip
    """The lines of boxes; returns where they end."""
    wide, pitch = (RIGHT - LEFT) / count, LANE + GAP
    base = TOP + len(per_program) * pitch
    for lane, pieces in enumerate(per_program):
        y, name = TOP + lane * pitch, f"program {lane}"
        chosen = follow == name
        other = "nothing" if chosen else name
        with svg.thing(f"p{lane}", tip=f"follow {other}", press={"follow": other}):
            ink = INK if chosen else MUTED
            svg.text(LEFT - 10, y + 0.65 * LANE, name, anchor="end", bold=chosen, fill=ink)
        for at in range(count):
            x = LEFT + at * wide
            if at < len(pieces):
                piece = pieces[at]
                text = f"{piece.tile} · {piece.column}" if wide > 44 else str(piece.tile)
                names = f"g{piece.tile}", f"e{piece.expert}", f"m{at}", f"p{lane}"
                press = {"step": at + 1, "follow": f"tile {piece.tile}"}
                with svg.thing(*names, tip=f"moment {at + 1}: {piece.words}", press=press):
                    _piece(svg, x + 7, y, wide - 11, piece, text, at <= now)
                    if (lane, at) in marked:
                        svg.rect(x + 7, y, wide - 11, LANE, "none", stroke=INK, stroke_width=3)
                if not starts.persistent or at == 0:
                    svg.rect(x + 1, y, 4, LANE, INK)
            else:
                with svg.thing(f"p{lane}", f"m{at}", tip=f"{name} has nothing left to do"):
                    _dashed(svg, x + 7, y, wide - 11, LANE)
                    label = "idle" if wide > 44 else ""
                    svg.text(x + wide / 2 + 2, y + 0.65 * LANE, label, anchor="middle", fill=MUTED)
    svg.rect(LEFT + now * wide + 1, TOP - 5, wide - 1, base - TOP + 5, "none", stroke=NOW,
             stroke_width=2.5, radius=4)  # fmt: skip
    for at in range(count):
        x = LEFT + (at + 0.5) * wide + 2
        svg.text(x, base + 16, str(at + 1), anchor="middle", bold=at == now,
                 fill=INK if at == now else MUTED)  # fmt: skip
    svg.text(LEFT - 10, base + 16, "moment", anchor="end", fill=MUTED)
    return base


def _reads(
    svg: Svg, reads: list[tuple[int, int, int]], per_program: Walk, now: int, top: float
) -> None:
    """Under each moment, what its programs read, and how much of it is different."""
    wide = (RIGHT - LEFT) / len(reads)
    total = sum(different for *_, different in reads)
    svg.text(0, top - 30, f"What each moment reads: {si(total, 'B')} from memory in all", size=14,
             bold=True)  # fmt: skip
    legend(svg, 0, top - 10, (FIRST, AGAIN))
    y = Scale(0, max(asked for _, asked, _ in reads), top + BARS, top + 6)
    y_axis(svg, y, LEFT, RIGHT, ticks=y.ticks(3), form=lambda value: si(value, "B"))
    for i, (_, asked, different) in enumerate(reads):
        x, width = LEFT + i * wide + 7, wide - 11
        tiles = dict.fromkeys(f"g{lane[i].tile}" for lane in per_program if i < len(lane))
        tip = f"moment {i + 1}: {si(asked, 'B')} asked for, {si(different, 'B')} of them different"
        with svg.thing(f"m{i}", *tiles, tip=tip, press={"step": i + 1}, drag=True):
            svg.rect(x - 5, y.end, wide, BARS, "transparent")
            svg.rect(x, y(asked), width, y.start - y(asked), AGAIN.colour)
            svg.rect(x, y(different), width, y.start - y(different), FIRST.colour)
        if i == now:
            svg.rect(x - 5, y.end - 2, wide - 2, BARS - 4, "none", stroke=NOW, stroke_width=2.5,
                     radius=4)  # fmt: skip


def _map(
    svg: Svg, trace: DispatchTrace, per_program: Walk, now: int, group: int, follow: str,
    marked: list[tuple[int, int]],
) -> None:  # fmt: skip
    """Every piece in the row of its tile and the column of its block, with its moment."""
    tiles, columns = [g for g, e in enumerate(trace.tile_expert) if e >= 0], column_blocks(trace)
    part = svg.beside(MAP, TOP + len(tiles) * LANE + 80)
    heading(part, "The same pieces as a map", "A number: the moment in which it is computed")
    wide = (MAP - MAP_LEFT - 4) / columns
    part.text(MAP_LEFT + columns * wide / 2, TOP - 22, "block of weight columns", anchor="middle")
    for column in range(columns):
        x = MAP_LEFT + (column + 0.5) * wide
        part.text(x, TOP - 7, str(column), anchor="middle", fill=MUTED)
    at_T = {tile: TOP + i * LANE for i, tile in enumerate(tiles)}
    placed = [(lane, at, p) for lane, each in enumerate(per_program) for at, p in enumerate(each)]
    for tile, y in at_T.items():
        _tile_name(
            part, trace, tile, y, follow, any(p.tile == tile for _, m, p in placed if m == now)
        )
    for lane, at, piece in placed:
        x, y = MAP_LEFT + piece.column * wide, at_T[piece.tile]
        names = f"g{piece.tile}", f"e{piece.expert}", f"m{at}", f"p{lane}"
        press = {"step": at + 1, "follow": f"tile {piece.tile}"}
        with part.thing(*names, tip=f"moment {at + 1}: {piece.words}", press=press):
            _cell(part, x + 5, y + 5, wide - 10, piece, at, now)
            if (lane, at) in marked:
                part.rect(x + 5, y + 5, wide - 10, LANE - 10, "none", stroke=INK, stroke_width=3)
    blocks: dict[tuple[int, int], list[float]] = {}
    for _, at, piece in placed:
        if at == now:
            blocks.setdefault((piece.expert, piece.column), []).append(at_T[piece.tile])
    for (_, column), tops in blocks.items():
        part.rect(MAP_LEFT + column * wide + 2, min(tops) + 2, wide - 4,
                  max(tops) - min(tops) + LANE - 4, "none", stroke=NOW, stroke_width=2.5,
                  radius=4)  # fmt: skip
    low = TOP + len(tiles) * LANE + 24
    part.text(0, low, "A blue frame: a block of weights that this moment reads,", fill=MUTED)
    part.text(0, low + 18, "once for all tiles in it. Bold: rows that it reads.", fill=MUTED)
    together = "1 tile goes" if group == 1 else f"{group} tiles go"
    part.text(0, low + 36, f"GROUP {group}: {together} through all blocks, then the next.",
              fill=MUTED)  # fmt: skip


def _cell(svg: Svg, x: float, y: float, wide: float, piece: Piece, at: int, now: int) -> None:
    high, text = LANE - 10, str(at + 1)
    if at <= now:
        expert_box(svg, x, y, wide, high, piece.expert, text, bold=at == now)
    else:
        box(svg, x, y, wide, high, "transparent", text, stroke=expert_colour(piece.expert),
            ink=MUTED)  # fmt: skip


def _tile_name(
    svg: Svg, trace: DispatchTrace, tile: int, y: float, follow: str, is_read: bool
) -> None:
    """A tile with its expert and its rows, pressed to be followed."""
    name, expert = f"tile {tile}", int(trace.tile_expert[tile])
    rows = len(trace.tile_rows(tile))
    press = {"follow": "nothing" if follow == name else name}
    with svg.thing(f"g{tile}", f"e{expert}", tip=f"follow {press['follow']}", press=press):
        svg.rect(0, y, MAP_LEFT - 4, LANE, "transparent")
        if follow == name:
            svg.rect(1, y + 2, MAP_LEFT - 8, LANE - 4, "none", stroke=INK, stroke_width=2, radius=4)
        svg.text(8, y + 18, name, bold=is_read)
        expert_box(svg, 58, y + 6, 26, 16, expert, f"e{expert}", bold=True, radius=3)
        svg.text(
            92,
            y + 18,
            f"{rows} row{'s' * (rows > 1)}",
            bold=is_read,
            fill=INK if is_read else MUTED,
        )
