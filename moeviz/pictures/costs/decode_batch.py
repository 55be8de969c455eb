"""Generating tokens: step time, speed and experts touched as the batch grows, dense twin beside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from moeviz.costs import (
    Architecture,
    DecodeStep,
    Device,
    MoE,
    critical_batch,
    decode_step,
    device,
    distinct_experts,
    fit,
    model,
)
from moeviz.costs.cost.quantisation import PLANS, QuantPlan
from moeviz.pictures.costs.memory_fit import PLANS as PLAN_NAMES
from moeviz.pictures.costs.memory_fit import source_line
from moeviz.pictures.log_axes import LogScale, around, plot_axes
from moeviz.pictures.svg import INK, MUTED, Picture, Scale, Svg, si

WIDTH, HEIGHT = 900.0, 560.0
LAST = 14  # the batch goes to 2^14
BATCHES = tuple(2**i for i in range(LAST + 1))
TICKS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0)
SPARSE, DENSE, TOUCHED = "#0072b2", "#d55e00", "#009e73"
TWIN = "dense twin"
COLUMNS = (
    "batch", "experts touched", "step, ms", "tokens/s in all", "tokens/s each", "bound by",
    "dense twin: step, ms", "dense twin: tokens/s", "dense twin: bound by",
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Steps of one model by batch, as far as the memory reaches, and where that ends."""

    name: str
    steps: dict[int, DecodeStep]
    max_batch: int


@lru_cache(maxsize=32)
def curves(
    model_name: str, device_name: str, devices: int, plan: str, context: int
) -> tuple[Curve, Curve]:
    """The model and its dense twin of equal active parameters."""
    architecture = model(model_name).architecture
    if architecture is None or not architecture.is_moe:
        raise ValueError(f"{model_name} has no experts that could be counted.")
    chip, stored = device(device_name), _one_format_for_ffns(PLANS[plan])
    return (
        _curve(model_name, architecture, chip, devices, stored, context),
        _curve(TWIN, architecture.dense_twin(), chip, devices, stored, context),
    )


def _one_format_for_ffns(plan: QuantPlan) -> QuantPlan:
    """A plan that stores shared experts and dense FFNs as it does routed experts: otherwise the
    twin, whose FFNs stand for all of them, would be smaller or larger than what it is a twin of."""
    parts = dict(plan.parts)
    if "routed_experts" in parts:
        parts["shared_experts"] = parts["dense_ffn"] = parts["routed_experts"]
    return QuantPlan(plan.name, plan.default, tuple(parts.items()))


def _curve(
    name: str, architecture: Architecture, chip: Device, devices: int, plan: QuantPlan, context: int
) -> Curve:
    room = fit(architecture, chip, context_tokens=context, plan=plan, devices=devices)
    steps = {
        batch: decode_step(
            architecture, chip, batch=batch, context_tokens=context, plan=plan, devices=devices
        )
        for batch in BATCHES
        if batch <= room.max_batch
    }
    return Curve(name, steps, room.max_batch)


def decode_batch(
    *, model_name: str, device_name: str, devices: int, plan: str, context: int, batch: int,
    state: str = "",
) -> Picture:  # fmt: skip
    """Tokens a second of all sequences, the time of a step, and the experts touched, by batch."""
    sparse, dense = curves(model_name, device_name, devices, plan, context)
    architecture = model(model_name).architecture
    assert architecture is not None  # curves() has seen to it
    chip, moe = device(device_name), architecture.moe
    bits = PLANS[plan].format("routed_experts").bits
    marks = (
        critical_batch(chip, architecture, weight_bits=bits).total,
        critical_batch(chip, weight_bits=bits).total,
    )
    machine = f"{devices} × {chip.name}"
    summary = _summary(model_name, machine, sparse, dense, batch, marks)
    svg = Svg(WIDTH, HEIGHT, "Decoding by batch", summary)
    title = f"{model_name} in {PLAN_NAMES[plan]} on {machine}, {context:,} tokens of context"
    svg.text(0, 16, title, size=14, bold=True)
    _legend(svg, marks)
    both = [curve for curve in (sparse, dense) if curve.steps]
    if both:
        _speed(svg, both, batch, marks)
        _time(svg, both, batch, marks)
    else:
        svg.text(58, 200, "Neither fits this memory: take more devices or fewer bits.", size=14)
    _touched(svg, moe.num_experts, moe.top_k, batch)
    svg.text(0, HEIGHT - 26, source_line(chip), fill=MUTED)
    svg.text(
        0, HEIGHT - 8,
        "Bounds, nothing measured: BF16 arithmetic, even routing, no traffic between the devices.",
        fill=MUTED,
    )  # fmt: skip
    return Picture(svg.close(state=state), summary, COLUMNS, _table(sparse, dense, moe))


