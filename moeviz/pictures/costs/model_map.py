"""All models on one map: parameters against those that one token meets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from moeviz.costs import MODELS, Model, active_parameters, parameters
from moeviz.costs.cost.parameters import Convention
from moeviz.pictures.axes import LogScale, Scale, axes
from moeviz.pictures.boxes import Box
from moeviz.pictures.costs.model_parts import count
from moeviz.pictures.plot import Key, heading, legend, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, shorten
from moeviz.words import percent

# The map, and beside it its key and the list of its models.
WIDTH, KEY, HEIGHT = 560.0, 392.0, 606.0
LIST, LINE = 196.0, 17.0  # where the list's lines begin, and from one to the next
LEFT, RIGHT, TOP, BOTTOM = 64.0, 500.0, 66.0, 560.0
SPARSER = 150.0, 470.0  # y of the ends of the arrow that says so, right of the map
SHARES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
COLUMNS = ("model", "year", "kind", "parameters", "a token meets", "share", "confidence", "source")
# Named before others where there is little room.
FAMOUS = ("DeepSeek-V3 / R1", "GPT-3 175B", "Mixtral 8x7B", "Llama 3.1 405B", "Kimi K2")
COLOURS = {"moe": "#0072b2", "dense": "#d55e00", "undisclosed": "#cc79a7"}
# From the surest on, each with its mark and the mark's size.
CONFIDENCES = {
    "official": ("circle", 5.5), "estimate": ("square", 5.0), "rumour": ("diamond", 8.0),
    "unverifiable": ("cross", 6.0),
}  # fmt: skip
# How far a mark stands from another, and the ways to go from a place that is taken.
AWAY = 12.0
AROUND = ((1, 0), (-1, 0), (0, -1), (0, 1), (0.7, -0.7), (-0.7, 0.7), (0.7, 0.7), (-0.7, -0.7))
Spot = tuple[float, float]
# What else is printed of models whose sizes are not public: (total, active), lowest and highest.
# GPT-4: 1.76T to 16 × 111B + 55B, 2 × 111B + 55B to 280B. Qwen2.5-Max: two papers contradict.
RANGES = {
    "GPT-4 (rumour)": ((1.76e12, 1.831e12), (277e9, 280e9)),
    "Qwen2.5-Max": ((236e9, 325e9), (22e9, 57e9)),
}


@dataclass(frozen=True)
class Point:
    """A model on the map; confidence and source: of the two figures."""

    model: Model
    total: float
    active: float
    confidence: str
    source: str

    @property
    def is_counted(self) -> bool:
        """Whether this is a sparse model whose figures can be checked."""
        return self.model.kind == "moe" and self.confidence != "unverifiable"


def points(convention: Convention = "all", until: int = 2026) -> list[Point]:
    """Every model of MODELS up to a year whose two figures are known, counted where the sizes are
    public and as they are printed elsewhere."""
    places = []
    for model in (model for model in MODELS.values() if model.year <= until):
        if model.architecture is not None:
            total = parameters(model.architecture).total
            active = active_parameters(model.architecture, convention).total
            where = f"counted from {model.sizes}"
            places.append(Point(model, total, active, model.sizes_confidence, where))
            continue
        figure = model.total_parameters
        met = model.active_parameters or (figure if model.kind == "dense" else None)
        if figure is not None and met is not None:
            weakest = max(figure.confidence, met.confidence, key=[*CONFIDENCES].index)
            places.append(Point(model, figure.value, met.value, weakest, figure.source))
    return places


def model_map(*, chosen: str = "", convention: Convention = "all", until: int = 2026) -> Picture:
    """Log-log, with lines of equal sparsity; the chosen model is ringed and named first."""
    shown = points(convention, until)
    summary = _summary(shown, chosen, until)
    svg = Svg(WIDTH, HEIGHT, "All parameters against active ones", summary)
    note = "dashed: lines of equal active share · a line from a mark leads to its own place"
    share = typical_share(shown, until)
    title = "All parameters, and those that one token meets"
    if share is not None:
        title = f"Typical sparse model of {until}: a token meets {percent(share, 1)} of it"
    heading(svg, title, note)
    x = LogScale(10**9.7, 10**12.4, LEFT, RIGHT)
    y = LogScale(10**8.9, 10**12.1, BOTTOM, TOP)
    taken = _grid(svg, x, y)
    places = {p.model.name: (x(p.total), y(p.active)) for p in shown}
    spots = _apart_from_each_other(places, chosen)
    ranges = [_whiskers(svg, point, x, y) for point in shown]
    for point in shown:
        svg.line(*places[point.model.name], *spots[point.model.name], stroke=INK)
    for point in sorted(shown, key=lambda p: p.model.name == chosen):
        _mark(svg, point, *spots[point.model.name], ring=point.model.name == chosen)
    _names(svg, shown, spots, chosen, taken)
    lines = (len(shown) + 1) // 2
    side = svg.beside(KEY, LIST + LINE * lines)
    _legend(side, shown, ranged=any(ranges))
    _list(side, sorted(shown, key=lambda p: (p.model.year, p.total)), lines, chosen)
    rows = (
        (p.model.name, str(p.model.year), p.model.kind, f"{p.total:,.0f}", f"{p.active:,.0f}",
         percent(p.active / p.total, 2), p.confidence, p.source)
        for p in sorted(shown, key=lambda p: (p.model.year, p.model.name))
    )  # fmt: skip
    return svg.picture(COLUMNS, rows)


def typical_share(shown: Sequence[Point], year: int) -> float | None:
    """The median share of parameters that a token meets in the sparse models of a year whose
    figures can be checked, None where there are none."""
    shares = [p.active / p.total for p in shown if p.model.year == year and p.is_counted]
    return median(shares) if shares else None


def _typical(shown: Sequence[Point], year: int) -> str:
    share = typical_share(shown, year)
    if share is None:
        return ""
    return f" In the typical sparse one of {year} (the median) a token meets {percent(share, 1)}."


def _summary(shown: Sequence[Point], chosen: str, until: int) -> str:
    by_name = {p.model.name: p for p in shown}
    sparse = sum(p.model.kind == "moe" for p in shown)
    models = "1 model" if len(shown) == 1 else f"{len(shown)} models"
    sentence = f"{models}, {sparse} of them sparse.{_typical(shown, until)}"
    if chosen not in by_name:
        return sentence + (
            f" {chosen} is not there: too late, or no size is known." if chosen else ""
        )
    p = by_name[chosen]
    share = 100 * p.active / p.total
    return (
        f"{sentence} {chosen}: {count(p.total)}, a token meets {count(p.active)}, {share:.3g} %. "
        f"Its sizes: {p.confidence}, {p.source}."
    )


def _grid(svg: Svg, x: Scale, y: Scale) -> list[Box]:
    """Axes, and the lines of equal share; returns the boxes of the lines' names."""
    ticks = [factor * 10.0**power for power in range(9, 13) for factor in (1, 3)]
    axes(
        svg, x, y, x_label="all parameters", y_label="parameters that one token meets",
        x_ticks=[v for v in ticks if x.low < v < x.high], x_form=count, lines=True,
        y_ticks=[v for v in ticks if y.low < v < y.high], y_form=count,
    )  # fmt: skip
    svg.line(LEFT, TOP, LEFT, BOTTOM)
    edge, (start, end) = WIDTH - 6, SPARSER
    svg.line(edge, start, edge, end, stroke=INK, width=1.5)
    svg.polygon([(edge - 5, end), (edge + 5, end), (edge, end + 9)], fill=INK)
    svg.text(edge - 19, (start + end) / 2, "sparser", anchor="middle", rotate=90, bold=True)
    taken = []
    for share in SHARES:
        low, high = max(x.low, y.low / share), min(x.high, y.high / share)
        end_x, end_y = x(high), y(high * share)
        svg.line(x(low), y(low * share), end_x, end_y, stroke=MUTED, dash="5 5")
        right = end_x >= RIGHT - 1
        words = f"{100 * share:g} %" + ": dense" * (share == 1)
        svg.text(end_x + (6 if right else 0), end_y + (4 if right else -6), words, fill=MUTED)
        taken.append(Box(end_x, end_y - 12, end_x + 8.0 * len(words), end_y + 6))
    return taken


