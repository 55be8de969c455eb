"""A race over several seeds: the gap between the two learners, seed by seed, with its spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Scale, Svg
from moeviz.records.metrics import gap
from moeviz.records.runs import Snapshot

WIDTH = 860
AXES = (("step", "at equal steps"), ("flops", "at equal FLOPs"), ("seconds", "at equal seconds"))


def race_seeds(recorded: Sequence[Snapshot], provenance: dict[str, Any]) -> Picture:
    """Dense minus MoE validation loss at equal steps, FLOPs and seconds: a dot for each seed, the
    mean as a line, one standard deviation to both sides as a bar. recorded: dense and MoE in
    turn."""
    pairs = list(zip(recorded[::2], recorded[1::2], strict=True))
    gaps = {axis: np.array([gap(d.curve, m.curve, axis) for d, m in pairs]) for axis, _ in AXES}
    summary = " ".join(_verdict(name, gaps[axis]) for axis, name in AXES)
    reach = 1.15 * max(float(np.abs(values).max()) for values in gaps.values())
    x = Scale(-reach, reach, 150, WIDTH - 150)
    top, row = 62.0, 52.0
    bottom = top + row * len(AXES)
    svg = Svg(WIDTH, bottom + 66, "Dense against MoE over several seeds", summary)
    svg.text(
        0, 16, f"{len(pairs)} seeds · {provenance['device']} · {provenance['date']}", fill=MUTED
    )
    svg.text(x(0) - 12, 42, "← dense ahead", anchor="end", bold=True)
    svg.text(x(0) + 12, 42, "MoE ahead →", bold=True)
    for value in x.ticks(6):
        svg.line(x(value), top - 8, x(value), bottom, stroke=RULE, width=0.5)
        svg.text(x(value), bottom + 18, f"{value:g}", anchor="middle", fill=MUTED)
    svg.line(x(0), top - 8, x(0), bottom, stroke=INK, width=1.5)
    svg.text(
        (x.start + x.end) / 2, bottom + 42, "dense minus MoE validation loss (nats per token)",
        anchor="middle",
    )  # fmt: skip
    for i, (axis, name) in enumerate(AXES):
        y, values = top + (i + 0.5) * row, gaps[axis]
        mean, sd = float(values.mean()), _sd(values)
        svg.text(x.start - 12, y + 4, name, anchor="end")
        svg.rect(x(mean - sd), y - 9, x(mean + sd) - x(mean - sd), 18, "#56b4e9", opacity=0.45)
        svg.line(x(mean), y - 14, x(mean), y + 14, stroke="#0072b2", width=3)
        for value in values:
            svg.circle(x(float(value)), y, 4, "#d55e00")
        svg.text(x.end + 12, y + 4, f"{mean:+.3f} ± {sd:.3f}")
    columns = ("seed", *(name for _, name in AXES))
    rows = tuple(
        (dense.meta["train"]["seed"], *(f"{gaps[axis][n]:+.3f}" for axis, _ in AXES))
        for n, (dense, _) in enumerate(pairs)
    )
    return Picture(svg.close(), summary, columns, rows)


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _verdict(name: str, values: np.ndarray) -> str:
    ahead = int((values > 0).sum())
    return (
        f"{name[0].upper()}{name[1:]} MoE is ahead in {ahead} of {len(values)} seeds, by "
        f"{values.mean():+.3f} ± {_sd(values):.3f} nats per token."
    )