def _summary(
    name: str, machine: str, sparse: Curve, dense: Curve, batch: int, marks: tuple[float, float]
) -> str:
    if not sparse.steps:
        return f"{name} does not fit {machine} with even one such sequence."
    step = sparse.steps.get(batch)
    if step is None:
        return (
            f"A batch of {batch:,} does not fit {machine}: weights and cache leave room for "
            f"{sparse.max_batch:,} such sequences."
        )
    said = (
        f"Batch {batch:,}: {_ms(step)} ms a step, {_count(step.tokens_per_s)} tokens/s in all, "
        f"bound by {step.bound}; {step.distinct:.1f} experts touched in each layer."
    )
    twin = dense.steps.get(batch)
    if twin is not None:
        ratio = step.seconds / twin.seconds
        said += (
            f" The dense twin: {_ms(twin)} ms, bound by {twin.bound}, so the experts take "
            f"{ratio:.2f} times as long."
        )
    return (
        said
        + f" Critical batch by the weights alone: {_count(marks[0])}, dense "
        + (f"{_count(marks[1])}.")
    )


def _ms(step: DecodeStep) -> str:
    return f"{step.seconds * 1e3:.3g}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _legend(svg: Svg, marks: tuple[float, float]) -> None:
    x = 0.0
    for colour, dash, text, width in (
        (SPARSE, "", f"sparse (critical batch {_count(marks[0])})", 268),
        (DENSE, "7 3", f"dense twin, equal active parameters (critical {_count(marks[1])})", 400),
    ):
        svg.line(x, 33, x + 26, 33, stroke=colour, width=3, dash=dash)
        svg.text(x + 32, 37, text)
        x += width
    svg.circle(6, 54, 3, INK)
    svg.text(16, 58, "bound by memory", fill=MUTED)
    svg.rect(154, 50, 8, 8, INK)
    svg.text(168, 58, "bound by compute", fill=MUTED)
    _cross(svg, 315, 54, INK)
    svg.text(328, 58, "the memory is full", fill=MUTED)
    svg.circle(482, 54, 7, "none", stroke=INK)
    svg.text(496, 58, "the chosen batch", fill=MUTED)
    svg.text(632, 58, "dotted: critical batch", fill=MUTED)


def _cross(svg: Svg, x: float, y: float, colour: str) -> None:
    svg.line(x - 5, y - 5, x + 5, y + 5, stroke=colour, width=2)
    svg.line(x - 5, y + 5, x + 5, y - 5, stroke=colour, width=2)


def _lines(svg: Svg, x: Scale, y: Scale, both: list[Curve], batch: int, of: str) -> None:
    """Each curve with its marks: what bounds it, where it ends, and the chosen batch."""
    for curve in both:
        sparse = curve.name != TWIN
        colour = SPARSE if sparse else DENSE
        points = [(x(b), y(_value(step, of))) for b, step in curve.steps.items()]
        svg.polyline(points, stroke=colour, dash="" if sparse else "7 3")
        for (px, py), step in zip(points, curve.steps.values(), strict=True):
            if step.bound == "memory":
                svg.circle(px, py, 3, colour)
            else:
                svg.rect(px - 4, py - 4, 8, 8, colour)
        if curve.max_batch < BATCHES[-1]:
            px, py = points[-1]
            _cross(svg, px + 11, py, colour)
        if batch in curve.steps:
            svg.circle(x(batch), y(_value(curve.steps[batch], of)), 7, "none", stroke=INK)


