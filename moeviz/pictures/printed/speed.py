"""Printed: how fast the ways to run the same experts are."""

from __future__ import annotations

from typing import Any

import seaborn
from matplotlib.figure import Figure

from moeviz.pictures.colours import OKABE_ITO
from moeviz.pictures.kernels.contenders import SERIES
from moeviz.pictures.plot import Key
from moeviz.pictures.printed.sheet import ROW, foot, legend, named_rows, row, sheet

# By the order in which a benchmark names its contenders.
LOOKS = tuple(
    zip(
        (OKABE_ITO[i] for i in (4, 5, 2, 6, 0, 1, 7)),
        ("circle", "square", "diamond", "up", "cross", "down", "ring"),
        strict=True,
    )
)


def kernels(recorded: dict[str, Any]) -> Figure:
    """The times of a layer benchmark, forward, and forward with backward, on a logarithmic scale: a
    row a layer and number of tokens, the median as the mark, a bar over the quartiles."""
    cases = sorted(recorded["cases"], key=lambda case: (_layer(case), case["shape"]["tokens"]))
    names = dict.fromkeys(
        name
        for case in cases
        for name, times in case["contenders"].items()
        if "forward_ms" in times
    )
    keys = [
        Key(name, colour, mark=mark) for name, (colour, mark) in zip(names, LOOKS, strict=False)
    ]
    with sheet(16, 4 + 2.2 * ROW * len(cases)) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (kind, words) in zip(panels, SERIES.items(), strict=True):
            for y, case in enumerate(cases):
                for i, key in enumerate(keys):
                    times = case["contenders"].get(key.name, {}).get(kind)
                    if times:
                        place = y + 0.7 * ((i + 0.5) / len(keys) - 0.5)
                        row(axes, place, times["median"], (times["q1"], times["q3"]), (), key)
            axes.set_xscale("log")
            named_rows(axes, [_words(case) for case in cases])
            axes.set(title=words, xlabel="milliseconds")
        device = recorded["device"]
        title = f"The experts of one layer on {device['name']}, {device['dtype']}"
        legend(figure, keys, f"{title} (mark: median, bar: quartiles)")
        foot(figure, recorded)
        seaborn.despine(figure, left=True)
    return figure


def _layer(case: dict[str, Any]) -> str:
    """A layer's name, without the number of tokens that a benchmark puts behind it."""
    shape = case["shape"]
    name: str = shape["name"].removesuffix(f"-{shape['tokens']}")
    return name


def _words(case: dict[str, Any]) -> str:
    shape, routing = case["shape"], case["routing"]
    tokens = f"{shape['tokens']:,} {'token' if shape['tokens'] == 1 else 'tokens'}"
    return (
        f"{_layer(case)}, {tokens}{'' if routing == 'uniform' else f', {routing}'}\n"
        f"E = {shape['num_experts']}, K = {shape['top_k']}, "
        f"{shape['d_model']:,} → {shape['d_expert']:,}"
    )
