"""A model of three layers with experts in none, some or all of them."""

from __future__ import annotations

import textwrap
from typing import Any

from moeviz.pictures.axes import x_axis
from moeviz.pictures.over_seeds import (
    about,
    gap_cell,
    gap_dots,
    gap_scale,
    mean_sd,
    told_briefly,
    verdict_keys,
)
from moeviz.pictures.plot import box, legend, paragraph, row
from moeviz.pictures.svg import INK, MUTED, Picture, Svg

WIDTH, ROW, LEFT = 560.0, 26.0, 250.0
QUESTION = "Which layers should have experts?"
NONE = "none"
EXPERTS, DENSE = "#6e6e6e", "none"
COLUMNS = ("layers with experts", "parameters", "of a token", "loss", "minus the dense model")

Figures = dict[str, Any]


def hybrids(figures: Figures, layers: tuple[int, ...]) -> Picture:
    """A row for each choice of layers, the chosen one marked; a box a layer, which a press gives
    experts or takes them from. figures: see experiments.hybrids."""
    chosen = " ".join(map(str, layers)) or NONE
    headline = told(figures, chosen)
    lines, plain = [QUESTION, *textwrap.wrap(headline, 72)], textwrap.wrap(told_layer(figures), 84)
    top = 30.0 + 17 * (len(lines) + len(plain))
    bottom = top + ROW * (len(figures["models"]) + 0.5)
    words = " ".join((QUESTION, headline, *plain))
    svg = Svg(WIDTH, bottom + 118, "Layers with experts", words)
    paragraph(svg, 0, 16, lines, size=13, bold=True)
    paragraph(svg, 0, 20 + 17 * len(lines), plain)
    x = gap_scale(figures["minus_dense"].values(), LEFT, WIDTH - 14)
    x_axis(svg, x, bottom, "loss minus the dense model's (nats per token)", top=top, zero=True)
    for i, (name, model) in enumerate(figures["models"].items()):
        y, gap = top + ROW * (i + 0.75), figures["minus_dense"].get(name)
        tip = f"{_words(name)}: loss {mean_sd(model['loss'], 3)}"
        with row(svg, y, ROW, name, tip=tip):
            if name == chosen:
                svg.rect(0, y - ROW / 2, WIDTH, ROW, "none", stroke=INK, radius=4)
            for layer in range(figures["layers"]):
                has = str(layer) in name.split()
                box(svg, 6 + 30 * layer, y - 9, 26, 18, EXPERTS if has else DENSE, str(layer),
                    stroke=MUTED, hatched=has)  # fmt: skip
            svg.text(
                104, y + 4, f"{model['parameters']['mean'] / 1e6:.2f} M parameters", fill=MUTED
            )
            if gap is not None:
                gap_dots(svg, x, y, gap)
        press = {f"layer_{n}": str(n) in name.split() for n in range(figures["layers"])}
        with svg.thing(name, press=press, tip=tip):
            svg.rect(0, y - ROW / 2, LEFT - 20, ROW, "transparent")
    active = figures["models"][chosen]["active_parameters"]["mean"]
    notes = (
        "tick: a seed · bar: 95 % interval · hatched layer: 16 experts, two for a token",
        f"A token of the chosen model meets {active / 1e6:.2f} M parameters.",
        about(figures, figures["models"][NONE]["loss"]),
    )
    legend(svg, 0, bottom + 60, verdict_keys(), across=90)
    paragraph(svg, 0, bottom + 80, notes, 17, fill=MUTED)
    return svg.picture(COLUMNS, (_cells(figures, name) for name in figures["models"]))


def told(figures: Figures, chosen: str) -> str:
    """What the chosen layers bring."""
    if (gap := figures["minus_dense"].get(chosen)) is None:
        return "The dense model: the others are set beside it."
    return told_briefly(f"the model with {_words(chosen)}", "the dense model", gap)


def told_layer(figures: Figures) -> str:
    """What the layer brings that brings most, and whether that is more than each other does."""
    best = min(figures["layer"], key=lambda layer: figures["layer"][layer]["mean"])
    gain = told_briefly(
        f"a model with experts in layer {best}", "one without", figures["layer"][best]
    )
    beside: dict[bool, list[str]] = {True: [], False: []}
    for pair, gap in figures["between"].items():
        first, _, second = pair.partition(" - ")
        if best in (first, second):  # the mean of the best is the lower one
            beside[gap["verdict"] != "open"].append(f"layer {second if best == first else first}")
    parts = [f"Over all choices of the other layers: {gain[0].lower()}{gain[1:]}"]
    if less := beside[True]:
        verb = "is" if len(less) == 1 else "are"
        parts.append(f"{' and '.join(less).capitalize()} {verb} shown to bring less.")
    if beside[False]:
        parts.append(f"Whether {' or '.join(beside[False])} brings less is open.")
    return " ".join(parts)


def _words(name: str) -> str:
    """ "experts in layers 0 and 2"."""
    layers = name.split()
    if name == NONE:
        return "no experts"
    if len(layers) == 3:
        return "experts in all layers"
    return f"experts in layer{'s' * (len(layers) > 1)} {' and '.join(layers)}"


def _cells(figures: Figures, name: str) -> tuple[str, ...]:
    model, gap = figures["models"][name], figures["minus_dense"].get(name)
    return (
        name,
        f"{model['parameters']['mean'] / 1e6:.2f} M",
        f"{model['active_parameters']['mean'] / 1e6:.2f} M",
        mean_sd(model["loss"], 3),
        "" if gap is None else gap_cell(gap),
    )
