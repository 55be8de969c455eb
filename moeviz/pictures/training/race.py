"""Learners side by side: loss curves on a chosen axis, expert load over time, speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import dropwhile

import numpy as np

from moeviz.pictures.svg import INK, MUTED, Picture, Scale, Svg, axes, si
from moeviz.records.metrics import effective_experts, last_common, max_violation, validation_at
from moeviz.records.runs import Snapshot

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


def race(learners: Sequence[Snapshot], axis: str, *, note: str = "", state: str = "") -> Picture:
    """Loss of each learner against step, flops or seconds; the vertical line marks the furthest
    point that all have reached, where they are compared. Load: the last MoE layer."""
    verdict = compare(learners, axis)
    svg = Svg(WIDTH, HEIGHT, "Learners side by side", verdict)
    x_label, unit = AXES[axis]
    far = max((float(getattr(s.curve, axis)[-1]) for s in learners if len(s.curve)), default=1.0)
    shown = [v for s in learners for v in _shown_losses(s)]
    low, high = (min(shown), max(shown)) if shown else (0.0, 7.0)
    margin = 0.06 * (high - low or 1.0)
    x = Scale(0, far, 60, 500)
    y = Scale(low - margin, high + margin, 372, 56)
    svg.text(0, 16, note, fill=MUTED)
    axes(svg, x, y, x_label=x_label, y_label="loss (nats per token)", x_unit=unit)
    common = last_common([s.curve for s in learners], axis)
    if not np.isnan(common) and len(learners) > 1:
        svg.line(x(common), y.start, x(common), y.end, stroke=INK, dash="2 4")
    for i, learner in enumerate(learners):
        _draw_curve(svg, learner, i, axis, x, y)
    _legend(svg, learners)
    _draw_load(svg, learners, axis, x)
    _draw_speed(svg, learners)
    columns = (
        "learner", "step", "seconds", "tokens per second", "parameters", "active parameters",
        "training loss", "validation loss", "MaxVio", "effective experts",
    )  # fmt: skip
    return Picture(svg.close(state=state), verdict, columns, tuple(_row(s) for s in learners))


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
    smooth = _smooth(learner.curve.loss)
    validation = learner.curve.validation
    # The first points fall steeply and would flatten all that follows.
    kept = smooth[len(smooth) // 20 :] if len(smooth) > 40 else smooth
    return [*kept, *validation[~np.isnan(validation)]]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over the last SMOOTH points: the training loss is noisy from batch to batch."""
    if not len(values):
        return values
    total = np.concatenate(([0.0], np.cumsum(values)))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - SMOOTH, 0)
    return (total[end] - total[start]) / (end - start)


def _draw_curve(svg: Svg, learner: Snapshot, i: int, axis: str, x: Scale, y: Scale) -> None:
    colour, dash = STYLES[i % len(STYLES)]
    xs = getattr(learner.curve, axis)
    points = [(x(a), y(b)) for a, b in zip(xs, _smooth(learner.curve.loss), strict=True)]
    # The steep beginning lies above the plot; drawn along its edge it would look like a plateau.
    points = list(dropwhile(lambda point: point[1] < y.end, points))
    points = [(a, max(b, y.end)) for a, b in points]
    if points:
        svg.polyline(points, stroke=colour, width=1.6, dash=dash, opacity=0.75)
    for a, b in zip(xs, learner.curve.validation, strict=True):
        if not np.isnan(b):
            if i == 0:
                svg.circle(x(a), y(b), 3.6, colour)
            else:
                svg.rect(x(a) - 3.4, y(b) - 3.4, 6.8, 6.8, colour)


def _legend(svg: Svg, learners: Sequence[Snapshot]) -> None:
    for i, learner in enumerate(learners):
        colour, dash = STYLES[i % len(STYLES)]
        left = 60 + i * 225
        svg.line(left, 38, left + 26, 38, stroke=colour, width=2.4, dash=dash)
        if i == 0:
            svg.circle(left + 13, 38, 3.6, colour)
        else:
            svg.rect(left + 9.6, 34.6, 6.8, 6.8, colour)
        text = f"{learner.label}: {learner.step}/{learner.total_steps} steps"
        svg.text(left + 32, 42, text, bold=True)
    svg.text(60, 424, "line: training loss, smoothed · marks: validation loss", fill=MUTED)


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
    if len(load_PE):
        # The ribbon is as long as its curve, sampled evenly along the axis.
        xs = getattr(learner.curve, axis)
        sampled = np.searchsorted(xs, np.linspace(0, xs[-1], 60)).clip(max=len(xs) - 1)
        reach = width * float(xs[-1]) / x.high
        svg.heat(left, top, reach, height, load_PE[sampled].T * num_experts / HEAT_TOP)
    for e in range(0, num_experts, max(1, math.ceil(14 / row))):
        svg.text(left - 6, top + e * row + row / 2 + 4, str(e), anchor="end", fill=MUTED)
    svg.text(left - 30, top + height / 2, "expert", anchor="middle", rotate=-90, fill=MUTED)
    svg.heat(left + width + 8, top, 10, 96, np.linspace(1, 0, 16)[:, None])
    svg.text(left + width + 22, top + 10, f"{HEAT_TOP}×")
    svg.text(left + width + 22, top + 28, "even", fill=MUTED)
    svg.text(left + width + 22, top + 96, "0")
    if len(load_PE):
        recent = load_PE[-max(1, len(load_PE) // 20) :].mean(0)
        svg.text(
            left, top + height + 18,
            f"MaxVio {max_violation(recent):.2f} · {effective_experts(recent):.1f} of "
            f"{num_experts} experts in effect",
        )  # fmt: skip


def _draw_speed(svg: Svg, learners: Sequence[Snapshot]) -> None:
    left, top = 560.0, 316.0
    svg.text(left, top - 12, "Speed, tokens per second", size=13, bold=True)
    peak = max((s.tokens_per_second for s in learners), default=0.0) or 1.0
    for i, learner in enumerate(learners):
        y = top + i * 34
        svg.text(left, y + 16, learner.label)
        width = 170 * learner.tokens_per_second / peak
        svg.rect(left + 52, y + 2, width, 20, STYLES[i % len(STYLES)][0])
        svg.text(left + 58 + width, y + 16, f"{learner.tokens_per_second:,.0f}")
    sizes = " · ".join(
        f"{s.label} {s.active_parameters / 1e6:.2f} M active of {s.parameters / 1e6:.2f} M"
        for s in learners
    )
    svg.text(left, top + 34 * len(learners) + 16, sizes.split(" · ")[0], fill=MUTED)
    for i, part in enumerate(sizes.split(" · ")[1:]):
        svg.text(left, top + 34 * len(learners) + 34 + 18 * i, part, fill=MUTED)


def _row(learner: Snapshot) -> tuple[object, ...]:
    curve = learner.curve
    measured = curve.validation[~np.isnan(curve.validation)]
    has_load = len(curve) and curve.load.shape[1]
    load_E = curve.load[-max(1, len(curve) // 20) :, -1].mean(0) if has_load else None
    return (
        learner.label,
        learner.step,
        f"{learner.seconds:.1f}",
        f"{learner.tokens_per_second:.0f}",
        learner.parameters,
        learner.active_parameters,
        f"{_smooth(curve.loss)[-1]:.3f}" if len(curve) else "",
        f"{measured[-1]:.3f}" if len(measured) else "",
        f"{max_violation(load_E):.2f}" if load_E is not None else "",
        f"{effective_experts(load_E):.1f}" if load_E is not None else "",
    )
