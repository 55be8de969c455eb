"""Which program computes which piece, moment by moment, and how often a program starts."""

from __future__ import annotations

from dataclasses import dataclass

from moeviz.pictures.colours import expert_colour
from moeviz.pictures.kernels.tile_pieces import Piece, Walk
from moeviz.pictures.plot import KNOB, Key, box, expert_box, heading
from moeviz.pictures.svg import INK, MUTED, Svg

WIDTH, LEFT, RIGHT = 560.0, 84.0, 554.0
TOP, LANE, GAP = 104.0, 28.0, 6.0
EMPTY = Key("finds no tile", "#d55e00", mark="box", hatched=True)


def draw_programs(
    walk: Walk, now: int, starts: Starts, follow: str, marked: list[tuple[int, int]], summary: str
) -> Svg:
    """A line for each program that runs at a time, and under them a bar for each start."""
    svg = Svg(WIDTH, TOP + len(walk) * (LANE + GAP) + 110, "Programs and starts", summary)
    heading(svg, "Which program computes what, and how often does one start?")
    svg.text(0, 38, starts.sentence, bold=True)
    svg.text(0, 58, "A box: tile · block of weights. Colour: expert", fill=MUTED)
    _key(svg)
    base = _programs(svg, walk, now, max(map(len, walk)), starts, follow, marked)
    starts.draw(svg, base + 48)
    return svg


@dataclass(frozen=True)
class Starts:
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
    x, y = 1.0, 70.0
    for name, wide in (("this moment", 110), ("followed", 92), ("filled: done", 86),
                       ("outline: to come", 118), ("a start", 84), ("idle", 60)):  # fmt: skip
        if name == "a start":
            svg.rect(x + 4, y, 4, 13, INK)
        elif name == "idle":
            _dashed(svg, x, y, 13, 13)
        elif name in ("this moment", "followed"):
            svg.rect(x, y, 13, 13, "none", stroke=KNOB if name == "this moment" else INK,
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
    svg: Svg, per_program: Walk, now: int, count: int, starts: Starts, follow: str,
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
    svg.rect(LEFT + now * wide + 1, TOP - 5, wide - 1, base - TOP + 5, "none", stroke=KNOB,
             stroke_width=2.5, radius=4)  # fmt: skip
    for at in range(count):
        x = LEFT + (at + 0.5) * wide + 2
        svg.text(x, base + 16, str(at + 1), anchor="middle", bold=at == now,
                 fill=INK if at == now else MUTED)  # fmt: skip
    svg.text(LEFT - 10, base + 16, "moment", anchor="end", fill=MUTED)
    return base
