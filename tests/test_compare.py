"""Comparisons over seeds and ranks: against scipy's own, and Holm's against its definition."""

import math
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.records.compare import (
    Gap,
    Spent,
    band_of_luck,
    compare,
    false_discovery_rates,
    half_interval,
    holm,
    multipliers,
    p_of_counts,
    reach_of_luck,
    verdicts,
)
from moeviz.records.ranks import ranks, spearman

LOSSES = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=2, max_size=12).filter(
    lambda pairs: np.ptp([a - b for a, b in pairs]) > 1e-3
)
WITH_TIES = st.lists(st.tuples(st.integers(0, 5), st.floats(-9, 9)), min_size=2, max_size=30)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def closed(p_values):
    """Holm's correction as the closure of Bonferroni's: an arm is as likely by chance as the least
    surprising of all the sets of arms that hold it, a set being as surprising as its smallest p
    times its size."""
    arms = range(len(p_values))
    sets = [chosen for size in range(1, len(p_values) + 1) for chosen in combinations(arms, size)]
    chance = {chosen: min(1.0, len(chosen) * min(p_values[i] for i in chosen)) for chosen in sets}
    return [max(chance[chosen] for chosen in sets if arm in chosen) for arm in arms]


@given(LOSSES)
def test_a_comparison_is_students_paired_test(pairs):
    values, base = zip(*pairs, strict=True)
    gap = compare(values, base)
    wanted = scipy.stats.ttest_rel(values, base)
    low, high = wanted.confidence_interval(0.95)
    assert gap.mean == pytest.approx(np.mean(values) - np.mean(base), abs=1e-12)
    assert (gap.low, gap.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)
    assert gap.p == pytest.approx(wanted.pvalue, rel=1e-6)
    assert gap.values == tuple(a - b for a, b in pairs)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Five seeds of a known difference, 4,000 times: 95 %, give or take four standard errors."""
    rng = np.random.default_rng(0)
    gaps = [compare(rng.normal(0.3, 1, 5) + noise, noise) for noise in rng.normal(0, 9, (4000, 5))]
    held = np.mean([gap.low < 0.3 < gap.high for gap in gaps])
    assert held == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 4000) ** 0.5)


def test_one_seed_leaves_everything_open():
    gap = compare([1.0], [9.0])
    assert (gap.mean, gap.low, gap.high, gap.p) == (-8.0, -math.inf, math.inf, 1.0)
    assert verdicts({"one seed": gap}) == {"one seed": "open"}


def test_seeds_without_spread_are_certain_or_equal():
    assert compare([2.0] * 3, [2.5] * 3) == Gap(-0.5, -0.5, -0.5, 0.0, (-0.5,) * 3)
    assert compare([2.0, 3.0], [2.0, 3.0]) == Gap(0.0, 0.0, 0.0, 1.0, (0.0, 0.0))


@pytest.mark.parametrize(
    ("values", "base", "words"),
    [
        ([1.0, 2.0], [1.0], "values and base must be equally long, got 2 and 1"),
        ([], [], "at least one seed"),
        ([1.0, math.nan], [1.0, 2.0], "finite numbers"),
        ([[1.0]], [[1.0]], "must be an array"),
    ],
)
def test_what_cannot_be_compared_is_refused(values, base, words):
    with pytest.raises(ValueError, match=words):
        compare(values, base)


@settings(max_examples=30)
@given(st.integers(1, 200))
def test_half_an_interval_goes_by_students_t(freedom):
    wanted = 0.25 * scipy.stats.t.ppf(0.975, freedom)
    assert half_interval(0.25, freedom) == pytest.approx(wanted, rel=1e-11)


@pytest.mark.parametrize("seeds", [2, 5])
def test_luck_alone_is_called_a_difference_once_in_twenty(seeds):
    """Pairs of runs without a difference on average, 4,000 times: 5 %, give or take four standard
    errors. One standard deviation would call 37 % of them with five seeds, and more with two."""
    rng = np.random.default_rng(seeds)
    reach_R = np.array([reach_of_luck(of_seeds) for of_seeds in rng.normal(0, 3, (4000, seeds))])
    called = np.mean(abs(rng.normal(0, 3, 4000)) > reach_R)
    assert called == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 4000) ** 0.5)


def test_one_of_the_seeds_themselves_is_called_more_rarely():
    values_RN = np.random.default_rng(0).normal(0, 3, (4000, 5))
    assert (
        0 < np.mean([abs(of_seeds[0]) > reach_of_luck(of_seeds) for of_seeds in values_RN]) < 0.02
    )


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=9), st.floats(0.1, 9), st.floats(-9, 9))
def test_luck_is_of_the_differences_alone(values, times, more):
    """Where they lie on average says nothing of it, and it has their unit."""
    moved = reach_of_luck([times * value + more for value in values])
    assert moved == pytest.approx(times * reach_of_luck(values), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("measure", [lambda values: reach_of_luck(values[:, 0]), band_of_luck])
def test_one_seed_tells_nothing_of_luck(measure):
    with pytest.raises(ValueError, match="two seeds at least, got the differences of 1; give more"):
        measure(np.full((1, 3), 0.1))


RACES, MOMENTS = 1000, 24


@pytest.mark.parametrize("seeds", [5, 7])
@pytest.mark.parametrize("kept", [0.0, 0.9, 0.99])
def test_a_band_of_luck_holds_at_all_moments_together(seeds, kept):
    """Races without a difference on average, a thousand times, whose spread falls to a third, and
    each moment of which keeps this share of the one before: 5 % leave the band at the most, give or
    take four standard errors. What holds at one moment is left by several times as many."""
    rng = np.random.default_rng(seeds)
    races = rng.normal(size=(RACES, seeds + 1, MOMENTS))
    for p in range(1, MOMENTS):
        races[..., p] = kept * races[..., p - 1] + (1 - kept**2) ** 0.5 * races[..., p]
    races *= np.maximum(0.06 * 0.87 ** np.arange(MOMENTS), 0.02)
    band = np.array([band_of_luck(of_seeds) for of_seeds in races[:, 1:]])
    left = (abs(races[:, 0]) > band).any(1).mean()
    assert 0 < left < 0.05 + 4 * (0.05 * 0.95 / RACES) ** 0.5
    at_one = races[:, 1:].std(1, ddof=1) * scipy.stats.t.ppf(0.975, seeds - 1)
    assert (abs(races[:, 0]) > at_one).any(1).mean() > 2 * left + 0.05


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=9))
def test_a_band_of_one_moment_is_the_reach_of_luck(values):
    (reach,) = band_of_luck(np.array(values)[:, None])
    assert reach == pytest.approx(reach_of_luck(values), rel=1e-9, abs=1e-12)


@given(st.integers(2, 5), st.integers(1, 9), st.floats(0.1, 9), st.integers(0, 99))
def test_a_band_is_of_the_differences_alone(seeds, moments, times, seed):
    """Where they lie on average at each moment says nothing of it; it has their unit, and the
    spread of a moment counts for two on each side of it."""
    rng = np.random.default_rng(seed)
    values_RP, more_P = rng.normal(size=(seeds, moments)), rng.normal(size=moments)
    band_P = band_of_luck(values_RP)
    assert band_of_luck(times * values_RP + more_P) == pytest.approx(times * band_P)
    moment = int(rng.integers(moments))
    values_RP[:, moment] *= 2
    wider = np.flatnonzero(band_of_luck(values_RP) > band_P * (1 + 1e-9))
    assert [*wider] == [p for p in range(moments) if abs(p - moment) <= 2]


# --- a table ---


@given(P_VALUES)
def test_holm_is_the_closure_of_bonferroni(p_values):
    assert holm(p_values) == pytest.approx(closed(p_values), rel=1e-12)


@given(P_VALUES, st.randoms())
def test_holm_does_not_care_for_the_order_of_the_table(p_values, random):
    order = list(range(len(p_values)))
    random.shuffle(order)
    corrected = holm(p_values)
    assert holm([p_values[i] for i in order]) == [corrected[i] for i in order]
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))


@given(P_VALUES)
def test_false_discoveries_are_scipys(p_values):
    wanted = scipy.stats.false_discovery_control(p_values)
    np.testing.assert_allclose(false_discovery_rates(p_values), wanted, rtol=1e-15)


def test_a_chance_above_one_is_refused():
    with pytest.raises(ValueError, match="p_values_N must hold finite numbers in 0..1, got 1.5"):
        false_discovery_rates([0.1, 1.5])


# --- ranks ---


@given(WITH_TIES)
def test_ranks_and_their_correlation_are_scipys(pairs):
    first, second = (list(values) for values in zip(*pairs, strict=True))
    for values in (first, second):
        assert np.array_equal(ranks(values), scipy.stats.rankdata(values))
    if len(set(first)) > 1 and len(set(second)) > 1:
        wanted = scipy.stats.spearmanr(first, second).statistic
        assert spearman(first, second) == pytest.approx(wanted, abs=1e-12)


@given(P_VALUES, st.floats(0, 1))
def test_a_longer_table_never_makes_a_difference_surer(p_values, more):
    longer = holm([*p_values, more])
    assert all(p <= q + 1e-15 for p, q in zip(holm(p_values), longer[:-1], strict=True))


def test_holm_refuses_what_is_no_probability():
    assert holm([]) == []
    for bad in ([-0.1], [1.5], [math.nan]):
        with pytest.raises(ValueError, match=r"finite numbers in 0..1"):
            holm(bad)


def test_a_verdict_is_of_the_whole_table():
    """p 0.03 is an effect where it stands alone, and open beside one more of its size."""

    def gap(mean, p):
        return Gap(mean, mean - 1, mean + 1, p, ())

    assert verdicts({"a": gap(-1.0, 0.03)}) == {"a": "lower"}
    assert verdicts({"a": gap(1.0, 0.03)}) == {"a": "higher"}
    two = {"a": gap(-1.0, 0.03), "b": gap(1.0, 0.04)}
    assert verdicts(two) == {"a": "open", "b": "open"}
    assert verdicts(two | {"a": gap(-1.0, 0.02)}) == {"a": "lower", "b": "higher"}
    assert verdicts({"a": gap(-1.0, 0.05)}) == {"a": "open"}
    assert verdicts({"a": gap(-4e-5, 0.001)}) == {"a": "open"}, "arithmetic alone"
    assert verdicts({}) == {}


def test_a_table_without_effects_is_open_nineteen_times_of_twenty():
    """20 arms of one truth that share their base, as a dense twin is shared: 1,000 tables."""
    rng = np.random.default_rng(1)
    wrong = 0
    for base in rng.normal(size=(1000, 5)):
        losses = rng.normal(size=(20, 5))
        gaps = {i: compare(loss, base) for i, loss in enumerate(losses)}
        wrong += set(verdicts(gaps).values()) != {"open"}
    assert 0 < wrong / 1000 < 0.05 + 4 * (0.05 * 0.95 / 1000) ** 0.5


# --- what an arm saves ---


def twin(flops, *, second=1e-9):
    """A dense twin whose loss is 5 - 0.1 ln C, at so many seconds a FLOP."""
    return Spent(5 - 0.1 * math.log(flops), flops, second * flops)


@given(
    st.lists(st.floats(1, 1e12), min_size=2, max_size=9, unique=True),
    st.floats(0, 1),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
)
def test_multipliers_are_exact_where_the_loss_falls_with_the_logarithm(spent, at, less, slower):
    """The arm has the loss that its twin has at `flops`, for flops / less, each `slower` times as
    long as one of the twin's."""
    spent = sorted(spent)
    flops = spent[0] * (spent[-1] / spent[0]) ** at
    loss = min(max(twin(flops).loss, twin(spent[-1]).loss), twin(spent[0]).loss)
    arm = Spent(loss, flops / less, slower * 1e-9 * flops / less)
    found = multipliers([twin(c) for c in spent], arm)
    assert found.compute == pytest.approx(less, rel=1e-6)
    assert found.time == pytest.approx(less / slower, rel=1e-6)
    assert found.why == ""


