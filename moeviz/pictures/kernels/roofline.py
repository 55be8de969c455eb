"""What bounds each kernel: a device's memory and arithmetic as two roofs, kernels by intensity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moeviz.costs import distinct_experts
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg, shorten, si

WIDTH, HEIGHT = 900.0, 470.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 548.0, 62.0, 400.0
LOW_X, HIGH_X = -1.0, 4.0  # exponents of FLOP per byte
DECADES = 5.5  # of FLOP/s below the top of the plot
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
    d_model, d_expert, num_experts, top_k = (
        layer[n] for n in ("d_model", "d_expert", "num_experts", "top_k")
    )
    weights = distinct_experts(num_experts, top_k, tokens).total * 3 * d_model * d_expert
    flops = 6.0 * tokens * top_k * d_model * d_expert
    return Work("all experts", flops, size * (weights + 2 * tokens * d_model))


def works(tokens: int, layer: dict[str, int], size: int) -> tuple[Work, ...]:
    """The dense FFN of equal FLOPs, the experts as a whole, and kernel by kernel; size: bytes of a
    number. What is in the registers of one kernel costs no bytes."""
    d_model, d_expert, num_experts, top_k = (
        layer[n] for n in ("d_model", "d_expert", "num_experts", "top_k")
    )
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
    device: dict[str, Any] | None,
    layer: dict[str, int],
    tokens: int,
    reached: Sequence[Reached] = (),
    *,
    state: str = "",
) -> Picture:
    """device: name, dtype, copy_gb_per_s and matmul_tflops, as measured; None: not yet, then the
    kernels stand by their intensity alone."""
    size = BYTES.get((device or {}).get("dtype") or "float32", 4)
    parts = works(tokens, layer, size)
    summary = _summary(device, parts, tokens)
    svg = Svg(WIDTH, HEIGHT, "Roofline", summary)
    name = device["name"] if device else "not measured yet"
    svg.text(0, 16, f"{name}: T = {tokens}", size=14, bold=True)
    shape = " · ".join(
        f"{short} {layer[long]}"
        for short, long in (
            ("D", "d_model"), ("F", "d_expert"), ("E", "num_experts"), ("K", "top_k"),
        )
    )  # fmt: skip
    dtype = f" · {device['dtype']}" if device else " · float32"
    svg.text(0, 36, f"{shape}{dtype} · forward, every number moved once", fill=MUTED)
    peak, memory = _ceilings(device)
    top = math.log10(peak) + 1.0  # room for marks that make way for each other
    _grid(svg, top, device is not None)
    if device:
        _roofs(svg, device, top)
    taken = _reached(svg, reached, top)
    _parts(svg, parts, peak, memory, top, device, taken)
    return Picture(svg.close(state=state), summary, COLUMNS, _table(parts, device, reached))


def _ceilings(device: dict[str, Any] | None) -> tuple[float, float]:
    """FLOP/s and bytes/s; where nothing is measured, such that no roof plays a part."""
    if device is None:
        return 1e12, 1e12
    return device["matmul_tflops"] * 1e12, device["copy_gb_per_s"] * 1e9


def _summary(device: dict[str, Any] | None, parts: tuple[Work, ...], tokens: int) -> str:
    whole, dense = parts[1], parts[0]
    batch = f"{tokens} tokens" if tokens > 1 else "1 token"
    said = (
        f"With {batch} the experts do {_short(whole.intensity)} FLOP per byte, a dense FFN of the "
        f"same FLOPs {_short(dense.intensity)}."
    )
    if device is None:
        return f"{said} This machine's ceilings are not measured yet."
    peak, memory = _ceilings(device)
    ridge = peak / memory
    bound = "memory" if whole.intensity < ridge else "arithmetic"
    return (
        f"{said} This device needs {_short(ridge)} FLOP per byte to be busy: the experts are "
        f"bound by {bound}."
    )


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _at(intensity: float) -> float:
    share = (math.log10(max(intensity, 1e-9)) - LOW_X) / (HIGH_X - LOW_X)
    return LEFT + min(max(share, 0.0), 1.0) * (RIGHT - LEFT)


def _up(flops_per_s: float, top: float) -> float:
    share = (top - math.log10(max(flops_per_s, 1.0))) / DECADES
    return TOP + min(max(share, 0.0), 1.0) * (BOTTOM - TOP)


def _grid(svg: Svg, top: float, measured: bool) -> None:
    for exponent in range(int(LOW_X), int(HIGH_X) + 1):
        x = _at(10.0**exponent)
        svg.line(x, TOP, x, BOTTOM, stroke=RULE, width=0.5)
        svg.text(x, BOTTOM + 17, f"{10.0**exponent:g}", anchor="middle", fill=MUTED)
    if measured:
        for exponent in range(math.ceil(top - DECADES), math.floor(top) + 1):
            y = _up(10.0**exponent, top)
            svg.line(LEFT, y, RIGHT, y, stroke=RULE, width=0.5)
            svg.text(LEFT - 6, y + 4, si(10.0**exponent, ""), anchor="end", fill=MUTED)
        svg.text(0, TOP - 8, "FLOP/s", fill=MUTED)
    svg.line(LEFT, BOTTOM, RIGHT, BOTTOM)
    svg.text(
        (LEFT + RIGHT) / 2, BOTTOM + 36, "arithmetic intensity, FLOP per byte", anchor="middle"
    )
    said = "The sort has no floating-point operation: it stands left of every roof."
    svg.text(0, HEIGHT - 12, said, fill=MUTED)


def _roofs(svg: Svg, device: dict[str, Any], top: float) -> None:
    peak, memory = _ceilings(device)
    ridge = peak / memory
    # From where the memory roof enters the plot.
    low = max(10.0**LOW_X, 10 ** (top - DECADES) / memory)
    corner = (_at(ridge), _up(peak, top))
    svg.polyline([(_at(low), _up(low * memory, top)), corner], stroke=MEMORY, width=3)
    svg.polyline([corner, (RIGHT, _up(peak, top))], stroke=ARITHMETIC, width=3)
    svg.line(*corner, corner[0], BOTTOM, stroke=MUTED, dash="2 4")
    x = 580.0
    svg.line(x, 70, x + 22, 70, stroke=MEMORY, width=3)
    svg.text(x + 30, 74, f"memory: a large copy, {si(memory, 'B/s')}")
    svg.line(x, 90, x + 22, 90, stroke=ARITHMETIC, width=3)
    svg.text(x + 30, 94, f"arithmetic: a matrix product, {si(peak, 'FLOP/s')}")


def _parts(
    svg: Svg, parts: tuple[Work, ...], peak: float, memory: float, top: float,
    device: dict[str, Any] | None, taken: Spots,
) -> None:  # fmt: skip
    """Numbered marks on the roof, where they would stand at best."""
    svg.text(580, 122, "At best, by formula (FLOP per byte)", bold=True)
    placed = list(taken)
    for part in parts:
        best = min(peak, memory * part.intensity)
        x, roof = _at(part.intensity), _up(best, top) if device else TOP + 120
        # Upwards, where nothing can be measured, so that no mark is taken for a slow kernel.
        spot = _free(x, roof, (0, -4), placed)
        placed.append(spot)
        svg.line(x, roof, *spot, stroke=MUTED)
    marks = zip(parts, placed[len(taken) :], strict=True)
    for i, (part, spot) in enumerate(marks):
        svg.circle(*spot, 9.5, "#ffffff", stroke=INK)
        svg.text(spot[0], spot[1] + 4.3, str(i + 1), anchor="middle", fill="#000000", bold=True)
        line = 142 + i * 19
        svg.circle(589, line - 4, 8.5, "#ffffff", stroke=INK)
        svg.text(589, line + 0.3, str(i + 1), anchor="middle", fill="#000000", bold=True)
        svg.text(606, line, f"{part.name}: {_short(part.intensity)}")
    svg.text(580, 257, "above the roof: makes way for another mark", fill=MUTED)


def _free(x: float, y: float, by: tuple[float, float], placed: Spots) -> tuple[float, float]:
    """The first spot from (x, y) on, in steps of `by`, that no other mark covers."""
    while any(abs(x - a) < 22 and abs(y - b) < 21 for a, b in placed):
        x, y = x + by[0], y + by[1]
    return x, y


def _reached(svg: Svg, reached: Sequence[Reached], top: float) -> Spots:
    """A dot where each measurement stands, its letter below; where there is no room for marks."""
    spots = [(_at(r.intensity), _up(r.flops_per_s, top)) for r in reached]
    placed: Spots = []
    if reached:
        svg.text(580, 286, "Measured, all experts", bold=True)
    for i, (point, (x, y)) in enumerate(zip(reached, spots, strict=True)):
        letter = chr(ord("a") + i)
        spot = _free(x, y + 18, (0, 4), placed)
        placed.append(spot)
        svg.line(x, y, x, spot[1] - 9, stroke=REACHED)
        svg.circle(x, y, 5, REACHED, stroke=INK)
        svg.text(x, spot[1] + 4, letter, anchor="middle", bold=True)
        at = 306 + i * 19
        svg.circle(589, at - 4, 5, REACHED, stroke=INK)
        name, speed = shorten(point.name, 26), si(point.flops_per_s, "FLOP/s")
        svg.text(602, at, f"{letter} · {name}: {speed}")
    return placed + spots


def _table(
    parts: tuple[Work, ...], device: dict[str, Any] | None, reached: Sequence[Reached]
) -> tuple[tuple[object, ...], ...]:
    peak, memory = _ceilings(device)
    rows: list[tuple[object, ...]] = []
    for part in parts:
        best, bound = "", ""
        if device:
            best = si(min(peak, memory * part.intensity), "FLOP/s")
            bound = "memory" if part.intensity < peak / memory else "arithmetic"
        rows.append(
            (part.name, si(part.flops, "FLOP"), si(part.size, "B"), f"{part.intensity:.3g}", best,
             bound, "")
        )  # fmt: skip
    rows += [
        (r.name, "", "", f"{r.intensity:.3g}", "", "", si(r.flops_per_s, "FLOP/s")) for r in reached
    ]
    return tuple(rows)
