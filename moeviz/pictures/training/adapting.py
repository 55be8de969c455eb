"""What adapting a small model to a new kind of text gives and costs, by what was trained."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from moeviz.checks import check_choice
from moeviz.pictures.axes import Scale, axes, padded, x_axis
from moeviz.pictures.over_seeds import (
    about,
    gap_cell,
    gap_dots,
    gap_scale,
    mean_sd,
    rate_words,
    verdict_keys,
)
from moeviz.pictures.plot import Key, curve, heading, legend, mark, paragraph, row, spots
from moeviz.pictures.svg import MUTED, Picture, Svg
from moeviz.pictures.training.cures_told import listed
from moeviz.records.adapting import (
    ALL,
    ALL_SMALL,
    ATTENTION,
    BASE,
    BY_GATE,
    BY_LOT,
    BY_TOKEN,
    EQUAL,
    EVERYTHING,
    MEASURES,
    ONE_FOR_ALL,
    WAYS,
    WHOLE,
)
from moeviz.words import percent

Figures = dict[str, Any]
KEYS = {
    BY_GATE: Key("experts by gate", "#0072b2", mark="circle", bold=True),
    BY_TOKEN: Key("experts by token share", "#56b4e9", "6 3", "square"),
    BY_LOT: Key("experts by lot", "#6e6e6e", "2 3", "ring"),
    ALL_SMALL: Key("all experts", "#009e73", "", "diamond"),
    ONE_FOR_ALL: Key("one for all experts", "#d55e00", "", "square"),
    ATTENTION: Key("attention", "#cc79a7", "", "cross"),
    ALL: Key("all experts, larger", "#009e73", "6 3", "ring"),
    WHOLE: Key("whole experts by gate", "#0072b2", "2 3", "diamond"),
    EVERYTHING: Key("everything", "#a65628", "", "cross"),
}
TITLES = {
    "task": "loss of the new text",
    "elsewhere": "rise of the loss elsewhere",
    "at_equal_gain": "rise elsewhere, at equal gain",
}
# As the subject of a sentence, and what a lower figure of it means.
SAID = {
    "task": "the loss of the new text",
    "elsewhere": "what the other text loses",
    "at_equal_gain": "what the other text loses for an equal gain",
}
COLUMNS = (
    "trained", "rank", "numbers", "bytes", "seconds", "gain on the new text", "rise elsewhere",
    "rise at equal gain", "this figure minus that of the experts by gate",
)  # fmt: skip
WIDTH, HEIGHT = 560.0, 440.0
PLOT, NAMES, TOP, BOTTOM = (64.0, 376.0), 396.0, 112.0, 384.0
SIDE, ROW, LEFT, RIGHT, RESULTS = 380.0, 26.0, 152.0, 280.0, (322.0, 378.0)
GAPS = 138.0  # where the rows of differences begin
LINE = 17.0  # between names beside the curves
NOTHING = "Not recorded yet: 'python -m moeviz experiment adapting' records it."


def adapting(
    figures: Figures | None, *, task: str, measure: str = "task", larger: bool = False
) -> Picture:
    """Gain and loss while adapting, a curve for each way, and each way's figure minus that of LoRA
    on the experts by gate. figures: see experiments.adapting, None where nothing is recorded; task:
    the new kind of text; measure: one of records.adapting.MEASURES; larger: with the ways that
    train more numbers. ValueError for an unknown measure."""
    check_choice("measure", measure, MEASURES)
    if figures is None:
        svg = Svg(WIDTH, 60, "Adapting a model to a new text", NOTHING)
        heading(svg, "What does it take to learn a new text?", NOTHING)
        return svg.picture(COLUMNS, ())
    of_task, ways = figures["tasks"][task], WAYS if larger else EQUAL
    told = finding(figures, task, measure)
    svg = Svg(WIDTH, HEIGHT, "Adapting a model to a new text", told)
    heading(svg, "What does it take to learn a new text?")
    lines = textwrap.wrap(told, 78)
    paragraph(svg, 0, 38, lines, 17, bold=True)
    gain = of_task["ways"][BASE]["gain"]
    svg.text(0, 42 + 17 * len(lines), about(figures, gain), fill=MUTED)
    _curves(svg, figures, of_task["ways"], ways)
    side = svg.beside(SIDE, GAPS + ROW * len(ways) + 72)
    _gaps(side, of_task, measure, ways)
    return svg.picture(COLUMNS, _rows(of_task, measure, ways))


def _curves(svg: Svg, figures: Figures, of_ways: Figures, ways: Sequence[str]) -> None:
    """Gain to the right, loss upwards: a curve from 0 and 0 through what was measured."""
    lines = {way: _points(of_ways[way]) for way in ways}
    every = [point for line in lines.values() for point in line]
    x = Scale(*padded([gain for gain, _ in every]), *PLOT)
    y = Scale(*padded([other for _, other in every]), BOTTOM, TOP + 14)
    axes(
        svg, x, y, x_label="gain: fall of the new text's loss, nats per token",
        y_label="rise of the loss elsewhere, nats per token", above=True,
    )  # fmt: skip
    steps = [0, *figures["measured"]]
    places = {}
    for way, line in lines.items():
        key = KEYS[way]
        with svg.thing(key.name):
            pixels = curve(svg, x, y, line, key)
            mark(svg, key.mark, *pixels[-1], key.colour, 5)
        tips = [
            f"{key.name}, after {step} steps: gain {gain:.3f}, elsewhere {other:+z.3f}"
            for step, (gain, other) in zip(steps, line, strict=True)
        ]
        spots(svg, (f"{key.name} spots", key.name), pixels, tips)
        places[way] = pixels[-1]
    top = TOP + 14.0
    for way in sorted(places, key=lambda way: places[way][1]):
        key, (end, height) = KEYS[way], places[way]
        top = max(top, min(height, BOTTOM - LINE * len(places)))
        with svg.thing(key.name):
            svg.line(end + 6, height, NAMES - 8, top, stroke=MUTED, width=0.7)
            mark(svg, key.mark, NAMES, top, key.colour, 4)
            svg.text(NAMES + 10, top + 4, key.name, bold=key.bold)
        top += LINE


def _points(of_way: Figures) -> list[tuple[float, float]]:
    both = zip(of_way["curve"]["gain"], of_way["curve"]["elsewhere"], strict=True)
    return [(0.0, 0.0), *((gain["mean"], other["mean"]) for gain, other in both)]


def _gaps(svg: Svg, of_task: Figures, measure: str, ways: Sequence[str]) -> None:
    """The second part: a row for each way, its figure minus that of the experts by gate."""
    table, of_ways = of_task["gaps"][measure], of_task["ways"]
    title = f"{TITLES[measure][0].upper()}{TITLES[measure][1:]}"
    heading(svg, title, "minus that of the experts by gate")
    legend(svg, 0, 60, verdict_keys(), across=90, kin=True)
    notes = "tick: a seed · bar: 95 % interval", "verdicts corrected for both texts (Holm)"
    paragraph(svg, 0, 80, notes, LINE, fill=MUTED)
    for at, name in zip(RESULTS, ("kB", "seconds"), strict=True):
        svg.text(at, GAPS - 10, name, anchor="end", fill=MUTED)
    bottom = GAPS + ROW * len(ways)
    x = gap_scale((table[way] for way in ways if way != BASE), LEFT, RIGHT)
    x_axis(svg, x, bottom, top=GAPS - 2, ticks=x.ticks(3), zero=True)
    middle = (LEFT + RIGHT) / 2
    svg.text(middle, bottom + 38, "nats per token: left is better", anchor="middle")
    svg.text(0, bottom + 62, "seconds: of all steps, on one thread, beside other runs", fill=MUTED)
    for place, way in enumerate(ways):
        at, key, of_way = GAPS + ROW * (place + 0.5), KEYS[way], of_ways[way]
        told = f"{of_way['bytes']['mean'] / 1000:,.0f}", f"{of_way['seconds']['mean']:.1f}"
        tip = f"{way}: {mean_sd(of_way[measure], 3)} nats per token"
        if way != BASE:
            tip = f"{tip}; difference {gap_cell(table[way])}"
        with row(svg, at, ROW, key.name, tip=tip):
            svg.text(0, at + 4, key.name, bold=key.bold)
            if way != BASE:
                gap_dots(svg, x, at, table[way])
            for edge, cell in zip(RESULTS, told, strict=True):
                svg.text(edge, at + 4, cell, anchor="end")


def _rows(of_task: Figures, measure: str, ways: Sequence[str]) -> Iterator[tuple[object, ...]]:
    for way in ways:
        of_way, gap = of_task["ways"][way], of_task["gaps"][measure].get(way)
        rank = of_way["rank"]["mean"]
        yield (
            way, f"{rank:g}" if rank else "–", f"{of_way['numbers']['mean']:,.0f}",
            f"{of_way['bytes']['mean']:,.0f}", mean_sd(of_way["seconds"], 1),
            mean_sd(of_way["gain"], 3), mean_sd(of_way["elsewhere"], 3, "+"),
            mean_sd(of_way["at_equal_gain"], 3, "+"), gap_cell(gap) if gap else "–",
        )  # fmt: skip


# --- in words -------------------------------------------------------------------------------------


def finding(figures: Figures, task: str, measure: str) -> str:
    """Which ways of equal size have a lower and a higher figure than LoRA on the experts by gate,
    the one that differs most first, and by how much that does."""
    table = figures["tasks"][task]["gaps"][measure]
    others = sorted(table.keys() & {*EQUAL}, key=lambda way: (-abs(table[way]["mean"]), way))
    parts = []
    for verdict in ("lower", "higher", "open"):
        ways = [way for way in others if table[way]["verdict"] == verdict]
        names = [KEYS[way].name for way in ways]
        if ways and verdict != "open":
            names[0] += f" ({table[ways[0]]['mean']:+z.2f})"
        parts += [f"{verdict} for {listed(names)}"] if ways else []
    return f"Beside the experts by gate, {SAID[measure]} (nats per token) is {'; '.join(parts)}."


def told_chosen(figures: Figures) -> Iterator[str]:
    """How many experts the choice takes of each text, and how far both scores agree."""
    for task, of_task in figures["tasks"].items():
        chosen = of_task["chosen"]
        yield (
            f"{task}: the choice by gate takes {chosen['gate']['mean']:.1f} of 16 experts a layer "
            f"(top_p {figures['top_p']:g}), and {percent(chosen['common']['mean'])} of them are "
            f"chosen by token share too. Before, the text's loss is "
            f"{mean_sd(of_task['before'], 2)} nats per token."
        )


def told_choice(figures: Figures) -> Iterator[str]:
    """Whether it matters which experts are trained: by gate beside by lot, and by token share."""
    for task, of_task in figures["tasks"].items():
        for way, name in ((BY_LOT, "as many experts by lot"), (BY_TOKEN, "token share")):
            each = ", ".join(
                f"{SAID[measure]} {gap_cell(of_task['gaps'][measure][way])}" for measure in MEASURES
            )
            yield f"{task}: {name} beside the choice by gate, nats per token: {each}."


def told_rates(figures: Figures) -> Iterator[str]:
    """The rate that each way was given, a line a task."""
    for task, of_task in figures["tasks"].items():
        rates = {KEYS[way].name: rate for way, rate in of_task["rates"].items()}
        yield rate_words(rates, f" on {task}")
