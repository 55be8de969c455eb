"""When the experts of a token are settled: the share of its final choices, step by step."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.axes import LogScale, Scale, axes, short
from moeviz.pictures.over_seeds import about
from moeviz.pictures.plot import Key, curve, heading, legend, mark, spots
from moeviz.pictures.svg import Picture, Svg
from moeviz.words import percent

KEYS = (
    Key("first layer", "#0072b2", mark="circle"),
    Key("middle layer", "#009e73", mark="diamond"),
    Key("last layer", "#d55e00", mark="square"),
)
CHANCE = Key("last layer, by chance", "#6e6e6e", dash="5 4")
BEGUN = 4  # where step 0 stands on an axis of logarithms
EARLY = 100


def settled(recorded: dict[str, Any]) -> Picture:
    """A curve for each layer, a tick for each seed, and chance."""
    steps, layers = recorded["checkpoints"], recorded["settled"]
    svg = Svg(560, 330, "When choices are settled", told_settled(recorded))
    heading(svg, "The share of a token's final experts that it has already",
            about(recorded, recorded["loss"]))  # fmt: skip
    legend(svg, 62, 60, KEYS)
    legend(svg, 62, 80, (CHANCE,))
    x, y = LogScale(BEGUN, steps[-1], 62, 530), Scale(0, 1, 280, 98)
    places = [max(step, BEGUN) for step in steps]
    shown = [step for step in steps if step in (0, 10, 25, 50, 100, 200, 400, steps[-1])]
    axes(svg, x, y, y_form=percent, y_ticks=[0, 0.25, 0.5, 0.75, 1], x_ticks=[])
    for step in shown:
        svg.text(x(max(step, BEGUN)), 297, short(step), anchor="middle")
    svg.text(303, 318, "training step", anchor="middle")
    lines = [*zip(KEYS, layers, strict=True), (CHANCE, recorded["chance"][-1])]
    rows = []
    for key, layer in lines:
        means = [figure["mean"] for figure in layer]
        points = curve(svg, x, y, zip(places, means, strict=True), key)
        tips = [f"{key.name}, step {s:,}: {percent(m)}" for s, m in zip(steps, means, strict=True)]
        for at, figure in zip(points, layer, strict=True):
            if key.mark:
                for value in figure["values"]:
                    svg.line(at[0] - 4, y(value), at[0] + 4, y(value), stroke=key.colour)
                mark(svg, key.mark, *at, key.colour)
        spots(svg, [key.name], points, tips)
        rows += [(key.name, s, percent(m, 1)) for s, m in zip(steps, means, strict=True)]
    return svg.picture(("layer", "step", "settled"), rows)


def told_settled(recorded: dict[str, Any]) -> str:
    """How early, and whether the first layer is ahead of the last."""
    place = recorded["checkpoints"].index(EARLY)
    first, last = (recorded["settled"][n][place]["mean"] for n in (0, -1))
    gap = recorded["first_minus_last"][str(EARLY)]
    chances = [percent(recorded["chance"][n][place]["mean"]) for n in (0, -1)]
    start, start_chance = (recorded[name][0][0]["mean"] for name in ("settled", "chance"))
    size = f"{percent(gap['mean'], 1, '+')} of the experts"
    if gap["low"] is not None:
        size += f", 95 % interval {percent(gap['low'], 1, '+')} to {percent(gap['high'], 1, '+')}"
    words = {
        "higher": f"The first layer is ahead ({size}).",
        "lower": f"The last layer is ahead ({size}).",
        "open": f"Whether the first layer is ahead is open ({size}).",
    }[gap["verdict"]]
    return (
        f"After {EARLY} of {recorded['steps']:,} steps a token has {percent(first)} of its final "
        f"experts in the first layer, and {percent(last)} in the last one. By chance it would be "
        f"{' and '.join(chances)}. {words} Before the first step it is {percent(start)} in the "
        f"first layer, {percent(start_chance)} by chance."
    )
