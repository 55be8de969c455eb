"""A race over several seeds: who is ahead at equal steps, FLOPs and seconds, what the parameters of
all experts are worth in a dense model, and two multipliers."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.axes import x_axis
from moeviz.pictures.over_seeds import (
    Figure,
    about,
    gap_cell,
    gap_dots,
    gap_scale,
    told_gap,
    verdict_keys,
)
from moeviz.pictures.plot import legend, row
from moeviz.pictures.svg import MUTED, Picture, Svg
from moeviz.pictures.training.cures_told import single

WIDTH, TOP, ROW = 560.0, 88.0, 30.0
PLOT = 248.0, 550.0
AXES = {"step": "at equal steps", "flops": "at equal FLOPs", "seconds": "at equal seconds"}
CONTROL = "dense, all parameters"
MULTIPLIERS = {"compute": "FLOPs", "time": "seconds"}
MOE = "MoE model"


def race_seeds(recorded: dict[str, Any]) -> Picture:
    """Held-out loss of dense minus MoE at equal steps, FLOPs and seconds, and of the dense model
    with all parameters minus both: a tick a seed, a bar for the 95 % interval, the verdict as the
    mark. Below, how many times the FLOPs and the seconds dense needs for the same loss."""
    gaps = {f"dense minus MoE {name}": recorded[f"gap_at_equal_{a}"] for a, name in AXES.items()}
    control = recorded["control"]
    gaps |= {f"{CONTROL}, minus {name}": control[f"minus_{name}"] for name in ("dense", "MoE")}
    bottom = TOP + ROW * len(gaps)
    svg = Svg(WIDTH, bottom + 150, "Dense against MoE over several seeds", told_race(recorded))
    svg.text(0, 16, about(recorded, recorded["gap_at_equal_step"]), fill=MUTED)
    x = gap_scale(gaps.values(), *PLOT)
    legend(svg, 0, 42, verdict_keys(), across=80)
    svg.text(x.start, 70, "← the first is better", bold=True)
    svg.text(x.end, 70, "the second is better →", anchor="end", bold=True)
    label = "difference of the held-out loss (nats per token)"
    x_axis(svg, x, bottom, label, top=TOP - 8, ticks=x.ticks(6), zero=True)
    for i, (name, gap) in enumerate(gaps.items()):
        y = TOP + (i + 0.5) * ROW
        with row(svg, y, ROW, name, tip=f"{name}: {gap_cell(gap)}"):
            svg.text(0, y + 4, name)
            gap_dots(svg, x, y, gap)
    _draw_multipliers(svg, recorded["multipliers"], bottom + 76)
    columns = ("comparison", "difference of the held-out loss", *map(str, recorded["seeds"]))
    rows = [
        (name, gap_cell(gap), *(f"{v:+.3f}" for v in gap["values"])) for name, gap in gaps.items()
    ]
    blank = [""] * len(recorded["seeds"])
    for name, cell in _multiplier_cells(recorded["multipliers"]).items():
        rows.append((name, cell, *blank))
    return svg.picture(tuple(f"seed {c}" if c.isdigit() else c for c in columns), rows)


def _draw_multipliers(svg: Svg, multipliers: dict[str, Any], top: float) -> None:
    """Two numbers side by side, of which one may be above 1 and the other below."""
    for i, (name, cell) in enumerate(_multiplier_cells(multipliers).items()):
        left = 286.0 * i
        svg.text(left, top, name, bold=True)
        number, _, rest = cell.partition(" ")
        svg.text(left, top + 30, number, size=24, bold=True)
        svg.text(left + 96, top + 28, rest, fill=MUTED)
    svg.text(0, top + 54, "above 1: the MoE model is the cheaper one", fill=MUTED)


def _multiplier_cells(multipliers: dict[str, Any]) -> dict[str, str]:
    names = {kind: f"{unit}: dense / MoE, same loss" for kind, unit in MULTIPLIERS.items()}
    if "why" in multipliers:
        return dict.fromkeys(names.values(), "unknown")
    return {name: _times(multipliers[kind]) for kind, name in names.items()}


def _times(figure: Figure) -> str:
    """ "1.31× (1.12 to 1.50)": mean and 95 % interval."""
    gap = single(figure["values"], [1.0] * len(figure["values"]))
    text = f"{figure['mean']:.2f}×"
    if gap["low"] is None:
        return f"{text} (one seed)"
    return f"{text} ({1 + gap['low']:.2f} to {1 + gap['high']:.2f})"


# What the recorded races say, in words.


def told_race(recorded: dict[str, Any]) -> str:
    """Who is ahead per step and per second, and what the parameters are worth at full use."""
    steps, seconds = (
        told_gap(f"{AXES[axis]} the dense twin", "the MoE model", recorded[f"gap_at_equal_{axis}"])
        for axis in ("step", "seconds")
    )
    control = told_gap(
        "a dense model with all the parameters", "the MoE model", recorded["control"]["minus_MoE"]
    )
    return f"{steps} {seconds} {told_multipliers(recorded)} {control} {told_cost(recorded)}"


def told_multipliers(recorded: dict[str, Any]) -> str:
    """Both multipliers in one sentence, and whether they point the same way."""
    multipliers = recorded["multipliers"]
    if "why" in multipliers:
        return f"There is no multiplier: {multipliers['why']}."
    compute, time = (multipliers[kind]["mean"] for kind in MULTIPLIERS)
    return (
        f"For the same loss the dense twin needs {compute:.2f} times the FLOPs of the MoE model "
        f"and {time:.2f} times its seconds. Both are read at the last moment whose loss the dense "
        f"twin reached, step {multipliers['at_step']['mean']:.0f} on average. "
        f"{_cheaper(multipliers)}"
    )


def _cheaper(multipliers: dict[str, Any]) -> str:
    """Which model is the cheaper one, as far as an interval leaves 1 out."""
    compute, time = (_winner(multipliers[kind]) for kind in MULTIPLIERS)
    if not compute and not time:
        return "Which of them is the cheaper one is open."
    if compute == time:
        return f"Both say that the {time} is the cheaper one."
    if compute and time:
        return f"So the MoE model saves {'compute' if compute == MOE else 'time'} alone."
    known, other = ("compute", "time") if compute else ("time", "compute")
    return f"In {known} the {compute or time} is the cheaper one; in {other} that is open."


def _winner(figure: Figure) -> str:
    gap = single(figure["values"], [1.0] * len(figure["values"]))
    if gap["low"] is None or gap["low"] <= 0 <= gap["high"]:
        return ""
    return MOE if gap["mean"] > 0 else "dense twin"


def told_cost(recorded: dict[str, Any]) -> str:
    """What the dense model with all parameters costs a step."""
    flops = recorded["control"]["gigaflops_per_step"]
    return f"It takes {flops[CONTROL] / flops['MoE']:.1f} times the FLOPs of the MoE model a step."
