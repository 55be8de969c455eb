"""Generating tokens: step time, speed and experts touched as the batch grows, dense twin beside."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

from moeviz.checks import check_choice
from moeviz.costs import (
    Architecture,
    DecodeStep,
    Device,
    MoE,
    critical_batch,
    device,
    distinct_experts,
)
from moeviz.costs.cost.quantisation import PLANS
from moeviz.pictures.axes import LogScale, Scale, axes, decades, short
from moeviz.pictures.costs.decode_curves import BATCHES, TWIN, ByBatch, curves, remedies
from moeviz.pictures.costs.memory_fit import PLANS as PLAN_NAMES
from moeviz.pictures.costs.memory_fit import source_line
from moeviz.pictures.costs.model_parts import sparse_sizes_of
from moeviz.pictures.plot import Key, box, curve, heading, knob, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, RULE, SMALLEST, Picture, Svg, si, text_width, three

# The main chart, and beside it the experts of the same batches.
WIDTH, SIDE, HEIGHT, SIDE_HEIGHT = 560.0, 380.0, 580.0, 340.0
PLOT, BESIDE = (58.0, 550.0, 120.0, 460.0), (48.0, 370.0, 70.0, 290.0)  # left, right, top, base
TICKS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0)
SPARSE, DENSE = Key("sparse", "#0072b2", width=3), Key("dense", "#d55e00", "7 3", width=3)
TOUCHED = Key("touched", "#009e73")
LIMITS = {"memory": "memory", "compute": "arithmetic"}  # what a step waits for
SHADES = {"memory": "#56b4e9", "compute": "#e69f00"}  # of these regions, and of what does not fit
FULL = "#6e6e6e"
SHOWN = {"time": "time of a step, ms", "speed": "tokens/s of all sequences"}
COLUMNS = (
    "batch", "experts touched", "step, ms", "tokens/s in all", "tokens/s each", "bound by",
    "dense twin: step, ms", "dense twin: tokens/s", "dense twin: bound by",
)  # fmt: skip


def decode_batch(
    *, model_name: str, device_name: str, devices: int, plan: str, context: int, batch: int,
    shown: str = "time", critical: bool = False,
) -> Picture:  # fmt: skip
    """The time of a step by batch, or the tokens of all sequences a second, with what the sparse
    model waits for; beside it the experts touched. critical: the batches from which arithmetic
    takes longer than reading the weights."""
    check_choice("shown", shown, SHOWN)
    sparse, dense = curves(model_name, device_name, devices, plan, context)
    chip, moe = device(device_name), sparse_sizes_of(model_name).moe
    machine = f"{devices} × {chip.name}"
    outcome, why = _outcome(model_name, machine, sparse, dense, batch, moe.num_experts)
    ways = () if sparse.steps else remedies(model_name, device_name, devices, plan, context)
    if ways:
        words = " or ".join(way.words for way in ways)
        why = f"{words[0].upper()}{words[1:]} would hold it."
    svg = Svg(WIDTH, HEIGHT, "Decoding by batch", " ".join(filter(None, (outcome, why))))
    heading(svg, "When is a sparse model slower than a dense one?")
    svg.text(0, 38, outcome, bold=True)
    setting = f"{model_name} in {PLAN_NAMES[plan]} · {machine}, {context:,} tokens of context"
    svg.text(0, 57, setting, fill=MUTED)
    svg.text(0, 75, "dense twin: a dense model of as many active parameters", fill=MUTED)
    both = [curve for curve in (sparse, dense) if curve.steps]
    if both:
        _plot(svg, both, sparse, dense, batch, shown)
        if critical:
            _critical(svg, chip, sparse_sizes_of(model_name), plan)
    else:
        svg.text(58, 180, "Neither fits this memory, not even one sequence.", size=14)
        for i, remedy in enumerate(remedies(model_name, device_name, devices, plan, context)):
            with svg.thing(tip=f"Take {remedy.words}", press=remedy.values):
                box(svg, 58, 200 + 44 * i, 340, 32, "none", f"{remedy.words} would hold it",
                    size=13, radius=6, stroke=RULE)  # fmt: skip
    words_of = dict(_words(b, both) for b in BATCHES)
    _touched(svg.beside(SIDE, SIDE_HEIGHT), moe.num_experts, moe.top_k, batch, words_of)
    bounds = "Bounds, nothing measured: BF16 arithmetic, even routing, no traffic between devices."
    lines = [line for note in (source_line(chip), bounds) for line in textwrap.wrap(note, 80)]
    paragraph(svg, 0, 520, lines, 17, fill=MUTED)
    return svg.picture(COLUMNS, _table(sparse, dense, moe))


def _outcome(
    name: str, machine: str, sparse: ByBatch, dense: ByBatch, batch: int, num_experts: int
) -> tuple[str, str]:
    """How the batch's step stands to the dense twin's, and why."""
    if not sparse.steps:
        return f"{name} does not fit {machine} with even one such sequence.", ""
    step, twin = sparse.steps.get(batch), dense.steps.get(batch)
    if step is None:
        room = f"Weights and cache leave room for {sparse.max_batch:,} such sequences."
        return f"A batch of {batch:,} does not fit {machine}.", room
    outcome = f"Batch {batch:,}: a step takes {_ms(step)} ms"
    if twin is not None:
        outcome += f", {_as_long(step, twin)} as the dense twin's"
    why = f"It touches {step.distinct:.1f} of {num_experts} experts of a layer, and "
    return f"{outcome}.", f"{why}waits for the {LIMITS[step.bound]}."


def _as_long(step: DecodeStep, twin: DecodeStep) -> str:
    times = step.seconds / twin.seconds
    return "as long" if round(times, 2) == 1 else f"{times:.2f} times as long"


def _plot(
    svg: Svg, both: Sequence[ByBatch], sparse: ByBatch, dense: ByBatch, batch: int, shown: str
) -> None:
    """The curves with their names, over what the sparse model waits for."""
    left, right, top, base = PLOT

    def value(step: DecodeStep) -> float:
        return 1e3 * step.seconds if shown == "time" else step.tokens_per_s

    x = _batches(left, right)
    y = LogScale(*decades(value(s) for c in both for s in c.steps.values()), base, top)
    _regions(svg, x, y, sparse)
    _frame(svg, x, y, SHOWN[shown], batch)
    _steps(svg, x, y, both, batch, value)
    _names(svg, x, y, both, value)
    step, twin = sparse.steps.get(batch), dense.steps.get(batch)
    if step and twin:
        _gap(svg, x(batch), y(value(step)), y(value(twin)), _as_long(step, twin))
    knob(svg, x(batch), top, 6)


def _regions(svg: Svg, x: Scale, y: Scale, sparse: ByBatch) -> None:
    """What the sparse model waits for, batch by batch, and where the memory is full."""
    start = x.start
    for bound, run in groupby(sparse.steps.items(), key=lambda item: item[1].bound):
        last = [batch for batch, _ in run][-1]
        full = last == max(sparse.steps)
        end = x(min(sparse.max_batch, x.high)) if full else x(last * 2**0.5)
        _region(svg, start, end, y, SHADES[bound], f"waits for {LIMITS[bound]}")
        start = end
    if start < x.end - 1:
        _region(svg, start, x.end, y, FULL, "the memory is full")


def _region(svg: Svg, left: float, right: float, y: Scale, colour: str, words: str) -> None:
    svg.rect(left, y.end, right - left, y.start - y.end, colour, opacity=0.2)
    if right - left > text_width(words, SMALLEST):
        svg.text((left + right) / 2, y.start - 7, words, anchor="middle")
    elif right - left > 16:
        svg.text((left + right) / 2 + 4, y.start - 10, words, rotate=-90)


def _names(
    svg: Svg, x: Scale, y: Scale, both: Sequence[ByBatch], value: Callable[[DecodeStep], float]
) -> None:
    """The name of each curve beside it: of the upper one over it, of the lower one under it."""
    ends = [max(each.steps) for each in both]
    first, second = (max(b for b in BATCHES if b <= min(place, *ends)) for place in (16, 8))
    upper = max(both, key=lambda each: value(each.steps[first]))
    for each in both:
        key, name = (DENSE, TWIN) if each.name == TWIN else (SPARSE, "sparse model")
        with svg.thing(key.name, *(f"b{b}" for b in BATCHES)):
            if each is upper:
                at, height = x(first), y(value(each.steps[first]))
                svg.text(max(at - 10, x.start + 0.93 * text_width(name, SMALLEST)), height - 12,
                         name, bold=True, anchor="end")  # fmt: skip
            else:
                at, height = x(second), y(value(each.steps[second]))
                svg.text(at + 10, height + 20, name, bold=True)


def _gap(svg: Svg, x: float, one: float, other: float, as_long: str) -> None:
    """Between the two curves, at the chosen batch: how they differ."""
    svg.line(x, one, x, other, stroke=INK, width=4)
    left, right, top, _ = PLOT
    before = x < (left + right) / 2
    words = "both are equally fast" if as_long == "as long" else f"{as_long} as the twin"
    svg.text(x + (20 if before else -20), top + 22, words, bold=True,
             anchor="start" if before else "end")  # fmt: skip


def _critical(svg: Svg, chip: Device, architecture: Architecture, plan: str) -> None:
    """The batches from which the arithmetic takes longer than reading the weights."""
    bits, (left, right, top, base) = PLANS[plan].format("routed_experts").bits, PLOT
    x = _batches(left, right)
    for shape, key in ((architecture, SPARSE), (None, DENSE)):
        batch = critical_batch(chip, shape, weight_bits=bits).total
        if batch < x.high:
            svg.line(x(batch), base, x(batch), top, stroke=key.colour, width=1.5, dash="2 4")
            words = f"critical batch, {key.name}: {batch:,.0f}"
            svg.text(x(batch) - 5, base - 150, words, rotate=-90)


def _ms(step: DecodeStep) -> str:
    return three(step.seconds * 1e3)


def _batches(left: float, right: float) -> LogScale:
    return LogScale(0.7, BATCHES[-1] * 1.6, left, right)


def _frame(svg: Svg, x: Scale, y: Scale, label: str, batch: int) -> None:
    """Axes, and an upright line at the chosen batch."""
    axes(svg, x, y, x_label="batch: sequences at once · drag the line", y_label=label,
         x_ticks=TICKS, x_form=short, y_form=short, above=True)  # fmt: skip
    svg.line(x(batch), y.start, x(batch), y.end, stroke=INK, width=0.8)


def _words(batch: int, both: Sequence[ByBatch]) -> tuple[int, str]:
    """A batch, and what it means for those that hold it."""
    steps = ((each.name, each.steps[batch]) for each in both if batch in each.steps)
    parts = [
        f"{name} {_ms(s)} ms a step, {s.tokens_per_s:,.0f} tokens/s, waits for {LIMITS[s.bound]}"
        for name, s in steps
    ]
    return batch, f"batch {batch:,}: {'; '.join(parts) or 'does not fit'}"


def _steps(
    svg: Svg, x: Scale, y: Scale, both: Sequence[ByBatch], batch: int,
    value: Callable[[DecodeStep], float],
) -> None:  # fmt: skip
    """The curves, as far as the memory reaches, and a spot at each batch."""
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
                    key = DENSE if each.name == TWIN else SPARSE
                    mark(svg, "circle", x(b), y(value(step)), key.colour, 3.5)
    for each in both:
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
    left, right, top, base = BESIDE
    x, y = _batches(left, right), Scale(0, experts, base, top)
    heading(svg, "Why: the experts that a batch touches")
    _frame(svg, x, y, f"experts of a layer, of {experts}", batch)
    touched = {b: distinct_experts(experts, top_k, b).total for b in BATCHES}
    curve(svg, x, y, touched.items(), TOUCHED)
    for b in BATCHES:
        with _zone(svg, x, y, b, f"{words[b]}; {touched[b]:.1f} experts"):
            svg.circle(x(b), y(touched[b]), 3, TOUCHED.colour)
    of_batch, spot = touched[batch], y(touched[batch])
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
