"""Predictions of 01_dense_vs_moe."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moeviz.experiments.recorded import recorded_runs
from moeviz.pictures.over_seeds import gap_words, recorded_gap
from moeviz.predictions.prediction import Measured, prediction, recorded_run
from moeviz.records.compare import Gap
from moeviz.records.runs import Snapshot

ANSWERS = ("dense", "MoE", "no clear difference")


class Raced(NamedTuple):
    """The recorded races: MoE's loss minus dense's at the furthest point of an axis that both have
    reached, whom that puts ahead, and the runs."""

    gap: Gap
    ahead: str
    dense: list[Snapshot]
    moe: list[Snapshot]


@prediction(
    "01.step", "After the same number of training steps, whose validation loss is lower?", *ANSWERS
)  # fmt: skip
def by_step() -> Measured:
    raced = recorded_race("step")
    more = raced.moe[0].parameters / raced.dense[0].parameters
    because = {
        "MoE": _lead(more, recorded_run("race")["control"]["minus_dense"]["verdict"]),
        "dense": f"{more:.1f} times the parameters do not help within so few steps",
        "no clear difference": "the seeds differ too much to show one",
    }
    steps = f"{raced.moe[0].curve.step[-1]:.0f} steps of the recorded races"
    return Measured(raced.ahead, f"after {steps} {_words(raced)}", because[raced.ahead])


@prediction(
    "01.seconds", "After the same number of seconds, whose validation loss is lower?", *ANSWERS
)  # fmt: skip
def by_second() -> Measured:
    raced = recorded_race("seconds")
    seconds = [
        np.mean([run.curve.seconds[-1] for run in runs]) for runs in (raced.dense, raced.moe)
    ]
    because = (
        f"a step of the MoE model took {seconds[1] / seconds[0]:.2f} times as long there, most "
        "likely for sorting tokens and for many small matrix products"
    )
    _, provenance = recorded_runs("race")
    where = f"after equal seconds of the recorded races ({provenance['device']})"
    return Measured(raced.ahead, f"{where} {_words(raced)}", because)


def recorded_race(axis: str) -> Raced:
    """The recorded races, compared on an axis (step, seconds or flops)."""
    runs, _ = recorded_runs("race")
    dense, moe = ([run for run in runs if run.label == name] for name in ("dense", "MoE"))
    figures = recorded_run("race")
    figure = figures[f"gap_at_equal_{axis}"]  # dense minus MoE
    lead = recorded_gap(figure)
    gap = Gap(-lead.mean, -lead.high, -lead.low, lead.p, tuple(-v for v in lead.values))
    ahead = {"higher": "MoE", "lower": "dense", "open": "no clear difference"}[figure["verdict"]]
    return Raced(gap, ahead, dense, moe)


def _lead(more: float, verdict: str) -> str:
    """Why MoE leads, as far as the dense model with as many parameters tells: its verdict against
    the dense twin."""
    gain = f"gain from {more:.1f} times the parameters for the same work on each token"
    if verdict == "lower":
        return f"most likely it can {gain}"
    return f"it may {gain}; but a dense model with all of them is not shown to beat the twin"


def _words(raced: Raced) -> str:
    return f"MoE's loss is {gap_words(raced.gap)} than dense's"
