"""The efficiency frontier: loss against what a model costs, for sparse and for dense ones."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from moeviz.checks import check_choice
from moeviz.pictures.axes import LogScale, Scale, axes, padded
from moeviz.pictures.over_seeds import about, gap_cell, mean_sd
from moeviz.pictures.plot import Key, curve, heading, legend, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, SMALLEST, Picture, Svg, si, text_width
from moeviz.pictures.training.frontier_read import (
    AXES,
    DENSE,
    HASH,
    LEARNED,
    READ_BITS,
    TWIN,
    Recorded,
    of_kind,
    width_words,
)
from moeviz.pictures.training.frontier_told import (
    told_arm,
    told_axis,
    told_changes,
    told_choosers,
    told_dense,
    told_edges,
    told_grown,
    told_trend,
)
from moeviz.words import percent

WIDTH, SIDE, PLOT, BELOW = 560.0, 380.0, 300.0, 62.0
LEFT, RIGHT, WRAP = 62.0, 536.0, 74
LINE, ROW = 18.0, 25.0
QUESTION = "How far does the loss fall as a token meets less of the model?"
KEYS = {
    DENSE: Key("dense, by width", "#0072b2", mark="circle"),
    LEARNED: Key("learned router, by experts", "#d55e00", "7 3", "square"),
    HASH: Key("hash, by experts", "#009e73", "2 3", "diamond"),
}
# Where a size stands from its mark's middle: above it for a learned router, below it for hash.
SPOTS = (
    (8.0, -10.0, "start"), (-8.0, -10.0, "end"), (12.0, 4.0, "start"), (-12.0, 4.0, "end"),
    (-8.0, 18.0, "end"), (8.0, 18.0, "start"),
)  # fmt: skip
COLUMNS = (
    "arm", "loss (nats per token)", "minus the dense twin", "dense width of equal loss",
    "parameters", "a token meets", "share of all", "share of the FFN", "GFLOPs a step",
    "ms a step", "accuracy",
)  # fmt: skip


Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Label:
    """A size beside its mark."""

    size: str
    x: float
    y: float
    anchor: str

    @property
    def box(self) -> Box:
        wide = text_width(self.size, SMALLEST)
        left = self.x - wide * (self.anchor == "end")
        return left, self.y - 10, left + wide, self.y + 3


def frontier(recorded: Recorded, *, axis: str, arm: str) -> Picture:
    """Loss of every recorded arm on an axis (a key of AXES), with the 95 % interval of its
    difference from the dense twin; the chosen arm in figures and in words. ValueError of an unknown
    choice."""
    check_choice("axis", axis, AXES)
    check_choice("arm", arm, recorded["arms"])
    finding, stands = told_changes(recorded), told_arm(recorded, arm)
    where = f"{stands} {told_axis(recorded, arm, axis)}".rstrip()
    edges = told_edges(recorded)
    of_kinds = _of_kinds(recorded)
    rest = (*of_kinds.values(), told_choosers(recorded), edges)
    heights = _heights(recorded)
    summary = " ".join(filter(None, (finding, where, *rest)))
    bold, plain = (
        textwrap.wrap(finding, WRAP),
        textwrap.wrap(stands if axis == "share" else where, 82),
    )
    notes = [*textwrap.wrap(edges, 84), about(recorded, recorded["arms"][arm]["loss"])]
    top = 44 + LINE * (len(bold) + len(plain)) + 30
    bottom = top + PLOT
    height = bottom + BELOW + 38 + LINE * len(notes)
    svg = Svg(WIDTH, height, "The efficiency frontier", summary)
    heading(svg, QUESTION)
    paragraph(svg, 0, 38, bold, LINE, bold=True)
    paragraph(svg, 0, 42 + LINE * len(bold), plain, LINE)
    x = _across(recorded, axis)
    y = Scale(*padded(v for reach in heights.values() for v in reach), bottom, top)
    axes(
        svg, x, y, x_label=AXES[axis].title, y_label="loss on held-out text (nats per token)",
        above=True, x_ticks=_ticks(x), x_form=AXES[axis].form, y_form=lambda v: f"{v:.2f}",
    )  # fmt: skip
    chosen = heights[arm][1]
    svg.line(LEFT, y(chosen), RIGHT, y(chosen), stroke=MUTED, dash="3 3")
    labels = _labels(x, y, recorded, axis, heights)
    for kind, key in KEYS.items():
        _kind(svg, x, y, recorded, axis, kind, key, heights, arm, labels)
    for i, (kind, key) in enumerate(KEYS.items()):
        with svg.thing(key.name, tip=of_kinds[kind]):
            legend(svg, LEFT + 210 * (i % 2), bottom + BELOW + 22 * (i // 2), [key])
    svg.text(LEFT + 210, bottom + BELOW + 22, "upright: 95 % interval, beside the twin", fill=MUTED)
    paragraph(svg, 0, bottom + BELOW + 50, notes, LINE, fill=MUTED)
    _details(svg, recorded, arm)
    return svg.picture(COLUMNS, (_cells(recorded, name) for name in recorded["arms"]))


def _of_kinds(recorded: Recorded) -> dict[str, str]:
    """What is told of the models of each kind, for a hand on its name."""
    told = {DENSE: told_dense(recorded)}
    for kind in (LEARNED, HASH):
        told[kind] = f"{told_trend(recorded, kind)} {told_grown(recorded, kind)}"
    return told


def _across(recorded: Recorded, axis: str) -> LogScale:
    arms = recorded["arms"]
    places = [place for arm in arms.values() if (place := AXES[axis].of(recorded, arm))]
    ends = (min(places), max(places)) if places else (1.0, 10.0)
    if axis == "share":  # from all of it to less and less
        return LogScale(1.8, ends[0] / 1.3, LEFT, RIGHT)
    return LogScale(ends[0] / 1.25, ends[1] * 1.25, LEFT, RIGHT)


def _heights(recorded: Recorded) -> dict[str, tuple[float, float, float]]:
    """(low, mean, high) of each arm's loss: the interval is that of its difference from the twin,
    around the mean."""
    found = {}
    for name, arm in recorded["arms"].items():
        mean, gap = arm["loss"]["mean"], recorded["gaps"].get(f"{name} minus {TWIN}")
        if gap is None or gap["low"] is None:
            found[name] = mean, mean, mean
        else:
            found[name] = mean + gap["low"] - gap["mean"], mean, mean + gap["high"] - gap["mean"]
    return found


def _ticks(x: LogScale) -> list[float]:
    """1, 2 and 5 of every power of ten, or fewer where they would touch."""
    low, high = sorted((x.low, x.high))
    powers = [10.0**n for n in range(-4, 16)]
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [s * p for p in powers for s in steps if low <= s * p <= high]
        if len(ticks) <= 7:
            break
    return ticks


def _kind(
    svg: Svg, x: Scale, y: Scale, recorded: Recorded, axis: str, kind: str, key: Key,
    heights: dict[str, tuple[float, float, float]], chosen: str, labels: dict[str, Label],
) -> None:  # fmt: skip
    """The line of a kind and its arms, each to be pressed."""
    arms, places = of_kind(recorded, kind), _places(recorded, axis, kind)
    with svg.thing(key.name):
        line = [(places[name], heights[name][1]) for name in places]
        if len(line) > 1:
            curve(svg, x, y, line, key)
    for name, place in places.items():
        at, arm, label = x(place), arms[name], labels[name]
        low, height, high = map(y, heights[name])
        tip = f"{name}: {heights[name][1]:.3f} nats per token, {arm['parameters']:,} parameters"
        with svg.thing(name, key.name, tip=tip, press={"arm": name}):
            svg.line(at, low, at, high, stroke=key.colour, width=2)
            svg.circle(at, height, 13, "transparent")
            mark(svg, key.mark, at, height, key.colour, 5)
            if name == chosen:
                svg.circle(at, height, 10, "none", stroke=INK)
            svg.text(
                label.x, label.y, label.size, anchor=label.anchor, bold=name == chosen, halo=True
            )


def _places(recorded: Recorded, axis: str, kind: str) -> dict[str, float]:
    """Where each arm of a kind stands on the axis; those without such a figure are left out."""
    of = partial(AXES[axis].of, recorded)
    arms = of_kind(recorded, kind).items()
    return {name: place for name, arm in arms if (place := of(arm)) is not None}


def _labels(
    x: Scale, y: Scale, recorded: Recorded, axis: str,
    heights: dict[str, tuple[float, float, float]],
) -> dict[str, Label]:  # fmt: skip
    """The size of each arm beside its mark, where the fewest labels and marks stand already; of
    dense ones that stand above each other on the left."""
    at = {
        name: (x(place), y(heights[name][1]))
        for kind in KEYS
        for name, place in _places(recorded, axis, kind).items()
    }
    labels: dict[str, Label] = {}
    if axis == "share":
        dense = of_kind(recorded, DENSE)
        for name, height in zip(dense, _apart([at[name][1] for name in dense]), strict=True):
            labels[name] = Label(f"{dense[name]['width']:,}", at[name][0] - 10, height + 4, "end")
    marks = [(left - 6, high - 6, left + 6, high + 6) for left, high in at.values()]
    for name in (name for name in at if name not in labels):
        arm, (left, high) = recorded["arms"][name], at[name]
        size = f"{arm['width'] if arm['kind'] == DENSE else arm['experts']:,}"
        around = SPOTS if arm["kind"] == LEARNED else SPOTS[::-1]
        found = [Label(size, left + dx, high + dy, anchor) for dx, dy, anchor in around]
        taken = [*marks, *(label.box for label in labels.values())]
        labels[name] = min(found, key=lambda label: sum(_touch(label.box, box) for box in taken))
    return labels


def _touch(one: Box, other: Box) -> bool:
    return all(max(one[i], other[i]) < min(one[i + 2], other[i + 2]) for i in (0, 1))


def _apart(heights: list[float]) -> list[float]:
    """Where labels beside marks at these heights stand, so that none touches the next."""
    placed = [*heights]
    order = sorted(range(len(placed)), key=lambda i: placed[i])
    for before, here in pairwise(order):
        placed[here] = max(placed[here], placed[before] + 13)
    return placed


def _details(svg: Svg, recorded: Recorded, name: str) -> None:
    """The chosen arm in figures."""
    rows = [*_figures(recorded, name)]
    side = svg.beside(SIDE, 40 + ROW * len(rows) + 8)
    title = f"{name[0].upper()}{name[1:]}, after {recorded['steps']:,} steps"
    side.text(0, 16, title, size=14, bold=True)
    for i, (label, value) in enumerate(rows):
        middle = 44 + ROW * i
        side.line(0, middle - 16, SIDE, middle - 16, width=0.5)
        side.text(0, middle, label, fill=MUTED)
        side.text(SIDE, middle, value, anchor="end")


def _figures(recorded: Recorded, name: str) -> Iterator[tuple[str, str]]:
    arm: dict[str, Any] = recorded["arms"][name]
    share = arm["active_parameters"] / arm["parameters"]
    yield "loss, nats per token", mean_sd(arm["loss"], 3)
    if name != TWIN:
        yield "minus the dense twin", gap_cell(recorded["gaps"][f"{name} minus {TWIN}"])
    if arm["kind"] != DENSE:
        yield "dense width as good", width_words(recorded, name)
    yield "next tokens foretold", percent(arm["accuracy"]["mean"], 1)
    yield "parameters", f"{arm['parameters']:,}"
    yield "a token meets", f"{arm['active_parameters']:,} ({percent(share, 1)})"
    yield "of the FFN's, it meets", percent(arm["ffn_active_share"], 1)
    yield f"bytes met, {READ_BITS} bits each", si(arm["active_parameters"] * READ_BITS / 8, "B")
    yield "FLOPs of a step", si(arm["gigaflops_per_step"] * 1e9, "FLOP")
    if arm["seconds_per_step"] is not None:
        yield "time of a step, one core", f"{1000 * arm['seconds_per_step']:.1f} ms"
    if arm["kind"] != DENSE:
        experts = arm["experts"]
        yield "in effect, least even layer", f"{arm['effective_experts']['mean']:.1f} of {experts}"
        yield "dead there", f"{arm['dead_experts']['mean']:.1f} of {experts}"


def _cells(recorded: Recorded, name: str) -> tuple[object, ...]:
    arm = recorded["arms"][name]
    gap = recorded["gaps"].get(f"{name} minus {TWIN}")
    seconds = arm["seconds_per_step"]
    return (
        name, mean_sd(arm["loss"], 3), gap_cell(gap) if gap else "",
        "" if arm["kind"] == DENSE else width_words(recorded, name),
        f"{arm['parameters']:,}", f"{arm['active_parameters']:,}",
        percent(arm["active_parameters"] / arm["parameters"], 1),
        percent(arm["ffn_active_share"], 1), f"{arm['gigaflops_per_step']:.3f}",
        "" if seconds is None else f"{1000 * seconds:.1f}", percent(arm["accuracy"]["mean"], 1),
    )  # fmt: skip
