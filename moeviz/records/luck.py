"""How far luck alone takes a race of two learners, at every moment of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeviz.records.compare import band_of_luck
from moeviz.records.runs import Curve


@dataclass(frozen=True)
class SeedsOfRace:
    """The validation losses of two learners, of R seeds at P evaluations: first_RP, second_RP;
    step_P: the steps of the evaluations."""

    step_P: np.ndarray
    first_RP: np.ndarray
    second_RP: np.ndarray

    def luck(self, first: Curve, second: Curve, axis: str) -> list[tuple[float, float]]:
        """Places on an axis and how far luck alone takes the difference of both there
        (records.compare.band_of_luck), up to where the first of the two ends.

        A place on the axis is the step that each learner reaches there, at its own pace in this
        race, and the losses of the seeds at these two steps are compared. So no seconds of another
        machine are needed, and the luck of the clock is left out. Empty while there is no pace.
        """
        found = [_pace(curve, axis) for curve in (first, second)]
        paces = [pace for pace in found if pace is not None]
        if len(paces) < 2:
            return []
        least = min(paces)
        step_2P = [self.step_P * (least / pace) for pace in paces]
        losses_2RP = [
            np.array([np.interp(steps, self.step_P, loss_P, left=np.nan) for loss_P in loss_RP])
            for steps, loss_RP in zip(step_2P, (self.first_RP, self.second_RP), strict=True)
        ]
        gap_RP = losses_2RP[0] - losses_2RP[1]
        known_P = ~np.isnan(gap_RP).any(0)  # the slower one comes late to its first evaluation
        if not known_P.any():  # a first step may be very slow
            return []
        place_P = (self.step_P * least)[known_P]
        return [*zip(place_P.tolist(), band_of_luck(gap_RP[:, known_P]).tolist(), strict=True)]


def luck_at(luck: Sequence[tuple[float, float]], place: float) -> float:
    """How far luck alone goes at a place, linear between those where it is known; NaN before the
    first of them, and where none is known."""
    if not luck:
        return float("nan")
    places, reaches = zip(*luck, strict=True)
    return float(np.interp(place, places, reaches, left=np.nan))


def _pace(curve: Curve, axis: str) -> float | None:
    """How much of the axis a step takes, None before the first step."""
    if axis == "step":
        return 1.0
    return float(getattr(curve, axis)[-1] / curve.step[-1]) if len(curve) else None
