"""How evenly eight devices are loaded by a real model's experts, by whose loads made the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moeviz.pictures.axes import Scale, x_axis
from moeviz.pictures.plot import Key, heading, legend, mark, paragraph
from moeviz.pictures.svg import MUTED, Picture, Svg

WIDTH, ROW, TOP = 560.0, 40.0, 152.0
COLUMNS = ("tokens of", "placed", "busiest over mean", "in the worst layer")
NAIVE = Key("in the order of their numbers", "#6e6e6e", mark="ring", width=0)
OWN = Key("a plan from its own loads", "#0072b2", mark="circle", width=0)
OTHER = Key("a plan from another task", "#d55e00", mark="square", width=0)
ALL = Key("a plan from all tasks together", "#009e73", mark="diamond", width=0)
POOLED = "pooled"

Figures = dict[str, Any]


def placement(figures: Figures) -> Picture:
    """A row for each task: the busiest device's load over the mean, mean over layers, by how its
    experts were placed. figures: see experiments.placement."""
    tasks, devices = figures["tasks"], figures["devices"]
    points = list(_points(figures))
    x = Scale(1.0, max(value for *_, value, _ in points) + 0.05, 110, WIDTH - 14)
    bottom = TOP + ROW * len(tasks) - ROW / 2
    svg = Svg(WIDTH, bottom + 46, "Experts placed on devices", told(figures))
    heading(svg, f"Experts of {_model(figures)} on {devices} devices")
    legend(svg, 0, 42, (NAIVE, OWN), across=270, kin=True)
    legend(svg, 0, 62, (OTHER, ALL), across=270, kin=True)
    note = "Load of the busiest device, for which all others wait, over the mean; 1 is even."
    paragraph(svg, 0, 90, (note, "Mean over layers, one expert in one place."), fill=MUTED)
    x_axis(svg, x, bottom, "busiest device's load / mean load", top=TOP - ROW / 2)
    for number, task in enumerate(tasks):
        y = TOP + ROW * number
        svg.text(0, y + 4, task)
        svg.line(x.start, y, x.end, y, width=0.5)
        for key, of, maker, value, worst in sorted(points, key=lambda point: point[0] is NAIVE):
            if of == task:
                tip = f"{task}, {_label(key, maker)}: {value:.2f}, in the worst layer {worst:.2f}"
                with svg.thing(f"{task}_{maker or key.name}", key.name, tip=tip):
                    mark(svg, key.mark, x(value), y, key.colour, 5)
    rows = ((t, _label(key, maker), f"{v:.3f}", f"{w:.3f}") for key, t, maker, v, w in points)
    return svg.picture(COLUMNS, (*rows, *_halves(figures)))


def _points(figures: Figures) -> Iterator[tuple[Key, str, str, float, float]]:
    """(key, task, the task that the plan was made from, mean, worst layer)."""
    for task, of_task in figures["tasks"].items():
        yield (NAIVE, task, "", *of_task["contiguous"].values())
        yield (OWN, task, "", *of_task["own"][0].values())
        for maker, met in figures["stale"].items():
            if task in met:
                yield (ALL if maker == POOLED else OTHER, task, maker, *met[task].values())


def _halves(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    for task, of_task in figures["tasks"].items():
        mean, worst = of_task["halves"].values()
        yield task, "second half, by a plan from the first", f"{mean:.3f}", f"{worst:.3f}"


def _label(key: Key, maker: str) -> str:
    return f"a plan from {maker}" if key is OTHER else key.name


def _model(figures: Figures) -> str:
    return str(figures["source"]["model"]).partition(":")[0]


def told(figures: Figures) -> str:
    """What placing does, and for how long, in words from the figures."""
    by_key: dict[str, list[float]] = {}
    for key, _, _, value, _ in _points(figures):
        by_key.setdefault(key.name, []).append(value)
    ranges = {name: f"{min(v):.2f} to {max(v):.2f}" for name, v in by_key.items()}
    halves = [of_task["halves"]["mean"] for of_task in figures["tasks"].values()]
    stale, naive = by_key[OTHER.name], by_key[NAIVE.name]
    means = sum(stale) / len(stale), sum(naive) / len(naive)
    better = means[0] <= 0.95 * means[1]
    verdict = f"on average {'still better than none' if better else 'no better than no plan'}"
    return (
        f"Without a plan the busiest device has {ranges[NAIVE.name]} times the mean load, with a "
        f"plan from the task's own loads {ranges[OWN.name]}, and no expert was copied for it. A "
        f"plan from another task leaves {ranges[OTHER.name]}, {verdict}; one from all tasks "
        f"together {ranges[ALL.name]}; one from the first half of the same task's tokens "
        f"{min(halves):.2f} to {max(halves):.2f} in the second half."
    )
