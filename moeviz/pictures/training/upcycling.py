"""A model grown from a dense one: what is recorded over seeds, and three learners on the way."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

import numpy as np

from moeviz.pictures.axes import Scale, axes, general, padded, x_axis
from moeviz.pictures.over_seeds import gap_cell, gap_dots, gap_scale, verdict_keys
from moeviz.pictures.plot import Key, curve, heat_bar, legend, paragraph, smooth, spots
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.pictures.training.arms import origin, seeds_words
from moeviz.pictures.training.load_and_speed import LOAD_HEIGHT, SIDE, STYLES, draw_load
from moeviz.pictures.training.race import (
    AXES,
    MARKS,
    NOT_YET,
    SMOOTH,
    finish,
    losses,
    name_ends,
    progress,
)
from moeviz.pictures.training.upcycling_told import ASKED, NOT_RECORDED, Recorded, told
from moeviz.records.growth import (
    BEFORE,
    EARLY,
    LATE,
    LEARNERS,
    PAIRS,
    SCRATCH,
    cosines,
    mean_cosines,
    name_of,
)
from moeviz.records.metrics import last_common, validation_at
from moeviz.records.runs import Snapshot

QUESTION = "Grow a sparse model from a dense one, or begin from scratch?"
COLUMNS = (
    "model, or comparison", "steps", "validation loss",
    "difference in nats per token, 95 % interval, verdict", "mean cosine of experts",
    "parameters", "active parameters",
)  # fmt: skip
WIDTH, ROW, WRAP = 560.0, 20.0, 72
TINT = 0.1  # of the rows that the finding tells of
PLOTS = {EARLY: (236.0, 382.0), LATE: (406.0, 552.0)}  # x of the two columns of differences
CURVES, CURVE_ENDS, CURVE_PLOT = 400.0, (56.0, 440.0), (330.0, 118.0)
ALIKE_HEIGHT = 470.0
KEYS = {
    name: Key(name, *style, mark=shape, width=1.6, bold=True)
    for name, style, shape in zip(LEARNERS, STYLES, MARKS, strict=True)
}


def upcycling(
    recorded: Recorded | None, way: str, learners: Sequence[Snapshot], axis: str, *, note: str = ""
) -> Picture:
    """Who leads early and who late, in words and as a row for each comparison; then the learners of
    LEARNERS, the last of them grown in this way: their losses, how alike the grown one's experts
    are, and their load. axis: "step", from the moment of growing, or "flops", the parent's counted.
    recorded: runs/upcycling.json."""
    headline = told(recorded) if recorded else NOT_RECORDED
    now = standing(learners, way)
    lines = textwrap.wrap(headline, WRAP)
    top = 38 + 18 * len(lines)
    height = top + (ROW * (len(PAIRS) + 3) + 118 if recorded else 4)
    svg = Svg(WIDTH, height, "Growing a sparse model", f"{headline} {now}")
    svg.text(0, 16, QUESTION, size=14, bold=True)
    paragraph(svg, 0, 38, lines, size=13, bold=True)
    if recorded:
        _draw_gaps(svg, top, recorded, way)
    # In two rows of a wide part and a narrow one, where the page has room for both.
    _draw_alike(svg.beside(SIDE, ALIKE_HEIGHT), learners)
    _draw_losses(svg.beside(WIDTH, CURVES), learners, axis, now, note)
    grown = learners[-1]
    label = AXES["step"][0]
    draw_load(svg.beside(SIDE, LOAD_HEIGHT), [grown], "step", finish([grown], "step"), label)
    return svg.picture(COLUMNS, [*map(_row, learners), *(_gap_rows(recorded) if recorded else ())])


def standing(learners: Sequence[Snapshot], way: str) -> str:
    """How far the learners are, and the validation loss of each where all were measured last."""
    running = progress(sorted(learners, key=lambda learner: -learner.total_steps))
    at = last_common([learner.curve for learner in learners], "step")
    if np.isnan(at):
        return f"{running}Grown by {way}: no validation loss to compare yet."
    told = ", ".join(f"{s.label} {validation_at(s.curve, 'step', at):.3f}" for s in learners[::-1])
    words = f"Grown by {way}, validation loss at step {at:.0f}, in nats per token: {told}."
    return f"{running}{words}"


# The comparisons.


def _draw_gaps(svg: Svg, top: float, recorded: Recorded, way: str) -> None:
    svg.text(0, top, origin(recorded, seeds_words(len(recorded["seeds"]))), fill=MUTED)
    gaps = recorded["gaps"]
    steps = {EARLY: recorded["early"], LATE: recorded["steps"]}
    first_row, bottom = top + 58, top + 48 + ROW * (len(PAIRS) + 3)
    scales = {}
    for moment, ends in PLOTS.items():
        x = scales[moment] = gap_scale(gaps[moment].values(), *ends)
        svg.text(
            sum(ends) / 2, top + 26, f"after {steps[moment]:,} steps", anchor="middle", bold=True
        )
        svg.line(x(0), top + 36, x(0), bottom, stroke=INK)
        x_axis(svg, x, bottom, "nats per token", ticks=x.ticks(4))
    y, before = first_row, ""
    for pair in PAIRS:
        grown, other, how = pair
        if grown != before:
            svg.text(0, y + 4, f"{grown} minus …", bold=grown == way)
            y, before = y + ROW, grown
        tip = f"{grown} minus {other}, {how}: " + "; ".join(
            f"{moment} {gap_cell(gaps[moment][name_of(pair)])}" for moment in PLOTS
        )
        with svg.thing(name_of(pair), tip=tip, press={"grow": grown, "seed": 0}):
            asked = pair in ASKED
            svg.rect(0, y - ROW / 2, WIDTH, ROW, MUTED if asked else "transparent", opacity=TINT)
            svg.text(16, y + 4, f"{other}, {how}", bold=asked)
            for moment, x in scales.items():
                gap_dots(svg, x, y, gaps[moment][name_of(pair)])
        y += ROW
    legend(svg, 0, bottom + 58, verdict_keys())
    svg.text(
        WIDTH - 2,
        bottom + 58,
        "tinted: told above · left of 0: the first has the lower loss",
        anchor="end",
        fill=MUTED,
    )


# The learners.


def _draw_losses(svg: Svg, learners: Sequence[Snapshot], axis: str, now: str, note: str) -> None:
    lines = textwrap.wrap(now, WRAP)
    paragraph(svg, 0, 16, lines, size=13, bold=True)
    svg.text(0, 18 * len(lines) + 20, note, fill=MUTED)
    svg.text(0, 98, "Loss (nats per token)", bold=True)
    svg.text(160, 98, "line: training, smoothed · marks: validation", fill=MUTED)
    grown = learners[-1]
    end = finish([grown], axis) + (_before(grown) if axis == "flops" else 0)
    shown = [_within(learner, axis, end) for learner in learners]
    x = Scale(0, end, *CURVE_ENDS)
    y = Scale(*padded(_range(shown)), *CURVE_PLOT)
    label = (
        f"{AXES[axis][0]} since growing"
        if axis == "step"
        else "training compute, the parent's counted"
    )
    form = general if axis == "step" else lambda value: f"{value / 1e12:.3g}" if value else "0"
    if axis == "flops":
        label = f"{label}, in TFLOP"
    axes(svg, x, y, x_label=label, y_ticks=y.ticks(4), x_form=form)
    ends = []
    for learner in shown:
        key = KEYS[learner.label]
        losses(svg, x, y, axis, learner.curve, SMOOTH, key)
        last = float(smooth(learner.curve.loss, SMOOTH)[-1]) if len(learner.curve) else y.low
        ends.append((y(last), key.name, key))
    name_ends(svg, x.end, CURVE_PLOT, ends)
    if not any(len(learner.curve) for learner in learners):
        svg.text(sum(CURVE_ENDS) / 2, 210, NOT_YET, anchor="middle", bold=True, halo=True)


def _before(learner: Snapshot) -> float:
    """FLOPs that were spent before its first step."""
    return float(learner.meta.get("notes", {}).get(BEFORE, 0.0))


def _within(learner: Snapshot, axis: str, end: float) -> Snapshot:
    """The learner up to the end of the axis; its FLOPs with those of its parent."""
    if axis == "flops":
        flops = learner.curve.flops + _before(learner)
        learner = dataclasses.replace(
            learner, curve=dataclasses.replace(learner.curve, flops=flops)
        )
    return learner.at(axis, end * (1 + 1e-9))


def _range(learners: Sequence[Snapshot]) -> list[float]:
    """The losses that the plot must hold: a start from scratch begins above it."""
    values: list[float] = []
    for learner in learners:
        validation = learner.curve.validation
        values += validation[~np.isnan(validation)].tolist()
        if learner.label != SCRATCH:
            values += smooth(learner.curve.loss, SMOOTH).tolist()
    return values or [0.0, 8.0]


# How alike experts are.


def _draw_alike(svg: Svg, learners: Sequence[Snapshot]) -> None:
    grown = learners[-1]
    left, top, size = 44.0, 54.0, 152.0
    svg.text(0, 16, "How alike the experts are", size=13, bold=True)
    steps_P, matrix = cosines(grown)
    if not len(steps_P):
        svg.text(0, 40, "no look at them yet", fill=MUTED)
    else:
        svg.text(0, 36, f"cosine of weights, last layer, step {steps_P[-1]:.0f}", fill=MUTED)
        cosine_EE = matrix[-1, -1]
        experts = len(cosine_EE)
        cell = size / experts
        svg.heat(left, top, size, size, cosine_EE)
        for e in range(experts):
            svg.text(left - 6, top + (e + 0.5) * cell + 4, str(e), anchor="end", fill=MUTED)
            for other in range(experts):
                tip = f"experts {e} and {other}: cosine {cosine_EE[e, other]:.3f}"
                svg.rect(left + other * cell, top + e * cell, cell, cell, "transparent", tip=tip)
        heat_bar(svg, left + size + 12, top, 10, 96, "0", "1")
        svg.text(12, top + size / 2, "expert", anchor="middle", fill=MUTED, rotate=-90)
    end = finish([grown], "step")
    x, y = Scale(0, end, left, 224), Scale(0, 1, 422, 256)
    svg.text(0, 240, "Mean cosine of two experts, all layers", bold=True)
    axes(
        svg,
        x,
        y,
        x_label=f"{AXES['step'][0]} since growing",
        y_ticks=[0, 0.5, 1],
        x_ticks=x.ticks(3),
    )
    ends = []
    for learner in learners[1:]:
        key = KEYS[learner.label]
        points = [point for point in mean_cosines(learner) if point[0] <= end]
        with svg.thing(key.name):
            places = curve(svg, x, y, points, key)
        spots(svg, [key.name], places, [f"{key.name}, step {s:.0f}: {m:.3f}" for s, m in points])
        ends.append((places[-1][1] if places else y(0), key.name, key))
    name_ends(svg, x.end - 4, (y.start, y.end), ends)


# The table.


def _row(learner: Snapshot) -> tuple[object, ...]:
    measured = learner.curve.validation[~np.isnan(learner.curve.validation)]
    means = mean_cosines(learner)
    return (
        learner.label, learner.step, f"{measured[-1]:.3f}" if len(measured) else "", "",
        f"{means[-1][1]:.3f}" if means else "",
        learner.parameters or "", learner.active_parameters or "",
    )  # fmt: skip


def _gap_rows(recorded: Recorded) -> list[tuple[object, ...]]:
    steps = {EARLY: recorded["early"], LATE: recorded["steps"]}
    return [
        (name_of(pair), steps[moment], "", gap_cell(recorded["gaps"][moment][name_of(pair)]),
         "", "", "")
        for moment in PLOTS
        for pair in PAIRS
    ]  # fmt: skip
