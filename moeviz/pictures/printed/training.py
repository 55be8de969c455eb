"""Printed: races over seeds, collapse and its cures, the cost of a limit, trainings on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moeviz.pictures.plot import Key
from moeviz.pictures.printed.sheet import (
    ROW,
    ends_of,
    foot,
    gap_of,
    gap_row,
    legend,
    marked,
    named_rows,
    row,
    sheet,
)
from moeviz.pictures.routing.limits import NO_LIMIT, POOLS
from moeviz.pictures.training.arms import LOOKS, seeds_words
from moeviz.pictures.training.at_scale import LATE, TITLES, keys_of
from moeviz.pictures.training.cures import LAYERS
from moeviz.pictures.training.cures_told import BASE, DENSE, cures_of
from moeviz.pictures.training.load_and_speed import STYLES
from moeviz.pictures.training.race import AXES, MARKS
from moeviz.records.compare import Gap
from moeviz.records.runs import Snapshot

LOSS = "held-out loss (nats per token)"
POOL_KEYS = [
    Key("all domains", "#0072b2", mark="circle"), Key("one domain", "#d55e00", mark="square"),
    Key("one text", "#009e73", mark="diamond"),
]  # fmt: skip
WITH_LIMIT = "The same model,\nwith its limit minus without"
WITHOUT_LIMIT = "Both without a limit,\ntrained with minus without"
LAYER_MARKS = ("diamond", "up")  # not those of the verdicts beside them
MOST_MARKS = 12  # of a line, on average
ALONE = Key("", "#6e6e6e", mark="circle")
Curves = dict[str, list[tuple[float, float]]]  # by name: the points of all its seeds


def race(recorded: Sequence[Snapshot], provenance: dict[str, Any], axis: str = "step") -> Figure:
    """Validation loss over seeds: mean and one standard deviation of each learner, against step or
    flops. recorded: the runs and where they were made, as `records.runs.load_snapshots` gives them.

    Raises ValueError for another axis: seconds differ from seed to seed, so no two runs are
    measured at the same one.
    """
    if axis not in ("step", "flops"):
        raise ValueError(f"axis must be 'step' or 'flops', got {axis!r}.")
    curves: Curves = {}
    for snapshot in recorded:
        curve = snapshot.curve
        points = zip(getattr(curve, axis), curve.validation, strict=True)
        curves.setdefault(snapshot.label, []).extend(p for p in points if not np.isnan(p[1]))
    looks = zip(curves, STYLES, MARKS, strict=False)
    keys = [Key(name, *style, mark=mark) for name, style, mark in looks]
    name, unit = AXES[axis]
    with sheet(16, 8) as figure:
        axes = figure.subplots()
        seeds = len({snapshot.meta["train"]["seed"] for snapshot in recorded})
        axes.set_title(f"Dense against MoE: {over(seeds)}")
        mean_lines(axes, curves, keys)
        axes.set(
            xlabel=f"{name} ({unit})" if unit else name, ylabel="validation loss (nats per token)"
        )
        legend(figure, keys, "", lines=True)
        foot(figure, {"provenance": provenance})
        seaborn.despine(figure)
    return figure


def over(seeds: int) -> str:
    """What a line with a band shows."""
    return "1 seed" if seeds == 1 else f"mean and standard deviation over {seeds} seeds"


def mean_lines(axes: Axes, curves: Curves, keys: Sequence[Key]) -> None:
    """The mean over seeds of each series as a line, one standard deviation as a band."""
    rows = [(name, *point) for name, points in curves.items() for point in points]
    names, x, y = zip(*rows, strict=True)
    seaborn.lineplot(
        x=x, y=y, hue=names, ax=axes, errorbar="sd", legend=False, markersize=4,
        palette=[key.colour for key in keys],
    )  # fmt: skip
    for line, key in zip(axes.get_lines(), keys, strict=True):
        crowd = np.size(line.get_xdata()) // MOST_MARKS
        line.set(**marked(key), markevery=max(crowd, 1))


def collapse(summary: dict[str, Any]) -> Figure:
    """Every cure in a row: MaxVio of the last 50 training steps in each layer, with one standard
    deviation, and the loss minus the dense twin's and minus that without a cure, with the 95 %
    interval; the mark is the verdict."""
    arms = {name: summary["arms"][name] for name in (DENSE, BASE, *cures_of(summary))}
    seeds = seeds_words(summary["arms"][BASE]["runs"])
    with sheet(16, 4 + 1.4 * ROW * len(arms)) as figure:
        balance, *losses = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1.1, 1.1))
        layers = _layer_keys(summary)
        for y, arm in enumerate(arms.values()):
            for i, key in enumerate(layers if "training" in arm else ()):
                _figure_row(balance, y - 0.18 + 0.36 * i, arm["training"]["max_violation"][i], key)
        balance.set(
            title="Balance, last 50 steps", xlabel="MaxVio (0: even)\nbar: standard deviation"
        )
        for axes, base in zip(losses, (DENSE, BASE), strict=True):
            others = {y: arms[name] for y, name in enumerate(arms) if name != base}
            gaps = {y: arm[f"loss_minus_{base}"] for y, arm in others.items()}
            for y, gap in gaps.items():
                gap_row(axes, y, gap_of(gap), LOOKS[gap["verdict"]])
            axes.set_xlim(ends_of(map(gap_of, gaps.values())))
            axes.set(
                title=f"Loss minus {'dense' if base == DENSE else 'no cure'}",
                xlabel="nats per token\nbar: 95 % interval",
            )
        for axes in (balance, *losses):
            named_rows(axes, [*arms])
        title = f"Cures of collapse: {summary['steps']:,} steps, {seeds} (tick: a seed)"
        verdict = "mark of a loss: verdict after Holm's correction"
        legend(figure, [*layers, *LOOKS.values()], f"{title}\n{verdict}")
        foot(figure, summary)
        seaborn.despine(figure, left=True)
    return figure


def _layer_keys(summary: dict[str, Any]) -> list[Key]:
    count = len(summary["arms"][BASE]["training"]["max_violation"])
    looks = enumerate(zip(LAYERS[:count], LAYER_MARKS, strict=False))
    return [Key(f"MaxVio of layer {i}", colour, mark=mark) for i, ((colour, _), mark) in looks]


def _figure_row(axes: Axes, y: float, figure: dict[str, Any], key: Key) -> None:
    mean, sd = figure["mean"], figure["sd"]
    ends = (mean - sd, mean + sd) if sd is not None else (mean, mean)
    row(axes, y, mean, ends, figure["values"], key)


def capacity(recorded: dict[str, Any]) -> Figure:
    """What each limit costs: the loss of one model under its limit minus its loss without, in three
    pools of tokens; and what training with the limit did to the model. A filled mark is shown after
    Holm's correction, an empty one is open. The bar is the 95 % interval, a tick is a seed."""
    arms = {name: arm for name, arm in recorded["limits"].items() if name != NO_LIMIT}
    seeds = seeds_words(len(recorded["dense"]["loss"]["values"]))
    with sheet(16, 4.2 + 1.8 * ROW * len(arms)) as figure:
        cost, alone = figure.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
        shown = []
        for y, arm in enumerate(arms.values()):
            for i, (pool, key) in enumerate(zip(POOLS, POOL_KEYS, strict=True)):
                shown.append(_told_row(cost, y - 0.25 + 0.25 * i, arm[f"cost_{pool}"], key))
        cost.set_xlim(ends_of(shown))
        minus = [
            _told_row(alone, y, arm["loss_minus_no_limit"], ALONE)
            for y, arm in enumerate(arms.values())
        ]
        alone.set_xlim(ends_of(minus))
        for axes, title in ((cost, WITH_LIMIT), (alone, WITHOUT_LIMIT)):
            axes.set(title=title, xlabel="loss (nats per token)\nbar: 95 % interval")
            named_rows(axes, [*arms])
        title = f"What a limit of slots costs: {recorded['steps']:,} steps, {seeds} (tick: a seed)"
        filled = "filled: shown after Holm's correction, empty: open · pool of tokens:"
        legend(figure, POOL_KEYS, f"{title}\n{filled}")
        foot(figure, recorded)
        seaborn.despine(figure, left=True)
    return figure


