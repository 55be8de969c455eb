"""Two real models: what experts tell of a task, specialists beside their null, who is chosen with
whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from moeviz.pictures.axes import LogScale, Scale, axes
from moeviz.pictures.plot import Key, bands, curve, mark
from moeviz.pictures.routing.real_view import (
    BLUE,
    GREY,
    POOLED,
    RED,
    SIDE,
    Bar,
    View,
    bars,
    framed,
    in_percent,
    layer_curves,
    own_key,
)
from moeviz.pictures.svg import Picture, Svg
from moeviz.words import percent

LISTED = 10
SPECIALIST = 0.45  # as in records.specialists, which would have scipy imported
TOLD = Key("tasks as they are", BLUE)
WITHOUT = Key("without their shared start", "#009e73", "9 3 2 3")
SHUFFLED = Key("sequences shuffled", GREY, "2 3")
ALONE = Key("independent choices (too low)", GREY, "2 3")
FOUND = Key("specialists of a task", BLUE)
NULL = Key("by chance: stretches of one task instead of tasks", RED, "7 3")


def information(view: View) -> Picture:
    """How much an expert tells of the task over the layers, beside its null; and the experts that
    a task visits more often than the tasks do together."""
    told = view.layer["information"]
    own, of_all = "without_shared_start" in view.layer, view.task == POOLED
    against = "with whole sequences shuffled" if own else "for independent choices"
    summary = (
        f"{view.name}, layer {view.layer['layer']}: an expert tells {percent(told['value'], 1)} of "
        f"what there is to know of the task; {against} it would seem to be "
        f"{percent(told['null'], 1)}. {_liked_most(view)}"
    )
    lines = [(TOLD, view.over_layers("information", "value"))]
    if own:
        lines.append((WITHOUT, view.over_layers("without_shared_start", "value")))
    null = SHUFFLED if own else ALONE
    lines.append((null, view.over_layers("information", "null")))
    keys = [key for key, _ in lines]
    svg = framed(view, "What experts tell of the task", "does it tell the task?", summary, keys)
    layer_curves(svg, view, lines, "share of the tasks' entropy", in_percent)
    rows = [
        Bar(
            f"expert {e}", share,
            f"{share / pooled:.1f} × {view.whose(task) * of_all}".strip(), (f"e{e}",),
            f"expert {e}: {percent(share, 1)} of {view.whose(task)}, "
            f"{percent(pooled, 1)} of the mean task",
            tick=pooled,
        )
        for e, task, share, pooled in _liked(view)[:LISTED]
    ]  # fmt: skip
    whose = "the task that is named" if of_all else view.whose(view.task)
    note = f"bar: share of the choices of {whose}; tick: mean of the tasks; ×: the lift"
    bars(svg, rows, f"Visited more than elsewhere, layer {view.layer['layer']}", note)
    table = zip(view.layers, *([f"{v:.4f}" for v in line] for _, line in lines), strict=True)
    return svg.picture(("layer", *(key.name for key in keys)), table)


def _liked(view: View) -> list[tuple[int, str, float, float]]:
    """Each expert with a task (of all: its best one), its share there and its mean share, by lift;
    without experts below a quarter of the even share, whose few choices would lift far."""
    share_DE = _shares(view)
    mean_E = share_DE.mean(0)
    found = [
        (int(e), _task_of(view, share_DE[:, e]), float(mean_E[e]))
        for e in np.flatnonzero(mean_E * len(mean_E) >= 0.25)
    ]
    each = [(e, [*view.tasks][d], float(share_DE[d, e]), mean) for e, d, mean in found]
    return sorted(each, key=lambda row: -row[2] / row[3])


def _shares(view: View) -> np.ndarray:
    """Of each task's choices the share of each expert in this layer [D, E]."""
    return np.array([view.load(task) / view.load(task).sum() for task in view.tasks])


def _task_of(view: View, share_D: np.ndarray) -> int:
    """The task that is looked at; of all tasks the one with the largest share."""
    return int(share_D.argmax()) if view.task == POOLED else [*view.tasks].index(view.task)


def _liked_most(view: View) -> str:
    e, task, share, pooled = _liked(view)[0]
    return (
        f"Expert {e} takes {share / pooled:.1f} times as large a share of {view.whose(task)} as of "
        "the mean task."
    )


