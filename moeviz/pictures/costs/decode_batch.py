"""Generating tokens: step time, speed and experts touched as the batch grows, dense twin beside."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from moeviz.costs import (
    Architecture,
    DecodeStep,
    MoE,
    critical_batch,
    decode_step,
    device,
    distinct_experts,
    fit,
)
from moeviz.costs.cost.quantisation import PLANS, QuantPlan
from moeviz.pictures.axes import LogScale, Scale, axes, decades, short
from moeviz.pictures.costs.memory_fit import COUNTS, source_line
from moeviz.pictures.costs.memory_fit import PLANS as PLAN_NAMES
from moeviz.pictures.costs.model_parts import sparse_sizes_of
from moeviz.pictures.plot import Key, box, curve, heading, knob, legend, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg, si, three

# The main chart, and beside it the two that share its batches.
WIDTH, SIDE, HEIGHT = 560.0, 380.0, 620.0
LAST = 14  # the batch goes to 2^14
BATCHES = tuple(2**i for i in range(LAST + 1))
TICKS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0)
SPARSE, DENSE = Key("sparse", "#0072b2"), Key("dense", "#d55e00", "7 3")
TOUCHED = Key("touched", "#009e73")
TWIN = "dense twin"
LIMITS = {"memory": "memory", "compute": "arithmetic"}  # what a step waits for
COLUMNS = (
    "batch", "experts touched", "step, ms", "tokens/s in all", "tokens/s each", "bound by",
    "dense twin: step, ms", "dense twin: tokens/s", "dense twin: bound by",
)  # fmt: skip


@dataclass(frozen=True)
class ByBatch:
    """Steps of one model by batch, as far as the memory reaches, and where that ends."""

    name: str
    steps: dict[int, DecodeStep]
    max_batch: int


@lru_cache(maxsize=32)
def curves(
    model_name: str, device_name: str, devices: int, plan: str, context: int
) -> tuple[ByBatch, ByBatch]:
    """The model and its dense twin of equal active parameters."""
    architecture, chip = sparse_sizes_of(model_name), device(device_name)
    setting: dict[str, Any] = dict(
        context_tokens=context, plan=_one_format_for_ffns(PLANS[plan]), devices=devices
    )

    def curve_of(name: str, shape: Architecture) -> ByBatch:
        most = fit(shape, chip, **setting).max_batch
        held = [batch for batch in BATCHES if batch <= most]
        steps = {batch: decode_step(shape, chip, batch=batch, **setting) for batch in held}
        return ByBatch(name, steps, most)

    return curve_of(model_name, architecture), curve_of(TWIN, architecture.dense_twin())


def _one_format_for_ffns(plan: QuantPlan) -> QuantPlan:
    """A plan that stores shared experts and dense FFNs as it does routed experts: otherwise the
    twin, whose FFNs stand for all of them, would be smaller or larger than what it is a twin of."""
    parts = dict(plan.parts)
    if "routed_experts" in parts:
        parts["shared_experts"] = parts["dense_ffn"] = parts["routed_experts"]
    return QuantPlan(plan.name, plan.default, tuple(parts.items()))


def decode_batch(
    *, model_name: str, device_name: str, devices: int, plan: str, context: int, batch: int,
) -> Picture:  # fmt: skip
    """Tokens a second of all sequences, the time of a step, and the experts touched, by batch."""
    sparse, dense = curves(model_name, device_name, devices, plan, context)
    architecture = sparse_sizes_of(model_name)
    chip, moe = device(device_name), architecture.moe
    bits = PLANS[plan].format("routed_experts").bits
    marks = (
        critical_batch(chip, architecture, weight_bits=bits).total,
        critical_batch(chip, weight_bits=bits).total,
    )
    machine = f"{devices} × {chip.name}"
    summary = _summary(model_name, machine, sparse, dense, batch, moe.num_experts)
    if not sparse.steps:
        ways = remedies(model_name, device_name, devices, plan, context)
        words = " or ".join(way.words for way in ways)
        summary += f" {words[0].upper()}{words[1:]} would hold it." if ways else ""
    svg = Svg(WIDTH, HEIGHT, "Decoding by batch", summary)
    heading(svg, f"{model_name} in {PLAN_NAMES[plan]}", f"{machine}, {context:,} tokens of context")
    _legend(svg)
    side = svg.beside(SIDE, 546)
    both = [curve for curve in (sparse, dense) if curve.steps]
    if both:
        speed = LogScale(*decades(s.tokens_per_s for c in both for s in c.steps.values()), 500, 142)
        time = LogScale(*decades(1e3 * s.seconds for c in both for s in c.steps.values()), 238, 32)
        for part, x, y, label, value in (
            (svg, _batches(58, 550), speed, "tokens/s of all sequences", lambda s: s.tokens_per_s),
            (side, _batches(48, 370), time, "time of a step, ms", lambda s: s.seconds * 1e3),
        ):
            _frame(part, x, y, label, batch)
            for mark_, key in zip(marks, (SPARSE, DENSE), strict=True):
                if mark_ < x.high:
                    at = x(mark_)
                    part.line(at, y.start, at, y.end, stroke=key.colour, width=1.5, dash="2 4")
                    if part is svg:
                        words = f"{key.name}: {mark_:,.0f} sequences"
                        svg.text(at - 5, y.start - 8, words, rotate=-90, halo=True)
            _steps(part, x, y, both, batch, value)
        _times_as_long(svg, _batches(58, 550), speed, sparse, dense, batch)
        knob(svg, _batches(58, 550)(batch), 142, 6)
    else:
        svg.text(58, 180, "Neither fits this memory, not even one sequence.", size=14)
        for i, remedy in enumerate(remedies(model_name, device_name, devices, plan, context)):
            with svg.thing(tip=f"Take {remedy.words}", press=remedy.values):
                box(svg, 58, 200 + 44 * i, 340, 32, "none", f"{remedy.words} would hold it",
                    size=13, radius=6, stroke=RULE)  # fmt: skip
    _touched(side, moe.num_experts, moe.top_k, batch, dict(_words(b, both) for b in BATCHES))
    bounds = "Bounds, nothing measured: BF16 arithmetic, even routing, no traffic between devices."
    lines = [line for note in (source_line(chip), bounds) for line in textwrap.wrap(note, 80)]
    paragraph(svg, 0, 562, lines, 17, fill=MUTED)
    return svg.picture(COLUMNS, _table(sparse, dense, moe))


@dataclass(frozen=True)
class Remedy:
    """What would hold a model that does not fit: in words, and as values of the panel."""

    words: str
    values: dict[str, object]


@lru_cache(maxsize=32)
def remedies(
    model_name: str, device_name: str, devices: int, plan: str, context: int
) -> tuple[Remedy, ...]:
    """More devices, fewer bits, or both, for one sequence; as little as does."""
    shape, chip = sparse_sizes_of(model_name), device(device_name)

    def holds(count: int, bits: str) -> bool:
        setting: dict[str, Any] = dict(context_tokens=context, plan=PLANS[bits], devices=count)
        return fit(shape, chip, **setting).fits

    more = next((n for n in COUNTS if n > devices and holds(n, plan)), None)
    fewer = next((p for p in PLAN_NAMES if holds(devices, p)), None)
    ways = []
    if more:
        ways.append(Remedy(f"{more} devices", {"devices": more}))
    if fewer:
        ways.append(Remedy(f"{PLAN_NAMES[fewer]} weights", {"plan": fewer}))
    if not ways:
        both = next(((n, p) for n in COUNTS for p in PLAN_NAMES if holds(n, p)), None)
        if both:
            words = f"{both[0]} devices with {PLAN_NAMES[both[1]]} weights"
            ways.append(Remedy(words, {"devices": both[0], "plan": both[1]}))
    return tuple(ways)


def _summary(
    name: str, machine: str, sparse: ByBatch, dense: ByBatch, batch: int, num_experts: int
) -> str:
    if not sparse.steps:
        return f"{name} does not fit {machine} with even one such sequence."
    step = sparse.steps.get(batch)
    if step is None:
        return (
            f"A batch of {batch:,} does not fit {machine}: weights and cache leave room for "
            f"{sparse.max_batch:,} such sequences."
        )
    sentence, twin = f"Batch {batch:,}: a step takes {_ms(step)} ms", dense.steps.get(batch)
    if twin is not None:
        sentence += f", {_as_long(step, twin)} as the dense twin's"
    return (
        f"{sentence}. It touches {step.distinct:.1f} of {num_experts} experts of a layer, and "
        f"waits for the {LIMITS[step.bound]}."
    )


def _as_long(step: DecodeStep, twin: DecodeStep) -> str:
    times = step.seconds / twin.seconds
    return "as long" if round(times, 2) == 1 else f"{times:.2f} times as long"


def _times_as_long(
    svg: Svg, x: Scale, y: Scale, sparse: ByBatch, dense: ByBatch, batch: int
) -> None:
    """Between the two curves, at the chosen batch: how they differ."""
    step, twin = sparse.steps.get(batch), dense.steps.get(batch)
    if not (step and twin):
        return
    low, high = y(step.tokens_per_s), y(twin.tokens_per_s)
    svg.line(x(batch), low, x(batch), high, stroke=INK, width=4)
    words = f"a step takes {_as_long(step, twin)}"
    if step.seconds < 1.005 * twin.seconds:
        words = "both are equally fast"
    left = batch <= BATCHES[-1] / 64
    svg.text(x(batch) + (14 if left else -14), (low + high) / 2 + 4, words, bold=True, halo=True,
             anchor="start" if left else "end")  # fmt: skip


def _ms(step: DecodeStep) -> str:
    return three(step.seconds * 1e3)


def _legend(svg: Svg) -> None:
    names = [f"b{batch}" for batch in BATCHES]
    for x, key, words in (
        (0, SPARSE, "sparse"),
        (110, DENSE, "dense twin: as many active parameters"),
    ):
        with svg.thing(key.name, *names):
            legend(svg, x, 60, (replace(key, name=words),))
    svg.line(0, 77, 26, 77, stroke=MUTED, width=1.5, dash="2 4")
    words = "critical batch, caches left out: arithmetic takes longer than reading weights"
    svg.text(32, 81, words, fill=MUTED)
    shapes = {"limit: memory": "circle", "limit: arithmetic": "square",
              "the memory is full": "cross", "the chosen batch": "ring"}  # fmt: skip
    keys = (Key(name, INK, mark=shape, width=0) for name, shape in shapes.items())
    legend(svg, 0, 102, keys, across=140, fill=MUTED)


def _batches(left: float, right: float) -> LogScale:
    return LogScale(0.7, BATCHES[-1] * 1.6, left, right)


def _frame(svg: Svg, x: Scale, y: Scale, label: str, batch: int) -> None:
    """Axes, and an upright line at the chosen batch."""
    axes(svg, x, y, x_label="batch: sequences that each get a token a step", y_label=label,
         x_ticks=TICKS, x_form=short, y_form=short, above=True)  # fmt: skip
    svg.line(x(batch), y.start, x(batch), y.end, stroke=INK, width=0.8)


def _words(batch: int, both: Sequence[ByBatch]) -> tuple[int, str]:
    """A batch, and what it means for those that hold it."""
    steps = ((each.name, each.steps[batch]) for each in both if batch in each.steps)
    parts = [f"{name} {_ms(s)} ms a step, {s.tokens_per_s:,.0f} tokens/s" for name, s in steps]
    return batch, f"batch {batch:,}: {'; '.join(parts) or 'does not fit'}"


def _steps(
    svg: Svg, x: Scale, y: Scale, both: Sequence[ByBatch], batch: int,
    value: Callable[[DecodeStep], float],
) -> None:  # fmt: skip
    """The curves, and at each batch their marks: what bounds them, and where they end."""
    names = [f"b{b}" for b in BATCHES]
    for each in both:
        key = DENSE if each.name == TWIN else SPARSE
        with svg.thing(key.name, *names):
            curve(svg, x, y, ((b, value(step)) for b, step in each.steps.items()), key)
    words = dict(_words(b, both) for b in BATCHES)
    for b in BATCHES:
        with _zone(svg, x, y, b, words[b]):
            for each in both:
                if step := each.steps.get(b):
                    memory, key = step.bound == "memory", DENSE if each.name == TWIN else SPARSE
                    mark(svg, "circle" if memory else "square", x(b), y(value(step)), key.colour,
                         3 if memory else 4)  # fmt: skip
    for each in both:
        key = DENSE if each.name == TWIN else SPARSE
        if each.max_batch < BATCHES[-1]:
            last = max(each.steps)
            with svg.thing(key.name, *names, tip=f"{each.name}: at most {each.max_batch:,} fit"):
                mark(svg, "cross", x(last) + 11, y(value(each.steps[last])), key.colour, 5)
        if batch in each.steps:
            mark(svg, "ring", x(batch), y(value(each.steps[batch])), INK, 7)


@contextmanager
def _zone(svg: Svg, x: Scale, y: Scale, batch: int, words: str) -> Iterator[None]:
    """The strip of a plot that stands for a batch: dragged over, it sets it."""
    half = (x(2) - x(1)) / 2
    with svg.thing(
        f"b{batch}", SPARSE.name, DENSE.name, tip=words, press={"batch": batch}, drag=True
    ):
        svg.rect(x(batch) - half, y.end, 2 * half, y.start - y.end, "transparent")
        yield


def _touched(svg: Svg, experts: int, top_k: int, batch: int, words: dict[int, str]) -> None:
    x, y = _batches(48, 370), Scale(0, 100, 500, 320)
    _frame(svg, x, y, f"experts touched in a layer, % of {experts}", batch)
    touched = {b: distinct_experts(experts, top_k, b).total for b in BATCHES}
    curve(svg, x, y, ((b, 100 * touched[b] / experts) for b in BATCHES), TOUCHED)
    for b in BATCHES:
        with _zone(svg, x, y, b, f"{words[b]}; {touched[b]:.1f} experts"):
            svg.circle(x(b), y(100 * touched[b] / experts), 3, TOUCHED.colour)
    of_batch, spot = touched[batch], y(100 * touched[batch] / experts)
    mark(svg, "circle", x(batch), spot, TOUCHED.colour, 5, stroke=INK)
    # On the side of the rising curve where it does not run, and inside the picture.
    full = of_batch > 0.85 * experts
    after = batch < 4 or (full and batch < 1024)
    svg.text(
        x(batch) + (9 if after else -9), spot + (20 if after else -10), f"{of_batch:.1f}",
        bold=True, anchor="start" if after else "end",
    )  # fmt: skip


def _table(sparse: ByBatch, dense: ByBatch, moe: MoE) -> Iterator[tuple[object, ...]]:
    for batch in BATCHES:
        step, twin = sparse.steps.get(batch), dense.steps.get(batch)
        touched = f"{distinct_experts(moe.num_experts, moe.top_k, batch).total:.1f}"
        of_step: tuple[str, ...] = ("does not fit", "", "", "")
        of_twin: tuple[str, ...] = ("does not fit", "", "")
        if step:
            each = si(step.tokens_per_s_per_sequence, "")
            of_step = _ms(step), si(step.tokens_per_s, ""), each, step.bound
        if twin:
            of_twin = _ms(twin), si(twin.tokens_per_s, ""), twin.bound
        yield batch, touched, *of_step, *of_twin
