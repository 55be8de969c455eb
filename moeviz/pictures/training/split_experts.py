"""One layer at equal active and total width, its experts split m times and some of them shared."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import Any

from moeviz.checks import check_choice, check_whole
from moeviz.pictures.axes import Scale, x_axis
from moeviz.pictures.over_seeds import told_briefly
from moeviz.pictures.plot import Key, box, heading, legend, paragraph, row
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg
from moeviz.pictures.training.arms import (
    DENSE_ALL,
    axis,
    drawn,
    gap_row,
    gap_tip,
    minus_dense,
    origin,
    setting_words,
    verdict_legend,
)
from moeviz.pictures.training.fine_grained import arm_of, ends_words, tables_of, words_of
from moeviz.words import RAISED, percent

COLUMNS = (
    "experts", "chosen from", "chosen", "width", "sets of experts", "router's share of FLOPs",
    "loss minus dense", "95 % interval", "verdict", "times compute", "times clock",
)  # fmt: skip
EXPERTS, ACTIVE, F = 16, 2, 128  # before they are split
SPLITS, MOST_SHARED = (1, 2, 4, 8), 2
SHOWN = tuple((m, s) for m in SPLITS for s in range(MOST_SHARED + 1) if ACTIVE * m > s)
WIDTH, WRAP, ROW, LEFT, RIGHT = 560.0, 76, 22.0, 128.0, 428.0
SIDE, DRAWN_ROWS = 380.0, 2  # of the layer, beside the losses
TIMES = (474.0, 534.0)  # where the multipliers stand
SHARED = Key("shared", "#d55e00", mark="box", hatched=True)
CHOSEN = Key("chosen", "#0072b2", mark="box")
TIMES_WORDS = "×: how many times the arm's own spending the dense twin needs for the same loss"
IDLE = Key("not chosen", "none", mark="box")


@dataclass(frozen=True)
class Shape:
    """A layer whose experts are split: m pieces of each, of which some are shared. ValueError
    where nothing is left to choose."""

    split: int
    shared: int

    def __post_init__(self) -> None:
        check_choice("split", str(self.split), map(str, SPLITS))
        check_whole("shared", self.shared, 0, MOST_SHARED)
        if self.chosen < 1:
            raise ValueError(
                f"With m = {self.split} a token visits {ACTIVE * self.split} experts, and "
                f"{self.shared} shared ones leave none to choose: take a larger m or fewer of them."
            )

    @property
    def routed(self) -> int:
        """Experts that the router chooses from."""
        return EXPERTS * self.split - self.shared

    @property
    def chosen(self) -> int:
        return ACTIVE * self.split - self.shared

    @property
    def width(self) -> int:
        return F // self.split

    @property
    def sets(self) -> int:
        """Sets of experts that a token can choose."""
        return math.comb(self.routed, self.chosen)

    @property
    def router_flops(self) -> float:
        """The router's share of the layer's FLOPs: 2 D for each expert that it scores, beside 6 D
        for each column that works. The width D of the model cancels."""
        return self.routed / (self.routed + 3 * ACTIVE * F)

    @property
    def name(self) -> str:
        return arm_of(self.split, self.shared)

    def sentence(self) -> str:
        shared = f", beside {self.shared} shared" if self.shared else ""
        return (
            f"A token chooses {self.chosen} of {self.routed} experts{shared}. They are "
            f"{self.width} wide, and make {count_words(self.sets)} sets. The router takes "
            f"{percent(self.router_flops, 1)} of the layer's FLOPs."
        )


def count_words(number: int) -> str:
    """ "120", "35,960" or "4.4 · 10⁹"."""
    if number < 1e6:
        return f"{number:,}"
    power = len(f"{number}") - 1
    return f"{number / 10**power:.1f} · 10{str(power).translate(RAISED)}"


def split_experts(
    recorded: dict[str, Any] | None, *, split: int, shared: int, steps: int
) -> Picture:
    """The layer drawn to scale, its counts, and the losses of all recorded layers of equal width
    minus the dense twin's; those that are not recorded say so. recorded: runs/fine_grained.json,
    None where there is none. ValueError where nothing is left to choose."""
    shape = Shape(split, shared)
    table = _table(recorded, steps)
    finding = _finding(shape, table, steps)
    lines = textwrap.wrap(finding, WRAP)
    top = 38 + 18 * len(lines)
    height = top + ROW * (len(SHOWN) + 1) + 152
    svg = Svg(WIDTH, height, "Experts split at equal width", f"{finding} {shape.sentence()}")
    heading(svg, "Is it better to split experts, and to share some?")
    paragraph(svg, 0, 38, lines, bold=True)
    rows = _losses(svg, top, recorded, table, shape)
    _layer(svg.beside(SIDE, 264), shape)
    return svg.picture(COLUMNS, rows)


def _table(recorded: dict[str, Any] | None, steps: int) -> dict[str, Any] | None:
    """The table of so many steps; None where it is not recorded."""
    tables = tables_of(recorded) if recorded else []
    return next((table for table in tables if table["steps"] == steps), None)


def _finding(shape: Shape, table: dict[str, Any] | None, steps: int) -> str:
    if table is None:
        return f"No loss after {steps:,} steps is recorded."
    if shape.name not in table["arms"]:
        return f"{words_of(shape.name)} is not recorded: this shows its counts alone."
    if shape.name not in table["pairs"]:
        return _all_beside(table["pairs"], steps)
    base = "the same experts with none shared" if shape.shared else "whole experts"
    gap = table["pairs"][shape.name]
    told = told_briefly("the loss", f"that of {base}", gap)
    if gap["low"] is None:
        return f"{told} One seed has no interval."
    return f"{told} The 95 % interval is {gap['low']:+z.3f} to {gap['high']:+z.3f}."


def _all_beside(pairs: dict[str, Any], steps: int) -> str:
    """How many of the recorded layers end below and above that of whole experts."""
    verdicts = [gap["verdict"] for gap in pairs.values()]
    lower, higher, unsure = (verdicts.count(each) for each in ("lower", "higher", "open"))
    return (
        f"These experts are whole. {len(verdicts)} others are compared with them after {steps:,} "
        f"steps: {lower} end lower, {higher} end higher, and of {unsure} it is open."
    )


def _layer(svg: Svg, shape: Shape) -> None:
    """All columns of the layer, cut into its experts, and their counts."""
    words = f"One layer: 2,048 columns in {shape.shared + shape.routed} experts"
    heading(svg, words, f"{shape.width} columns each, drawn in {DRAWN_ROWS} rows")
    x = Scale(0, EXPERTS * F / DRAWN_ROWS, 0, SIDE - 4)
    step, a_row = x(shape.width), EXPERTS * shape.split // DRAWN_ROWS
    chosen = {round((i + 0.5) * shape.routed / shape.chosen - 0.5) for i in range(shape.chosen)}
    for place in range(shape.shared + shape.routed):
        expert = place - shape.shared
        key = SHARED if expert < 0 else CHOSEN if expert in chosen else IDLE
        line, at = divmod(place, a_row)
        box(svg, step * at, 52 + 46 * line, step - (step > 6), 40, key.colour,
            hatched=key.hatched, stroke=MUTED)  # fmt: skip
    legend(svg, 0, 164, [CHOSEN, IDLE, *([SHARED] if shape.shared else [])])
    svg.text(0, 184, "by one token; which ones is illustrative", fill=MUTED)
    facts = (
        ("sets of experts to choose",
         f"C({shape.routed}, {shape.chosen}) = {count_words(shape.sets)}"),
        ("router's share of its FLOPs", percent(shape.router_flops, 1)),
        ("columns that work for a token", f"{ACTIVE * F}"),
    )  # fmt: skip
    for number, (name, value) in enumerate(facts):
        svg.text(0, 212 + 20 * number, name, fill=MUTED)
        svg.text(SIDE, 212 + 20 * number, value, anchor="end", bold=True)


def _losses(
    part: Svg,
    top: float,
    recorded: dict[str, Any] | None,
    table: dict[str, Any] | None,
    shape: Shape,
) -> list[tuple[object, ...]]:
    """From a height on: a row for each layer, which is pressed; returns the table twin."""
    arms = table["arms"] if table else {}
    known = {name: minus_dense(table, name) for name in arms if table and name != "dense"}
    if recorded and table:
        part.text(0, top, origin(recorded, setting_words(table)), fill=MUTED)
    x = axis(drawn(one.gap for one in known.values()) or [-0.1, 0.1], (LEFT, RIGHT))
    for at, name in zip(TIMES, ("× compute", "× clock"), strict=True):
        part.text(at, top + 24, name, anchor="middle", fill=MUTED)
    y, rows = top + 44, []
    for split, shared in SHOWN:
        one = Shape(split, shared)
        gap, tip = known.get(one.name), f"{words_of(one.name)}: not recorded"
        if gap:
            tip = gap_tip(words_of(one.name), gap) + _reach(arms[one.name])
        with part.thing(one.name, tip=tip, press={"split": split, "shared": shared}):
            part.rect(0, y - ROW / 2, WIDTH, ROW, "transparent")
            here = one == shape
            if here:
                part.rect(0, y - ROW / 2, WIDTH - 1, ROW, "none", stroke=INK)
            part.text(6, y + 4, words_of(one.name), bold=here)
            if gap:
                gap_row(part, x, y, gap)
            else:
                part.text(LEFT + 6, y + 4, "not recorded", fill=MUTED)
            for at, cell in zip(TIMES, _times(arms.get(one.name)), strict=True):
                part.text(at, y + 4, cell, anchor="middle")
        rows.append(_row(one, gap, arms.get(one.name)))
        y += ROW
    if DENSE_ALL in known:
        tip = gap_tip(DENSE_ALL, known[DENSE_ALL]) + _reach(arms[DENSE_ALL])
        with row(part, y, ROW, "all parameters", tip=tip):
            part.text(6, y + 4, "dense, 2,048")
            gap_row(part, x, y, known[DENSE_ALL])
            for at, cell in zip(TIMES, _times(arms[DENSE_ALL]), strict=True):
                part.text(at, y + 4, cell, anchor="middle")
    y += ROW
    part.line(x(0), top + 32, x(0), y - 6, stroke=RULE if table is None else INK)
    x_axis(part, x, y - 6, "loss minus the dense twin's (nats per token): left is better")
    if known:
        verdict_legend(part, y + 56, len(known))
        part.text(2, y + 96, TIMES_WORDS, fill=MUTED)
    return rows


def _reach(figures: dict[str, Any]) -> str:
    """The multiplier of compute with its interval, for a hover text."""
    found = figures.get("multipliers", {})
    if found.get("compute") is None:
        return ""
    return f"; × compute {found['compute']:.2f}, 95 % interval {ends_words(*found['interval'])}"


def _times(figures: dict[str, Any] | None) -> tuple[str, str]:
    """Both multipliers as cells."""
    found = (figures or {}).get("multipliers", {})
    values = (found.get(name) for name in ("compute", "wall_clock"))
    compute, clock = ("–" if value is None else f"{value:.2f}" for value in values)
    return compute, clock


def _row(shape: Shape, gap: Any, figures: dict[str, Any] | None) -> tuple[object, ...]:
    told = ("not recorded", "", "")
    if gap:
        one = gap.gap
        ends = f"{one.low:+z.3f} to {one.high:+z.3f}" if math.isfinite(one.low) else "one seed"
        told = (f"{one.mean:+z.3f}", ends, gap.verdict)
    return (
        words_of(shape.name), shape.routed, shape.chosen, shape.width, count_words(shape.sets),
        percent(shape.router_flops, 1), *told, *_times(figures),
    )  # fmt: skip
