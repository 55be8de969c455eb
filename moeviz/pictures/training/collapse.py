"""One run's balance over time: who gets the tokens, MaxVio, experts in effect, entropy, loss."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moeviz.pictures.axes import Form, RootScale, Scale, axes, general, padded
from moeviz.pictures.plot import Key, curve, expert_box, legend, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, expert_colour
from moeviz.pictures.training.balance import describe, floor, is_hash, table
from moeviz.pictures.training.race import losses
from moeviz.records.metrics import effective_experts, max_violation
from moeviz.records.runs import Curve, Snapshot

WIDTH, HEIGHT = 880, 560
POINTS = 50  # over the whole run: each is the mean of the steps that it stands for
NOW, BEFORE = ("#0072b2", "", "circle"), ("#d55e00", "5 3", "square")
LEFT, RIGHT = (52.0, 424.0), (560.0, 860.0)


def collapse(
    run: Snapshot,
    layer: int,
    *,
    before: Snapshot | None = None,
    killed: Sequence[tuple[int, int, int]] = (),
    note: str = "",
) -> Picture:
    """A run's balance in one MoE layer, on its steps, beside that of the run before (dashed).

    killed: (step, layer, expert) of experts taken away, marked where it is this layer. A point is
    the mean of total_steps / 50 steps; the level that chance alone brings about is that of as many
    tokens.
    """
    if before is not None:
        before = replace(before, label=f"dashed: {before.label}")
    svg = Svg(WIDTH, HEIGHT, "Expert load over training", describe(run, layer))
    svg.text(0, 16, note, fill=MUTED)
    runs = [(run, _key(run, NOW))] if before is None else [
        (before, _key(before, BEFORE)), (run, _key(run, NOW)),
    ]  # fmt: skip
    legend(svg, 0, 40, [key for _, key in reversed(runs)])
    binned = [(_binned(shown, layer), replace(key, width=1.8)) for shown, key in runs]
    experts, level = run.curve.load.shape[2], floor(run, _stride(run))
    x = Scale(0, float(max(run.total_steps, 1)), *LEFT)

    y = Scale(0, 1, 276, 80)
    _ribbon(svg, binned[-1][0], x, y)
    shares = [0, 0.25, 0.5, 0.75, 1]
    _frame(svg, x, y, f"Share of the tokens, layer {layer}", shares, "{:.0%}".format)
    y = RootScale(0, max(experts - 1, 1), 456, 330)
    _frame(svg, x, y, f"MaxVio of {_stride(run)} steps: 0 is even", y.ticks(), bottom=True)
    for points, key in binned:
        violations = map(max_violation, points.load[:, 0])
        curve(svg, x, y, zip(points.step, violations, strict=True), key)
    svg.line(x.start, y(level), x.end, y(level), stroke=INK, width=1.2, dash="2 3")
    svg.text(x.end + 6, y(level) - 12, "by chance", fill=MUTED)
    svg.text(x.end + 6, y(level) + 4, f"about {level:.2f}")

    x = Scale(x.low, x.high, *RIGHT)
    y = Scale(*_loss_range([shown for shown, _ in runs]), 196, 80)
    _frame(svg, x, y, "Loss (nats per token); marks: validation", y.ticks(4))
    for shown, key in runs:
        losses(svg, x, y, shown.curve.step, shown.curve, len(shown.curve) // 30, key)
    y = Scale(0, experts, 330, 248)
    _frame(svg, x, y, f"Experts in effect, of {experts}", [0, experts / 2, experts])
    for points, key in binned:
        effective = map(effective_experts, points.load[:, 0])
        curve(svg, x, y, zip(points.step, effective, strict=True), key)
    y = Scale(0, 1, 456, 380)
    _frame(svg, x, y, "Entropy of the gate: 1 is undecided", [0, 0.5, 1], bottom=True)
    for points, key in binned:
        curve(svg, x, y, zip(points.step, points.entropy[:, 0], strict=True), key)
    if is_hash(run):
        svg.text(sum(RIGHT) / 2, 448, "a hash has no gate", anchor="middle", fill=MUTED)

    for step, at_layer, expert in killed:
        if at_layer == layer and len(run.curve) and step <= run.curve.step[-1]:
            _mark_killed(svg, step, expert, x.high)
    paragraph(svg, 0, 518, textwrap.wrap(svg.description, 125))
    return svg.picture(*table([shown for shown, _ in reversed(runs)], layer))


def _key(run: Snapshot, style: tuple[str, str, str]) -> Key:
    colour, dash, shape = style
    name = f"{run.label}: step {run.step} of {run.total_steps}"
    return Key(name, colour, dash, shape, width=1.4, bold=not dash)


def _stride(run: Snapshot) -> int:
    """Steps that one drawn point stands for."""
    return max(1, math.ceil(run.total_steps / POINTS))


def _binned(run: Snapshot, layer: int) -> Curve:
    """The curve of one layer, as means over equal numbers of steps."""
    curve = run.curve
    bins = np.ceil(curve.step / _stride(run)).astype(int)
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    counts = np.diff(np.append(starts, len(curve)))
    last = np.append(starts[1:], len(curve)) - 1

    def mean(values: np.ndarray) -> np.ndarray:
        if not len(starts):
            return values
        total = np.add.reduceat(values.astype(np.float64), starts, axis=0)
        return total / counts.reshape(-1, *[1] * (values.ndim - 1))

    return Curve(
        step=curve.step[last] if len(starts) else curve.step,
        seconds=curve.seconds[: len(starts)],
        flops=curve.flops[: len(starts)],
        loss=mean(curve.loss),
        load=mean(curve.load[:, layer : layer + 1]),
        validation=curve.validation[: len(starts)],
        entropy=mean(curve.entropy[:, layer : layer + 1]) * (math.nan if is_hash(run) else 1),
    )


def _frame(
    svg: Svg, x: Scale, y: Scale, title: str, ticks: Sequence[float], form: Form = general, *,
    bottom: bool = False,
) -> None:  # fmt: skip
    """A titled plot; steps are numbered under a column's last one."""
    svg.text(x.start, y.end - 10, title, size=13, bold=True)
    label = "training step" if bottom else ""
    steps = x.ticks(6)
    axes(svg, x, y, x_label=label, x_ticks=steps, y_ticks=ticks, y_form=form,
         x_form=general if bottom else lambda _: "")  # fmt: skip


