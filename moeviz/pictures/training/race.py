"""Learners side by side: loss curves on a chosen axis, expert load over time, speed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import dropwhile

import numpy as np

from moeviz.pictures.axes import Scale, axes, general, padded
from moeviz.pictures.plot import Key, curve, heat_bar, legend, mark, paragraph, smooth, spots
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, si
from moeviz.pictures.training.settings import Setting, list_settings
from moeviz.records.metrics import effective_experts, last_common, max_violation, validation_at
from moeviz.records.runs import Curve, Snapshot

MAIN, SIDE, HEIGHT = 560, 300, 560
ENDS = (60.0, 500.0)  # x of the plots' left and right ends
PLOT, GAP = (300.0, 56.0), (448.0, 360.0)  # y of their lower and upper ends
AXES = {
    "step": ("training steps", ""),
    "flops": ("training compute, forward + backward", "FLOP"),
    "seconds": ("seconds of training on this machine", "s"),
}
# Line colours of the learners, with a dash and a mark each: never colour alone.
STYLES = (("#0072b2", ""), ("#d55e00", "7 3"), ("#009e73", "2 3"))
MARKS = ("circle", "square", "diamond")
SMOOTH = 9
NOT_YET = "Step 0: nothing is trained yet. ▶ Play trains it here."
# The heat of expert load ends at this multiple of an even share.
HEAT_TOP = 3
BESIDE_WORK = "recorded beside other work: only the ratio counts"


def race(
    learners: Sequence[Snapshot], axis: str, *, note: str = "", settings: Sequence[Setting] = (),
    beside_work: bool = False,
) -> Picture:  # fmt: skip
    """Loss of each learner against step, flops or seconds up to the finish; below how far the
    second is ahead of the first. The vertical line marks the furthest point that these two have
    reached, where they are compared. Beside them the load of the last MoE layer, and the speed; and
    what else is recorded, where settings are given. beside_work: other work slowed the learners,
    which trained in turns, so that of their seconds and speeds only the ratio counts."""
    two = learners[:2]
    svg = Svg(MAIN, HEIGHT, "Learners side by side", f"{progress(two)}{compare(two, axis)}")
    x = Scale(0, _finish(learners, axis), *ENDS)
    y = Scale(*padded([v for s in learners for v in _shown_losses(s)] or [0, 7]), *PLOT)
    svg.text(0, 16, note, fill=MUTED)
    axes(svg, x, y, y_label="loss (nats per token)", x_form=lambda _: "")
    keys = [_key(i, s.label) for i, s in enumerate(learners)]
    for learner, key in zip(learners, keys, strict=True):
        losses(svg, x, y, axis, learner.curve, SMOOTH, key)
    legend(svg, 60, 42, keys, kin=True)
    svg.text(60, 322, "line: training loss, smoothed · marks: validation loss", fill=MUTED)
    if not any(len(s.curve) for s in learners):
        svg.text(sum(ENDS) / 2, sum(PLOT) / 2, NOT_YET, anchor="middle", bold=True, halo=True)
    slowed = beside_work and axis == "seconds"
    label = f"seconds, {BESIDE_WORK}" if slowed else AXES[axis][0]
    _draw_gap(svg, two, axis, x, label)
    common = last_common([s.curve for s in two], axis)
    if not np.isnan(common) and len(two) > 1:
        for start, end in (PLOT, GAP):
            svg.line(x(common), start, x(common), end, stroke=INK, dash="2 4")
    paragraph(svg, 0, 506, textwrap.wrap(svg.description, 80))
    side = svg.beside(SIDE, 510)
    _draw_load(side, learners, axis, x.high, label)
    _draw_speed(side, learners, beside_work)
    list_settings(svg, settings)
    columns = (
        "learner", "step", "seconds", "tokens per second", "parameters", "active parameters",
        "training loss", "validation loss", "MaxVio", "effective experts",
    )  # fmt: skip
    rows = [_row(learner) for learner in learners]
    if beside_work:
        rows = [(*row[:2], "", "", *row[4:]) for row in rows]
    return svg.picture(columns, rows)


def _finish(learners: Sequence[Snapshot], axis: str) -> float:
    """Where the race ends on an axis, at the pace so far."""
    if axis == "step":
        return float(max(s.total_steps for s in learners))
    ends = (
        float(getattr(s.curve, axis)[-1]) * s.total_steps / s.curve.step[-1]
        for s in learners
        if len(s.curve)
    )
    return max(ends, default=1.0)


def _key(i: int, name: str) -> Key:
    colour, dash = STYLES[i % len(STYLES)]
    return Key(name, colour, dash, MARKS[i % len(MARKS)], width=1.6, bold=True)


def _draw_gap(svg: Svg, two: Sequence[Snapshot], axis: str, x: Scale, label: str) -> None:
    """How far the second learner is ahead, wherever the validation loss of both is known."""
    points = gaps(two, axis)
    y = Scale(*padded([0.0, *(gap for _, gap in points)], 0.15), *GAP)
    names = [s.label for s in two]
    if len(names) == 2:
        words = f"{names[0]} minus {names[1]}, validation: above 0 {names[1]} is ahead"
        svg.text(60, GAP[1] - 12, words, bold=True)
    axes(svg, x, y, x_label=label, y_ticks=y.ticks(4), x_form=lambda v: _place(axis, v))
    svg.line(x.start, y(0), x.end, y(0), stroke=INK, width=1.5)
    key = _key(1, "gap")
    with svg.thing(key.name):
        places = curve(svg, x, y, points, key)
        for at in places:
            mark(svg, key.mark, *at, key.colour, 3)
    tips = [f"{_where(axis, at)}: {_ahead(names, gap)}" for at, gap in points]
    spots(svg, [key.name], places, tips)
    svg.text(x.end + 6, y.start, "finish", fill=MUTED)


def _place(axis: str, value: float) -> str:
    """A place on an axis, with its unit: "120", "1.2 TFLOP", "30 s"."""
    unit = AXES[axis][1]
    return si(value, unit) if unit and value else general(value)


def _where(axis: str, value: float) -> str:
    return f"{_place(axis, value)} steps" if axis == "step" else _place(axis, value)


def _ahead(names: Sequence[str], gap: float) -> str:
    return f"{names[gap > 0]} is ahead by {abs(gap):.3f} nats"


def gaps(two: Sequence[Snapshot], axis: str) -> list[tuple[float, float]]:
    """The first learner's validation loss minus the second's, where either was measured and both
    have come by."""
    if len(two) < 2:
        return []
    curves = [s.curve for s in two]
    measured = (getattr(c, axis)[~np.isnan(c.validation)] for c in curves)
    found = []
    for place in np.unique(np.concatenate([*measured])):
        first, second = (validation_at(c, axis, float(place)) for c in curves)
        if not np.isnan(first - second):
            found.append((float(place), first - second))
    return found


def losses(svg: Svg, x: Scale, y: Scale, axis: str, curve_: Curve, width: int, key: Key) -> None:
    """The training loss, smoothed over so many points, and a mark at each validation loss: the
    thing of the key's name."""
    along = getattr(curve_, axis)
    values = zip(along, smooth(curve_.loss, width), strict=True)
    # The steep beginning lies above the plot; drawn along its edge it would look like a plateau.
    shown = dropwhile(lambda value: y(value[1]) < y.end, values)
    measured = [
        (float(a), float(b))
        for a, b in zip(along, curve_.validation, strict=True)
        if y.low <= b <= y.high
    ]
    places = [(x(a), y(b)) for a, b in measured]
    with svg.thing(key.name):
        curve(svg, x, y, ((a, min(b, y.high)) for a, b in shown), key, opacity=0.75)
        for place in places:
            mark(svg, key.mark, *place, key.colour, 3.4)
    tips = [f"{key.name}, {_where(axis, a)}: validation loss {b:.3f}" for a, b in measured]
    spots(svg, [key.name], places, tips)


