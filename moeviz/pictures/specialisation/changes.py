"""What it costs to change the routing by hand: all layers at once, and each alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.pictures.axes import Scale, x_axis
from moeviz.pictures.plot import Key, box, heading
from moeviz.pictures.svg import INK, MUTED, Picture, Svg

WIDTH, LEFT, TOP, ROW = 560.0, 250.0, 62.0, 20.0
COLOURS = ("#0072b2", "#e69f00", "#6e6e6e")


def changes(recorded: dict[str, Any]) -> Picture:
    """A bar for each change and place, and for one expert of each layer left out."""
    groups: dict[str, dict[str, tuple[float, float | None, float | None]]] = {
        name: {place: (one["mean"], one["low"], one["high"]) for place, one in places.items()}
        for name, places in recorded["changes"].items()
    }
    layers = [place for place in next(iter(groups.values())) if place != "all layers"]
    alone = zip(layers, recorded["one_expert"], strict=True)
    groups["one expert left out, mean"] = {place: (mean, None, None) for place, mean in alone}
    count = sum(map(len, groups.values()))
    height = TOP + count * ROW + len(groups) * 14 + 44
    svg = Svg(WIDTH, height, "What a changed routing costs", told_changes(recorded))
    heading(svg, "The rise of the loss when the routing is changed",
            "nats per token; the line: its 95 % interval over sequences")  # fmt: skip
    top = max(high or mean for group in groups.values() for mean, _, high in group.values())
    x, y, rows = Scale(0, 1.05 * top, LEFT, WIDTH - 50), TOP, []
    for number, (name, places) in enumerate(groups.items()):
        key = Key(name, COLOURS[number % len(COLOURS)])
        for place, (mean, low, high) in places.items():
            label = f"{name}, {place}"
            with svg.thing(name, tip=f"{label}: {mean:+.3f} nats per token"):
                svg.text(LEFT - 8, y + 13, label, anchor="end")
                box(svg, LEFT, y + 2, x(mean) - LEFT, ROW - 6, key.colour, stroke=MUTED)
                if low is not None and high is not None:
                    svg.line(x(low), y + 9, x(high), y + 9, stroke=INK, width=2)
                svg.text(x(high or mean) + 6, y + 13, f"{mean:.2f}", fill=MUTED)
            ends = ("", "") if low is None else (f"{low:+.3f}", f"{high:+.3f}")
            rows.append((name, place, f"{mean:+.3f}", *ends))
            y += ROW
        y += 14
    x_axis(svg, x, y, "nats per token")
    return svg.picture(("change", "where", "rise", "low", "high"), rows)


def told_changes(recorded: dict[str, Any]) -> str:
    """What the first choice is worth, and what choosing at all is."""
    everywhere = {name: places["all layers"] for name, places in recorded["changes"].items()}
    words = ", ".join(f"{name} {one['mean']:+.2f}" for name, one in everywhere.items())
    first, second = (
        np.array([one["mean"] for one in recorded["changes"][name].values()])
        for name in ("without the first choice", "first choice only")
    )
    times = first / second  # all layers, and each alone
    open_ones = [name for name, one in everywhere.items() if one["verdict"] == "open"]
    caveat = f" Beyond chance all but {' and '.join(open_ones)}." if open_ones else ""
    return (
        f"The loss rises by, in nats per token and all layers: {words}. Without the first "
        f"choice it rises {times[0]:.0f} times as much as without the second one, in one layer "
        f"alone {times[1:].min():.0f} to {times[1:].max():.0f} times. One expert left out costs "
        f"{np.mean(recorded['one_expert']):.2f} in the mean.{caveat}"
    )
