"""Figures for print and slides, by matplotlib and seaborn: objects only, never pyplot, which keeps
every figure it ever made and is not safe from threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from moeviz.pictures.training.race import AXES, STYLES
from moeviz.records.runs import Snapshot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def race_curves(recorded: Sequence[Snapshot], axis: str = "step") -> Figure:
    """Validation loss over seeds: mean and one standard deviation of each learner, against step or
    flops. Save it with `.savefig("race.pdf")`.

    Raises ValueError for another axis: seconds differ from seed to seed, so no two runs are
    measured at the same one.
    """
    if axis not in ("step", "flops"):
        raise ValueError(f"axis must be 'step' or 'flops', got {axis!r}.")
    import seaborn
    from matplotlib.figure import Figure

    columns: dict[str, list] = {"x": [], "loss": [], "learner": []}
    for snapshot in recorded:
        measured = ~np.isnan(snapshot.curve.validation)
        columns["x"] += getattr(snapshot.curve, axis)[measured].tolist()
        columns["loss"] += snapshot.curve.validation[measured].tolist()
        columns["learner"] += [snapshot.label] * int(measured.sum())
    figure = Figure(figsize=(6, 3.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    labels = list(dict.fromkeys(columns["learner"]))
    seaborn.lineplot(
        columns, x="x", y="loss", hue="learner", style="learner", errorbar="sd", ax=axes,
        palette=dict(zip(labels, (colour for colour, _ in STYLES), strict=False)),
    )  # fmt: skip
    name, unit = AXES[axis]
    axes.set(xlabel=f"{name} ({unit})" if unit else name, ylabel="validation loss (nats per token)")
    seeds = len({snapshot.meta["train"]["seed"] for snapshot in recorded})
    axes.set_title(f"{seeds} seeds: mean and standard deviation", fontsize=10)
    axes.legend(title=None, frameon=False)
    seaborn.despine(figure)
    return figure