def progress(learners: Sequence[Snapshot]) -> str:
    """How far a race that goes on has come, and for how long it still will."""
    first = learners[0]
    if not 0 < first.step < first.total_steps:
        return ""
    left = f"about {seconds_left(learners):.0f} s left"
    return f"Step {first.step} of {first.total_steps}, {left}. "


def seconds_left(learners: Sequence[Snapshot]) -> float:
    """How long learners that train in turns still take, at their pace so far."""
    return sum(s.seconds / max(s.step, 1) * (s.total_steps - s.step) for s in learners)


def compare(learners: Sequence[Snapshot], axis: str) -> str:
    """Who is ahead at the furthest common point of an axis, in one sentence."""
    common = last_common([s.curve for s in learners], axis)
    losses = [validation_at(s.curve, axis, common) for s in learners]
    if np.isnan(losses).any() or len(learners) < 2:
        return "No validation loss of both to compare here yet."
    best = int(np.argmin(losses))
    ahead = f"{learners[best].label} is ahead by {max(losses) - min(losses):.3f} nats per token"
    return f"At {_where(axis, common)} {ahead}: its validation loss is {min(losses):.3f}."


def _shown_losses(learner: Snapshot) -> list[float]:
    smoothed = smooth(learner.curve.loss, SMOOTH)
    validation = learner.curve.validation
    # The first points fall steeply and would flatten all that follows.
    kept = smoothed[len(smoothed) // 20 :] if len(smoothed) > 40 else smoothed
    return [*kept, *validation[~np.isnan(validation)]]


def _draw_load(
    svg: Svg, learners: Sequence[Snapshot], axis: str, finish: float, label: str
) -> None:
    """The last MoE layer's load as a ribbon: experts down, time across, as far as the race is."""
    learner = next((s for s in learners if s.curve.load.shape[1]), None)
    if learner is None:
        return
    left, top, width, height = 30.0, 56.0, 210.0, 190.0
    svg.text(left, 42, "Expert load, last layer", size=13, bold=True)
    if not len(learner.curve):
        svg.text(left, top + 14, "no step has been trained yet", fill=MUTED)
        return
    load_PE = learner.curve.load[:, -1]
    num_experts = load_PE.shape[1]
    row = height / num_experts
    for e in range(0, num_experts, max(1, math.ceil(14 / row))):
        svg.text(left - 6, top + e * row + row / 2 + 4, str(e), anchor="end", fill=MUTED)
    # The ribbon is as long as its curve, sampled evenly along the axis.
    xs = getattr(learner.curve, axis)
    sampled = np.searchsorted(xs, np.linspace(0, xs[-1], 60)).clip(max=len(xs) - 1)
    reach = width * float(xs[-1]) / finish
    svg.heat(left, top, reach, height, load_PE[sampled].T * num_experts / HEAT_TOP)
    recent_E = _recent_load(learner)
    for e, share in enumerate(recent_E / recent_E.sum()):
        tip = f"expert {e}: {share:.1%} of the tokens lately, {share * num_experts:.1f} × even"
        svg.rect(left, top + e * row, width, row, "transparent", tip=tip)
    svg.line(left, top + height, left + width, top + height)
    svg.text(left, top + height + 16, f"{label.split(',')[0]} →", fill=MUTED)
    effective = f"{effective_experts(recent_E):.1f} of {num_experts} experts in effect"
    svg.text(left, top + height + 36, f"MaxVio {max_violation(recent_E):.2f} · {effective}")
    heat_bar(svg, left + width + 8, top, 10, 96, "0", f"{HEAT_TOP}×")
    svg.text(left + width + 24, top + 28, "even", fill=MUTED)


def _recent_load(learner: Snapshot) -> np.ndarray:
    """The last layer's load, mean over the last twentieth of the run."""
    return learner.curve.load[-max(1, len(learner.curve) // 20) :, -1].mean(0)


def _draw_speed(svg: Svg, learners: Sequence[Snapshot], beside_work: bool) -> None:
    """A bar a learner, beside_work as a ratio to the first one, which was slowed as much; before
    its first step nothing is known of it."""
    top, first = 336.0, learners[0]
    unit = f"against {first.label}" if beside_work else "tokens per second"
    svg.text(0, top - 12, f"Speed, {unit}", size=13, bold=True)
    if beside_work and not all(len(s.curve) for s in learners):
        svg.text(0, top + 12, "not trained yet", fill=MUTED)
        return
    peak = max((s.tokens_per_second for s in learners if len(s.curve)), default=0.0) or 1.0
    for i, learner in enumerate(learners):
        y, speed = top + i * 56, learner.tokens_per_second
        if not len(learner.curve):
            svg.text(0, y + 12, f"{learner.label}: not trained yet", fill=MUTED)
            continue
        number, of = f"{speed:,.0f}", unit
        if beside_work:
            number, of = f"{speed / first.tokens_per_second:.2f} ×", first.label
        size = f"{learner.active_parameters / 1e6:.2f} M active of {learner.parameters / 1e6:.2f} M"
        with svg.thing(learner.label, tip=f"{learner.label}: {number} {of}"):
            svg.text(0, y + 12, learner.label)
            svg.rect(0, y + 18, 220 * speed / peak, 14, STYLES[i % len(STYLES)][0])
            svg.text(6 + 220 * speed / peak, y + 30, number)
            svg.text(0, y + 46, size, fill=MUTED)
    if beside_work:
        notes = textwrap.wrap(BESIDE_WORK, 34)
        paragraph(svg, 0, top + 56 * len(learners) + 14, notes, fill=MUTED)


def _row(learner: Snapshot) -> tuple[object, ...]:
    curve = learner.curve
    if not len(curve):  # it may be that of another setting, taken back to its start
        return (learner.label, 0, *[""] * 8)
    measured = curve.validation[~np.isnan(curve.validation)]
    load_E = _recent_load(learner) if curve.load.shape[1] else None
    return (
        learner.label, learner.step, f"{learner.seconds:.1f}", f"{learner.tokens_per_second:.0f}",
        learner.parameters, learner.active_parameters, f"{smooth(curve.loss, SMOOTH)[-1]:.3f}",
        f"{measured[-1]:.3f}" if len(measured) else "",
        f"{max_violation(load_E):.2f}" if load_E is not None else "",
        f"{effective_experts(load_E):.1f}" if load_E is not None else "",
    )  # fmt: skip
