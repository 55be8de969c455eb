"""What bounds each kernel: a device's memory and arithmetic as two roofs, kernels by intensity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from moeviz.costs import distinct_experts
from moeviz.pictures.axes import LogScale, axes, short
from moeviz.pictures.plot import Key, heading, legend, mark
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, shorten, si, three

WIDTH, HEIGHT, SIDE, LISTS = 560.0, 510.0, 380.0, 410.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 542.0, 72.0, 390.0
BATCHES = 452.0  # y of the row of batches, below the axis
TOKENS = tuple(2**i for i in range(13))  # of a batch: decoding one token to a prefill of 4,096
APART, BELOW = 24.0, 40.0  # marks from each other, and from the roof
SHAPE = {"D": "d_model", "F": "d_expert", "E": "num_experts", "K": "top_k"}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
UNMEASURED = "Press Measure: here come the two roofs of this machine, and what it reaches."
TOPK_FLOPS = 5  # a logit: maximum, difference, exponential, sum, quotient
Spot = tuple[float, float]
MEMORY, ARITHMETIC, REACHED = "#0072b2", "#d55e00", "#009e73"
COLUMNS = ("what", "FLOP", "bytes", "FLOP per byte", "attainable", "bound by", "measured")


@dataclass(frozen=True)
class Work:
    """What has to be computed and moved at the least, each number once: FLOP and bytes."""

    name: str
    flops: float
    size: float

    @property
    def intensity(self) -> float:
        return self.flops / self.size


@dataclass(frozen=True)
class Reached:
    """A measurement: FLOP/s by active FLOPs, at an intensity by the same formula."""

    name: str
    intensity: float
    flops_per_s: float


def all_experts(tokens: int, layer: dict[str, int], size: int) -> Work:
    """The experts' forward pass: x and y once, the weights of the experts that are hit once."""
    d_model, d_expert, num_experts, top_k = (layer[name] for name in SHAPE.values())
    weights = distinct_experts(num_experts, top_k, tokens).total * 3 * d_model * d_expert
    flops = 6.0 * tokens * top_k * d_model * d_expert
    return Work("all experts", flops, size * (weights + 2 * tokens * d_model))


