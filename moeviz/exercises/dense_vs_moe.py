"""Exercises of 01_dense_vs_moe."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from moeviz.exercises.exercise import (
    Wrong,
    exercise,
    function_asked,
    number_asked,
    number_near,
    one_number,
)
from moeviz.experiments.recorded import recorded_runs
from moeviz.records import metrics
from moeviz.records.runs import Curve, Snapshot


@cache
def recorded() -> list[Snapshot]:
    """The recorded races, dense and MoE in turn, seed by seed."""
    return recorded_runs("race")[0]


number_asked(
    "01.1",
    4 * 64,
    {
        32 * 64: "that is what all 32 experts hold; only 4 of them see a token.",
        64: "that is one expert; a token visits 4.",
        32: "that is the number of experts.",
    },
    "Count what one token goes through.",
    "How many experts does a token visit, and how wide is each of them?",
    difficulty=1,
    minutes=1,
    solution="4 * 64",
    praise="With it a token costs both layers the same, but for the MoE's router.",
)


@exercise(
    "01.2",
    "Both counts are in the race's table.",
    "A share is a part over the whole; the part is what one token uses.",
    difficulty=1,
    minutes=1,
    asks="one number",
    solution="moe.active_parameters / moe.parameters",
    praise="Attention and embeddings are always active, so the share stays well above K / E.",
)
def active_share(answer: Any) -> str | None:
    moe = recorded()[1]
    share = moe.active_parameters / moe.parameters
    mistakes = {
        2 / 16: "that is K / E: it leaves out what every token uses: attention, embeddings.",
        1 / share: "that is total over active; turn it around.",
        share * 100: "give a share between 0 and 1, not per cent.",
    }
    return number_near(answer, share, mistakes, tolerance=0.005)


def ahead(dense, moe, axis):
    x = metrics.last_common([dense, moe], axis)
    return metrics.validation_at(dense, axis, x) - metrics.validation_at(moe, axis, x)


def _between_ends(dense: Curve, moe: Curve, axis: str) -> float:
    last, last_moe = (c.validation[~np.isnan(c.validation)][-1] for c in (dense, moe))
    return float(last - last_moe)


def _last_measured(dense: Curve, moe: Curve, axis: str) -> float:
    x = metrics.last_common([dense, moe], axis)

    def before(curve: Curve) -> float:
        known = ~np.isnan(curve.validation) & (getattr(curve, axis) <= x)
        return float(curve.validation[known][-1])

    return before(dense) - before(moe)


def _measured(gap: Any) -> float:
    if isinstance(gap, float | np.floating) and np.isnan(gap):
        raise Wrong("it gave NaN: not every point of a curve has a validation loss.")
    return one_number(gap)


def _races() -> list[tuple[Curve, Curve, str]]:
    """Every recorded race by every axis, from both sides."""
    pairs = zip(recorded()[::2], recorded()[1::2], strict=True)
    return [
        (a.curve, b.curve, axis)
        for dense, moe in pairs
        for axis in ("step", "flops", "seconds")
        for a, b in ((dense, moe), (moe, dense))
    ]


function_asked(
    "01.3",
    "How far have both come? metrics.last_common answers that for a list of curves and an axis.",
    "metrics.validation_at takes the straight line between two measurements of one curve.",
    difficulty=2,
    minutes=8,
    solution=ahead,
    praise="It judged every recorded race, on all three axes, as the panel does.",
    cases=_races,
    mistakes=(
        (
            lambda dense, moe, axis: -ahead(dense, moe, axis),
            "the sign is turned around: above zero must mean that MoE is ahead.",
        ),
        (
            _between_ends,
            "that compares the two ends, which stand at different FLOPs and seconds: compare both "
            "at the furthest point that both have reached.",
        ),
        (
            _last_measured,
            "that takes the last measurement before the point: take the straight line between the "
            "two measurements around it.",
        ),
    ),
    words="for one recorded race at equal {2} it gave {found:.4f}; it is {wanted:.4f}.",
    read=_measured,
)
