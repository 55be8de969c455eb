"""The arms of `experiment frontier` after 300 steps, at the rates chosen there (3 minutes a seed).

After 1,200 steps no dense width is told apart from another, so that experts can hardly show a gain.
This setting was looked for afterwards, where the rates had been chosen: there, wider models had
lower losses. That is a choice made on results, and the seeds here are not those of the choice. What
else would make the comparison unfair, and how it is closed, stands in the head of
`experiment frontier`; here every arm is compared at the very length at which its rate was chosen.
Rates that were ends of their grid are looked for once more, further out.

runs/frontier_short.json: as runs/frontier.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moeviz.experiments import Progress
from moeviz.experiments.frontier import SHORT, Figures, looked_for, record
from moeviz.experiments.rates import label
from moeviz.host import read_figures


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Train every arm with every seed at the rate that runs/frontier.json has for it, or that a
    wider grid finds; runs/frontier_short.json under `out` is written again with each whole seed."""
    path = out / "runs" / "frontier_short.json"
    tried = {
        label(name, rate): [loss]
        for name, of_arm in read_figures("frontier")["rates"].items()
        for rate, loss in zip(of_arm["grid"], of_arm["losses"], strict=True)
    }
    rates = looked_for(path.with_suffix(".part"), meta, tried)
    return record(path, meta, SHORT, rates, seeds, on_step)
