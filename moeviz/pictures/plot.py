"""What pictures are put together from: curves, legends, boxes, text."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from moeviz.pictures.axes import Scale
from moeviz.pictures.colours import OKABE_ITO, expert_colour, ink_on
from moeviz.pictures.svg import INK, MUTED, RULE, SMALLEST, Svg, text_width

NOBODY = "#ffffff"  # the colour of what no expert takes
KNOB = "#0072b2"  # of what is dragged
LIGHT = ("#e69f00", "#56b4e9", "#f0e442")  # hard to see on white: these have a dark edge
MOST_SPOTS = 25  # of a curve's points, those with hover text

# Marks, curves and legends: a colour always goes with a dash, a shape or a hatch.


@dataclass(frozen=True)
class Key:
    """How one series is drawn, and its name in the legend. mark: a shape of `mark`, on the line or
    alone where width is 0; "box": an area."""

    name: str
    colour: str
    dash: str = ""
    mark: str = ""
    width: float = 2.0
    hatched: bool = False
    bold: bool = False


def mark(
    svg: Svg, shape: str, x: float, y: float, colour: str, size: float = 4, stroke: str = "none"
) -> None:
    """A circle, ring, square, diamond or cross around a point; size: half its width."""
    if colour in LIGHT and stroke == "none":
        stroke = INK
    if shape in ("circle", "ring"):
        ring = shape == "ring"
        svg.circle(x, y, size, "none" if ring else colour, stroke=colour if ring else stroke)
    elif shape == "square":
        svg.rect(x - size, y - size, 2 * size, 2 * size, colour, stroke=stroke)
    elif shape == "diamond":
        corners = [(x, y - size), (x + size, y), (x, y + size), (x - size, y)]
        svg.polygon(corners, fill=colour, stroke=stroke)
    else:
        for side in (-size, size):
            svg.line(x - size, y - side, x + size, y + side, stroke=colour, width=size / 2.5)


def curve(
    svg: Svg, x: Scale, y: Scale, values: Iterable[tuple[float, float]], key: Key,
    *, opacity: float = 1, marks: float = 0,
) -> list[tuple[float, float]]:  # fmt: skip
    """A line through (x, y) values, which skips NaN; a light colour has a dark edge. marks: the
    size of the key's mark at each point, if any. Returns its points in pixels."""
    points = [(x(a), y(b)) for a, b in values if not math.isnan(b)]
    if len(points) == 1:  # one point is no line
        svg.circle(*points[0], 2.4, key.colour)
    elif points:
        if key.colour in LIGHT:
            svg.polyline(points, stroke=INK, width=key.width + 1.4, dash=key.dash)
        svg.polyline(points, stroke=key.colour, width=key.width, dash=key.dash, opacity=opacity)
    for at in points if marks else ():
        mark(svg, key.mark, *at, key.colour, marks)
    return points


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over the `width` values around each: the loss of one batch is noisy. At the start there
    are fewer, as many before as behind, for a steep curve would lag."""
    total = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    at = np.arange(len(values))
    reach = np.minimum(at, width // 2)
    start, end = at - reach, np.minimum(at + reach + 1, len(values))
    return (total[end] - total[start]) / (end - start)


def spots(
    svg: Svg, kin: Sequence[str], places: Sequence[tuple[float, float]], tips: Sequence[str]
) -> None:
    """Circles that nobody sees, with hover text: the numbers of a curve's points. Of many points
    every n-th has one."""
    every = math.ceil(len(places) / MOST_SPOTS) or 1
    for at, tip in list(zip(places, tips, strict=True))[::-every]:
        with svg.thing(*kin, tip=tip):
            svg.circle(*at, 9, "transparent")


@dataclass(frozen=True)
class Stop:
    """A place that a knob is dragged to: its pixel, its hover text, and what it sets the panel's
    controls to."""

    at: float
    tip: str
    press: dict[str, Any]


def track(svg: Svg, y: float, stops: Sequence[Stop], at: float) -> None:
    """A slider within a picture: a knob at a pixel of a line, to be dragged along stops that follow
    each other from left to right."""
    places = [stop.at for stop in stops]
    svg.line(places[0], y, places[-1], y, stroke=MUTED, width=3)
    knob(svg, at, y)
    for stop, (left, right) in zip(stops, bands(places, 12), strict=True):
        with svg.thing(tip=stop.tip, press=stop.press, drag=True):
            svg.rect(left, y - 13, right - left, 26, "transparent")


def knob(svg: Svg, x: float, y: float, radius: float = 8) -> None:
    """What is dragged to the left and to the right, as its two arrow heads say."""
    for side in (-1, 1):
        base, tip = x + side * (radius + 3), x + side * (radius + 8)
        svg.polygon([(base, y - 4), (tip, y), (base, y + 4)], fill=INK)
    svg.circle(x, y, radius, KNOB, stroke=INK)


def bands(places: Sequence[float], air: float) -> Iterator[tuple[float, float]]:
    """(left, right) of the band around each of some places along an axis, which meet halfway; air:
    beyond the first and the last."""
    halfway = ((a + b) / 2 for a, b in zip(places, places[1:], strict=False))
    ends = [places[0] - air, *halfway, places[-1] + air]
    return zip(ends, ends[1:], strict=False)


@contextmanager
def row(svg: Svg, y: float, height: float, *kin: str, tip: str = "") -> Iterator[None]:
    """A row around a middle y, a thing in all its breadth: the marks drawn within are its own."""
    with svg.thing(*kin, tip=tip):
        svg.rect(0, y - height / 2, svg.width, height, "transparent")
        yield


def legend(
    svg: Svg, x: float, y: float, keys: Iterable[Key], *, down: float = 0, across: float = 0,
    fill: str = INK, kin: bool = False,
) -> None:  # fmt: skip
    """Each key's sample and name: below each other in steps of `down`, or beside each other, in
    steps of `across` or as wide as they are. kin: each is the thing of its name, and under a hand
    it lights what is of its kin."""
    for key in keys:
        with svg.thing(key.name) if kin else nullcontext():
            wide = _entry(svg, x, y, key, fill)
        if down:
            y += down
        else:
            x += across or wide


def _entry(svg: Svg, x: float, y: float, key: Key, fill: str) -> float:
    """One key's sample and name; returns how wide they are, with some air."""
    sample = 0 if key.mark and (key.mark == "box" or not key.width) else 26
    if sample:
        if key.colour in LIGHT:
            svg.line(x, y - 4, x + sample, y - 4, stroke=INK, width=key.width + 1.4, dash=key.dash)
        svg.line(x, y - 4, x + sample, y - 4, stroke=key.colour, width=key.width, dash=key.dash)
    if key.mark == "box":
        edge = INK if key.colour == "none" else "none"
        box(svg, x, y - 10, 12, 12, key.colour, hatched=key.hatched, stroke=edge)
    elif key.mark:
        mark(svg, key.mark, x + (sample / 2 or 6), y - 4, key.colour, 4)
    svg.text(x + (sample or 12) + 6, y, key.name, bold=key.bold, fill=fill)
    return (sample or 12) + 22 + 0.93 * text_width(key.name, 12 + key.bold)


