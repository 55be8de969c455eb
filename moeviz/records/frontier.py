"""Sparse models on the scale of dense ones: which dense width is as good, what the same spending
buys, and how the loss falls with the number of experts. Nothing is extrapolated."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from moeviz.records.arrays import check_array
from moeviz.records.compare import Gap, compare

STEPS = 60  # between two recorded widths


@dataclass(frozen=True)
class Reading:
    """A place on the row of dense models. value: where the mean losses are equal; low, high: the
    places between which the paired difference has zero in its 95 % interval; None: beyond the
    recorded ones at that end (of value: at the end that the loss lies beyond)."""

    value: float | None
    low: float | None
    high: float | None
    narrowest: float
    widest: float
    better: bool  # than the dense models at that end, where value is None

    def words(self) -> str:
        """ "512 (412 to 780)", or that it is beyond the recorded widths."""
        if self.value is None:
            if self.better:
                return f"above {self.widest:,.0f}, wider than any recorded one"
            return f"below {self.narrowest:,.0f}, narrower than any recorded one"
        low = f"below {self.narrowest:,.0f}" if self.low is None else f"{self.low:,.0f}"
        high = f"above {self.widest:,.0f}" if self.high is None else f"{self.high:,.0f}"
        return f"{self.value:,.0f} ({low} to {high})"


class DenseRow:
    """Dense models along something that grows with them, such as their width, with losses by seed.
    Between two of them a loss is read off a straight line over the logarithm of what grows."""

    def __init__(self, places: ArrayLike, losses: ArrayLike) -> None:
        """places_W above 0; losses_WN. ValueError where shapes do not fit, or places repeat."""
        places_W = check_array("places_W", places, 1e-300, np.inf, np.float64)
        losses_WN = np.asarray(losses, dtype=np.float64)
        if losses_WN.ndim != 2 or len(losses_WN) != len(places_W) or len(places_W) < 2:
            raise ValueError(
                f"losses_WN has the shape {losses_WN.shape}; give a row of seeds for each of "
                f"at least two places, got {len(places_W)}."
            )
        order = np.argsort(places_W)
        self.places_W, self.losses_WN = places_W[order], losses_WN[order]
        if not (np.diff(self.places_W) > 0).all():
            raise ValueError("places_W must all differ.")

    def at(self, place: float) -> np.ndarray | None:
        """losses_N there; None beyond the recorded ones."""
        if not self.places_W[0] <= place <= self.places_W[-1]:
            return None
        x, x_W = np.log(place), np.log(self.places_W)
        return np.array([np.interp(x, x_W, row_W) for row_W in self.losses_WN.T])

    def of_equal_loss(self, losses: ArrayLike) -> Reading:
        """Which of them is as good as a model with these losses_N of the same seeds."""
        ends = self.places_W[0], self.places_W[-1]
        between = pairwise(self.places_W)
        grid = np.unique(np.concatenate([np.geomspace(*two, STEPS) for two in between])).clip(*ends)
        gaps = [compare(losses, self.at(place)) for place in grid]  # type: ignore[arg-type]
        mean = np.array([gap.mean for gap in gaps])
        value = _crossing(np.log(grid), mean)
        alike = [place for place, gap in zip(grid, gaps, strict=True) if gap.low <= 0 <= gap.high]
        low = high = None
        if alike:
            low = float(alike[0]) if alike[0] > ends[0] else None
            high = float(alike[-1]) if alike[-1] < ends[1] else None
        elif value is not None:
            low = high = float(np.exp(value))
        better = bool(mean.max() < 0)
        return Reading(
            None if value is None else float(np.exp(value)), low, high, *map(float, ends), better
        )

    def same_spending(self, place: float, losses: ArrayLike) -> Gap | None:
        """A model's losses_N minus those of the dense model at its own place; None beyond."""
        at_N = self.at(place)
        return None if at_N is None else compare(losses, at_N)


def _crossing(x: np.ndarray, difference: np.ndarray) -> float | None:
    """Where a difference first reaches zero from below, by a straight line between two points."""
    if difference[0] >= 0:
        return float(x[0]) if difference[0] == 0 else None
    after = np.flatnonzero(difference >= 0)
    if not len(after):
        return None
    i = after[0]
    share = -difference[i - 1] / (difference[i] - difference[i - 1])
    return float(x[i - 1] + share * (x[i] - x[i - 1]))


def exponent(counts: ArrayLike, losses: ArrayLike) -> Gap:
    """b of loss = a counts^-b, by least squares in the logarithms, of each seed: counts_E,
    losses_EN. A Gap from zero, whose values are the seeds'."""
    x_E = np.log(check_array("counts_E", counts, 1e-300, np.inf, np.float64))
    y_EN = np.log(np.asarray(losses, dtype=np.float64))
    centred_E = x_E - x_E.mean()
    slope_N = centred_E @ (y_EN - y_EN.mean(0)) / (centred_E @ centred_E)
    return compare(-slope_N, np.zeros_like(slope_N))