def test_the_twin_against_itself_saves_nothing():
    points = [twin(10.0**i) for i in range(5)]
    for point in points:
        assert multipliers(points, point).compute == pytest.approx(1)
        assert multipliers(points, point).time == pytest.approx(1)


def test_a_curve_that_rises_in_between_counts_where_it_first_gets_there():
    points = [Spent(4.0, 1, 1), Spent(3.0, 10, 10), Spent(3.5, 100, 100), Spent(2.0, 1e3, 1e3)]
    assert multipliers(points, Spent(3.0, 1, 1)).compute == pytest.approx(10)
    assert multipliers(points, Spent(3.5, 1, 1)).compute == pytest.approx(10**0.5)
    assert multipliers(points, Spent(2.75, 1, 1)).compute == pytest.approx(100 * 10**0.5)


def test_nothing_is_extrapolated():
    points = [Spent(4.0, 1, 1), Spent(3.0, 10, 10)]
    lower = multipliers(points, Spent(2.9, 5, 5))
    higher = multipliers(points, Spent(4.1, 5, 5))
    assert (lower.compute, lower.time) == (higher.compute, higher.time) == (None, None)
    assert lower.why == "the dense twin was trained down to 3.000 only, not 2.900"
    assert higher.why == "the dense twin was below 4.100 when first measured"
    for dense, arm in (
        ([], points[0]),
        (points, Spent(3.5, 0, 1)),
        ([Spent(3.5, 1, 0)], points[0]),
    ):
        with pytest.raises(ValueError, match="FLOPs and seconds above 0"):
            multipliers(dense, arm)


@pytest.mark.parametrize(("runs", "of"), [(5, 5), (3, 6), (1, 4), (9, 2)])
def test_two_counts_of_runs_have_fishers_p(runs, of):
    for first in range(runs + 1):
        for second in range(of + 1):
            table = [[first, runs - first], [second, of - second]]
            wanted = scipy.stats.fisher_exact(table).pvalue
            assert p_of_counts(first, runs, second, of) == pytest.approx(wanted)
