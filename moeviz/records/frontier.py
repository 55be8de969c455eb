"""Sparse models on the scale of dense ones: which dense width is as good, what the same spending
buys, and how the loss falls with the number of experts. Nothing is extrapolated."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from moeviz.records.arrays import check_array
from moeviz.records.compare import Gap, compare, half_interval

STEPS = 60  # between two recorded widths
POWERS = np.geomspace(1e-3, 4, 4000)  # of a law with a floor


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
    anywhere: bool  # whether zero is in the interval at both ends

    def words(self) -> str:
        """ "512 (412 to 780)", "any from 128 to 1,024" where zero is in the interval at both ends,
        or that it is beyond the recorded widths."""
        if self.anywhere:
            return f"any from {self.narrowest:,.0f} to {self.widest:,.0f}"
        if self.value is None:
            if self.better:
                return f"above {self.widest:,.0f}, the widest recorded"
            return f"below {self.narrowest:,.0f}, the narrowest recorded"
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
        return self._at(np.array([place]))[0]

    def _at(self, place_G: np.ndarray) -> np.ndarray:
        x_G, x_W = np.log(place_G), np.log(self.places_W)
        return np.stack([np.interp(x_G, x_W, loss_W) for loss_W in self.losses_WN.T], axis=1)

    def of_equal_loss(self, losses: ArrayLike) -> Reading:
        """Which of them is as good as a model with these losses_N of the same seeds."""
        between = (np.geomspace(*two, STEPS) for two in pairwise(self.places_W))
        place_G = np.unique(np.concatenate([*between]))
        gap_GN = np.asarray(losses, dtype=np.float64) - self._at(place_G)
        mean_G, seeds = gap_GN.mean(1), gap_GN.shape[1]
        reach_G = np.full_like(mean_G, np.inf)
        if seeds > 1:
            reach_G = half_interval(1.0, seeds - 1) * gap_GN.std(1, ddof=1) / seeds**0.5
        value = _crossing(np.log(place_G), mean_G)
        alike = np.flatnonzero(abs(mean_G) <= reach_G)
        low = high = None
        if len(alike):
            low = float(place_G[alike[0]]) if alike[0] > 0 else None
            high = float(place_G[alike[-1]]) if alike[-1] < len(place_G) - 1 else None
        elif value is not None:
            low = high = value
        narrowest, widest = map(float, (self.places_W[0], self.places_W[-1]))
        anywhere = bool(len(alike)) and low is None and high is None
        return Reading(
            value, low, high, narrowest, widest, better=bool((mean_G < 0).all()), anywhere=anywhere
        )

    def same_spending(self, place: float, losses: ArrayLike) -> Gap | None:
        """A model's losses_N minus those of the dense model at its own place; None beyond."""
        at_N = self.at(place)
        return None if at_N is None else compare(losses, at_N)


def _crossing(log_place_G: np.ndarray, difference_G: np.ndarray) -> float | None:
    """The place where a difference first reaches zero from below, by a straight line between two
    points; None where it does not."""
    after = np.flatnonzero(difference_G >= 0)
    if not len(after) or difference_G[0] > 0:
        return None
    if (i := after[0]) == 0:
        return float(np.exp(log_place_G[0]))
    before, here = difference_G[i - 1], difference_G[i]
    step = log_place_G[i] - log_place_G[i - 1]
    return float(np.exp(log_place_G[i - 1] - step * before / (here - before)))


def exponent(counts: ArrayLike, losses: ArrayLike) -> Gap:
    """b of loss = a counts^-b, by least squares in the logarithms, of each seed: counts_E,
    losses_EN. A Gap from zero, whose values are the seeds'."""
    x_E = np.log(check_array("counts_E", counts, 1e-300, np.inf, np.float64))
    y_EN = np.log(np.asarray(losses, dtype=np.float64))
    centred_E = x_E - x_E.mean()
    slope_N = centred_E @ (y_EN - y_EN.mean(0)) / (centred_E @ centred_E)
    return compare(-slope_N, np.zeros_like(slope_N))


def exponent_of_line(counts: ArrayLike, losses: ArrayLike) -> tuple[float, float]:
    """b of loss = a counts^-b, fitted to one loss for each count (counts_E, losses_E), and half of
    the 95 % interval of a straight line through the logarithms. ValueError of fewer than three."""
    x_E = np.log(check_array("counts_E", counts, 1e-300, np.inf, np.float64))
    y_E = np.log(check_array("losses_E", losses, 1e-300, np.inf, np.float64))
    if len(x_E) < 3:
        raise ValueError(f"A line with an interval needs three sizes at least, got {len(x_E)}.")
    x_E, y_E = x_E - x_E.mean(), y_E - y_E.mean()
    slope = float(x_E @ y_E / (x_E @ x_E))
    left = float(((y_E - slope * x_E) ** 2).sum()) / (len(x_E) - 2)
    return -slope, half_interval((left / float(x_E @ x_E)) ** 0.5, len(x_E) - 2)


@dataclass(frozen=True)
class Floor:
    """loss = floor + a counts^-power, with the ends of the floor's 95 % interval. A low end of 0
    is no floor at all."""

    floor: float
    power: float
    low: float
    high: float


def with_floor(counts: ArrayLike, losses: ArrayLike) -> Floor:
    """The law of counts_E with the least squares on losses_EN, where each seed has a level of its
    own; the interval holds every floor whose best fit is within reach of the best of all
    (profile likelihood, by F). ValueError where fewer figures are left than the law has numbers."""
    x_E = check_array("counts_E", counts, 1e-300, np.inf, np.float64)
    y_EN = np.asarray(losses, dtype=np.float64)
    if y_EN.ndim != 2 or len(y_EN) != len(x_E):
        raise ValueError(f"losses_EN has the shape {y_EN.shape}; give a row for each count.")
    seeds = y_EN.shape[1]
    free = y_EN.size - seeds - 2
    if free < 1:
        raise ValueError(f"A law with a floor needs four counts at least, got {len(x_E)}.")
    own_EN = y_EN - y_EN.mean(0)
    z_PE = x_E ** -POWERS[:, None]
    middle_P = z_PE.mean(1)
    centred_PE = z_PE - middle_P[:, None]
    spread_P = (centred_PE**2).sum(1)
    slope_P = centred_PE @ own_EN.mean(1) / spread_P
    left_PEN = own_EN - (slope_P[:, None] * centred_PE)[..., None]
    left_P = (left_PEN**2).sum((1, 2))
    floor_P = y_EN.mean() - slope_P * middle_P
    best = int(left_P.argmin())
    # How much worse a fit may be; at each power it may spend that on another floor.
    room_P = left_P[best] * (1 + half_interval(1.0, free) ** 2 / free) - left_P
    within_P = room_P >= 0
    reach_P = np.sqrt(np.maximum(room_P, 0) * (1 / y_EN.size + middle_P**2 / (seeds * spread_P)))
    low = float((floor_P - reach_P)[within_P].min())
    high = float((floor_P + reach_P)[within_P].max())
    return Floor(float(floor_P[best]), float(POWERS[best]), max(low, 0.0), high)
