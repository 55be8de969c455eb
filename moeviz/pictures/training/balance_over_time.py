"""Collapse over a run: balance, the router losses and the loss; and what a warm restart does."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np

from moeviz.pictures.axes import Scale, axes, padded, x_axis
from moeviz.pictures.over_seeds import Figure, about, dots, mean_sd
from moeviz.pictures.plot import Key, curve, legend, paragraph, spots
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.pictures.training.at_scale import LOOKS
from moeviz.pictures.training.cures_told import (
    BASE,
    DENSE,
    single,
    told_difference,
    told_fallen,
    told_layers,
    worst_layer,
)
from moeviz.records.metrics import over_seeds

WIDTH, HEIGHT = 296, 226
ACROSS, UPRIGHT = (48.0, 286.0), (184.0, 32.0)  # of each plot
SHOWN = (DENSE, BASE, "balancing loss 0.1", "z-loss 0.001", "sign bias")
RESTARTED = "nothing, warm restarts"
LATE = 0.2  # of a run: the steep beginning of a loss would flatten the rest


def balance_over_time(summary: dict[str, Any]) -> Picture:
    """Means over seeds of MaxVio in two layers, of the balancing loss and the z-loss (measured, not
    weighted), and of the training loss, the dense twin's beside it."""
    keys = {n: Key(n, *look[:2], width=1.8) for n, look in zip(SHOWN, LOOKS, strict=False)}
    curves = {name: summary["arms"][name]["curves"] for name in SHOWN}
    svg = Svg(WIDTH, HEIGHT, "Balance over a run", f"{told_layers(summary)} {told_losses(summary)}")
    words = about(summary, summary["arms"][DENSE]["reserve_loss"])
    paragraph(svg, 0, 16, textwrap.wrap(words, 44), fill=MUTED)
    legend(svg, 0, 62, keys.values(), down=22, kin=True)
    notes = "means over seeds", "a dense model has no router,", "so it stands in the loss alone"
    paragraph(svg, 0, 72 + 22 * len(keys), notes, fill=MUTED)
    layer = worst_layer(summary)
    plots = [
        (f"MaxVio of a step, layer {layer}", _layer(curves, layer)),
        (f"MaxVio of a step, layer {1 - layer}", _layer(curves, 1 - layer)),
        ("Training loss, nats per token", _column(curves, "loss")),
        ("Balancing loss (1: even)", _column(curves, "balance_loss")),
        ("z-loss", _column(curves, "z_loss")),
    ]
    steps = next(iter(curves.values()))["step"]
    for title, lines in plots:
        _plot(svg.beside(WIDTH, HEIGHT), title, steps, lines, keys, summary["steps"])
    columns = (
        "setting", "step", f"MaxVio, layer {layer}", f"MaxVio, layer {1 - layer}",
        "balancing loss", "z-loss", "training loss",
    )  # fmt: skip
    return svg.picture(columns, _rows(plots, curves))


Lines = dict[str, list[float]]


def _plot(
    svg: Svg, title: str, steps: list[int], lines: Lines, keys: dict[str, Key], last: int
) -> None:
    """One figure over the run, a line a setting."""
    late = int(LATE * len(steps)) if title.startswith("Training") else 0
    x = Scale(0, last, *ACROSS)
    shown = [v for line in lines.values() for v in line[late:]] or [0.0, 1.0]
    y = Scale(*padded([0.0, *shown] if title.startswith("MaxVio") else shown), *UPRIGHT)
    svg.text(x.start, y.end - 14, title, size=13, bold=True)
    ticks = [v for v in y.ticks(4) if v >= 0]
    axes(svg, x, y, x_label="training step", x_ticks=x.ticks(3), y_ticks=ticks)
    for name, line in lines.items():
        points = [(s, v) for s, v in zip(steps, line, strict=True) if v <= y.high]
        with svg.thing(name):
            places = curve(svg, x, y, points, keys[name])
        spots(svg, [name], places, [f"{name}, step {s}: {v:.3f}" for s, v in points])


def _layer(curves: dict[str, Any], layer: int) -> Lines:
    return {n: c["max_violation"][layer] for n, c in curves.items() if "max_violation" in c}


def _column(curves: dict[str, Any], name: str) -> Lines:
    return {n: c[name] for n, c in curves.items() if name in c}


