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
from moeviz.pictures.training.balance import COLUMNS, describe, floor, is_hash, table
from moeviz.pictures.training.race import losses
from moeviz.records.metrics import effective_experts, max_violation
from moeviz.records.runs import Snapshot

WIDTH, HEIGHT = 880, 560
POINTS = 50  # over the whole run: each is the mean of the steps that it stands for
NOW, BEFORE = ("#0072b2", "", "circle"), ("#d55e00", "5 3", "square")
LEFT, RIGHT = (52.0, 424.0), (560.0, 860.0)


def collapse(
    run: Snapshot, layer: int, *, before: Snapshot | None = None,
    killed: Sequence[tuple[int, int, int]] = (), note: str = "",
) -> Picture:  # fmt: skip
    """A run's balance in one MoE layer, on its steps, beside that of the run before (dashed).

    killed: (step, layer, expert) of experts taken away, marked where it is this layer. A point is
    the mean of total_steps / 50 steps; the level that chance alone brings about is that of as many
    tokens.
    """
    if before is not None:
        before = replace(before, label=f"dashed: {before.label}")
    runs = [run] if before is None else [before, run]
    keys = [_key(run, NOW)] if before is None else [_key(before, BEFORE), _key(run, NOW)]
    svg = Svg(WIDTH, HEIGHT, "Expert load over training", describe(run, layer))
    svg.text(0, 16, note, fill=MUTED)
    legend(svg, 0, 40, reversed(keys))
    experts, level = run.curve.load.shape[2], floor(run, _stride(run))
    left, right = (Scale(0, float(max(run.total_steps, 1)), *ends) for ends in (LEFT, RIGHT))

    ribbon, violation = Scale(0, 1, 276, 80), RootScale(0, max(experts - 1, 1), 456, 330)
    loss, effect, gate = (
        Scale(*_loss_range(runs), 196, 80), Scale(0, experts, 330, 248), Scale(0, 1, 456, 380)
    )  # fmt: skip
    _ribbon(svg, *_binned(run, layer)[:2], left, ribbon)
    shares = [0, 0.25, 0.5, 0.75, 1]
    _frame(svg, left, ribbon, f"Share of the tokens, layer {layer}", shares, "{:.0%}".format)
    title = f"MaxVio of {_stride(run)} steps: 0 is even"
    _frame(svg, left, violation, title, violation.ticks(), bottom=True)
    _frame(svg, right, loss, "Loss (nats per token); marks: validation", loss.ticks(4))
    _frame(svg, right, effect, f"Experts in effect, of {experts}", [0, experts / 2, experts])
    _frame(svg, right, gate, "Entropy of the gate: 1 is undecided", [0, 0.5, 1], bottom=True)
    for shown, key in zip(runs, keys, strict=True):
        losses(svg, right, loss, "step", shown.curve, len(shown.curve) // 30, key)
        steps, load_PE, entropy_P = _binned(shown, layer)
        for x, y, values in (
            (left, violation, map(max_violation, load_PE)),
            (right, effect, map(effective_experts, load_PE)),
            (right, gate, entropy_P),
        ):
            curve(svg, x, y, zip(steps, values, strict=True), replace(key, width=1.8))
    at = violation(level)
    svg.line(left.start, at, left.end, at, stroke=INK, width=1.2, dash="2 3")
    svg.text(left.end + 6, at - 12, "by chance", fill=MUTED)
    svg.text(left.end + 6, at + 4, f"about {level:.2f}")
    if is_hash(run):
        svg.text(sum(RIGHT) / 2, 448, "a hash has no gate", anchor="middle", fill=MUTED)

    for step, at_layer, expert in killed:
        if at_layer == layer and len(run.curve) and step <= run.curve.step[-1]:
            _mark_killed(svg, left(step), right(step), expert)
    paragraph(svg, 0, 518, textwrap.wrap(svg.description, 125))
    return svg.picture(COLUMNS, table(runs[::-1], layer))


def _key(run: Snapshot, style: tuple[str, str, str]) -> Key:
    colour, dash, shape = style
    name = f"{run.label}: step {run.step} of {run.total_steps}"
    return Key(name, colour, dash, shape, width=1.4, bold=not dash)


def _stride(run: Snapshot) -> int:
    """Steps that one drawn point stands for."""
    return max(1, math.ceil(run.total_steps / POINTS))


def _binned(run: Snapshot, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, and a layer's load [P, E] and entropy as means over equal numbers of steps."""
    curve = run.curve
    bins = np.ceil(curve.step / _stride(run)).astype(int)
    groups = [np.flatnonzero(bins == each) for each in np.unique(bins)]
    load_PE = [curve.load[group, layer].mean(0, dtype=np.float64) for group in groups]
    entropy_P = [curve.entropy[group, layer].mean(dtype=np.float64) for group in groups]
    if is_hash(run):
        entropy_P = [math.nan] * len(groups)
    last = [group[-1] for group in groups]
    return curve.step[last], np.array(load_PE), np.array(entropy_P)


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


def _ribbon(svg: Svg, steps: np.ndarray, load_PE: np.ndarray, x: Scale, y: Scale) -> None:
    """The experts' shares, stacked: expert 0 below; hatched from the eighth on. The numbers stand
    at the end of the widest."""
    if not len(steps):
        return
    share_PE = load_PE / np.maximum(load_PE.sum(1, keepdims=True), 1e-12)
    # The first point's mean begins at step 0.
    steps, share_PE = np.append(0, steps), np.vstack([share_PE[:1], share_PE])
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
    late = [v for run in runs for v in run.curve.loss[run.curve.step > run.total_steps / 5]]
    return padded(late or [v for run in runs for v in run.curve.loss] or [0.0, 8.0], 0.05)


def _mark_killed(svg: Svg, left: float, right: float, expert: int) -> None:
    for x, top, bottom in (
        (left, 80, 276), (left, 330, 456), (right, 80, 196), (right, 248, 330), (right, 380, 456)
    ):  # fmt: skip
        svg.line(x, top, x, bottom, stroke=INK, width=1.4, dash="4 3")
    svg.text(left, 294, f"✕ expert {expert}", anchor="middle", bold=True)