def _ribbon(svg: Svg, points: Curve, x: Scale, y: Scale) -> None:
    """The experts' shares, stacked: expert 0 below; hatched from the eighth on. The numbers stand
    at the end of the widest."""
    if not len(points):
        return
    load_PE = points.load[:, 0]
    share_PE = load_PE / np.maximum(load_PE.sum(1, keepdims=True), 1e-12)
    # The first point's mean begins at step 0.
    steps, share_PE = np.append(0, points.step), np.vstack([share_PE[:1], share_PE])
    above_PE = np.cumsum(share_PE, axis=1)
    below_PE = above_PE - share_PE
    shown = np.flatnonzero(share_PE.max(0) > 0.002)
    if shown.max() >= 8:
        svg.hatch(0, 0, 0, 0, expert_colour(8))  # brings the pattern that the bands refer to
    for e in shown:
        outline = [(x(s), y(v)) for s, v in zip(steps, above_PE[:, e], strict=True)]
        outline += [(x(s), y(v)) for s, v in zip(steps[::-1], below_PE[::-1, e], strict=True)]
        svg.polygon(outline, fill=expert_colour(int(e)))
        if e >= 8:
            svg.polygon(outline, fill="url(#mv-hatch)")
    for e in np.flatnonzero(share_PE[-1] * (y.start - y.end) >= 13):
        left, middle = x(steps[-1]) + 6, y(float(below_PE[-1, e] + share_PE[-1, e] / 2))
        expert_box(svg, left, middle - 5, 10, 10, int(e))
        svg.text(left + 15, middle + 4, f"{e}: {share_PE[-1, e]:.0%}")


def _loss_range(runs: Sequence[Snapshot]) -> tuple[float, float]:
    """What the losses span, but for the steep beginning, which would flatten all that follows."""
    late = [run.curve.step > run.total_steps / 5 for run in runs if len(run.curve)]
    if not any(steps.any() for steps in late):
        late = [np.full(len(steps), True) for steps in late]
    curves = [run.curve for run in runs if len(run.curve)]
    shown = [v for curve, steps in zip(curves, late, strict=True) for v in curve.loss[steps]]
    return padded(shown or [0.0, 8.0], 0.05)


def _mark_killed(svg: Svg, step: int, expert: int, end: float) -> None:
    for (start, stop), spans in (
        (LEFT, ((80, 276), (330, 456))),
        (RIGHT, ((80, 196), (248, 330), (380, 456))),
    ):
        place = Scale(0, end, start, stop)(step)
        for top, bottom in spans:
            svg.line(place, top, place, bottom, stroke=INK, width=1.4, dash="4 3")
    svg.text(Scale(0, end, *LEFT)(step), 294, f"✕ expert {expert}", anchor="middle", bold=True)
