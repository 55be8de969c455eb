"""One run's balance over time: who gets the tokens, MaxVio, experts in effect, entropy, loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moeviz.pictures.svg import (
    INK,
    MUTED,
    RULE,
    Picture,
    Scale,
    Svg,
    expert_colour,
)
from moeviz.pictures.training.balance import describe, floor, is_hash, table
from moeviz.records.metrics import effective_experts, max_violation
from moeviz.records.runs import Curve, Snapshot

WIDTH, HEIGHT = 880, 560
POINTS = 50  # over the whole run: each is the mean of the steps that it stands for
NOW, BEFORE = ("#0072b2", ""), ("#d55e00", "5 3")
LEFT, RIGHT = (52.0, 424.0), (560.0, 860.0)


def collapse(
    run: Snapshot,
    layer: int,
    *,
    before: Snapshot | None = None,
    killed: Sequence[tuple[int, int, int]] = (),
    note: str = "",
    state: str = "",
) -> Picture:
    """A run's balance in one MoE layer, on its steps, beside that of the run before (dashed).

    killed: (step, layer, expert) of experts taken away, marked where it is this layer. A point is
    the mean of total_steps / 50 steps; the level that chance alone brings about is that of as many
    tokens.
    """
    if before is not None:
        before = replace(before, label=f"dashed: {before.label}")
    verdict = describe(run, layer)
    svg = Svg(WIDTH, HEIGHT, "Expert load over training", verdict)
    svg.text(0, 16, note, fill=MUTED)
    runs = [(run, NOW)] if before is None else [(before, BEFORE), (run, NOW)]
    _legend(svg, runs)
    binned = [(_binned(shown, layer), style) for shown, style in runs]
    end = float(max(run.total_steps, 1))
    experts = run.curve.load.shape[2]

    ribbon = Scale(0, 1, 276, 80)
    x = Scale(0, end, *LEFT)
    _ribbon(svg, binned[-1][0], x, ribbon)
    _plot(svg, x, ribbon, f"Share of the tokens, layer {layer}", [0, 0.25, 0.5, 0.75, 1], "{:.0%}")

    root = Scale(0, math.sqrt(max(experts - 1, 1)), 456, 330)
    marks = [v for v in (0, 1, 4, 9) if v < 0.8 * (experts - 1)] + [experts - 1]
    _plot(
        svg,
        x,
        root,
        f"MaxVio of {_stride(run)} steps: 0 is even",
        marks,
        "{:g}",
        bottom=True,
        place=math.sqrt,
    )
    for points, (colour, dash) in binned:
        values = [math.sqrt(max_violation(load_E)) for load_E in points.load[:, 0]]
        _line(svg, points.step, values, x, root, colour, dash)
    level = floor(run, _stride(run))
    y = root(math.sqrt(level))
    svg.line(x.start, y, x.end, y, stroke=INK, width=1.2, dash="2 3")
    svg.text(x.end + 6, y - 12, "by chance", fill=MUTED)
    svg.text(x.end + 6, y + 4, f"about {level:.2f}")

    x = Scale(0, end, *RIGHT)
    _losses(svg, runs, x, Scale(*_loss_range([shown for shown, _ in runs]), 196, 80))
    y_effective = Scale(0, experts, 330, 248)
    whole = [0, experts / 2, experts]
    _plot(svg, x, y_effective, f"Experts in effect, of {experts}", whole, "{:g}")
    for points, (colour, dash) in binned:
        values = [effective_experts(load_E) for load_E in points.load[:, 0]]
        _line(svg, points.step, values, x, y_effective, colour, dash)
    y_entropy = Scale(0, 1, 456, 380)
    title = "Entropy of the gate: 1 is undecided"
    _plot(svg, x, y_entropy, title, [0, 0.5, 1], "{:g}", bottom=True)
    for points, (colour, dash) in binned:
        _line(svg, points.step, list(points.entropy[:, 0]), x, y_entropy, colour, dash)
    if is_hash(run):
        svg.text(sum(RIGHT) / 2, 448, "a hash has no gate", anchor="middle", fill=MUTED)

    for step, at_layer, expert in killed:
        if at_layer == layer and len(run.curve) and step <= run.curve.step[-1]:
            _mark_killed(svg, step, expert, end)
    for i, line in enumerate(_wrapped(verdict, 125)):
        svg.text(0, 518 + 18 * i, line)
    return Picture(
        svg.close(state=state), verdict, *table([shown for shown, _ in reversed(runs)], layer)
    )


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


def _plot(
    svg: Svg, x: Scale, y: Scale, title: str, ticks: Sequence[float], form: str, *,
    bottom: bool = False, place=float,
) -> None:  # fmt: skip
    """Title, grid and tick labels; steps are numbered under a column's last plot."""
    svg.text(x.start, y.end - 10, title, size=13, bold=True)
    for value in ticks:
        height = y(place(value))
        svg.line(x.start, height, x.end, height, stroke=RULE, width=0.5)
        svg.text(x.start - 6, height + 4, form.format(value), anchor="end", fill=MUTED)
    for value in x.ticks(6):
        svg.line(x(value), y.start, x(value), y.start + 4)
        if bottom:
            svg.text(x(value), y.start + 17, f"{value:g}", anchor="middle", fill=MUTED)
    svg.line(x.start, y.start, x.end, y.start)
    if bottom:
        svg.text((x.start + x.end) / 2, y.start + 34, "training step", anchor="middle")