def _apart_from_each_other(places: dict[str, Spot], first: str) -> dict[str, Spot]:
    """Where marks stand, so that each can be seen and pressed: in its own place, or beside it
    where another mark stands there. `first` keeps its place."""
    steps = [(0, 0), *((r * dx, r * dy) for r in (AWAY, 2 * AWAY) for dx, dy in AROUND)]
    spots: dict[str, Spot] = {}
    for name in sorted(places, key=lambda name: name != first):
        x, y = places[name]
        around = [(x + dx, y + dy) for dx, dy in steps]
        free = (at for at in around if all(math.dist(at, b) > AWAY - 1 for b in spots.values()))
        spots[name] = next(free, (x, y))
    return spots


def _whiskers(svg: Svg, point: Point, x: Scale, y: Scale) -> bool:
    """The range of what is said, where it is one that the mark does not cover; whether it is."""
    if point.model.name not in RANGES:
        return False
    totals, actives = (
        [*map(scale, ends)] for scale, ends in zip((x, y), RANGES[point.model.name], strict=True)
    )
    at_x, at_y = x(point.total), y(point.active)
    covered = 2 * CONFIDENCES[point.confidence][1]
    lines = [
        line
        for line in ((totals[0], at_y, totals[1], at_y), (at_x, actives[0], at_x, actives[1]))
        if math.dist(line[:2], line[2:]) > covered
    ]
    with svg.thing(*_kin(point)):
        for line in lines:
            svg.line(*line, stroke=INK, width=3)
    return bool(lines)


def _kin(point: Point) -> tuple[str, str, str]:
    """The model's name, and what it is lit with."""
    return point.model.name, point.model.kind, point.confidence