def _told_row(axes: Axes, y: float, figure: dict[str, Any], key: Key) -> Gap:
    gap, face = gap_of(figure), "white" if figure["verdict"] == "open" else key.colour
    gap_row(axes, y, gap, key, markerfacecolor=face)
    return gap


def at_scale(experiment: str, recorded: dict[str, Any]) -> Figure:
    """A recorded experiment of experiments/gpu_*.py, by its name: held-out loss, and experts in
    effect in the least even layer, against the tokens seen."""
    arms, late = recorded["arms"], LATE * recorded["steps"]
    millions = recorded["tokens"] / recorded["steps"] / 1e6  # of a step
    loss: Curves = {
        name: [(s * millions, v) for run in arm["validation_curve"] for s, v in run if s >= late]
        for name, arm in arms.items()
    }
    effect: Curves = {
        name: [(s * millions, v / arm["experts"]) for run in arm["effective_curve"] for s, v in run]
        for name, arm in arms.items()
        if "effective_curve" in arm
    }
    keys = keys_of(recorded)
    with sheet(16, 8.5) as figure:
        left, right = figure.subplots(1, 2)
        mean_lines(left, loss, keys)
        mean_lines(right, effect, [key for key in keys if key.name in effect])
        left.set(title="Held-out loss, without the steep beginning", ylabel=LOSS)
        right.set(
            title="Experts in effect, least even layer", ylabel="share of all experts", ylim=(0, 1)
        )
        for axes in (left, right):
            axes.set_xlabel("training tokens (millions)")
        seeds = max(arm["runs"] for arm in arms.values())
        legend(figure, keys, f"{TITLES[experiment]}: {over(seeds)}", lines=True)
        foot(figure, recorded)
        seaborn.despine(figure)
    return figure
