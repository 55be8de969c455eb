"""Learners side by side: who is ahead, and the losses that this comes from, on a chosen axis."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import dropwhile, pairwise

import numpy as np

from moeviz.pictures.axes import Scale, axes, general, padded
from moeviz.pictures.plot import Key, curve, mark, paragraph, smooth, spots
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, si
from moeviz.pictures.training.load_and_speed import (
    BESIDE_WORK,
    LOAD_HEIGHT,
    SIDE,
    STYLES,
    draw_load,
    draw_speed,
    recent_load,
    speed_height,
)
from moeviz.pictures.training.settings import (
    WIDTH,
    Setting,
    draw_settings,
    settings_height,
    told_settings,
)
from moeviz.records.luck import luck_at
from moeviz.records.metrics import effective_experts, last_common, max_violation, validation_at
from moeviz.records.runs import Curve, Snapshot

MAIN, HEIGHT = 560, 520
ENDS = (60.0, 452.0)  # x of the plots' left and right ends
GAP, PLOT = (254.0, 74.0), (434.0, 318.0)  # y of their lower and upper ends
AXES = {
    "step": ("training steps", ""),
    "flops": ("training compute, forward + backward", "FLOP"),
    "seconds": ("seconds of training on this machine", "s"),
}
JOULES = "joules"  # an axis of powered learners alone
UNITS = {axis: unit for axis, (_, unit) in AXES.items()} | {JOULES: "J"}
BY_THE_CLOCK = ("seconds", JOULES)
MARKS = ("circle", "square", "diamond")
Luck = Sequence[tuple[float, float]]  # places on an axis, and how far luck alone goes there
SMOOTH = 9
NOT_YET = "Step 0: nothing is trained yet. ▶ Play trains it here."
COLUMNS = (
    "learner", "step", "seconds", "tokens per second", "parameters", "active parameters",
    "training loss", "validation loss", "MaxVio", "effective experts",
)  # fmt: skip


def race(
    learners: Sequence[Snapshot], axis: str, *, note: str = "", settings: Sequence[Setting] = (),
    luck: Luck = (), beside_work: bool = False, power: str = "",
) -> Picture:  # fmt: skip
    """How far the second learner is ahead of the first, and the loss of each, against step, flops,
    seconds or the joules of powered learners, up to the finish. Beside them what else is recorded,
    where settings are given, the load of the last MoE layer, and the speed. luck: how far luck
    alone takes the difference, at places of this axis; none where that is unknown. beside_work:
    other work slowed the learners, which trained in turns, so that of their seconds and speeds only
    the ratio counts. power: by which watts joules were made of seconds, and where they are from."""
    headline = told(learners, axis, luck)
    over_seeds = f" Over the seeds of each E and K, {told_settings(settings)}" if settings else ""
    svg = Svg(MAIN, HEIGHT, "Learners side by side", f"{headline}{over_seeds}")
    slowed = beside_work and axis in BY_THE_CLOCK
    words = f"joules (estimate), seconds × {power}" if axis == JOULES else AXES[axis][0]
    label = f"{words.partition(',')[0]}, {BESIDE_WORK}" if slowed else words
    draw_curves(svg, learners, axis, note, label, headline, luck)
    if settings:
        draw_settings(svg.beside(WIDTH, settings_height(settings)), settings)
    draw_load(svg.beside(SIDE, LOAD_HEIGHT), learners, axis, finish(learners, axis), label)
    draw_speed(svg.beside(SIDE, speed_height(learners)), learners, beside_work)
    return svg.picture(COLUMNS, rows_of(learners, speeds=not beside_work))


def told(learners: Sequence[Snapshot], axis: str, luck: Luck = ()) -> str:
    """How far the race is, and who of the first two is ahead beyond luck."""
    running = progress(learners[:2])
    return f"{running}{compare(learners[:2], axis, luck, so_far=bool(running))}"


def draw_curves(
    svg: Svg, learners: Sequence[Snapshot], axis: str, note: str, label: str, headline: str,
    luck: Luck = (),
) -> None:  # fmt: skip
    """Who is ahead, in words and as a curve; below it the losses. The upright line marks the
    furthest point that the first two have reached, where they are compared. note: where they come
    from; label: of the axis; headline and luck: as in `told`."""
    two = learners[:2]
    svg.text(0, PLOT[0] + 62, note, fill=MUTED)
    paragraph(svg, 0, 16, in_lines(headline), 17, size=13, bold=True)
    x = Scale(0, finish(learners, axis), *ENDS)
    y = Scale(*padded([v for s in learners for v in _shown_losses(s)] or [0, 7]), *PLOT)
    _draw_gap(svg, two, axis, x, luck)
    keys = [_key(i, s.label) for i, s in enumerate(learners)]
    svg.text(0, PLOT[1] - 16, "Loss (nats per token)", bold=True)
    svg.text(160, PLOT[1] - 16, "line: training, smoothed · marks: validation", fill=MUTED)
    axes(svg, x, y, x_label=label, y_ticks=y.ticks(4), x_form=lambda v: _place(axis, v))
    for learner, key in zip(learners, keys, strict=True):
        losses(svg, x, y, axis, learner.curve, SMOOTH, key)
    ends = [y(float(s.curve.loss[-1]) if len(s.curve) else y.low) for s in learners]
    name_ends(svg, x.end, PLOT, [(end, k.name, k) for end, k in zip(ends, keys, strict=True)])
    if not any(len(s.curve) for s in learners):
        svg.text(sum(ENDS) / 2, sum(GAP) / 2, NOT_YET, anchor="middle", bold=True, halo=True)
    common = last_common([s.curve for s in two], axis)
    if not np.isnan(common) and len(two) > 1:
        for start, end in (GAP, PLOT):
            svg.line(x(common), start, x(common), end, stroke=INK, dash="2 4")
    svg.text(x.end + 6, GAP[1] + 4, "finish", fill=MUTED)


def in_lines(headline: str) -> list[str]:
    """A sentence in lines that fit, with no sign parted from its number."""
    return textwrap.wrap(headline.replace("± ", "±\u00a0"), 66)


def name_ends(
    svg: Svg, x: float, plot: tuple[float, float], ends: Sequence[tuple[float, str, Key]]
) -> None:
    """The names of curves behind their ends at x, each as near to its own as the others let it.
    plot: y of its lower and upper end; ends: y of each, the name, and how it is drawn."""
    named = sorted(
        ((y, textwrap.wrap(name, 11), key) for y, name, key in ends), key=lambda end: end[0]
    )
    heights = [15 * len(lines) + 4 for _, lines, _ in named]
    tops: list[float] = []
    above = plot[1]
    for (y, *_), height in zip(named, heights, strict=True):
        tops.append(max(y, above))
        above = tops[-1] + height
    below = plot[0] + 20
    for i in reversed(range(len(tops))):  # what was pushed out of the plot goes up again
        tops[i] = min(tops[i], below - heights[i])
        below = tops[i]
    for top, (_, lines, key) in zip(tops, named, strict=True):
        with svg.thing(key.name):
            svg.line(x + 4, top, x + 18, top, stroke=key.colour, width=2, dash=key.dash)
            mark(svg, key.mark, x + 11, top, key.colour, 4)
            paragraph(svg, x + 22, top + 4, lines, 15, bold=True)


def finish(learners: Sequence[Snapshot], axis: str) -> float:
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


def _draw_gap(svg: Svg, two: Sequence[Snapshot], axis: str, x: Scale, luck: Luck) -> None:
    """How far the second learner is ahead, wherever the validation loss of both is known: the area
    is in the colour of who is. Within the band around 0 luck alone goes."""
    points = gaps(two, axis)
    # Early luck goes so far that a plot of all its band would show nothing of what comes later.
    last = luck[-1][1] if luck else 0.0
    y = Scale(*padded([-last, last, *(gap for _, gap in points)], 0.15), *GAP)
    if luck:
        _draw_luck(svg, x, y, luck)
    names = [s.label for s in two]
    key = _key(1, "gap")
    if len(names) == 2:
        words = f"Validation loss: {names[0]} minus {names[1]}, in nats per token"
        svg.text(0, GAP[1] - 10, words, bold=True)
        for area, (colour, _) in zip((-1, 1), STYLES, strict=False):
            for outline in _areas(points, area):
                corners = [(x(a), y(b)) for a, b in outline]
                svg.polygon(corners, fill=colour, opacity=0.3)
    axes(svg, x, y, y_ticks=y.ticks(5), x_form=lambda _: "")
    svg.line(x.start, y(0), x.end, y(0), stroke=INK, width=1.5)
    with svg.thing(key.name):
        places = curve(svg, x, y, points, key, marks=3)
    tips = [
        f"{_where(axis, at)}: {_ahead(names, gap)}{_beside_luck(gap, luck_at(luck, at))}"
        for at, gap in points
    ]
    spots(svg, [key.name], places, tips)
    if len(names) == 2:
        svg.text(x.end - 8, GAP[1] + 14, f"↑ {names[1]} is ahead", anchor="end", halo=True)
        svg.text(x.end - 8, GAP[0] - 8, f"↓ {names[0]} is ahead", anchor="end", halo=True)
    if points:
        end, lead = points[-1]
        svg.text(x(end) + 8, y(lead) + 4, f"{lead:+z.3f}", bold=True, halo=True)


def _draw_luck(svg: Svg, x: Scale, y: Scale, luck: Luck) -> None:
    """A band over the places where luck is known; over the last pixels where it is the end."""
    ends = [(x(at), y(min(reach, y.high)), y(max(-reach, y.low))) for at, reach in luck]
    if len(ends) == 1:
        ends = [(ends[0][0] - 12, *ends[0][1:]), *ends]
    upper, lower = ([(end[0], end[edge]) for end in ends] for edge in (1, 2))
    svg.polygon([*upper, *lower[::-1]], fill=MUTED, opacity=0.2)
    words = f"grey: luck, 19 of 20 {'whole races' if len(luck) > 1 else 'ends'}"
    svg.text(x.start + 8, GAP[0] - 8, words, fill=MUTED, halo=True)


def _areas(points: Sequence[tuple[float, float]], side: int) -> list[list[tuple[float, float]]]:
    """What lies between a curve and 0, above (1) or below it (-1): outlines, one for each two
    neighbours that are not both on the other side."""
    outlines = []
    for (a, first), (b, last) in pairwise(points):
        cross = [(a + (b - a) * first / (first - last), 0.0)] if first * last < 0 else []
        kept = [(at, gap) for at, gap in ((a, first), (b, last)) if gap * side > 0]
        if kept:
            foot = [*cross, *((at, 0.0) for at, _ in reversed(kept))]
            outlines.append([*kept, *foot])
    return outlines


def _place(axis: str, value: float) -> str:
    """A place on an axis, with its unit: "120", "1.2 TFLOP", "30 s"."""
    unit = UNITS[axis]
    return si(value, unit) if unit and value else general(value)


def _where(axis: str, value: float) -> str:
    return f"{_place(axis, value)} steps" if axis == "step" else _place(axis, value)


def _ahead(names: Sequence[str], gap: float) -> str:
    return f"{names[gap > 0]} is ahead by {abs(gap):.3f} nats"


def _beside_luck(gap: float, reach: float) -> str:
    if np.isnan(reach):
        return ""
    return f", {'beyond' if abs(gap) > reach else 'within'} luck alone (± {reach:.3f})"


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
    return f"Step {first.step:,} of {first.total_steps:,}, {left}. "


def seconds_left(learners: Sequence[Snapshot]) -> float:
    """How long learners that train in turns still take, at their pace so far."""
    return sum(s.seconds / max(s.step, 1) * (s.total_steps - s.step) for s in learners)


def compare(
    learners: Sequence[Snapshot], axis: str, luck: Luck = (), *, so_far: bool = False
) -> str:
    """Who is ahead at the furthest common point of an axis, in one sentence; within what luck alone
    does it is open. so_far: the race goes on."""
    common = last_common([s.curve for s in learners], axis)
    losses = [validation_at(s.curve, axis, common) for s in learners]
    if np.isnan(losses).any() or len(learners) < 2:
        return "No validation loss of both to compare here yet."
    best, lead, reach = int(np.argmin(losses)), max(losses) - min(losses), luck_at(luck, common)
    ahead = f"{learners[best].label} is ahead by {lead:.3f} nats per token"
    at = "So far" if so_far else f"At {_where(axis, common)}"
    if np.isnan(reach):
        return f"{at} {ahead}; how far luck alone goes here is not known."
    if lead <= reach:
        return f"{at} it is too close to call: {ahead} (luck alone: ± {reach:.3f})."
    return f"{at} {ahead}, beyond the ± {reach:.3f} of luck alone."


def _shown_losses(learner: Snapshot) -> list[float]:
    smoothed = smooth(learner.curve.loss, SMOOTH)
    validation = learner.curve.validation
    # The first points fall steeply and would flatten all that follows.
    kept = smoothed[len(smoothed) // 20 :] if len(smoothed) > 40 else smoothed
    return [*kept, *validation[~np.isnan(validation)]]


def rows_of(learners: Sequence[Snapshot], *, speeds: bool) -> list[tuple[object, ...]]:
    """The table of COLUMNS; its seconds and speeds are empty where they are of no worth."""
    rows = [_row(learner) for learner in learners]
    return rows if speeds else [(*row[:2], "", "", *row[4:]) for row in rows]


def _row(learner: Snapshot) -> tuple[object, ...]:
    curve = learner.curve
    if not len(curve):  # it may be that of another setting, taken back to its start
        return (learner.label, 0, *[""] * 8)
    measured = curve.validation[~np.isnan(curve.validation)]
    load_E = recent_load(learner) if curve.load.shape[1] else None
    return (
        learner.label, learner.step, f"{learner.seconds:.1f}", f"{learner.tokens_per_second:,.0f}",
        learner.parameters, learner.active_parameters, f"{smooth(curve.loss, SMOOTH)[-1]:.3f}",
        f"{measured[-1]:.3f}" if len(measured) else "",
        f"{max_violation(load_E):.2f}" if load_E is not None else "",
        f"{effective_experts(load_E):.1f}" if load_E is not None else "",
    )  # fmt: skip
