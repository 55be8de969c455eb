"""What bounds each kernel: a device's memory and arithmetic as two roofs, kernels by intensity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from moeviz.pictures.axes import LogScale, axes, short
from moeviz.pictures.boxes import Box
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
from moeviz.pictures.plot import KNOB, Key, Stop, heading, knob, legend, mark, track
from moeviz.pictures.svg import INK, MUTED, SMALLEST, Picture, Svg, si, text_width, three

WIDTH, HEIGHT = 560.0, 570.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 542.0, 106.0, 424.0
BATCHES = 486.0  # y of the row of batches, below the axis
REACH = 6.0  # pixels between two batches at least: less, and no hand hits one of them
UNMEASURED = "Press Measure: here come the two roofs of this machine, and what it reaches."
MEMORY, ARITHMETIC, REACHED = "#0072b2", "#d55e00", "#009e73"
# What has its name in the plot; what has none is told under the hand.
LABELS = {
    ALL_EXPERTS: "the experts", "dense FFN, same FLOPs": "dense FFN, same FLOPs",
    "kernel: combine": "combine", "kernel: top-k": "top-k",
}  # fmt: skip
COLUMNS = ("what", "FLOP", "bytes", "FLOP per byte", "attainable", "bound by", "measured")
Spot = tuple[float, float]


def roofline(
    device: dict[str, Any] | None, layer: dict[str, int], tokens: int,
    reached: Sequence[Reached] = (),
) -> Picture:  # fmt: skip
    """device: name, dtype, copy_gb_per_s and matmul_tflops, as measured; None: not yet, then the
    kernels stand by their intensity alone."""
    size = BYTES.get((device or {}).get("dtype") or "float32", 4)
    parts = works(tokens, layer, size)
    outcome, why = _outcome(device, parts, tokens)
    dense = f"A dense FFN of the same FLOPs does {three(parts[0].intensity)}."
    svg = Svg(WIDTH, HEIGHT, "Roofline", f"{outcome} {why} {dense}")
    heading(svg, "Do the experts wait for memory or for arithmetic?")
    svg.text(0, 38, outcome, bold=True)
    svg.text(0, 56, why)
    name = device["name"] if device else "not measured yet"
    dtype = device["dtype"] if device else "float32"
    svg.text(0, 75, f"{name} · {sizes_of(layer)} · {dtype}", fill=MUTED)
    plot = _Plot(svg, device)
    plot.frame()
    plot.reached(reached)
    plot.batches({t: all_experts(t, layer, size).intensity for t in TOKENS}, tokens)
    plot.parts(parts, reached, tokens)
    return svg.picture(COLUMNS, _table(parts, device, reached))


def _ceilings(device: dict[str, Any] | None) -> tuple[float, float]:
    """FLOP/s and bytes/s; where nothing is measured, such that no roof plays a part."""
    if device is None:
        return 1e12, 1e12
    return device["matmul_tflops"] * 1e12, device["copy_gb_per_s"] * 1e9


def _outcome(
    device: dict[str, Any] | None, parts: tuple[Work, ...], tokens: int
) -> tuple[str, str]:
    """What the experts wait for, and why."""
    batch, each = f"{tokens:,} tokens" if tokens > 1 else "1 token", parts[1].intensity
    why = f"With {batch} they do {three(each)} FLOP for each byte"
    if device is None:
        return "This machine is not measured yet.", f"{why}."
    peak, memory = _ceilings(device)
    ridge = peak / memory
    roof = "memory" if each < ridge else "arithmetic"
    why = f"They do {three(each)} FLOP for each byte; the device has time for {three(ridge)}."
    return f"With {batch} the experts wait for {roof}.", why


class _Clipped(LogScale):
    """What lies outside the plot stands on its edge."""

    def __call__(self, value: float) -> float:
        return super().__call__(min(max(value, self.low), self.high))


class _Label(NamedTuple):
    """A name, and where it is anchored."""

    words: str
    x: float
    y: float
    anchor: str


class _Plot:
    """The roofs with what stands on them and below them."""

    def __init__(self, svg: Svg, device: dict[str, Any] | None) -> None:
        self.svg, self.measured = svg, device is not None
        self.peak, self.memory = _ceilings(device)
        self.x = _Clipped(0.1, 1e4, LEFT, RIGHT)
        self.y = _Clipped(self.peak * 10**-4.5, self.peak * 4, BOTTOM, TOP)

    def frame(self) -> None:
        svg, x, y = self.svg, self.x, self.y
        ridge = self.peak / self.memory
        low = max(x.low, y.low / self.memory)  # from where the memory roof enters the plot
        start, corner, end = (x(low), y(low * self.memory)), (x(ridge), y(self.peak)), RIGHT
        if self.measured:
            foot, right = (corner[0], BOTTOM), (end, corner[1])
            svg.polygon([(start[0], BOTTOM), start, corner, foot], fill=MEMORY, opacity=0.13)
            svg.polygon([foot, corner, right, (end, BOTTOM)], fill=ARITHMETIC, opacity=0.13)
        axes(
            svg, x, y, x_label="FLOP for each byte (arithmetic intensity)", lines=True,
            y_label="FLOP/s", above=True, x_form=short, y_form=lambda v: si(v, ""),
        )  # fmt: skip
        if not self.measured:
            svg.text((LEFT + RIGHT) / 2, TOP + 90, UNMEASURED, anchor="middle")
            return
        tip = f"reading at the speed of a large copy, {si(self.memory, 'B/s')}"
        with svg.thing("memory", tip=tip):
            svg.polyline([start, corner], stroke=MEMORY, width=3)
        tip = f"computing at the speed of a large matrix product, {si(self.peak, 'FLOP/s')}"
        with svg.thing("arithmetic", tip=tip):
            svg.polyline([corner, (end, corner[1])], stroke=ARITHMETIC, width=3)
        self._what_it_waits_for(corner)

    def _what_it_waits_for(self, corner: Spot) -> None:
        """Words on the two roofs, where they have room, and the name of the ridge between them."""
        svg, (x, y) = self.svg, corner
        if x - LEFT > 150:
            slope = (self.y(self.y.low) - self.y(10 * self.y.low)) / (self.x(1) - self.x(0.1))
            at, down = x - 100, 100 * slope  # on the roof, from its end down
            svg.text(at, y + down - 22, f"memory: {si(self.memory, 'B/s')}", anchor="middle",
                     rotate=-math.degrees(math.atan(slope)), bold=True)  # fmt: skip
        if RIGHT - x > 150:
            words = f"arithmetic: {si(self.peak, 'FLOP/s')}"
            svg.text((x + RIGHT) / 2, y - 9, words, anchor="middle", bold=True)
        for roof, left, right in (("memory", LEFT, x), ("arithmetic", x, RIGHT)):
            words = f"waits for {roof}"
            if right - left > text_width(words, SMALLEST):
                svg.text((left + right) / 2, BOTTOM - 10, words, anchor="middle")
        svg.line(x, y, x, BOTTOM, stroke=MUTED, dash="2 4")
        words = f"ridge: {three(self.peak / self.memory)} FLOP a byte"
        svg.text(min(x, RIGHT - 70), TOP - 10, words, anchor="middle")
        svg.line(x, TOP - 6, x, y - 3, stroke=MUTED)

    def roof(self, at: float) -> float:
        """How high the roof is over a place of the axis; the axis itself, where none is known."""
        if not self.measured:
            return BOTTOM
        share = (at - LEFT) / (RIGHT - LEFT)
        intensity = self.x.low * (self.x.high / self.x.low) ** share
        return self.y(min(self.peak, self.memory * intensity))

    def reached(self, reached: Sequence[Reached]) -> None:
        """A dot where each measurement stands, with its numbers under the hand."""
        for i, point in enumerate(reached):
            name = f"{point.name} ({point.by})" if point.by else point.name
            speed = si(point.flops_per_s, "FLOP/s")
            tip = f"{name}: {three(point.intensity)} FLOP per byte, {speed} measured"
            with self.svg.thing(f"measured {i}", tip=tip):
                at = self.x(point.intensity), self.y(point.flops_per_s)
                mark(self.svg, "circle", *at, REACHED, 6, stroke=INK)
        keys = [Key("one kernel of the experts", INK, mark="circle", width=0)]
        if reached:
            whose = "other layers" if any(point.by for point in reached) else "this layer"
            keys.append(Key(f"measured, {whose}: point at one", REACHED, mark="circle", width=0))
        legend(self.svg, 0, HEIGHT - 30, keys, fill=MUTED)
        words = "Forward, each number moved once. The sort has no FLOP: it stands left of all."
        self.svg.text(0, HEIGHT - 8, words, fill=MUTED)

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
        words = (
            f"T = {tokens:,} token{'s' * (tokens > 1)} in the batch: drag it, here or in the plot"
        )
        svg.text((LEFT + RIGHT) / 2, BATCHES + 30, words, anchor="middle")

    def parts(self, parts: tuple[Work, ...], reached: Sequence[Reached], tokens: int) -> None:
        """Dots on the roof, where each would stand at best, and below it the names of the few that
        matter: nothing lies above a roof. All experts are dragged, with the batch."""
        places = {part.name: self.x(part.intensity) for part in parts}
        dots = {name: (at, self.roof(at)) for name, at in places.items()}
        measured = ((self.x(point.intensity), self.y(point.flops_per_s)) for point in reached)
        taken = [Box(x - 11, y - 11, x + 11, y + 11) for x, y in (*dots.values(), *measured)]
        # The experts' name has the first choice of a place, then from the right on; their dot lies
        # over the others.
        ordered = sorted(parts, key=lambda part: (part.name != ALL_EXPERTS, -places[part.name]))
        labels = [self._label(part.name, dots[part.name], taken) for part in ordered]
        for part, label in [*zip(ordered, labels, strict=True)][::-1]:
            dot, drag = dots[part.name], part.name == ALL_EXPERTS
            press = {"tokens": tokens} if drag else None
            with self.svg.thing(*self._kin(part), tip=self._tip(part), press=press, drag=drag):
                if label:
                    self._write(label, dot, bold=drag)
                if drag:
                    self.svg.line(*dot, dot[0], BOTTOM, stroke=KNOB, dash="3 4")
                    knob(self.svg, *dot, 10)
                else:
                    self.svg.circle(*dot, 5, INK)

    def _label(self, name: str, dot: Spot, taken: list[Box]) -> _Label | None:
        """Where a name has room near its dot: under the roof, where nothing else stands."""
        if (words := LABELS.get(name)) is None:
            return None
        wide = text_width(words, SMALLEST)
        for down, (anchor, away) in product(
            range(5, 260, 17), (("start", 15.0), ("end", -15.0), ("middle", 0.0))
        ):
            x, y = dot[0] + away, dot[1] + (down if self.measured else -down - 10)
            left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            box = Box(left - 3, y - 12, left + wide + 3, y + 5)
            # A roof only rises: what is under it on the left is under it.
            inside = LEFT < box.left and box.right < RIGHT and box.bottom < BOTTOM - 22
            under = not self.measured or box.top > self.roof(box.left) + 3
            if inside and under and not any(box.meets(other) for other in taken):
                taken.append(box)
                return _Label(words, x, y, anchor)
        return None

    def _write(self, label: _Label, dot: Spot, *, bold: bool) -> None:
        """A name, and a line to its dot where it is not beside it."""
        if abs(label.y - dot[1]) > 6:
            end = label.y - 13 if self.measured else label.y + 5
            self.svg.line(*dot, label.x, end, stroke=MUTED)
        self.svg.text(label.x, label.y, label.words, anchor=label.anchor, bold=bold)

    def _kin(self, part: Work) -> list[str]:
        """What a part belongs to: its roof."""
        if not self.measured:
            return [part.name]
        bound = self.memory * part.intensity < self.peak
        return [part.name, "memory" if bound else "arithmetic"]

    def _tip(self, part: Work) -> str:
        flops, size, each = si(part.flops, "FLOP"), si(part.size, "B"), three(part.intensity)
        tip = f"{part.name}: {flops} for {size}, {each} a byte"
        best = min(self.peak, self.memory * part.intensity)
        return f"{tip}; {si(best, 'FLOP/s')} at best" if self.measured else tip


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
        name = f"{point.name}, {point.by}" if point.by else point.name
        yield name, "", "", f"{point.intensity:.3g}", "", "", speed
