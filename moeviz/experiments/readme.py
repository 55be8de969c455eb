"""The parts of README.md that quote recordings, made from their files.

`python -m moeviz.experiments.readme` writes them anew between their markers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moeviz.experiments.readme_routers import routers_part
from moeviz.host import read_figures
from moeviz.pictures.over_seeds import gap_cell, mean_sd
from moeviz.pictures.routing.limits import told_limits, told_signature, told_worth
from moeviz.pictures.training.cures_told import (
    BASE,
    DENSE,
    told_against_dense,
    told_cures,
    told_layers,
    told_quality,
    told_rate,
)
from moeviz.pictures.training.seeds import told_race

README = Path(__file__).resolve().parents[2] / "README.md"
START, END = "<!-- {}: made by python -m moeviz.experiments.readme -->\n", "\n<!-- end -->"


def cures_table(recorded: dict[str, Any]) -> str:
    """Every recorded setting of collapse: balance in training, and the loss against two others."""
    # Warm restarts are recorded for their balance alone: their schedule is another one.
    left_out = {*recorded["restarts"]} - {BASE}
    arms = {name: arm for name, arm in recorded["arms"].items() if name not in left_out}
    layers = range(len(arms[BASE]["training"]["max_violation"]))
    heads = [
        "setting", "collapsed", *(f"MaxVio, layer {i}" for i in layers),
        "loss minus the dense twin's", "minus that of *nothing*",
    ]  # fmt: skip
    rows = [heads, ["-"] * len(heads)]
    for name, arm in arms.items():
        violation = arm["training"]["max_violation"] if "training" in arm else ()
        fell = f"{arm['collapsed']} of {arm['runs']}" if violation else ""
        rows.append(
            [name, fell, *(mean_sd(violation[i], 1) if violation else "" for i in layers),
             *(gap_cell(arm[f"loss_minus_{b}"]) if b != name else "" for b in (DENSE, BASE))]
        )  # fmt: skip
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    seeds = f"{arms[BASE]['runs']} seeds, {recorded['steps']:,} steps."
    told = told_layers, told_cures, told_against_dense, told_quality
    rate = told_rate(recorded, read_figures("routers"))
    return f"{table}\n\n{seeds} {' '.join(of(recorded) for of in told)} {rate}"


def capacity_words(recorded: dict[str, Any]) -> str:
    """What a limit costs, and what the future is worth."""
    seeds = f"{len(recorded['dense']['loss']['values'])} seeds, {recorded['steps']:,} steps."
    told = told_limits, told_worth, told_signature
    return f"{seeds} {' '.join(of(recorded) for of in told)}"


def race_words(recorded: dict[str, Any]) -> str:
    """Dense against MoE, and the two multipliers."""
    seeds = f"{len(recorded['seeds'])} seeds, {recorded['steps']:,} steps."
    return f"{seeds} {told_race(recorded)}"


# Of each part its file in data/runs and what makes it.
PARTS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "routers": ("routers", routers_part),
    "cures": ("collapse", cures_table),
    "capacity": ("capacity", capacity_words),
    "race": ("race", race_words),
}


def part(name: str) -> str:
    """What stands between the markers of a part."""
    file, make = PARTS[name]
    return make(read_figures(file))


def renewed(text: str, name: str, content: str) -> str:
    """The text with this content between the markers of a part."""
    before, start, rest = text.partition(START.format(name))
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"README.md has no markers of the part '{name}'; put them in.")
    return before + start + content + end + after


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    for name in PARTS:
        text = renewed(text, name, part(name))
    README.write_text(text, encoding="utf-8")