def works(tokens: int, layer: dict[str, int], size: int) -> tuple[Work, ...]:
    """The dense FFN of equal FLOPs, the experts as a whole, and kernel by kernel; size: bytes of a
    number. What is in the registers of one kernel costs no bytes."""
    d_model, d_expert, num_experts, top_k = (layer[name] for name in SHAPE.values())
    rows = tokens * top_k
    hit = distinct_experts(num_experts, top_k, tokens).total
    product = 2.0 * rows * d_model * d_expert
    whole = all_experts(tokens, layer, size)
    dense = size * (3 * d_model * d_expert * top_k + 2 * tokens * d_model)
    return (
        Work("dense FFN, same FLOPs", whole.flops, dense),
        whole,
        Work(
            "kernel: up, SwiGLU", 2 * product,
            size * (tokens * d_model + hit * 2 * d_model * d_expert + rows * d_expert),
        ),
        Work(
            "kernel: down", product,
            size * (rows * d_expert + hit * d_model * d_expert + rows * d_model),
        ),
        Work("kernel: combine", rows * d_model, size * (rows + tokens) * d_model + 4 * rows),
        Work(
            "kernel: top-k", TOPK_FLOPS * tokens * num_experts,
            8.0 * tokens * num_experts + 8 * rows,
        ),
    )  # fmt: skip


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
    shape = " · ".join(f"{letter} {layer[key]:,}" for letter, key in SHAPE.items())
    dtype = device["dtype"] if device else "float32"
    heading(svg, f"{name}: T = {tokens:,}",
            f"{shape} · {dtype} · forward, every number moved once")  # fmt: skip
    plot = _Plot(svg, svg.beside(SIDE, LISTS), device)
    plot.frame()
    dots = plot.reached(reached)
    plot.parts(parts, dots)
    plot.batches({t: all_experts(t, layer, size).intensity for t in TOKENS}, tokens)
    sort = "The sort has no floating-point operation: it stands left of every roof."
    svg.text(0, HEIGHT - 6, sort, fill=MUTED)
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
        legend(self.side, 0, 20, (self.copy, self.product), down=20, kin=True)

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
            self.side.text(0, 232, "Measured, all experts", bold=True)
        for i, (point, (a, b)) in enumerate(zip(reached, dots, strict=True)):
            letter, line = chr(ord("a") + i), 252 + i * 19
            others = [*dots[:i], *dots[i + 1 :], *placed]
            spot = self._place_beside((a, b), others)
            placed.append(spot)
            speed = si(point.flops_per_s, "FLOP/s")
            tip = f"{point.name}: {three(point.intensity)} FLOP per byte, {speed} measured"
            with self.svg.thing(f"measured {letter}", tip=tip):
                self.svg.line(a, b, *spot, stroke=REACHED)
                mark(self.svg, "circle", a, b, REACHED, 5, stroke=INK)
                self.svg.text(spot[0], spot[1] + 4, letter, anchor="middle", bold=True, halo=True)
            with self.side.thing(f"measured {letter}", tip=tip):
                mark(self.side, "circle", 10, line - 4, REACHED, 5, stroke=INK)
                self.side.text(22, line, f"{letter} · {shorten(point.name, 36)}: {speed}")
        return placed + dots

    def _place_beside(self, dot: Spot, others: Sequence[Spot]) -> Spot:
        """Where a dot's letter has room near it: under the roof, and on the way to it there is no
        other dot or letter."""
        spot = dot
        for away, angle in product((15, 27, 39, 51), (90, 0, 180, 45, 135, 270, 315, 225)):
            turn = math.radians(angle)
            spot = dot[0] + away * math.cos(turn), dot[1] + away * math.sin(turn)
            inside = LEFT + 6 < spot[0] < RIGHT - 6 and spot[1] < BOTTOM - 8
            free = all(math.dist(spot, o) > 13 and _gap(o, dot, spot) > 6 for o in others)
            if inside and free and spot[1] > self.roof(spot[0]) + 9:
                break
        return spot

    def batches(self, intensities: dict[int, float], tokens: int) -> None:
        """A slider of the batch: where all experts stand on the axis with each number of tokens."""
        svg, places = self.svg, [self.x(i) for i in intensities.values()]
        bounds = [LEFT, *((a + b) / 2 for a, b in zip(places, places[1:], strict=False)), RIGHT]
        svg.line(places[0], BATCHES, places[-1], BATCHES)
        svg.text(places[0] - 10, BATCHES + 4, f"T = {min(intensities)}", anchor="end", fill=MUTED)
        svg.text(places[-1] + 10, BATCHES + 4, f"T = {max(intensities):,}", fill=MUTED)
        for i, (t, intensity) in enumerate(intensities.items()):
            tip = f"{t:,} tokens: all experts at {three(intensity)} FLOP per byte"
            with svg.thing(tip=tip, press={"tokens": t}, drag=True):
                svg.rect(bounds[i], BATCHES - 12, bounds[i + 1] - bounds[i], 24, "transparent")
                svg.circle(places[i], BATCHES, 6 if t == tokens else 3, INK)
        words = "Drag: all experts with more or fewer tokens in the batch"
        svg.text((LEFT + RIGHT) / 2, BATCHES + 28, words, anchor="middle")

    def parts(self, parts: tuple[Work, ...], taken: list[Spot]) -> None:
        """Dots on the roof, where each would stand at best, with their numbers fanned out below:
        nothing lies above a roof."""
        what = "At best, by formula" if self.measured else "By formula"
        self.side.text(0, 68, f"{what} (FLOP per byte)", bold=True)
        spots = list(taken)
        places = [self.x(part.intensity) for part in parts]
        for i, at in _spread(places):
            away = BELOW if self.measured else -BELOW
            spot = _free((at, self.roof(at) + away), 6 if self.measured else -6, spots)
            spots.append(spot)
            self._part(parts[i], i + 1, (places[i], self.roof(places[i])), spot)

    def _part(self, part: Work, number: int, dot: Spot, spot: Spot) -> None:
        line, intensity = 69 + number * 19, three(part.intensity)
        tip = f"{part.name}: {si(part.flops, 'FLOP')} for {si(part.size, 'B')}, {intensity} a byte"
        kin = [part.name]
        if self.measured:
            best = min(self.peak, self.memory * part.intensity)
            tip += f"; {si(best, 'FLOP/s')} at best"
            kin.append((self.product if best == self.peak else self.copy).name)
        with self.svg.thing(*kin, tip=tip):
            self.svg.line(*dot, *spot, stroke=MUTED)
            self.svg.circle(*dot, 4.5, INK)
            _numbered(self.svg, *spot, number)
        with self.side.thing(*kin, tip=tip):
            _numbered(self.side, 10, line - 4, number)
            self.side.text(26, line, f"{part.name}: {intensity}")


def _numbered(svg: Svg, x: float, y: float, number: int) -> None:
    svg.circle(x, y, 9, "#ffffff", stroke=INK)
    svg.text(x, y + 4.3, str(number), anchor="middle", fill="#000000", bold=True)


def _spread(places: Sequence[float]) -> list[tuple[int, float]]:
    """Places of an axis kept APART, from left to right, each with its index."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    spread: list[float] = []
    for i in order:
        spread.append(max(places[i], spread[-1] + APART if spread else LEFT + 10))
    end = RIGHT - 10
    for n in reversed(range(len(spread))):
        spread[n] = end = min(spread[n], end)
        end -= APART
    return list(zip(order, spread, strict=True))


def _gap(point: Spot, start: Spot, end: Spot) -> float:
    """How far a point is from the line between two others."""
    a, b = end[0] - start[0], end[1] - start[1]
    x, y = point[0] - start[0], point[1] - start[1]
    along = min(max((a * x + b * y) / (a * a + b * b), 0.0), 1.0)
    return math.hypot(x - along * a, y - along * b)


def _free(spot: Spot, step: float, placed: Sequence[Spot], apart: float = 20) -> Spot:
    """The first spot from there on, in steps up or down, that no other mark covers."""
    x, y = spot
    while any(abs(x - a) < apart and abs(y - b) < apart for a, b in placed):
        y += step
    return x, y


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