def specialists(view: View) -> Picture:
    """The share of experts that are specialists of one task, beside stretches of a single task in
    the tasks' place; by layer, and by the tokens of each task that one looks at."""
    layer, own = view.layer["specialists"], isinstance(view.layer["specialists"], dict)
    of_all = view.task == POOLED
    where = f"{view.name}, layer {view.layer['layer']}"
    if own:
        samples = view.figures["samples"]
        # Of the largest samples one task has no four stretches.
        last = max(n for n, null in enumerate(layer["null"]) if null is not None)
        few, many = samples[0], samples[last]
        summary = (
            f"{where}: from {many:,} tokens a task {percent(layer['value'][last])} of the experts "
            f"look like specialists ({percent(layer['null'][last], 1)} where there is one task "
            f"only). From {few} tokens {percent(layer['value'][0])} do "
            f"({percent(layer['null'][0])})."
        )
        lines = [
            (FOUND, view.over_layers("specialists", "value", last)),
            (NULL, view.over_layers("specialists", "null", last)),
        ]
    else:
        summary = (
            f"{where}: {percent(layer)} of the experts are specialists. There is no null beside "
            "it: this study kept counts and no tokens, which could be dealt out anew."
        )
        lines = [(FOUND, view.over_layers("specialists"))]
    keys = [key for key, _ in lines]
    svg = framed(view, "Specialists beside their null", "how many specialists?", summary, keys)
    label = "share of experts that are specialists"
    label += f", from {many:,} tokens a task" if own else ""
    layer_curves(svg, view, lines, label, in_percent)
    if own:
        _by_tokens(svg.beside(SIDE, 290), view, samples, layer)
    rows = [
        Bar(f"expert {e}", share, f"{percent(share)} {view.whose(task) * of_all}".strip(),
            (f"e{e}",), f"expert {e}: {percent(share)} of its choices are of "
            f"{view.whose(task)}, each task counting alike", tick=SPECIALIST)
        for e, task, share in _devoted(view)[:LISTED]
    ]  # fmt: skip
    whose = "in its first task" if of_all else f"in {view.whose(view.task)}"
    note = (
        f"bar: share of its choices {whose}, each task counting alike; tick: "
        f"{percent(SPECIALIST)}, where a specialist begins"
    )
    bars(svg, rows, f"The most devoted, layer {view.layer['layer']}", note)
    table = zip(view.layers, *([f"{v:.4f}" for v in line] for _, line in lines), strict=True)
    return svg.picture(("layer", *(key.name for key in keys)), table)


def _devoted(view: View) -> list[tuple[int, str, float]]:
    """Each expert with the task (of all: its first one) and its share there, the largest first."""
    share_DE = _shares(view)
    share_DE = share_DE / np.maximum(share_DE.sum(0), 1e-12)
    found = []
    for e, share_D in enumerate(share_DE.T):
        d = _task_of(view, share_D)
        found.append((e, [*view.tasks][d], float(share_D[d])))
    return sorted(found, key=lambda row: -row[2])


def _by_tokens(svg: Svg, view: View, samples: Sequence[int], layer: dict[str, Any]) -> None:
    svg.text(0, 16, f"By tokens of each task, layer {view.layer['layer']}", size=14, bold=True)
    x, y = LogScale(50, 10_000, 48, SIDE - 16), Scale(0, 1, 240, 62)
    axes(svg, x, y, x_label="tokens of each task", y_label="share of experts", above=True,
         x_ticks=samples[::2], x_form=lambda v: f"{v:,.0f}", y_form=in_percent)  # fmt: skip
    every = [f"n{size}" for size in samples]
    lines = [
        (key, [math.nan if v is None else v for v in layer[name]])
        for key, name in ((FOUND, "value"), (NULL, "null"))
    ]
    for key, line in lines:
        with svg.thing(key.name, *every):
            curve(svg, x, y, zip(samples, line, strict=True), key)
    for n, (left, right) in enumerate(bands([x(size) for size in samples], 12)):
        known = [(key, line[n]) for key, line in lines if not math.isnan(line[n])]
        values = ", ".join(f"{key.name} {percent(value, 1)}" for key, value in known)
        tip = f"{samples[n]:,} tokens a task: {values}"
        with svg.thing(every[n], FOUND.name, NULL.name, tip=tip):
            svg.rect(left, y.end, right - left, y.start - y.end, "transparent")
            for key, value in known:
                mark(svg, "circle", x(samples[n]), y(value), key.colour, 3)


def meetings(view: View) -> Picture:
    """The share of pairs of experts that are chosen together beyond chance, over the layers, and
    what would seem so beside an even meeting of all; below, the pairs of the largest lift."""
    told, pairs = view.layer["together"][view.task], view.layer["pairs"][view.task]
    most = f"none of the {told['of']:,} pairs meets"
    if pairs:
        (one, other, together, chance), *_ = pairs
        most = (
            f"experts {one:g} and {other:g} are chosen together {together / chance:.1f} times as "
            "often as their loads make them"
        )
    summary = (
        f"{view.where}: {most}. {percent(told['often'] / told['of'])} of all pairs meet at least "
        "1.5 times as often as their loads make them, beyond chance. If popularity is left out "
        f"of account, {percent(told['popular'] / told['of'])} seem to; "
        f"{percent(1 - told['both'] / max(told['popular'], 1))} of those are merely popular."
    )
    popular = Key("if popularity is left out of account", RED, "7 3")
    keys = own_key(view), popular
    each = [layer["together"][view.task] for layer in view.figures["layers"]]
    lines = [
        (key, [at[name] / at["of"] for at in each])
        for key, name in zip(keys, ("often", "popular"), strict=True)
    ]
    svg = framed(view, "Experts that are chosen together", "who meets?", summary, keys)
    layer_curves(svg, view, lines, "share of pairs that meet 1.5 times as often", in_percent)
    rows = [
        Bar(
            f"e{one:g} and e{other:g}", together, f"{together / chance:.1f} ×",
            (f"e{one:g}", f"e{other:g}"),
            f"experts {one:g} and {other:g}: {together:,.0f} tokens chose both, by their loads "
            f"{chance:,.1f}", tick=chance,
        )
        for one, other, together, chance in pairs
    ]  # fmt: skip
    note = "bar: tokens that chose both experts; tick: by the loads alone; ×: the lift"
    bars(svg, rows, f"Pairs of the largest lift, layer {view.layer['layer']}", note)
    table = zip(view.layers, *([f"{v:.4f}" for v in line] for _, line in lines), strict=True)
    return svg.picture(("layer", "beyond chance", popular.name), table)
