"""Learners side by side: loss curves on a chosen axis, expert load over time, speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import dropwhile

import numpy as np

from moeviz.pictures.axes import Scale, axes, padded
from moeviz.pictures.plot import Key, curve, heat_bar, legend, mark, smooth
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, si
from moeviz.records.metrics import effective_experts, last_common, max_violation, validation_at
from moeviz.records.runs import Curve, Snapshot

WIDTH, HEIGHT = 880, 430
AXES = {
    "step": ("training steps", ""),
    "flops": ("training compute, forward + backward", "FLOP"),
    "seconds": ("seconds of training on this machine", "s"),
}
# Line colours of the learners, with a dash and a mark each: never colour alone.
STYLES = (("#0072b2", ""), ("#d55e00", "7 3"))
SMOOTH = 9
# The heat of expert load ends at this multiple of an even share.
HEAT_TOP = 3


def race(learners: Sequence[Snapshot], axis: str, *, note: str = "") -> Picture:
    """Loss of each learner against step, flops or seconds; the vertical line marks the furthest
    point that all have reached, where they are compared. Load: the last MoE layer."""
    svg = Svg(WIDTH, HEIGHT, "Learners side by side", compare(learners, axis))
    x_label, unit = AXES[axis]
    far = max((float(getattr(s.curve, axis)[-1]) for s in learners if len(s.curve)), default=1.0)
    x = Scale(0, far, 60, 500)
    y = Scale(*padded([v for s in learners for v in _shown_losses(s)] or [0, 7]), 372, 56)
    svg.text(0, 16, note, fill=MUTED)
    axes(
        svg, x, y, x_label=x_label, y_label="loss (nats per token)",
        x_form=lambda v: si(v, unit) if unit and v else f"{v:g}",
    )  # fmt: skip
    common = last_common([s.curve for s in learners], axis)
    if not np.isnan(common) and len(learners) > 1:
        svg.line(x(common), y.start, x(common), y.end, stroke=INK, dash="2 4")
    keys = [_key(i, f"{s.label}: {s.step}/{s.total_steps} steps") for i, s in enumerate(learners)]
    for learner, key in zip(learners, keys, strict=True):
        losses(svg, x, y, getattr(learner.curve, axis), learner.curve, SMOOTH, key)
    legend(svg, 60, 42, keys, across=225)
    svg.text(60, 424, "line: training loss, smoothed · marks: validation loss", fill=MUTED)
    _draw_load(svg, learners, axis, x)
    _draw_speed(svg, learners)
    columns = (
        "learner", "step", "seconds", "tokens per second", "parameters", "active parameters",
        "training loss", "validation loss", "MaxVio", "effective experts",
    )  # fmt: skip
    return svg.picture(columns, map(_row, learners))


def _key(i: int, name: str) -> Key:
    (colour, dash), shape = STYLES[i % len(STYLES)], "square" if i else "circle"
    return Key(name, colour, dash, shape, width=1.6, bold=True)


def losses(
    svg: Svg, x: Scale, y: Scale, along: np.ndarray, curve_: Curve, width: int, key: Key
) -> None:
    """The training loss, smoothed over so many points, and a mark at each validation loss."""
    values = zip(along, smooth(curve_.loss, width), strict=True)
    # The steep beginning lies above the plot; drawn along its edge it would look like a plateau.
    shown = dropwhile(lambda value: y(value[1]) < y.end, values)
    curve(svg, x, y, ((a, min(b, y.high)) for a, b in shown), key, opacity=0.75)
    for a, b in zip(along, curve_.validation, strict=True):
        if y.low <= b <= y.high:
            mark(svg, key.mark, x(a), y(b), key.colour, 3.4)


def compare(learners: Sequence[Snapshot], axis: str) -> str:
    """Who is ahead at the furthest common point of an axis, in one sentence."""
    common = last_common([s.curve for s in learners], axis)
    losses = [validation_at(s.curve, axis, common) for s in learners]
    if np.isnan(losses).any() or len(learners) < 2:
        return "No validation loss of both to compare here yet."
    best = int(np.argmin(losses))
    second = min(v for i, v in enumerate(losses) if i != best)
    where = f"{common:.0f} steps" if axis == "step" else si(common, AXES[axis][1])
    listed = ", ".join(f"{s.label} {v:.3f}" for s, v in zip(learners, losses, strict=True))
    return (
        f"Validation loss at {where}: {listed}. {learners[best].label} is ahead by "
        f"{second - losses[best]:.3f}."
    )


def _shown_losses(learner: Snapshot) -> list[float]:
    smoothed = smooth(learner.curve.loss, SMOOTH)
    validation = learner.curve.validation
    # The first points fall steeply and would flatten all that follows.
    kept = smoothed[len(smoothed) // 20 :] if len(smoothed) > 40 else smoothed
    return [*kept, *validation[~np.isnan(validation)]]


def _draw_load(svg: Svg, learners: Sequence[Snapshot], axis: str, x: Scale) -> None:
    """The last MoE layer's load as a ribbon: experts down, time across, on the plot's own axis."""
    learner = next((s for s in learners if s.curve.load.shape[1]), None)
    if learner is None:
        return
    load_PE = learner.curve.load[:, -1]
    left, top, width, height = 590.0, 56.0, 210.0, 190.0
    svg.text(left, 42, "Expert load, last layer", size=13, bold=True)
    num_experts = load_PE.shape[1]
    row = height / num_experts
    for e in range(0, num_experts, max(1, math.ceil(14 / row))):
        svg.text(left - 6, top + e * row + row / 2 + 4, str(e), anchor="end", fill=MUTED)
    svg.text(left - 30, top + height / 2, "expert", anchor="middle", rotate=-90, fill=MUTED)
    if len(load_PE):
        # The ribbon is as long as its curve, sampled evenly along the axis.
        xs = getattr(learner.curve, axis)
        sampled = np.searchsorted(xs, np.linspace(0, xs[-1], 60)).clip(max=len(xs) - 1)
        reach = width * float(xs[-1]) / x.high
        svg.heat(left, top, reach, height, load_PE[sampled].T * num_experts / HEAT_TOP)
        recent_E = _recent_load(learner)
        effective = f"{effective_experts(recent_E):.1f} of {num_experts} experts in effect"
        words = f"MaxVio {max_violation(recent_E):.2f} · {effective}"
        svg.text(left, top + height + 18, words)
    heat_bar(svg, left + width + 8, top, 10, 96, "0", f"{HEAT_TOP}×")
    svg.text(left + width + 24, top + 28, "even", fill=MUTED)


def _recent_load(learner: Snapshot) -> np.ndarray:
    """The last layer's load, mean over the last twentieth of the run."""
    return learner.curve.load[-max(1, len(learner.curve) // 20) :, -1].mean(0)


def _draw_speed(svg: Svg, learners: Sequence[Snapshot]) -> None:
    left, top = 560.0, 316.0
    svg.text(left, top - 12, "Speed, tokens per second", size=13, bold=True)
    peak = max((s.tokens_per_second for s in learners), default=0.0) or 1.0
    for i, learner in enumerate(learners):
        y, width = top + i * 34, 170 * learner.tokens_per_second / peak
        svg.text(left, y + 16, learner.label)
        svg.rect(left + 52, y + 2, width, 20, STYLES[i % len(STYLES)][0])
        svg.text(left + 58 + width, y + 16, f"{learner.tokens_per_second:,.0f}")
        size = f"{learner.active_parameters / 1e6:.2f} M active of {learner.parameters / 1e6:.2f} M"
        below = top + 34 * len(learners) + 16 + 18 * i
        svg.text(left, below, f"{learner.label} {size}", fill=MUTED)


def _row(learner: Snapshot) -> tuple[object, ...]:
    curve = learner.curve
    measured = curve.validation[~np.isnan(curve.validation)]
    load_E = _recent_load(learner) if len(curve) and curve.load.shape[1] else None
    return (
        learner.label, learner.step, f"{learner.seconds:.1f}", f"{learner.tokens_per_second:.0f}",
        learner.parameters, learner.active_parameters,
        f"{smooth(curve.loss, SMOOTH)[-1]:.3f}" if len(curve) else "",
        f"{measured[-1]:.3f}" if len(measured) else "",
        f"{max_violation(load_E):.2f}" if load_E is not None else "",
        f"{effective_experts(load_E):.1f}" if load_E is not None else "",
    )  # fmt: skip
