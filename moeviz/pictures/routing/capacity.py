"""Who is dropped where in a batch, and whose experts change when more text comes."""

from __future__ import annotations

import numpy as np

from moeviz.pictures.plot import Scale, axes, flow
from moeviz.pictures.svg import (
    MUTED,
    RULE,
    Picture,
    Svg,
    ink_on,
    shorten,
    text_width,
)
from moeviz.records.routes import Decision

WIDTH = 900
STYLES = (
    ("#d55e00", ""), ("#cc79a7", "2 3"), ("#009e73", "10 3"), ("#0072b2", "6 3 2 3"),
    ("#e69f00", "4 4"),
)  # fmt: skip
CHANGED, SAME = "#e69f00", "#dfe3e8"


def by_place(shares: dict[str, np.ndarray], *, state: str = "") -> Picture:
    """The share of assignments dropped along the batch, one line for each rule (drops_by_place)."""
    summary = _of_places(shares)
    svg = Svg(WIDTH, 290, "Where in the batch assignments are dropped", summary)
    peak = max(float(values.max()) for values in shares.values())
    x, y = Scale(0, 100, 70, 610), Scale(0, max(5.0, 108 * peak), 234, 20)
    axes(svg, x, y, x_label="place in the batch (per cent)", y_label="dropped (per cent)")
    svg.text(640, 36, "who is placed first", bold=True)
    for i, (name, values) in enumerate(shares.items()):
        colour, dash = STYLES[i % len(STYLES)]
        middles = (np.arange(len(values)) + 0.5) * 100 / len(values)
        points = [(x(float(a)), y(100 * float(b))) for a, b in zip(middles, values, strict=True)]
        svg.polyline(points, stroke=colour, dash=dash, width=2.4)
        top = 62 + 26 * i
        svg.line(640, top - 4, 676, top - 4, stroke=colour, dash=dash, width=2.4)
        svg.text(684, top, name)
    bins = len(next(iter(shares.values())))
    columns = ("part of the batch", *shares)
    rows = tuple(
        (f"{i + 1} of {bins}", *(f"{values[i]:.3f}" for values in shares.values()))
        for i in range(bins)
    )
    return Picture(svg.close(state=state), summary, columns, rows)


def _of_places(shares: dict[str, np.ndarray]) -> str:
    """Each rule's drops in the first and in the last quarter."""
    told = []
    for name, values in shares.items():
        quarter = max(1, len(values) // 4)
        first, last = float(values[:quarter].mean()), float(values[-quarter:].mean())
        told.append(f"{name} {first:.1%} and {last:.1%}")
    in_all = ", ".join(f"{name} {float(values.mean()):.1%}" for name, values in shares.items())
    return (
        f"Dropped in the first and in the last quarter of the batch: {'; '.join(told)}. In all: "
        f"{in_all}."
    )


def changed(before: Decision, after: Decision, *, state: str = "") -> Picture:
    """The experts of each token before and after more text was put behind it: the tokens that both
    have in common at the start, then the new ones."""
    common = 0
    for a, b in zip(before.tokens, after.tokens, strict=False):
        if a != b:
            break
        common += 1
    names = [_experts(before, t) for t in range(common)], _named(after)
    differs = [t for t in range(common) if names[0][t] != names[1][t]]
    appended = "".join(after.tokens[common:])
    summary = (
        f"With {shorten(appended, 30)!r} behind it, {len(differs)} of {common} earlier tokens "
        f"{'has' if len(differs) == 1 else 'have'} other experts ({after.label})."
    )
    widths = []
    for t, token in enumerate(after.tokens):
        labels = [names[1][t], names[0][t] if t < common else ""]
        widest = max(text_width(label, 12) for label in labels)
        widths.append(max(text_width(shorten(token, 20), 13), widest, 14) + 8)
    places, height = flow(widths, WIDTH - 60, 64.0)
    svg = Svg(WIDTH, 36 + height, "Experts before and after more text", summary)
    svg.text(0, 16, after.label, size=14, bold=True)
    svg.text(
        text_width(after.label, 14) + 20, 16, "orange and bold: other experts than before · white: "
        "the new tokens", fill=MUTED,
    )  # fmt: skip
    for row in range(round(height / 64)):
        for name, below in (("before", 36), ("after", 52)):
            svg.text(0, 36 + row * 64 + below, name, fill=MUTED)
    for t, ((left, top), width) in enumerate(zip(places, widths, strict=True)):
        x, y = 60 + left, 36 + top
        colour = "#ffffff" if t >= common else CHANGED if t in differs else SAME
        svg.rect(x, y, width, 22, colour, radius=3, stroke=RULE)
        svg.text(
            x + width / 2, y + 16, shorten(after.tokens[t], 20), size=13, anchor="middle",
            mono=True, fill=ink_on(colour),
        )  # fmt: skip
        for i, given in enumerate(names):
            if i == 1 or t < common:
                label, moved = given[t], t in differs
                svg.text(
                    x + width / 2, y + 36 + 16 * i, label, anchor="middle", mono=True, bold=moved
                )
    columns = ("#", "token", "experts before", "experts after", "changed")
    rows = tuple(
        (t, token, names[0][t] if t < common else "", names[1][t], "yes" if t in differs else "")
        for t, token in enumerate(after.tokens)
    )
    return Picture(svg.close(state=state), summary, columns, rows)


def _named(decision: Decision) -> list[str]:
    return [_experts(decision, t) for t in range(len(decision.tokens))]


def _experts(decision: Decision, t: int) -> str:
    return " ".join(map(str, np.flatnonzero(decision.visits[t]))) or "–"
