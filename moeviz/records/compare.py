"""Whether arms differ, over paired seeds and in a whole table, and what they save."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from moeviz.checks import check_whole
from moeviz.records.arrays import check_array, check_equally_long

Key = TypeVar("Key", bound=Hashable)
ROUNDING = 5e-5  # half of the last digit that recordings keep
NEAR = 2  # moments on each side whose spread counts for one
LEVEL = 0.05  # the chance that a table without any effect shows one all the same


@dataclass(frozen=True)
class Gap:
    """How far one arm lies from another, over paired seeds.

    values: the difference of each seed; mean: theirs; low, high: the 95 % interval of the mean by
    Student's t; p: two-sided, of no difference at all. One seed leaves the interval endless and p
    at 1. Seeds that agree exactly have an interval of no width, and p 0 (1 where all are 0).
    """

    mean: float
    low: float
    high: float
    p: float
    values: tuple[float, ...]


def compare(values: ArrayLike, base: ArrayLike) -> Gap:
    """The figures of one arm minus those of another, seed by seed in one order.

    Raises ValueError where the seeds are not paired, or a figure is not finite.
    """
    values_N = check_array("values_N", values, -np.inf, np.inf, np.float64)
    base_N = check_array("base_N", base, -np.inf, np.inf, np.float64)
    check_equally_long(values=values_N, base=base_N)
    if not len(values_N):
        raise ValueError("A comparison needs at least one seed, got none.")
    gap_N = values_N - base_N
    mean, freedom = float(gap_N.mean()), len(gap_N) - 1
    reach, p = np.inf, 1.0
    if freedom:
        error = float(gap_N.std(ddof=1)) / len(gap_N) ** 0.5
        reach, p = half_interval(error, freedom), _p_value(mean, error, freedom)
    return Gap(mean, mean - reach, mean + reach, p, tuple(gap_N.tolist()))


def reach_of_luck(values: ArrayLike) -> float:
    """How far luck alone takes the difference of two runs. If they did not differ on average, 19 of
    20 new pairs of runs would end within this of 0; a pair that is one of the seeds, more of them.

    values: the difference of each seed. Their standard deviation times Student's t: few seeds tell
    the deviation badly, and the reach is wider for it. Raises ValueError for one seed, or where a
    figure is not finite.
    """
    values_N = check_array("values_N", values, -np.inf, np.inf, np.float64)
    _check_seeds(len(values_N))
    return half_interval(float(values_N.std(ddof=1)), len(values_N) - 1)


def band_of_luck(values: ArrayLike) -> np.ndarray:
    """How far luck alone takes the difference of two runs at each of P moments [P]. If they did not
    differ on average at any of them, at least 19 of 20 new pairs of runs would stay within it at
    all of them: whoever looks at every moment may call what lies outside a difference.

    values: the difference of each seed at each moment [R, P]. 1. Few seeds tell the spread at one
    moment badly, so it is that of five: the root of the mean variance, with up to two neighbours on
    each side. 2. It is taken times a quantile of Student's t. All P moments count as independent
    of each other (Sidak 1967), which makes the band no narrower than needed; five variances count
    for two, since neighbours depend on each other. How much they do is not asked: races whose
    moments do not, do, and nearly agree stay within (tests/test_compare.py). Raises ValueError for
    one seed, or where a figure is not finite.
    """
    values_RP = check_array("values_RP", values, -np.inf, np.inf, np.float64)
    seeds, moments = values_RP.shape
    _check_seeds(seeds)
    variance_P = values_RP.var(0, ddof=1)
    near = [slice(max(p - NEAR, 0), p + NEAR + 1) for p in range(moments)]
    spread_P = np.array([variance_P[moment].mean() for moment in near]) ** 0.5
    freedom, chance = min(moments, 2) * (seeds - 1), (1 - LEVEL) ** (1 / moments)
    reach_P: np.ndarray = _students_t(freedom, chance) * spread_P
    return reach_P


def _check_seeds(seeds: int) -> None:
    if seeds < 2:
        raise ValueError(
            "What luck does is seen in two seeds at least, got the differences of "
            f"{seeds}; give more seeds."
        )


def half_interval(standard_error: float, freedom: int) -> float:
    """Half of the 95 % interval of an estimate by Student's t."""
    return _students_t(check_whole("freedom", freedom)) * standard_error


@cache
def _students_t(freedom: int, chance: float = 1 - LEVEL) -> float:
    """What |t| stays within with this chance. Without scipy: a panel that opens waits for no
    statistics."""
    low, high = 0.0, math.pi / 2  # the angle whose tangent is t / sqrt(freedom)
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _chance_within(angle, freedom) < chance else (low, angle)
    return math.tan(low) * math.sqrt(freedom)


