"""What pictures of two real models share: whose figures, curves over layers, rows to press."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moeviz.pictures.axes import Scale, axes
from moeviz.pictures.plot import Key, bands, curve, legend, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, Svg, text_width
from moeviz.words import percent

POOLED, ALL = "pooled", "all tasks"
MAIN, SIDE = 560, 360
TOP = 170.0  # of a chart below the heading, the answer, the source and the legend
CHART = 180.0  # its height
BLUE, RED, GREY = "#0072b2", "#d55e00", "#6e6e6e"
CHANCE = Key("by chance", GREY, "2 3")
Form = Callable[[float], str]


@dataclass(frozen=True)
class View:
    """What is looked at. figures: a model's of experiments.real_traces; source: where its trace is
    from; place: which of its MoE layers, from 0; task: one of its tasks, or POOLED; caution: what
    to know of the trace besides."""

    name: str
    figures: dict[str, Any]
    source: dict[str, str]
    place: int
    task: str
    caution: str = ""

    @property
    def tasks(self) -> dict[str, int]:
        """The tokens of each task."""
        tasks = self.figures.get("tasks") or self.figures["domains"]
        return {t: of["tokens"] if isinstance(of, dict) else of for t, of in tasks.items()}

    @property
    def layers(self) -> list[int]:
        return [layer["layer"] for layer in self.figures["layers"]]

    @property
    def layer(self) -> dict[str, Any]:
        """The figures of the layer that is looked at."""
        return self.figures["layers"][self.place]

    @property
    def where(self) -> str:
        return f"{self.name}, layer {self.layer['layer']}, {self.whose(self.task)}"

    def whose(self, task: str) -> str:
        return ALL if task == POOLED else task.replace("_", " ")

    def load(self, task: str) -> np.ndarray:
        """Choices of each expert in this layer, [E]."""
        return np.array(self.layer["load"][task])

    def over_layers(self, *path: str | int) -> list[float]:
        """One figure of every layer, by its keys from the outside in."""
        values = []
        for of in self.figures["layers"]:
            for key in path:
                of = of[key]
            values.append(np.nan if of is None else of)
        return values

    def of_task(self, by_task: dict[str, Any], task: str = "") -> Any:
        """The figure of the task; of all tasks their mean, where none is recorded of all."""
        task = task or self.task
        if task in by_task:
            return by_task[task]
        return np.mean([by_task[name] for name in self.tasks], axis=0).tolist()


def framed(view: View, title: str, words: str, summary: str, keys: Iterable[Key]) -> Svg:
    """The main part: the question, its answer (the first sentence of the summary), whose figures
    they are, and the legend. Where the summary speaks of is what stands before its first colon."""
    svg = Svg(MAIN, TOP + CHART + 52, title, summary)
    where, _, rest = summary.partition(": ")
    svg.text(0, 16, f"{where}: {words}", size=14, bold=True)
    answer = rest.partition(". ")[0].removesuffix(".") + "."
    lines = textwrap.wrap(answer[0].upper() + answer[1:], 78)
    paragraph(svg, 0, 37, lines, 17, bold=True)
    of = view.source
    source = f"Computed by this project from {of['from']}, commit {of['commit']}, {of['licence']}."
    source = f"{source} {view.caution}".strip()
    paragraph(svg, 0, 40 + 17 * len(lines), textwrap.wrap(source, 88), 17, fill=MUTED)
    legend(svg, 0, TOP - 38, keys, kin=True)
    return svg


def layer_curves(
    svg: Svg, view: View, lines: Sequence[tuple[Key, Sequence[float]]], label: str, form: Form
) -> None:
    """Lines over the layers, to be dragged along; the layer that is looked at is marked."""
    layers = view.layers
    every = [f"l{place}" for place in range(len(layers))]
    shown = [v for _, line in lines for v in line if not np.isnan(v)]
    x = Scale(0, max(len(layers) - 1, 1), 62, svg.width - 14)
    y = Scale(0, 1.08 * max(shown, default=1.0) or 1.0, TOP + CHART, TOP)
    ticks = range(0, len(layers), max(1, len(layers) // 8))
    axes(svg, x, y, x_label="layer", y_label=label, x_ticks=[*ticks], y_form=form, above=True,
         x_form=lambda place: str(layers[int(place)]))  # fmt: skip
    svg.line(x(view.place), y.start, x(view.place), y.end, stroke=INK, width=1.2)
    for key, line in lines:
        with svg.thing(key.name, *every):
            curve(svg, x, y, enumerate(line), key)
    names = [key.name for key, _ in lines]
    zones = zip(layers, bands([x(p) for p in range(len(layers))], 8), strict=True)
    for place, (layer, (left, right)) in enumerate(zones):
        values = [(key, line[place]) for key, line in lines if not np.isnan(line[place])]
        words = ", ".join(f"{key.name} {form(value)}" for key, value in values)
        press = {"layer": place}
        with svg.thing(every[place], *names, tip=f"layer {layer}: {words}", press=press, drag=True):
            svg.rect(left, y.end, right - left, y.start - y.end, "transparent")
            for key, value in values:
                size = 5 if place == view.place else 2.6
                mark(svg, "circle", x(place), y(value), key.colour, size)


@dataclass(frozen=True)
class Bar:
    """A row: its name, a bar, a tick beside it where there is one, and the number in words. kin:
    its names as a thing; press: what a click on it sets the panel's controls to."""

    name: str
    value: float
    words: str
    kin: tuple[str, ...]
    tip: str
    tick: float | None = None
    press: dict[str, object] | None = None
    chosen: bool = False


ROW = 24.0


def bars(svg: Svg, rows: Sequence[Bar], title: str, note: str) -> None:
    """A further part: rows below each other, all to one scale. note: what bar and tick are."""
    words = textwrap.wrap(note, 54)
    left = min(124.0, 12 + max((text_width(bar.name, 13) for bar in rows), default=0))
    top = 28 + 17 * len(words)
    side = svg.beside(SIDE, top + ROW * len(rows) + 8)
    side.text(0, 16, title, size=14, bold=True)
    paragraph(side, 0, 36, words, 17, fill=MUTED)
    peak = max([bar.value for bar in rows] + [bar.tick or 0 for bar in rows], default=1.0) or 1.0
    length = SIDE - left - 12 - 0.93 * max((text_width(bar.words, 12) for bar in rows), default=0)
    for n, bar in enumerate(rows):
        y = top + n * ROW
        with side.thing(*bar.kin, tip=bar.tip, press=bar.press):
            side.rect(0, y, SIDE, ROW, "transparent")
            side.text(left - 8, y + 16, bar.name, anchor="end", bold=bar.chosen)
            side.rect(left, y + 4, max(length * bar.value / peak, 1), ROW - 8, BLUE)
            if bar.tick is not None:
                at = left + length * bar.tick / peak
                side.line(at, y + 1, at, y + ROW - 1, stroke=INK, width=2.4)
            end = left + length * max(bar.value, bar.tick or 0) / peak
            side.text(end + 8, y + 16, bar.words, bold=bar.chosen)


def own_key(view: View) -> Key:
    return Key(view.whose(view.task), BLUE)


def in_percent(share: float) -> str:
    """A share below a tenth with a digit behind the point, where that is not 0."""
    return percent(share, int(share < 0.0995 and round(1000 * share) % 10 != 0))