def _rows(plots: list[Any], curves: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    """Every setting at the start, in the middle and at the end."""
    lines = [plots[i][1] for i in (0, 1, 3, 4, 2)]
    for name, columns in curves.items():
        for point in sorted({0, len(columns["step"]) // 2, len(columns["step"]) - 1}):
            shown = (f"{line[name][point]:.3f}" if name in line else "" for line in lines)
            yield name, columns["step"][point], *shown


def told_losses(summary: dict[str, Any]) -> str:
    """Where the two router losses end, without and with them."""
    sentences = []
    for title, column, cure in (
        ("balancing loss", "balance_loss", "balancing loss 0.1"),
        ("z-loss", "z_loss", "z-loss 0.001"),
    ):
        ends = [summary["arms"][name]["curves"][column][-1] for name in (BASE, cure)]
        sentences.append(
            f"The {title} ends at {ends[0]:.2f} without a cure and at {ends[1]:.2f} under {cure}."
        )
    return " ".join(sentences)


# Warm restarts.


def restarts(summary: dict[str, Any]) -> Picture:
    """MaxVio over a run with warm restarts and over one with a constant rate; and for each restart
    how MaxVio changed from the 25 steps before it to the 25 after, beside the same steps of the
    constant rate. A tick a seed, a bar of one standard deviation."""
    layer, arms = worst_layer(summary), summary["arms"]
    keys = {
        BASE: Key("constant rate", "#0072b2", mark="circle", width=1.8),
        RESTARTED: Key("warm restarts", "#d55e00", "7 3", "square", width=1.8),
    }
    changes = {name: _changes(summary, name) for name in keys}
    steps = [restart["step"] for restart in summary["restarts"][RESTARTED]]
    svg = Svg(500, 330, "Does a warm restart bring collapse?", told_restarts(summary))
    side = svg.beside(420, 330)
    svg.text(0, 16, about(summary, arms[DENSE]["reserve_loss"]), fill=MUTED)
    legend(svg, 48, 42, keys.values(), kin=True)
    lines = {name: arms[name]["curves"] for name in keys}
    x = Scale(0, summary["steps"], 48, 470)
    top = max(max(line["max_violation"][layer]) for line in lines.values())
    y = Scale(0, 1.05 * max(top, 1.0), 270, 84)
    svg.text(48, 70, f"MaxVio of a step, layer {layer}", size=13, bold=True)
    axes(svg, x, y, x_label="training step")
    for step in steps:
        svg.line(x(step), y.start, x(step), y.end, stroke=INK, dash="2 3")
    for name, line in lines.items():
        points = list(zip(line["step"], line["max_violation"][layer], strict=True))
        title = keys[name].name
        with svg.thing(title):
            places = curve(svg, x, y, points, keys[name])
        spots(svg, [title], places, [f"{title}, step {s}: MaxVio {v:.2f}" for s, v in points])
    rows = [(f"step {step}", i) for i, step in enumerate(steps)] + [("mean of all", -1)]
    shown = {name: [*found, _mean(found)] for name, found in changes.items()}
    ends = [v for found in shown.values() for figure in found for v in figure["values"]]
    change = Scale(*padded([0.0, *ends]), 96, 410)
    side.text(0, 70, f"Change of MaxVio at a restart, layer {layer}", size=13, bold=True)
    label = "after minus before: right is less even"
    x_axis(side, change, 270, label, top=84, ticks=change.ticks(4), zero=True)
    for i, (title, _) in enumerate(rows):
        middle = 84 + (i + 0.5) * 186 / len(rows)
        side.text(0, middle + 4, title, bold=title == "mean of all")
        for shift, (name, key) in zip((-8, 8), keys.items(), strict=True):
            tip = f"{key.name}, {title}: {mean_sd(shown[name][i], 2, '+')}"
            with side.thing(key.name, tip=tip):
                dots(side, change, middle + shift, shown[name][i], key.colour, key.mark)
    columns = ("steps", "constant rate: change of MaxVio", "warm restarts: change of MaxVio")
    cells = (
        (title, *(mean_sd(shown[name][i], 2, "+") for name in keys)) for title, i in rows
    )  # fmt: skip
    return svg.picture(columns, cells)


def _changes(summary: dict[str, Any], name: str) -> list[Figure]:
    """Of each restart MaxVio after it minus before it, seed by seed, in the least even layer."""
    layer = worst_layer(summary)
    figures = []
    for restart in summary["restarts"][name]:
        two = (restart[side]["max_violation"][layer]["values"] for side in ("after", "before"))
        figures.append(over_seeds(np.subtract(*two)))
    return figures


def _mean(figures: list[Figure]) -> Figure:
    return over_seeds(np.mean([figure["values"] for figure in figures], axis=0))


def told_restarts(summary: dict[str, Any]) -> str:
    """Whether MaxVio rose at the restarts by more than at the same steps of a constant rate."""
    layer = worst_layer(summary)
    means = [_mean(_changes(summary, name)) for name in (RESTARTED, BASE)]
    gap = single(*(figure["values"] for figure in means))
    name = f"The change of MaxVio in layer {layer} at a warm restart"
    fallen = told_fallen(summary, RESTARTED, BASE, ("with restarts", "without"))
    return f"{told_difference(name, 'at the same steps with a constant rate', gap)} {fallen}"