def _value(step: DecodeStep, of: str) -> float:
    return step.tokens_per_s if of == "speed" else step.seconds * 1e3


def _frame(
    svg: Svg, both: list[Curve], of: str, box: tuple[float, float, float, float], label: str,
    batch: int, marks: tuple[float, float],
) -> None:  # fmt: skip
    left, right, bottom, top = box
    x = LogScale(0.7, BATCHES[-1] * 1.6, left, right)
    low, high = around([_value(s, of) for curve in both for s in curve.steps.values()])
    y = LogScale(low, high, bottom, top)
    plot_axes(svg, x, y, x_label="batch: sequences that each get a token a step", y_label=label,
              x_ticks=TICKS)  # fmt: skip
    for mark, colour in zip(marks, (SPARSE, DENSE), strict=True):
        if mark < x.high:
            svg.line(x(mark), bottom, x(mark), top, stroke=colour, width=1.5, dash="2 4")
    svg.line(x(batch), bottom, x(batch), top, stroke=INK, width=0.8)
    _lines(svg, x, y, both, batch, of)


def _speed(svg: Svg, both: list[Curve], batch: int, marks: tuple[float, float]) -> None:
    _frame(svg, both, "speed", (58, 440, 470, 96), "tokens/s of all sequences", batch, marks)


def _time(svg: Svg, both: list[Curve], batch: int, marks: tuple[float, float]) -> None:
    _frame(svg, both, "time", (530, 890, 258, 96), "time of a step, ms", batch, marks)


def _touched(svg: Svg, experts: int, top_k: int, batch: int) -> None:
    x = LogScale(0.7, BATCHES[-1] * 1.6, 530, 890)
    y = Scale(0, 100, 470, 338)
    plot_axes(svg, x, y, x_label="batch", y_label=f"experts touched in a layer, % of {experts}",
              x_ticks=TICKS)  # fmt: skip
    points = [(x(b), y(100 * distinct_experts(experts, top_k, b).total / experts)) for b in BATCHES]
    svg.polyline(points, stroke=TOUCHED)
    svg.line(x(batch), y.start, x(batch), y.end, stroke=INK, width=0.8)
    here = distinct_experts(experts, top_k, batch).total
    spot = y(100 * here / experts)
    svg.circle(x(batch), spot, 5, TOUCHED, stroke=INK)
    # On the side of the rising curve where it does not run, and inside the picture.
    full = here > 0.85 * experts
    anchor = "start" if batch < 4 or (full and batch < 1024) else "end"
    svg.text(
        x(batch) + (9 if anchor == "start" else -9),
        spot + (20 if full else -10),
        f"{here:.1f}",
        bold=True,
        anchor=anchor,
    )


def _table(sparse: Curve, dense: Curve, moe: MoE) -> tuple[tuple[object, ...], ...]:
    rows = []
    for batch in BATCHES:
        step, twin = sparse.steps.get(batch), dense.steps.get(batch)
        touched = f"{distinct_experts(moe.num_experts, moe.top_k, batch).total:.1f}"
        of_step = (
            (_ms(step), si(step.tokens_per_s, ""), si(step.tokens_per_s_per_sequence, ""),
             step.bound)
            if step else ("does not fit", "", "", "")
        )  # fmt: skip
        of_twin = (
            (_ms(twin), si(twin.tokens_per_s, ""), twin.bound) if twin else ("does not fit", "", "")
        )
        rows.append((batch, touched, *of_step, *of_twin))
    return tuple(rows)
