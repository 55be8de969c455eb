"""How many tokens keep their experts from the first step to the last, by setting and layer."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.axes import Scale, x_axis
from moeviz.pictures.over_seeds import about, dots, mean_sd
from moeviz.pictures.plot import Key, heading, legend, row
from moeviz.pictures.svg import MUTED, Picture, Svg
from moeviz.pictures.training.cures import LAYERS
from moeviz.pictures.training.cures_told import (
    BASE,
    FROZEN,
    single,
    told_difference,
    worst_layer,
)
from moeviz.records.compare import compare, verdicts
from moeviz.words import percent

WIDTH, TOP, ROW = 560, 106.0, 34.0
SHOWN = {
    BASE: "learned", FROZEN: "frozen", "re-randomised router": "drawn anew at each step",
    "hash": "hash of the token",
}  # fmt: skip


def kept_experts(summary: dict[str, Any]) -> Picture:
    """The share of held-out tokens that visit the same experts at the end as at the start, a tick a
    seed, a bar of one standard deviation; a mark for each layer."""
    arms = {name: summary["arms"][name] for name in SHOWN}
    bottom = TOP + ROW * len(arms)
    svg = Svg(WIDTH, bottom + 54, "Tokens that keep their expert", told_kept(summary))
    heading(svg, "How many tokens keep their expert?")
    svg.text(0, 38, about(summary, arms[BASE]["reserve_loss"]), fill=MUTED)
    layers = range(len(arms[BASE]["kept_experts"]))
    keys = [Key(f"layer {i}", LAYERS[i][0], mark=LAYERS[i][1], width=0) for i in layers]
    legend(svg, 180, 70, keys, across=90, kin=True)
    x = Scale(0, 1, 180, 534)
    label = "share of tokens with the experts of the first step"
    x_axis(svg, x, bottom, label, top=TOP, form=percent)
    for i, (name, arm) in enumerate(arms.items()):
        y = TOP + (i + 0.5) * ROW
        svg.line(0, y + ROW / 2, WIDTH, y + ROW / 2, width=0.5)
        with row(svg, y, ROW, name):
            svg.text(0, y + 4, SHOWN[name], bold=name == FROZEN)
        for layer, figure in enumerate(arm["kept_experts"]):
            tip = f"{SHOWN[name]}, layer {layer}: {percent(figure['mean'], 1)} of the tokens"
            with svg.thing(name, f"layer {layer}", tip=tip):
                dots(svg, x, y - 8 + 16 * layer, figure, *LAYERS[layer])
    columns = ("router", *(f"kept in layer {i}" for i in layers))
    cells = (
        (SHOWN[name], *(mean_sd(figure, 3) for figure in arm["kept_experts"]))
        for name, arm in arms.items()
    )
    return svg.picture(columns, cells)


def told_kept(summary: dict[str, Any]) -> str:
    """Whether a router that stays has choices that stay, beside one that learns."""
    frozen, learned = (summary["arms"][name]["kept_experts"] for name in (FROZEN, BASE))
    pairs = [(one["values"], other["values"]) for one, other in zip(frozen, learned, strict=True)]
    found = verdicts({layer: compare(*pair) for layer, pair in enumerate(pairs)})
    words = ["A frozen router keeps its matrix."]
    for layer, pair in enumerate(pairs):
        name = f"The share with a frozen router in layer {layer}"
        gap = single(*pair) | {"verdict": found[layer]}
        words += [
            f"In layer {layer}, {percent(frozen[layer]['mean'])} of its tokens keep their expert.",
            told_difference(name, "with a learned one", gap),
        ]
    hashed = summary["arms"]["hash"]["kept_experts"][worst_layer(summary)]["mean"]
    return " ".join([*words, f"With a hash {percent(hashed)} keep it."])