def stack(
    svg: Svg, x: float, y: float, height: float, parts: Iterable[tuple[float, Key, str]]
) -> float:
    """A bar of parts (width, key, tip) beside each other from x on; returns where it ends."""
    for width, key, tip in parts:
        box(svg, x, y, width, height, key.colour, hatched=key.hatched, stroke=MUTED, tip=tip)
        x += width
    return x


def box(
    svg: Svg, x: float, y: float, width: float, height: float, colour: str, text: str = "", *,
    size: float = SMALLEST, bold: bool = False, mono: bool = False, radius: float = 0,
    stroke: str = "none", hatched: bool = False, tip: str = "", ink: str = "",
) -> None:  # fmt: skip
    """A rectangle with its text, if any, in the middle, in the ink that reads on it."""
    if colour in LIGHT and stroke == "none":
        stroke = MUTED
    svg.rect(x, y, width, height, colour, radius=radius, stroke=stroke, tip=tip)
    if hatched and width > 0.5:
        svg.hatch(x, y, width, height, colour)
    ink = ink or (INK if colour == "none" else ink_on(colour))
    middle, base = x + width / 2, y + height / 2 + 0.37 * size
    svg.text(middle, base, text, size=size, anchor="middle", bold=bold, mono=mono, fill=ink)


def expert_box(
    svg: Svg, x: float, y: float, width: float, height: float, expert: int, text: str = "",
    **style: Any,
) -> None:  # fmt: skip
    """A box in an expert's colour, hatched where the colours come again; -1: nobody's."""
    style = {"stroke": MUTED, **style}
    if expert < 0:
        box(svg, x, y, width, height, NOBODY, text, **style)
    else:
        hatched = expert >= len(OKABE_ITO)
        box(svg, x, y, width, height, expert_colour(expert), text, hatched=hatched, **style)


