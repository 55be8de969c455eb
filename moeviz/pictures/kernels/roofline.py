"""What bounds each kernel: a device's memory and arithmetic as two roofs, kernels by intensity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from moeviz.costs import distinct_experts
from moeviz.pictures.axes import LogScale, Scale, axes
from moeviz.pictures.plot import Key, heading, legend, mark
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, shorten, si, three

WIDTH, HEIGHT = 900.0, 470.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 548.0, 62.0, 400.0
SHAPE = {"D": "d_model", "F": "d_expert", "E": "num_experts", "K": "top_k"}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TOPK_FLOPS = 5  # a logit: maximum, difference, exponential, sum, quotient
Spots = list[tuple[float, float]]
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
    shape = " · ".join(f"{letter} {layer[key]}" for letter, key in SHAPE.items())
    dtype = device["dtype"] if device else "float32"
    heading(svg, f"{name}: T = {tokens}",
            f"{shape} · {dtype} · forward, every number moved once")  # fmt: skip
    peak, memory = _ceilings(device)
    x = _Clipped(0.1, 1e4, LEFT, RIGHT)
    # Room above for marks that make way for each other, and five and a half decades below.
    y = _Clipped(peak * 10**-4.5, peak * 10, BOTTOM, TOP)
    axes(
        svg, x, y, x_label="arithmetic intensity, FLOP per byte", lines=True,
        y_label="FLOP/s" if device else "", above=device is not None,
        y_ticks=None if device else (), y_form=lambda v: si(v, ""),
    )  # fmt: skip
    sort = "The sort has no floating-point operation: it stands left of every roof."
    svg.text(0, HEIGHT - 12, sort, fill=MUTED)
    if device:
        _roofs(svg, x, y, peak, memory)
    taken = _reached(svg, x, y, reached)
    _parts(svg, x, y, parts, peak, memory, device is not None, taken)
    return svg.picture(COLUMNS, _table(parts, device, reached))


def _ceilings(device: dict[str, Any] | None) -> tuple[float, float]:
    """FLOP/s and bytes/s; where nothing is measured, such that no roof plays a part."""
    if device is None:
        return 1e12, 1e12
    return device["matmul_tflops"] * 1e12, device["copy_gb_per_s"] * 1e9


def _summary(device: dict[str, Any] | None, parts: tuple[Work, ...], tokens: int) -> str:
    whole, dense = parts[1], parts[0]
    batch = f"{tokens} tokens" if tokens > 1 else "1 token"
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


def _roofs(svg: Svg, x: Scale, y: Scale, peak: float, memory: float) -> None:
    ridge = peak / memory
    low = max(x.low, y.low / memory)  # from where the memory roof enters the plot
    corner = (x(ridge), y(peak))
    svg.polyline([(x(low), y(low * memory)), corner], stroke=MEMORY, width=3)
    svg.polyline([corner, (RIGHT, y(peak))], stroke=ARITHMETIC, width=3)
    svg.line(*corner, corner[0], BOTTOM, stroke=MUTED, dash="2 4")
    copy = Key(f"memory: a large copy, {si(memory, 'B/s')}", MEMORY, width=3)
    product = Key(f"arithmetic: a matrix product, {si(peak, 'FLOP/s')}", ARITHMETIC, width=3)
    legend(svg, 580, 74, (copy, product), down=20)


def _parts(
    svg: Svg, x: Scale, y: Scale, parts: tuple[Work, ...], peak: float, memory: float,
    measured: bool, taken: Spots,
) -> None:  # fmt: skip
    """Numbered marks on the roof, where they would stand at best."""
    svg.text(580, 122, "At best, by formula (FLOP per byte)", bold=True)
    placed = list(taken)
    for i, part in enumerate(parts):
        at, roof = x(part.intensity), TOP + 120
        if measured:
            roof = y(min(peak, memory * part.intensity))
        # Upwards, where nothing can be measured, so that no mark is taken for a slow kernel.
        spot = _free(at, roof, (0, -4), placed)
        placed.append(spot)
        svg.line(at, roof, *spot, stroke=MUTED)
        line = 142 + i * 19
        _numbered(svg, 589, line - 4, i + 1)
        svg.text(606, line, f"{part.name}: {three(part.intensity)}")
    for i, spot in enumerate(placed[len(taken) :]):  # above every line
        _numbered(svg, *spot, i + 1)
    svg.text(580, 257, "above the roof: makes way for another mark", fill=MUTED)


def _numbered(svg: Svg, x: float, y: float, number: int) -> None:
    svg.circle(x, y, 9, "#ffffff", stroke=INK)
    svg.text(x, y + 4.3, str(number), anchor="middle", fill="#000000", bold=True)


def _free(x: float, y: float, by: tuple[float, float], placed: Spots) -> tuple[float, float]:
    """The first spot from (x, y) on, in steps of `by`, that no other mark covers."""
    while any(abs(x - a) < 22 and abs(y - b) < 21 for a, b in placed):
        x, y = x + by[0], y + by[1]
    return x, y


def _reached(svg: Svg, x: Scale, y: Scale, reached: Sequence[Reached]) -> Spots:
    """A dot where each measurement stands, its letter below; where there is no room for marks."""
    spots = [(x(r.intensity), y(r.flops_per_s)) for r in reached]
    placed: Spots = []
    if reached:
        svg.text(580, 286, "Measured, all experts", bold=True)
    for i, (point, (a, b)) in enumerate(zip(reached, spots, strict=True)):
        letter, line = chr(ord("a") + i), 306 + i * 19
        spot = _free(a, b + 18, (0, 4), placed)
        placed.append(spot)
        svg.line(a, b, a, spot[1] - 9, stroke=REACHED)
        mark(svg, "circle", a, b, REACHED, 5, stroke=INK)
        svg.text(a, spot[1] + 4, letter, anchor="middle", bold=True)
        mark(svg, "circle", 589, line - 4, REACHED, 5, stroke=INK)
        name, speed = shorten(point.name, 26), si(point.flops_per_s, "FLOP/s")
        svg.text(602, line, f"{letter} · {name}: {speed}")
    return placed + spots


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
