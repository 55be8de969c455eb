"""Five routers and the dense twin after 2,400 steps (7 minutes a seed).

The same arms, rates, seeds and windows as in `experiment routers`, whose head says how the
comparison is kept fair; only the length is another one, twice that of its longest setting. The arms
are those that notebook 03c opens with, which were chosen by kind and not by loss, and the
commonest design of recent models, which was added when the 300 steps were known. These
steps draw 2.6 times as many tokens as the text has, so a router with more parameters may learn it
by heart; the loss is of text that no training has seen.

runs/routers_longer.json: "steps", "seeds", "arms" and the rest of a setting's table, as
runs/routers.json has them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from moeviz.experiments import Progress
from moeviz.experiments.recording import collect, means, write_trained
from moeviz.experiments.router_arms import DENSE, LONGER, LONGER_ARMS, arms
from moeviz.experiments.routers_compared import setting_table
from moeviz.experiments.routers_trained import train_arm
from moeviz.host import read_figures


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Train the arms at the rates that runs/routers.json has for the fair scale;
    runs/routers_longer.json under `out` is written again with each whole seed."""
    rates = read_figures("routers")["rates"]["fair"]
    every = arms()

    def one(name: str) -> partial[dict[str, Any] | None]:
        return partial(train_arm, name, LONGER, rates[every[name].family]["chosen"])

    def write(results: dict[str, list[Any]]) -> dict[str, Any]:
        figures = setting_table(LONGER, results)
        write_trained(out / "runs" / "routers_longer.json", meta, figures)
        return figures

    runs = {name: one(name) for name in (DENSE, *LONGER_ARMS)}
    part = out / "runs" / "routers_longer.part"
    figures = write(collect(part, meta, runs, seeds, on_step, write))
    return means(figures["arms"], "loss")
