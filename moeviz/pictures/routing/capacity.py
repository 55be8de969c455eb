"""Who is dropped where in a batch, and whose experts change when more text comes."""

from __future__ import annotations

from os.path import commonprefix  # of any sequences

import numpy as np

from moeviz.pictures.axes import Scale, axes
from moeviz.pictures.plot import Key, box, curve, flow, legend, spots
from moeviz.pictures.routing.names import named, twins
from moeviz.pictures.svg import MUTED, RULE, Picture, Svg, shorten
from moeviz.records.routes import Decision
from moeviz.words import percent

WIDTH = 560
STYLES = (
    ("#d55e00", ""), ("#cc79a7", "2 3"), ("#009e73", "10 3"), ("#0072b2", "6 3 2 3"),
    ("#6e6e6e", "4 4"),
)  # fmt: skip
CHANGED, SAME = "#e69f00", "#dfe3e8"


def by_place(shares: dict[str, np.ndarray]) -> Picture:
    """The share of assignments dropped along the batch, one line for each rule (drops_by_place)."""
    summary = _of_places(shares)
    svg = Svg(WIDTH, 290, "Where in the batch assignments are dropped", summary)
    peak = max(float(values.max()) for values in shares.values())
    x, y = Scale(0, 100, 60, WIDTH - 16), Scale(0, max(5.0, 108 * peak), 234, 20)
    axes(svg, x, y, x_label="place in the batch (per cent)", y_label="dropped (per cent)")
    keys = [Key(name, *STYLES[i % len(STYLES)], width=2.4) for i, name in enumerate(shares)]
    for key, values in zip(keys, shares.values(), strict=True):
        middles = (np.arange(len(values)) + 0.5) * 100 / len(values)
        with svg.thing(key.name, tip=f"{key.name}: {percent(values.mean(), 1)} in all"):
            places = curve(svg, x, y, zip(middles, 100 * values, strict=True), key)
        tips = [
            f"{key.name}, part {i + 1} of {len(values)}: {percent(v, 1)}"
            for i, v in enumerate(values)
        ]
        spots(svg, [key.name], places, tips)
    side = svg.beside(260, 40 + 26 * len(keys))
    side.text(0, 16, "who is placed first", bold=True)
    legend(side, 0, 42, keys, down=26, kin=True)
    bins = len(next(iter(shares.values())))
    rows = (
        (f"{i + 1} of {bins}", *(f"{values[i]:.3f}" for values in shares.values()))
        for i in range(bins)
    )
    return svg.picture(("part of the batch", *shares), rows)


def _of_places(shares: dict[str, np.ndarray]) -> str:
    """The rules that treat the ends of the batch most and least alike, and what is dropped in
    all."""
    quarter = max(1, len(next(iter(shares.values()))) // 4)
    ends = {name: (v[:quarter].mean(), v[-quarter:].mean()) for name, v in shares.items()}
    apart = sorted(ends, key=lambda name: abs(ends[name][0] - ends[name][1]))
    least, most = (
        f"“{name}”: {percent(ends[name][0], 1)} of the first quarter's assignments are dropped, "
        f"and {percent(ends[name][1], 1)} of the last quarter's"
        for name in (apart[0], apart[-1])
    )
    in_all = {name: values.mean() for name, values in shares.items()}
    top = max(in_all, key=in_all.__getitem__)
    return (
        f"The ends of the batch fare most differently under {most}. They fare most alike under "
        f"{least}. In all, {percent(min(in_all.values()), 1)} to {percent(in_all[top], 1)} are "
        f"dropped, most under “{top}”."
    )


def changed(before: Decision, after: Decision) -> Picture:
    """The experts of each token before and after more text was put behind it: the tokens that both
    have in common at the start, then the new ones."""
    common = len(commonprefix([before.tokens, after.tokens]))
    labels = [  # of each token: before, "" where it is new, and after
        (_experts(before, t) if t < common else "", _experts(after, t))
        for t in range(len(after.tokens))
    ]
    differs = [t for t in range(common) if labels[t][0] != labels[t][1]]
    appended = "".join(after.tokens[common:])
    summary = (
        f"With {shorten(appended, 30)!r} behind it, {len(differs)} of {common} earlier tokens "
        f"{'has' if len(differs) == 1 else 'have'} other experts ({after.label})."
    )
    shown = [shorten(token, 20) for token in after.tokens]
    boxes, height = flow(shown, labels, size=13, air=8, room=WIDTH - 60, line_height=64)
    top, twin_T = 56, twins(after.tokens)
    svg = Svg(WIDTH, top + height, "Experts before and after more text", summary)
    svg.text(0, 16, after.label, size=14, bold=True)
    note = "orange and bold: other experts than before · white: the new tokens"
    svg.text(0, 36, note, fill=MUTED)
    for row in range(round(height / 64)):
        for name, below in (("before", 36), ("after", 52)):
            svg.text(0, top + row * 64 + below, name, fill=MUTED)
    for t, (left, high, width) in enumerate(boxes):
        x, y = 60 + left, top + high
        colour = "#ffffff" if t >= common else CHANGED if t in differs else SAME
        words = f"experts {labels[t][1]} after, " + (
            f"{labels[t][0]} before" if t < common else "new"
        )
        with svg.thing(twin_T[t], tip=f"{named(t, after.tokens[t])}: {words}"):
            box(svg, x, y, width, 22, colour, shown[t], size=13, mono=True, radius=3, stroke=RULE)
            for i, label in enumerate(labels[t]):
                svg.text(x + width / 2, y + 36 + 16 * i, label, anchor="middle", mono=True,
                         bold=t in differs)  # fmt: skip
    columns = ("#", "token", "experts before", "experts after", "changed")
    rows = (
        (t, token, *labels[t], "yes" if t in differs else "")
        for t, token in enumerate(after.tokens)
    )
    return svg.picture(columns, rows)


def _experts(decision: Decision, t: int) -> str:
    return " ".join(map(str, np.flatnonzero(decision.visits[t]))) or "–"
