"""A race over several seeds: the gap between the two learners, seed by seed, with its spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moeviz.pictures.axes import Scale, x_axis
from moeviz.pictures.plot import Figure, dots, mean_sd
from moeviz.pictures.svg import MUTED, Picture, Svg
from moeviz.records.metrics import gap, over_seeds
from moeviz.records.runs import Snapshot

WIDTH, TOP, ROW = 860, 62.0, 52.0
AXES = (("step", "at equal steps"), ("flops", "at equal FLOPs"), ("seconds", "at equal seconds"))


def race_seeds(recorded: Sequence[Snapshot], provenance: dict[str, Any]) -> Picture:
    """Dense minus MoE validation loss at equal steps, FLOPs and seconds: a tick for each seed, the
    mean as a mark, one standard deviation to both sides as a bar. recorded: dense and MoE in
    turn."""
    pairs = list(zip(recorded[::2], recorded[1::2], strict=True))
    gaps = {axis: over_seeds([gap(d.curve, m.curve, axis) for d, m in pairs]) for axis, _ in AXES}
    summary = " ".join(_verdict(name, gaps[axis]) for axis, name in AXES)
    reach = 1.15 * max(abs(v) for figure in gaps.values() for v in figure["values"])
    x = Scale(-reach, reach, 150, WIDTH - 150)
    bottom = TOP + ROW * len(AXES)
    svg = Svg(WIDTH, bottom + 66, "Dense against MoE over several seeds", summary)
    about = f"{len(pairs)} seeds · {provenance['device']} · {provenance['date']}"
    svg.text(0, 16, about, fill=MUTED)
    svg.text(x(0) - 12, 42, "← dense ahead", anchor="end", bold=True)
    svg.text(x(0) + 12, 42, "MoE ahead →", bold=True)
    label = "dense minus MoE validation loss (nats per token)"
    x_axis(svg, x, bottom, label, top=TOP - 8, ticks=x.ticks(6), zero=True)
    for i, (axis, name) in enumerate(AXES):
        y = TOP + (i + 0.5) * ROW
        svg.text(x.start - 12, y + 4, name, anchor="end")
        dots(svg, x, y, gaps[axis], "#d55e00")
        svg.text(x.end + 12, y + 4, mean_sd(gaps[axis], 3, "+"))
    columns = ("seed", *(name for _, name in AXES))
    rows = (
        (dense.meta["train"]["seed"], *(f"{gaps[axis]['values'][n]:+.3f}" for axis, _ in AXES))
        for n, (dense, _) in enumerate(pairs)
    )
    return svg.picture(columns, rows)


def _verdict(name: str, figure: Figure) -> str:
    values = figure["values"]
    return (
        f"{name[0].upper()}{name[1:]} MoE is ahead in {sum(v > 0 for v in values)} of "
        f"{len(values)} seeds, by {mean_sd(figure, 3, '+')} nats per token."
    )