def _chance_within(angle: float, freedom: int) -> float:
    """The chance that |t| is below sqrt(freedom) tan(angle), a finite sum for whole degrees of
    freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    odd = freedom % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for i in range(1, freedom // 2 + 1):
        total += term
        term *= (2 * i - 1 + odd) / (2 * i + odd) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _p_value(mean: float, standard_error: float, freedom: int) -> float:
    from scipy.special import stdtr

    if standard_error == 0:
        return float(mean == 0)
    return float(2 * stdtr(freedom, -abs(mean) / standard_error))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of a table, each corrected for all of its comparisons (Holm 1979).

    Where those below 0.05 are taken for effects, a table without any shows one in at most 5 % of
    all cases, however its comparisons depend on each other.
    """
    p = check_array("p_values_N", p_values, 0, 1, np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0).tolist()


def false_discovery_rates(p_values: ArrayLike) -> np.ndarray:
    """For each p-value of a table [N], the least rate of false discoveries at which it is one
    (Benjamini and Hochberg 1995): float64 [N]."""
    p = check_array("p_values_N", p_values, 0, 1, np.float64)
    order = np.argsort(p)
    scaled = p[order] * (len(p) / np.arange(1, len(p) + 1))
    rates = np.empty_like(p)
    rates[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return np.minimum(rates, 1.0)


def verdicts(gaps: Mapping[Key, Gap]) -> dict[Key, str]:
    """What a whole table says of each arm, after Holm's correction: it has the "lower" or the
    "higher" figure, or the question is "open". The interval of a Gap is not corrected, and may
    leave out zero where the verdict is open. A difference below ROUNDING is open: errors of
    arithmetic may all have one sign."""
    corrected = holm([gap.p for gap in gaps.values()])

    def verdict(gap: Gap, p: float) -> str:
        if p >= LEVEL or abs(gap.mean) < ROUNDING:
            return "open"
        return "lower" if gap.mean < 0 else "higher"

    return {name: verdict(gap, p) for (name, gap), p in zip(gaps.items(), corrected, strict=True)}


def p_of_counts(first: int, first_of: int, second: int, second_of: int) -> float:
    """Two-sided p that `first` of `first_of` runs and `second` of `second_of` come from one rate:
    the chance of all splits of as many that are as unlikely as this one or more (Fisher 1935)."""
    both, runs = first + second, first_of + second_of
    lowest, highest = max(0, both - second_of), min(both, first_of)
    ways = {
        n: math.comb(first_of, n) * math.comb(second_of, both - n)
        for n in range(lowest, highest + 1)
    }
    return sum(n for n in ways.values() if n <= ways[first]) / math.comb(runs, both)


class Spent(NamedTuple):
    """A loss (nats per token) and what it took: FLOPs and seconds of training."""

    loss: float
    flops: float
    seconds: float


@dataclass(frozen=True)
class Multipliers:
    """How many times the compute and the time of an arm its dense twin needs for the same loss:
    above 1 the arm is the cheaper one. None where that was not measured, and why."""

    compute: float | None
    time: float | None
    why: str = ""


def multipliers(dense: Sequence[Spent], arm: Spent) -> Multipliers:
    """What an arm saves against the loss curve of its dense twin, as two numbers.

    dense: points of the twin in the order of what was spent: moments of one run at a constant rate,
    or the ends of runs of several lengths. Where the curve first falls to the arm's loss, the loss
    is taken as linear in the logarithm of what was spent between two points. Nothing is
    extrapolated.
    """
    if not dense or any(value <= 0 for point in (*dense, arm) for value in point[1:]):
        raise ValueError("Give a point of the dense twin at least, and FLOPs and seconds above 0.")
    reached = next((i for i, point in enumerate(dense) if point.loss <= arm.loss), None)
    if reached is None:
        lowest = min(point.loss for point in dense)
        return _unknown(f"the dense twin was trained down to {lowest:.3f} only, not {arm.loss:.3f}")
    if reached == 0 and dense[0].loss < arm.loss:
        return _unknown(f"the dense twin was below {arm.loss:.3f} when first measured")
    after, before = dense[reached], dense[max(reached - 1, 0)]
    fall = before.loss - after.loss
    share = (before.loss - arm.loss) / fall if fall else 0.0

    def times(name: str) -> float:
        first, last, own = (getattr(point, name) for point in (before, after, arm))
        return float(first / own * (last / first) ** share)

    return Multipliers(times("flops"), times("seconds"))


def _unknown(why: str) -> Multipliers:
    return Multipliers(None, None, why)