def heat_bar(
    svg: Svg, x: float, y: float, width: float, height: float, low: str, high: str
) -> None:
    """What heat means: lying from low to high, or upright with high on top."""
    shares = np.linspace(0, 1, 40)
    if width > height:
        svg.heat(x, y, width, height, shares[None])
        svg.text(x - 6, y + height - 1, low, anchor="end", fill=MUTED)
        svg.text(x + width + 6, y + height - 1, high, fill=MUTED)
    else:
        svg.heat(x, y, width, height, shares[::-1, None])
        svg.text(x + width + 6, y + height, low)
        svg.text(x + width + 6, y + 11, high)


# Text.


def heading(svg: Svg, title: str, note: str = "") -> None:
    svg.text(0, 16, title, size=14, bold=True)
    svg.text(0, 36, note, fill=MUTED)


def paragraph(
    svg: Svg, x: float, y: float, lines: Iterable[str], step: float = 18, **style: Any
) -> None:
    for i, line in enumerate(lines):
        svg.text(x, y + step * i, line, **style)


def stages(
    svg: Svg, width: float, names: Sequence[str], here: str, press: Callable[[str], dict[str, Any]],
    first: int = 1, top: float = 4,
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """The stations of a way, numbered from `first` where there is room, with the present one
    filled; returns where each begins, and its width. press: what the panel's controls are set to by
    a click on one."""
    gap = 16.0
    places: dict[str, tuple[float, float]] = {}
    labels = [f"{i + first} {name}" for i, name in enumerate(names)]
    air = _air(labels, width, gap)
    if air < 12:
        labels = [*names]
        air = _air(labels, width, gap)
    x = 2.0
    for name, label in zip(names, labels, strict=True):
        wide = text_width(label, SMALLEST) + air
        colour, edge = ("#0072b2", "#0072b2") if name == here else ("none", RULE)
        with svg.thing(tip=f"Go to {name}", press=press(name)):
            box(svg, x, top, wide, 28, colour, label,
                bold=name == here, radius=6, stroke=edge)  # fmt: skip
        places[name] = x, wide
        x += wide + gap
        if name != names[-1]:
            svg.text(x - gap / 2, top + 19, "→", anchor="middle", fill=MUTED)
    return places


def _air(labels: Sequence[str], width: float, gap: float) -> float:
    """What is left for each box beside its label."""
    return (width - sum(text_width(label, SMALLEST) + gap for label in labels)) / len(labels)


def flow(
    tokens: Sequence[str], labels: Sequence[Sequence[str]], *, size: float, air: float,
    room: float, line_height: float, breaks: Collection[int] = (),
) -> tuple[list[tuple[float, float, float]], float]:  # fmt: skip
    """Where the boxes of tokens stand, with labels below, left to right and line by line: (x, y,
    width) of each, and the height of all. air: beside a text of this size; breaks: which of them
    begin a new line in any case."""
    boxes, x, y = [], 0.0, 0.0
    for i, (token, below) in enumerate(zip(tokens, labels, strict=True)):
        wide = max(text_width(token, size), *(text_width(label, SMALLEST) for label in below))
        width = max(wide + air, 22.0)
        if x and (x + width > room or i in breaks):
            x, y = 0.0, y + line_height
        boxes.append((x, y, width))
        x += width + 3
    return boxes, y + line_height
