"""Two real models: how even their loads are, what a batch touches, how long an expert stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moeviz.pictures.axes import LogScale, Scale, axes
from moeviz.pictures.plot import Key, bands, curve, mark
from moeviz.pictures.routing.real_view import (
    ALL,
    BLUE,
    CHANCE,
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
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.words import percent

OF_ALL = Key(ALL, RED, "7 3")
EVEN = Key("formula", GREY, "2 3")
TOLD_BATCH = 32


def load_of_task(view: View) -> Picture:
    """MaxVio over the layers, of the task and of all; and each expert's share of the choices."""
    layer, task = view.layer, view.task
    violation, load, pooled = layer["max_violation"], view.load(task), view.load(POOLED)
    busiest = int(load.argmax())
    least = min(violation[name] for name in view.tasks)
    beside = "less than in any task" if violation[POOLED] < least else "not less than in each task"
    summary = (
        f"{view.where}: expert {busiest} takes {in_percent(load[busiest] / load.sum())} of the "
        f"choices, {in_percent(1 / len(load))} would be even: as uneven as if "
        f"{layer['effective_experts'][task]:.0f} of {len(load)} experts shared the work evenly. "
        f"Its MaxVio is {violation[task]:.2f}. Pooled over all tasks MaxVio is "
        f"{violation[POOLED]:.2f}, {beside}."
    )
    keys = [own_key(view), OF_ALL] if task != POOLED else [OF_ALL]
    svg = framed(view, "Load of a real model", "how uneven is the load?", summary, keys)
    lines = [
        (key, view.over_layers("max_violation", name))
        for key, name in zip(keys, (task, POOLED) if len(keys) > 1 else (POOLED,), strict=True)
    ]
    layer_curves(svg, view, lines, "MaxVio (0: even)", lambda v: f"{v:.3g}")
    note = "bar: MaxVio of the task's own choices; press one"
    rows = [
        Bar(
            view.whose(name), violation[name],
            f"{violation[name]:.2f}", (view.whose(name),),
            f"{view.whose(name)}: MaxVio {violation[name]:.2f}, "
            f"{layer['effective_experts'][name]:.1f} experts in effect",
            press={"task": name}, chosen=name == task,
        )
        for name in (*view.tasks, POOLED)
    ]  # fmt: skip
    bars(svg, rows, f"MaxVio by task, layer {layer['layer']}", note)
    _experts(svg.beside(560, 192), view, load / load.sum(), pooled / pooled.sum())
    shares = (load / load.sum(), pooled / pooled.sum())
    table = ((e, f"{a:.4f}", f"{b:.4f}") for e, (a, b) in enumerate(zip(*shares, strict=True)))
    return svg.picture(("expert", "share of the task", "share of all tasks"), table)


def _experts(svg: Svg, view: View, share_E: Sequence[float], pooled_E: Sequence[float]) -> None:
    """A bar an expert; a tick: its share where all tasks count."""
    svg.text(0, 16, f"Share of each expert, layer {view.layer['layer']}", size=14, bold=True)
    words = "" if view.task == POOLED else " · tick: of all tasks"
    svg.text(0, 36, f"bar: of {view.whose(view.task)}{words} · dashed: even", fill=MUTED)
    wide = 510 / len(share_E)
    y = Scale(0, max(*share_E, *pooled_E), 160, 52)
    for tick in y.ticks(3):
        svg.text(42, y(tick) + 4, in_percent(tick), anchor="end", fill=MUTED)
    for e, (share, pooled) in enumerate(zip(share_E, pooled_E, strict=True)):
        x = 48 + e * wide
        tip = f"expert {e}: {percent(share, 1)} of {view.whose(view.task)}"
        tip += "" if view.task == POOLED else f", {percent(pooled, 1)} of all tasks"
        with svg.thing(f"e{e}", tip=tip):
            svg.rect(x, y.end, wide, y.start - y.end, "transparent")
            svg.rect(x, y(share), 0.8 * wide, y.start - y(share), BLUE)
            if view.task != POOLED:
                svg.line(x - 0.5, y(pooled), x + 0.9 * wide, y(pooled), stroke=INK, width=2)
    svg.line(48, y(1 / len(share_E)), 558, y(1 / len(share_E)), stroke=INK, dash="4 3")
    for e in range(0, len(share_E), 8):
        svg.text(48 + (e + 0.4) * wide, 176, str(e), anchor="middle", fill=MUTED)
    svg.text(48, 188, "expert", fill=MUTED)


