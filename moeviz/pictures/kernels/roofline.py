"""What bounds each kernel: a device's memory and arithmetic as two roofs, kernels by intensity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from moeviz.pictures.axes import LogScale, axes, short
from moeviz.pictures.kernels.layer_names import sizes_of
from moeviz.pictures.kernels.layer_work import (
    ALL_EXPERTS,
    BYTES,
    TOKENS,
    Reached,
    Work,
    all_experts,
    works,
)
from moeviz.pictures.plot import KNOB, Key, Stop, heading, knob, legend, mark, paragraph, track
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, shorten, si, three

WIDTH, HEIGHT, SIDE, LISTS = 560.0, 528.0, 380.0, 410.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 542.0, 72.0, 390.0
BATCHES = 452.0  # y of the row of batches, below the axis
REACH = 6.0  # pixels between two batches at least: less, and no hand hits one of them
# Where a number or a letter has room near its dot: pixels away, and degrees from the right on.
LETTERS = tuple(product((15, 27, 39, 51), (90, 0, 180, 45, 135, 270, 315, 225)))
NUMBERS = tuple(product(range(36, 160, 14), (90, 65, 115, 45, 135, 25, 155)))
UNMEASURED = "Press Measure: here come the two roofs of this machine, and what it reaches."
Spot = tuple[float, float]
MEMORY, ARITHMETIC, REACHED = "#0072b2", "#d55e00", "#009e73"
COLUMNS = ("what", "FLOP", "bytes", "FLOP per byte", "attainable", "bound by", "measured")


def roofline(
    device: dict[str, Any] | None, layer: dict[str, int], tokens: int,
    reached: Sequence[Reached] = (),
) -> Picture:  # fmt: skip
    """device: name, dtype, copy_gb_per_s and matmul_tflops, as measured; None: not yet, then the
    kernels stand by their intensity alone."""
    size = BYTES.get((device or {}).get("dtype") or "float32", 4)
    parts = works(tokens, layer, size)
    summary = _summary(device, parts, tokens)
    svg = Svg(WIDTH, HEIGHT, "Roofline", summary)
    name = device["name"] if device else "not measured yet"
    dtype = device["dtype"] if device else "float32"
    heading(svg, f"{name}: T = {tokens:,} token{'s' * (tokens > 1)}",
            f"{sizes_of(layer)} · {dtype}")  # fmt: skip
    plot = _Plot(svg, svg.beside(SIDE, LISTS), device)
    plot.frame()
    dots = plot.reached(reached)
    plot.batches({t: all_experts(t, layer, size).intensity for t in TOKENS}, tokens)
    plot.parts(parts, dots, tokens)
    words = ("Forward, each number moved once. The sort has no floating-point operation:",
             "it stands left of every roof.")  # fmt: skip
    paragraph(svg, 0, HEIGHT - 23, words, 17, fill=MUTED)
    return svg.picture(COLUMNS, _table(parts, device, reached))


def _ceilings(device: dict[str, Any] | None) -> tuple[float, float]:
    """FLOP/s and bytes/s; where nothing is measured, such that no roof plays a part."""
    if device is None:
        return 1e12, 1e12
    return device["matmul_tflops"] * 1e12, device["copy_gb_per_s"] * 1e9


def _summary(device: dict[str, Any] | None, parts: tuple[Work, ...], tokens: int) -> str:
    whole, dense = parts[1], parts[0]
    batch = f"{tokens:,} tokens" if tokens > 1 else "1 token"
    sentence = (
        f"With {batch} the experts do {three(whole.intensity)} FLOP per byte, a dense FFN of the "
        f"same FLOPs {three(dense.intensity)}."
    )
    if device is None:
        return f"{sentence} This machine's ceilings are not measured yet."
    peak, memory = _ceilings(device)
    ridge = peak / memory
    bound = "memory" if whole.intensity < ridge else "arithmetic"
    return (
        f"{sentence} This device needs {three(ridge)} FLOP per byte to be busy: the experts are "
        f"bound by {bound}."
    )


class _Clipped(LogScale):
    """What lies outside the plot stands on its edge."""

    def __call__(self, value: float) -> float:
        return super().__call__(min(max(value, self.low), self.high))


class _Plot:
    """The roofs with what stands on them and below them, and the list beside it."""

    def __init__(self, svg: Svg, side: Svg, device: dict[str, Any] | None) -> None:
        self.svg, self.side, self.measured = svg, side, device is not None
        self.peak, self.memory = _ceilings(device)
        self.x = _Clipped(0.1, 1e4, LEFT, RIGHT)
        self.y = _Clipped(self.peak * 10**-4.5, self.peak * 4, BOTTOM, TOP)
        copy, product = si(self.memory, "B/s"), si(self.peak, "FLOP/s")
        self.copy = Key(f"memory: a large copy, {copy}", MEMORY, width=3)
        self.product = Key(f"arithmetic: a matrix product, {product}", ARITHMETIC, width=3)

    def frame(self) -> None:
        svg, x, y = self.svg, self.x, self.y
        axes(
            svg, x, y, x_label="arithmetic intensity, FLOP per byte", lines=True,
            y_label="FLOP/s", above=True, x_form=short, y_form=lambda v: si(v, ""),
        )  # fmt: skip
        if not self.measured:
            svg.text((LEFT + RIGHT) / 2, TOP + 90, UNMEASURED, anchor="middle")
            return
        ridge = self.peak / self.memory
        low = max(x.low, y.low / self.memory)  # from where the memory roof enters the plot
        corner = (x(ridge), y(self.peak))
        with svg.thing(self.copy.name, tip=self.copy.name):
            svg.polyline([(x(low), y(low * self.memory)), corner], stroke=MEMORY, width=3)
        with svg.thing(self.product.name, tip=self.product.name):
            svg.polyline([corner, (RIGHT, y(self.peak))], stroke=ARITHMETIC, width=3)
        svg.line(*corner, corner[0], BOTTOM, stroke=MUTED, dash="2 4")
        self._what_it_waits_for(corner)
        legend(self.side, 0, 20, (self.copy, self.product), down=20, kin=True)

    def _what_it_waits_for(self, corner: Spot) -> None:
        """Words on the two roofs, where they have room, and the name of the ridge between them."""
        svg, (x, y) = self.svg, corner
        if x - LEFT > 150:
            slope = (self.y(self.y.low) - self.y(10 * self.y.low)) / (self.x(1) - self.x(0.1))
            at, down = x - 90, 90 * slope  # on the roof, from its end down
            svg.text(at, y + down - 22, "waits for memory", anchor="middle",
                     rotate=-math.degrees(math.atan(slope)))  # fmt: skip
        if RIGHT - x > 120:
            svg.text((x + RIGHT) / 2, y - 9, "waits for arithmetic", anchor="middle")
        left = x > RIGHT - 150
        words = f"ridge: {three(self.peak / self.memory)} FLOP per byte"
        svg.text(x + (-6 if left else 6), BOTTOM - 8, words, anchor="end" if left else "start",
                 halo=True)  # fmt: skip

    def roof(self, at: float) -> float:
        """How high the roof is over a place of the axis; the axis itself, where none is known."""
        if not self.measured:
            return BOTTOM
        share = (at - LEFT) / (RIGHT - LEFT)
        intensity = self.x.low * (self.x.high / self.x.low) ** share
        return self.y(min(self.peak, self.memory * intensity))

    def reached(self, reached: Sequence[Reached]) -> list[Spot]:
        """A dot where each measurement stands, its letter beside it; returns where no mark may
        be."""
        dots = [(self.x(r.intensity), self.y(r.flops_per_s)) for r in reached]
        placed: list[Spot] = []
        if reached:
            others = any(point.by for point in reached)
            title, letter = "Measured, all experts", "this layer with so many tokens"
            if others:
                title, letter = "Measured, other layers and batches", "a layer, by its fastest way"
            self.side.text(0, 215, title, bold=True)
            self.side.text(0, 232, f"each letter in the plot: {letter}", fill=MUTED)
        for i, (point, (a, b)) in enumerate(zip(reached, dots, strict=True)):
            letter, line = chr(ord("a") + i), 252 + i * 19
            spot = self._beside((a, b), [*dots[:i], *dots[i + 1 :], *placed], LETTERS, 13)
            placed.append(spot)
            speed = si(point.flops_per_s, "FLOP/s")
            name = f"{point.name} ({point.by})" if point.by else point.name
            tip = f"{name}: {three(point.intensity)} FLOP per byte, {speed} measured"
            with self.svg.thing(f"measured {letter}", tip=tip):
                self.svg.line(a, b, *spot, stroke=REACHED)
                mark(self.svg, "circle", a, b, REACHED, 5, stroke=INK)
                self.svg.text(spot[0], spot[1] + 4, letter, anchor="middle", bold=True, halo=True)
            with self.side.thing(f"measured {letter}", tip=tip):
                mark(self.side, "circle", 10, line - 4, REACHED, 5, stroke=INK)
                self.side.text(22, line, f"{letter} · {shorten(point.name, 40)}: {speed}")
        return placed + dots

    def _beside(
        self, dot: Spot, others: Sequence[Spot], ways: Sequence[tuple[float, float]], apart: float
    ) -> Spot:
        """Where a dot's number has room near it: under the roof, and neither there nor on the way
        is another dot or number. Where all is taken, the place with the most room."""
        best, most = dot, -math.inf
        for away, angle in ways:
            # Where no roof is known, dots lie on the axis.
            turn = math.radians(angle if self.measured else -angle)
            spot = dot[0] + away * math.cos(turn), dot[1] + away * math.sin(turn)
            inside = LEFT + 10 < spot[0] < RIGHT - 10 and TOP < spot[1] < BOTTOM - 8
            if not inside or (self.measured and spot[1] <= self.roof(spot[0]) + 9):
                continue
            rooms = (min(math.dist(spot, o) - apart, _gap(o, dot, spot) - 6) for o in others)
            room = min(rooms, default=1.0)
            if room > most:
                best, most = spot, room
            if room > 0:
                break
        return best

    def batches(self, intensities: dict[int, float], tokens: int) -> None:
        """A slider of the batch: where all experts stand on the axis with each number of tokens."""
        svg = self.svg
        stops = [
            Stop(self.x(i), f"{t:,} tokens: all experts at {three(i)} FLOP per byte", {"tokens": t})
            for t, i in intensities.items()
        ]
        first, last = stops[0].at, stops[-1].at
        stops = _within_reach(stops, tokens)
        svg.text(first - 22, BATCHES + 4, f"T = {min(intensities)}", anchor="end", fill=MUTED)
        svg.text(last + 22, BATCHES + 4, f"T = {max(intensities):,}", fill=MUTED)
        for stop in stops:
            svg.line(stop.at, BATCHES - 6, stop.at, BATCHES + 6, stroke=MUTED)
        track(svg, BATCHES, stops, self.x(intensities[tokens]))
        words = "Drag it, or the 2 in the plot: more or fewer tokens in the batch"
        svg.text((LEFT + RIGHT) / 2, BATCHES + 30, words, anchor="middle")

    def parts(self, parts: tuple[Work, ...], taken: list[Spot], tokens: int) -> None:
        """Dots on the roof, where each would stand at best, with their numbers below: nothing lies
        above a roof. All experts are dragged, with the batch."""
        what = "At best, by formula" if self.measured else "By formula"
        self.side.text(0, 68, f"{what} (FLOP per byte)", bold=True)
        places = [self.x(part.intensity) for part in parts]
        dots = [(at, self.roof(at)) for at in places]
        for i in sorted(range(len(parts)), key=lambda i: places[i]):
            far = [dot for dot in dots if math.dist(dot, dots[i]) > 14]  # others are under it
            if parts[i].name != ALL_EXPERTS:
                taken.append(self._beside(dots[i], [*taken, *far], NUMBERS, 21))
                self._part(parts[i], i + 1, dots[i], taken[-1])
        self._dragged(parts, dots, tokens)
        for i, part in enumerate(parts):
            kin, tip = self._kin(part)
            with self.side.thing(*kin, tip=tip):
                colours = ("#ffffff", KNOB) if part.name == ALL_EXPERTS else ("#000000", "#ffffff")
                _numbered(self.side, 10, 84 + i * 19, i + 1, *colours)
                self.side.text(26, 88 + i * 19, f"{part.name}: {three(part.intensity)}")

    def _dragged(self, parts: tuple[Work, ...], dots: list[Spot], tokens: int) -> None:
        number = [part.name for part in parts].index(ALL_EXPERTS)
        kin, tip = self._kin(parts[number])
        x, y = dots[number]
        with self.svg.thing(*kin, tip=tip, press={"tokens": tokens}, drag=True):
            self.svg.line(x, y, x, BOTTOM, stroke=KNOB, dash="3 4")
            knob(self.svg, x, y, 10)
            self.svg.text(x, y + 4.3, str(number + 1), anchor="middle", fill="#ffffff", bold=True)

    def _kin(self, part: Work) -> tuple[list[str], str]:
        """What a part belongs to, and its numbers."""
        kin, intensity = [part.name], three(part.intensity)
        tip = f"{part.name}: {si(part.flops, 'FLOP')} for {si(part.size, 'B')}, {intensity} a byte"
        if self.measured:
            best = min(self.peak, self.memory * part.intensity)
            tip += f"; {si(best, 'FLOP/s')} at best"
            kin.append((self.product if best == self.peak else self.copy).name)
        return kin, tip

    def _part(self, part: Work, number: int, dot: Spot, spot: Spot) -> None:
        kin, tip = self._kin(part)
        with self.svg.thing(*kin, tip=tip):
            self.svg.line(*dot, *spot, stroke=MUTED)
            self.svg.circle(*dot, 4.5, INK)
            _numbered(self.svg, *spot, number)


def _numbered(
    svg: Svg, x: float, y: float, number: int, ink: str = "#000000", fill: str = "#ffffff"
) -> None:
    svg.circle(x, y, 9, fill, stroke=INK)
    svg.text(x, y + 4.3, str(number), anchor="middle", fill=ink, bold=True)


def _gap(point: Spot, start: Spot, end: Spot) -> float:
    """How far a point is from the line between two others."""
    a, b = end[0] - start[0], end[1] - start[1]
    x, y = point[0] - start[0], point[1] - start[1]
    along = min(max((a * x + b * y) / (a * a + b * b), 0.0), 1.0)
    return math.hypot(x - along * a, y - along * b)


def _within_reach(stops: Sequence[Stop], tokens: int) -> list[Stop]:
    """Those far enough from the one before, and that of the batch that is shown."""
    kept: list[Stop] = []
    for stop in stops:
        near, shown = bool(kept) and stop.at - kept[-1].at < REACH, stop.press["tokens"] == tokens
        if near and not shown:
            continue
        kept = [*(kept[:-1] if near else kept), stop]
    return kept


def _table(
    parts: tuple[Work, ...], device: dict[str, Any] | None, reached: Sequence[Reached]
) -> Iterator[tuple[object, ...]]:
    peak, memory = _ceilings(device)
    for part in parts:
        best, bound = "", ""
        if device:
            best = si(min(peak, memory * part.intensity), "FLOP/s")
            bound = "memory" if part.intensity < peak / memory else "arithmetic"
        needs = si(part.flops, "FLOP"), si(part.size, "B"), f"{part.intensity:.3g}"
        yield part.name, *needs, best, bound, ""
    for point in reached:
        speed = si(point.flops_per_s, "FLOP/s")
        yield point.name, "", "", f"{point.intensity:.3g}", "", "", speed
