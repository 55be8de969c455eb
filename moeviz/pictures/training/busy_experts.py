"""What some steps did to experts with many and with few tokens: gradient, update, way, gain."""

from __future__ import annotations

import textwrap
from typing import Any, Protocol

import numpy as np

from moeviz.pictures.axes import Scale, axes, padded
from moeviz.pictures.plot import Key, legend, mark, paragraph
from moeviz.pictures.svg import Picture, Svg
from moeviz.pictures.training.cures_told import single, told_difference

WIDTH, HEIGHT = 430, 250
ACROSS, UPRIGHT = (66.0, 420.0), (206.0, 34.0)  # of each plot
KINDS = (
    Key("the quarter with the most tokens", "#d55e00", mark="square", width=0),
    Key("the quarter with the fewest", "#0072b2", mark="diamond", width=0),
    Key("the others", "#6e6e6e", mark="ring", width=0),
)
FIGURES = {
    "gradient": "Gradient norm, mean of the steps", "update": "Update norm, mean of the steps",
    "moved": "Way from start to end", "gain": "Gain, nats per visiting token",
}  # fmt: skip


class Learned(Protocol):
    """Of each expert: see experiments.busy_experts.Learning."""

    tokens: np.ndarray
    gradient: np.ndarray
    update: np.ndarray
    moved: np.ndarray
    gain: np.ndarray


def busy_experts(learning: Learned, busy: np.ndarray, rare: np.ndarray) -> Picture:
    """Each expert's gradient, update, way and gain against the tokens that it got. busy, rare: the
    indices of the experts that the sentence compares."""
    svg = Svg(560, 150, "Busy experts and rare ones", told_experts(learning, busy, rare))
    legend(svg, 0, 16, KINDS[:2], across=300, kin=True)
    legend(svg, 0, 36, KINDS[2:], kin=True)
    paragraph(svg, 0, 62, textwrap.wrap(svg.description, 78))
    x_ends = padded([0.0, *learning.tokens])
    for name, title in FIGURES.items():
        part = svg.beside(WIDTH, HEIGHT)
        value_E = getattr(learning, name)
        known = ~np.isnan(value_E)
        x = Scale(*x_ends, *ACROSS)
        y = Scale(*padded([0.0, *value_E[known]]), *UPRIGHT)
        part.text(x.start, y.end - 14, title, size=13, bold=True)
        ticks = [tick for tick in x.ticks(4) if tick >= 0]
        axes(part, x, y, x_label="tokens of the expert", x_ticks=ticks, y_ticks=y.ticks(4))
        for expert in np.flatnonzero(known):
            key = KINDS[0 if expert in busy else 1 if expert in rare else 2]
            tokens, value = float(learning.tokens[expert]), float(value_E[expert])
            tip = f"expert {expert}, {tokens:,.0f} tokens: {value:.3g}"
            with part.thing(f"e{expert}", key.name, tip=tip):
                mark(part, key.mark, x(tokens), y(value), key.colour, 5)
    columns = ("expert", "kind", "tokens", *FIGURES)
    kinds = {**dict.fromkeys(busy.tolist(), "busy"), **dict.fromkeys(rare.tolist(), "rare")}
    rows = (
        (e, kinds.get(e, ""), f"{learning.tokens[e]:.0f}", *_cells(learning, e))
        for e in range(len(learning.tokens))
    )
    return svg.picture(columns, rows)


def _cells(learning: Learned, expert: int) -> list[str]:
    values = [float(getattr(learning, name)[expert]) for name in FIGURES]
    return ["" if np.isnan(value) else f"{value:.4f}" for value in values]


def told_experts(learning: Learned, busy: np.ndarray, rare: np.ndarray) -> str:
    """How much more the busy ones got, and how much of it AdamW left."""
    means = {
        name: [float(np.nanmean(getattr(learning, name)[experts])) for experts in (busy, rare)]
        for name in ("tokens", "gradient", "update", "moved")
    }
    return _told({name: two[0] / two[1] for name, two in means.items()})


def told_busy(summary: dict[str, Any]) -> str:
    """The same of the recorded runs, over their first fifty steps: means over seeds."""
    found = summary["busy_experts"]
    names = ("tokens", "gradient", "update", "moved")
    ratios = {}
    for name in names:
        two = (found[f"run_{kind}_{name}"]["values"] for kind in ("busy", "rare"))
        ratios[name] = float(np.mean(np.divide(*two)))
    gaps = []
    for name, when in (("step", "In one early step"), ("run", "Over all steps")):
        gains = (found[f"{name}_{kind}_gain"]["values"] for kind in ("busy", "rare"))
        busy = f"{when} the gain of a busy expert"
        gaps.append(told_difference(busy, "of a rare one", single(*gains)))
    return " ".join([_told(ratios), *gaps])


def _told(ratio: dict[str, float]) -> str:
    left = np.log(ratio["update"]) / np.log(ratio["gradient"])
    if ratio["gradient"] <= 1:
        words = "The gradient of busy experts is not the larger one here."
    elif left < 0.5:
        words = "AdamW divides most of that out."
    else:
        words = "AdamW divides less than half of that out."
    return (
        f"The busy quarter got {ratio['tokens']:.1f} times the tokens of the rare one, and "
        f"gradients {ratio['gradient']:.1f} times as large. The updates are "
        f"{ratio['update']:.1f} times as large, and the way is {ratio['moved']:.1f} times as long. "
        f"{words}"
    )