def _line(
    svg: Svg, steps: np.ndarray, values: Sequence[float], x: Scale, y: Scale, colour: str, dash: str
) -> None:
    points = [(x(a), y(b)) for a, b in zip(steps, values, strict=True) if not math.isnan(b)]
    if len(points) == 1:  # one point is no line
        svg.circle(*points[0], 2.4, colour)
    elif points:
        svg.polyline(points, stroke=colour, width=1.8, dash=dash)


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
        svg.rect(left, middle - 5, 10, 10, expert_colour(int(e)))
        if e >= 8:
            svg.hatch(left, middle - 5, 10, 10, expert_colour(int(e)))
        svg.text(left + 15, middle + 4, f"{e}: {share_PE[-1, e]:.0%}")


def _loss_range(runs: Sequence[Snapshot]) -> tuple[float, float]:
    """What the losses span, but for the steep beginning, which would flatten all that follows."""
    late = [run.curve.step > run.total_steps / 5 for run in runs if len(run.curve)]
    if not any(steps.any() for steps in late):
        late = [np.full(len(steps), True) for steps in late]
    curves = [run.curve for run in runs if len(run.curve)]
    shown = [v for curve, steps in zip(curves, late, strict=True) for v in curve.loss[steps]]
    low, high = (min(shown), max(shown)) if shown else (0.0, 8.0)
    margin = 0.05 * (high - low or 1.0)
    return float(low - margin), float(high + margin)


def _losses(svg: Svg, runs: Sequence[tuple[Snapshot, tuple[str, str]]], x: Scale, y: Scale) -> None:
    _plot(svg, x, y, "Loss (nats per token)", y.ticks(4), "{:g}")
    for run, (colour, dash) in runs:
        curve = run.curve
        points = [(x(a), y(b)) for a, b in zip(curve.step, _smooth(curve.loss), strict=True)]
        points = [(a, b) for a, b in points if b >= y.end]  # the beginning lies above the plot
        if len(points) > 1:
            svg.polyline(points, stroke=colour, width=1.4, dash=dash, opacity=0.8)
        for a, b in zip(curve.step, curve.validation, strict=True):
            if math.isnan(b) or not y.end <= y(b) <= y.start:
                continue
            if not dash:
                svg.circle(x(a), y(b), 3, colour)
            else:
                svg.rect(x(a) - 2.6, y(b) - 2.6, 5.2, 5.2, colour)


def _smooth(loss: np.ndarray) -> np.ndarray:
    """Running mean: the loss of one batch is noisy."""
    width = max(1, len(loss) // 30)
    total = np.concatenate(([0.0], np.cumsum(loss, dtype=np.float64)))
    end = np.arange(1, len(loss) + 1)
    start = np.maximum(end - width, 0)
    return (total[end] - total[start]) / (end - start)


def _legend(svg: Svg, runs: Sequence[tuple[Snapshot, tuple[str, str]]]) -> None:
    left = 0.0
    for run, (colour, dash) in reversed(runs):
        text = f"{run.label}: step {run.step} of {run.total_steps}"
        svg.line(left, 36, left + 26, 36, stroke=colour, width=2.4, dash=dash)
        if dash:
            svg.rect(left + 10.4, 33.4, 5.2, 5.2, colour)
        else:
            svg.circle(left + 13, 36, 3, colour)
        svg.text(left + 32, 40, text, bold=not dash)
        left += 48 + 7.4 * len(text)
    if left < 640:
        svg.text(left, 40, "line: training loss · marks: validation", fill=MUTED)


def _mark_killed(svg: Svg, step: int, expert: int, end: float) -> None:
    for (start, stop), spans in (
        (LEFT, ((80, 276), (330, 456))),
        (RIGHT, ((80, 196), (248, 330), (380, 456))),
    ):
        place = Scale(0, end, start, stop)(step)
        for top, bottom in spans:
            svg.line(place, top, place, bottom, stroke=INK, width=1.4, dash="4 3")
    svg.text(Scale(0, end, *LEFT)(step), 294, f"✕ expert {expert}", anchor="middle", bold=True)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