def experts_of_a_batch(view: View) -> Picture:
    """How many different experts a batch touches in a layer, by its size: by the formula, and
    measured on consecutive tokens, on a task's in any order, on all tasks mixed."""
    sizes = view.figures["batches"]
    at = sizes.index(TOLD_BATCH)
    lines = _batch_lines(view, view.layer["batch"])
    consecutive, even = lines[0][1][at], lines[-1][1][at]
    summary = (
        f"{view.where}: {TOLD_BATCH} consecutive tokens touch {consecutive:.1f} experts, where the "
        f"formula for even and independent tokens says {even:.1f}. In any order they touch "
        f"{lines[1][1][at]:.1f}, and tokens of all tasks mixed {lines[2][1][at]:.1f}."
    )
    words = f"how many do {TOLD_BATCH} tokens touch?"
    svg = framed(view, "Experts that a batch touches", words, summary, [key for key, _ in lines])
    each = [_batch_lines(view, layer["batch"]) for layer in view.figures["layers"]]
    over = [(key, [of[n][1][at] for of in each]) for n, (key, _) in enumerate(lines)]
    layer_curves(svg, view, over, f"experts touched by {TOLD_BATCH} tokens", lambda v: f"{v:.3g}")
    _by_batch(svg.beside(SIDE, 290), view, sizes, lines)
    columns = ("tokens", *(key.name for key, _ in lines))
    rows = zip(sizes, *([f"{v:.1f}" for v in line] for _, line in lines), strict=True)
    return svg.picture(columns, rows)


def _batch_lines(view: View, batch: dict[str, Any]) -> list[tuple[Key, list[float]]]:
    return [
        (Key("consecutive", BLUE), view.of_task(batch["consecutive"])),
        (Key("in any order", "#009e73", "9 3 2 3"), view.of_task(batch["shuffled"])),
        (Key("all tasks mixed", RED, "7 3"), batch["mixed"]),
        (EVEN, view.figures["if_even"]),
    ]


def _by_batch(
    svg: Svg, view: View, sizes: Sequence[int], lines: list[tuple[Key, list[float]]]
) -> None:
    svg.text(0, 16, f"By the size of the batch, layer {view.layer['layer']}", size=14, bold=True)
    x, y = LogScale(sizes[0], sizes[-1], 48, SIDE - 16), Scale(0, 64, 240, 62)
    axes(svg, x, y, x_label="tokens of a batch", y_label="experts touched",
         x_ticks=sizes[::2], above=True)  # fmt: skip
    every = [f"b{size}" for size in sizes]
    for key, line in lines:
        with svg.thing(key.name, *every):
            curve(svg, x, y, zip(sizes, line, strict=True), key)
    for n, (left, right) in enumerate(bands([x(size) for size in sizes], 8)):
        values = ", ".join(f"{key.name} {line[n]:.1f}" for key, line in lines)
        names = [key.name for key, _ in lines]
        with svg.thing(every[n], *names, tip=f"{sizes[n]} tokens: {values}"):
            svg.rect(left, y.end, right - left, y.start - y.end, "transparent")
            for key, line in lines:
                mark(svg, "circle", x(sizes[n]), y(line[n]), key.colour, 2.6)


def repeats(view: View) -> Picture:
    """How often a token's experts are those of the token before, beside chance given the loads."""
    layer = view.layer
    of = {name: view.of_task(layer["repeat_rate"], name) for name in (*view.tasks, POOLED)}
    chance = {name: view.of_task(layer["repeat_chance"], name) for name in of}
    times = of[view.task] / chance[view.task]
    top_k = view.figures["if_even"][0]
    even = top_k / len(view.load(POOLED))
    summary = (
        f"{view.where}: {percent(of[view.task])} of a token's experts are also those of the token "
        f"before, {times:.2f} times as many as its loads alone make ({percent(chance[view.task])})."
        f" With even loads chance would be {percent(even)}."
    )
    keys = own_key(view), CHANCE
    svg = framed(view, "How long an expert stays", "does an expert stay?", summary, keys)
    lines = [
        (key, [view.of_task(at[name]) for at in view.figures["layers"]])
        for key, name in zip(keys, ("repeat_rate", "repeat_chance"), strict=True)
    ]
    layer_curves(svg, view, lines, "share of experts that stay", in_percent)
    note = "bar: experts that stay; tick: by chance, given the task's loads; press one"
    rows = [
        Bar(
            view.whose(name), of[name], f"{percent(of[name])} ({of[name] / chance[name]:.2f} ×)",
            (view.whose(name),),
            f"{view.whose(name)}: {percent(of[name])} stay, by chance {percent(chance[name])}",
            tick=chance[name], press={"task": name}, chosen=name == view.task,
        )
        for name in of
    ]  # fmt: skip
    bars(svg, rows, f"By task, layer {layer['layer']}", note)
    table = zip(view.layers, *([f"{v:.4f}" for v in line] for _, line in lines), strict=True)
    return svg.picture(("layer", "stay", "by chance"), table)