def _words(point: Point) -> str:
    """A model's numbers."""
    return (
        f"{point.model.name}, {point.model.year}: {count(point.total)}, a token meets "
        f"{count(point.active)}, {100 * point.active / point.total:.3g} %; {point.confidence}"
    )


def _mark(svg: Svg, point: Point, x: float, y: float, *, ring: bool) -> None:
    with svg.thing(*_kin(point), tip=_words(point), press={"model": point.model.name}):
        svg.rect(x - 8, y - 8, 16, 16, "transparent")
        _shape(svg, point.confidence, COLOURS[point.model.kind], x, y)
    if ring:
        svg.rect(x - 10, y - 10, 20, 20, "none", stroke=INK, stroke_width=2, radius=4)


def _shape(svg: Svg, confidence: str, colour: str, x: float, y: float) -> None:
    """A mark by how far the figures can be trusted."""
    shape, size = CONFIDENCES[confidence]
    mark(svg, shape, x, y, colour, size, stroke=INK)


def _names(
    svg: Svg, shown: Sequence[Point], spots: dict[str, Spot], chosen: str,
    taken: list[Box],
) -> None:  # fmt: skip
    """As many names as find room; the chosen one, the untrusted and the famous come first."""
    boxes = [*taken, *(Box(a - 8, b - 7, a + 8, b + 7) for a, b in spots.values())]
    order = sorted(
        shown,
        key=lambda p: (
            p.model.name != chosen,
            p.confidence == "official" and p.model.name not in FAMOUS,
            -p.total,
        ),
    )
    for point in order:
        name = point.model.name
        a, b = spots[name]
        wide = 7.4 * len(name) + (8 if name == chosen else 0)
        near = [
            (a + 11, b + 4), (a - 11 - wide, b + 4), (a - wide / 2, b - 12), (a - wide / 2, b + 21),
            (a + 8, b - 9), (a + 8, b + 17), (a - 8 - wide, b - 9), (a - 8 - wide, b + 17),
        ]  # fmt: skip
        if name == chosen or name in FAMOUS:  # named wherever there is room, with a line to it
            sides = (14, -14 - wide, -wide / 2)
            far = [up for step in range(30, 150, 15) for up in (-step, step + 10)]
            near += [(a + side, b + up) for up in far for side in sides]
        for left, base in near:
            box = Box(left, base - 11, left + wide, base + 3)
            across = LEFT + 2 < box.left and box.right < RIGHT
            inside = across and TOP < box.top and box.bottom < BOTTOM
            if inside and not any(box.meets(other) for other in boxes):
                with svg.thing(*_kin(point), tip=_words(point), press={"model": name}):
                    svg.text(left, base, name, bold=name == chosen, halo=True)
                if abs(base - b) > 22:
                    start, end = (b - 10, base + 3) if base < b else (b + 10, base - 11)
                    svg.line(a, start, min(max(a, left), left + wide), end, stroke=INK)
                boxes.append(box)
                break


def _legend(svg: Svg, shown: Sequence[Point], *, ranged: bool) -> None:
    present = [c for c in CONFIDENCES if any(p.confidence == c for p in shown)]
    svg.text(0, 16, "The figures are", bold=True)
    for i, confidence in enumerate(present):
        there = sum(p.confidence == confidence for p in shown)
        with svg.thing(confidence, tip=f"{there} models of {confidence} figures"):
            _shape(svg, confidence, COLOURS["moe"], 8, 38 + 24 * i)
            svg.text(24, 42 + 24 * i, f"{confidence} ({there})")
    if ranged:
        y = 38.0 + 24 * len(present)
        svg.line(0, y, 16, y, stroke=INK, width=3)
        paragraph(svg, 24, y + 4, ("range of what", "is printed"), 16)
    svg.text(KEY / 2, 16, "The model is", bold=True)
    names = {"moe": "sparse (MoE)"}
    kinds = [kind for kind in COLOURS if any(p.model.kind == kind for p in shown)]
    for i, kind in enumerate(kinds):
        there = sum(p.model.kind == kind for p in shown)
        with svg.thing(kind, tip=f"{there} models"):
            key = Key(names.get(kind, kind), COLOURS[kind], mark="box")
            legend(svg, KEY / 2 + 2, 42 + 24 * i, (key,))


def _list(svg: Svg, in_order: Sequence[Point], lines: int, chosen: str) -> None:
    """Every model by year, to be found on the map."""
    svg.text(0, LIST - 22, "Find a model: point at it, press it", bold=True)
    for i, point in enumerate(in_order):
        name, column = point.model.name, i // lines
        x, y = column * KEY / 2, LIST + LINE * (i % lines)
        before = in_order[i - 1].model.year if i % lines else None
        if point.model.year != before:
            svg.text(x, y, str(point.model.year), fill=MUTED)
        with svg.thing(*_kin(point), tip=_words(point), press={"model": name}):
            edge = INK if name == chosen else "transparent"
            svg.rect(x + 32, y - 13, KEY / 2 - 34, LINE, "none", stroke=edge, radius=4)
            svg.text(x + 36, y, shorten(name, 22), bold=name == chosen)
