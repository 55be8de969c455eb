"""Exercises of 01_dense_vs_moe."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from moeviz.exercises.exercise import Exercise, number_near
from moeviz.experiments.recorded import recorded_runs
from moeviz.records.metrics import last_common, validation_at
from moeviz.records.runs import Curve, Snapshot


@cache
def recorded() -> list[Snapshot]:
    """The recorded races, dense and MoE in turn, seed by seed."""
    return recorded_runs("race")[0]


def _twin_width(answer: Any) -> str | None:
    return number_near(
        answer,
        4 * 64,
        {
            32 * 64: "that is what all 32 experts hold; only 4 of them see a token.",
            64: "that is one expert; a token visits 4.",
            32: "that is the number of experts.",
        },
    )


def _active_share(answer: Any) -> str | None:
    moe = recorded()[1]
    share = moe.active_parameters / moe.parameters
    return number_near(
        answer,
        share,
        {
            2 / 16: "that is K / E: it leaves out what every token uses: attention, embeddings.",
            1 / share: "that is total over active; turn it around.",
            share * 100: "give a share between 0 and 1, not per cent.",
        },
        tolerance=0.005,
    )


def _ahead(answer: Any) -> str | None:
    if not callable(answer):
        return "the answer is a function ahead(dense, moe, axis)."
    for dense, moe in zip(recorded()[::2], recorded()[1::2], strict=True):
        for axis in ("step", "flops", "seconds"):
            for a, b in ((dense.curve, moe.curve), (moe.curve, dense.curve)):
                fault = _one_race(answer, a, b, axis)
                if fault:
                    return fault
    return None


def _one_race(answer: Any, dense: Curve, moe: Curve, axis: str) -> str | None:
    x = last_common([dense, moe], axis)
    wanted = validation_at(dense, axis, x) - validation_at(moe, axis, x)
    found = float(answer(dense, moe, axis))
    if np.isnan(found):
        return "it gave NaN: not every point of a curve has a validation loss."
    if abs(found - wanted) < 1e-6:
        return None
    if abs(found + wanted) < 1e-6:
        return "the sign is turned around: above zero must mean that MoE is ahead."
    last = [c.validation[~np.isnan(c.validation)][-1] for c in (dense, moe)]
    if abs(found - (last[0] - last[1])) < 1e-6:
        return (
            f"that compares the two ends, which stand at different {axis}: compare both at the "
            "furthest point that both have reached."
        )
    return f"for one recorded race at equal {axis} it gave {found:.4f}; it is {wanted:.4f}."


TWIN_WIDTH = Exercise(
    _twin_width,
    ("Count what one token goes through.", "K experts of width d_expert: K * d_expert."),
    "4 * 64",
    "Equal active width is what makes the race fair: each token costs both models the same.",
)
ACTIVE_SHARE = Exercise(
    _active_share,
    ("Both counts are in the race's table.", "moe.active_parameters / moe.parameters"),
    "moe.active_parameters / moe.parameters",
    "Attention and embeddings are always active, so the share stays well above K / E.",
)
AHEAD = Exercise(
    _ahead,
    (
        "metrics.last_common([dense, moe], axis) is the furthest x that both have reached.",
        "metrics.validation_at(curve, axis, x) interpolates between measurements.",
    ),
    "def ahead(dense, moe, axis):\n"
    "    x = metrics.last_common([dense, moe], axis)\n"
    "    return metrics.validation_at(dense, axis, x) - metrics.validation_at(moe, axis, x)",
    "It judged every recorded race, on all three axes, as the panel does.",
)
