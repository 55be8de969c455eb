"""Sparse models on the scale of dense ones, against straight lines, root finding and polyfit."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, least_squares
from scipy.stats import f, linregress, t

from moeviz.records.compare import compare
from moeviz.records.frontier import STEPS, DenseRow, exponent, exponent_of_line, with_floor

WIDTHS = (128, 256, 512, 1024)
losses = st.lists(st.floats(2, 4), min_size=5, max_size=5)


def row(fall=0.1, seeds=5, luck=0.02):
    """0.1 lower with each doubling, the same for every seed but for its own luck."""
    return [[3.2 - fall * i + luck * seed for seed in range(seeds)] for i in range(len(WIDTHS))]


def test_between_two_places_a_loss_lies_on_a_line_over_the_logarithm():
    dense = DenseRow(WIDTHS, row())
    assert dense.at(128 * 2**0.25) == pytest.approx([3.175 + 0.02 * s for s in range(5)])
    assert dense.at(1024) == pytest.approx(row()[3])
    assert dense.at(127) is None and dense.at(1025) is None
    shuffled = DenseRow(WIDTHS[::-1], row()[::-1])
    assert shuffled.at(300) == pytest.approx(dense.at(300))


@given(losses, st.integers(0, 999))
def test_the_place_of_equal_loss_is_where_the_means_meet_and_the_interval_where_zero_is(own, seed):
    rng = np.random.default_rng(seed)
    dense_WN = np.sort(rng.uniform(2, 4, len(WIDTHS)))[::-1, None] + rng.normal(0, 0.05, (4, 5))
    dense = DenseRow(WIDTHS, dense_WN)
    found = dense.of_equal_loss(own)

    def gap(place):
        return compare(own, dense.at(place))

    ends = [gap(place).mean for place in (128, 1024)]
    if found.value is not None:
        assert gap(found.value).mean == pytest.approx(0, abs=2e-3)
    elif ends[0] <= 0 <= ends[1]:
        pytest.fail("the means meet, and no place was found")
    assert found.better == all(gap(place).mean < 0 for place in np.geomspace(128, 1024, 400))
    for end in (found.low, found.high):
        if end is not None and end != found.value:
            assert gap(end).low <= 1e-9 and gap(end).high >= -1e-9


def test_the_place_against_a_root_finder_where_losses_fall():
    own = [3.03 + 0.02 * seed + 0.001 * (seed % 2) for seed in range(5)]
    dense = DenseRow(WIDTHS, row())
    found = dense.of_equal_loss(own)
    root = brentq(lambda w: compare(own, dense.at(w)).mean, 128, 1024)
    low = brentq(lambda w: compare(own, dense.at(w)).high, 128, 1024)
    high = brentq(lambda w: compare(own, dense.at(w)).low, 128, 1024)
    assert found.value == pytest.approx(root, rel=1e-3)
    # The ends are of a grid of 60 places between two widths.
    assert found.low == pytest.approx(low, rel=0.02) and found.high == pytest.approx(high, rel=0.02)
    assert found.words() == f"{found.value:,.0f} ({found.low:,.0f} to {found.high:,.0f})"


@pytest.mark.parametrize(
    ("loss", "better", "words"),
    [(2.0, True, "above 1,024, the widest"), (4.0, False, "below 128, the narrowest")],
)
def test_nothing_is_extrapolated(loss, better, words):
    found = DenseRow(WIDTHS, row()).of_equal_loss([loss + 0.02 * s for s in range(5)])
    assert found.value is None and found.better == better and found.words().startswith(words)


def test_where_every_seed_has_the_same_gap_the_place_is_its_own_interval():
    """Between the places that are looked at, where nothing is zero to within its interval."""
    found = DenseRow(WIDTHS, row()).of_equal_loss([3.17 + 0.02 * s for s in range(5)])
    assert found.low == found.value == found.high == pytest.approx(128 * 2**0.3)


@pytest.mark.parametrize("step", [1, -2])
def test_an_interval_may_end_at_the_place_beside_the_narrowest_or_the_widest(step):
    """It is within what is recorded; where an interval ends at the last place, nobody knows."""
    edge = WIDTHS[:2] if step > 0 else WIDTHS[-2:]
    place = float(np.geomspace(*edge, STEPS)[step])
    found = DenseRow(WIDTHS, row()).of_equal_loss(DenseRow(WIDTHS, row()).at(place))
    assert found.low == found.high == place


def test_an_interval_that_leaves_the_recorded_widths_says_so():
    own = [2.91, 2.93, 2.90, 3.0, 2.98]
    assert DenseRow(WIDTHS, row()).of_equal_loss(own).words().endswith(" to above 1,024)")
    one = DenseRow(WIDTHS, row(seeds=1)).of_equal_loss([3.0])
    assert one.words() == "any from 128 to 1,024"


@pytest.mark.parametrize(
    ("places", "rows", "sentence"),
    [
        ((128,), [[3.0]], "give a row of seeds for each of at least two places, got 1"),
        ((128, 256), [[3.0]], "has the shape"),
        ((128, 128), [[3.0], [2.9]], "must all differ"),
        ((0, 128), [[3.0], [2.9]], "must hold finite numbers"),
    ],
)
def test_what_is_no_row_is_refused(places, rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        DenseRow(places, rows)


@given(st.integers(0, 999), st.floats(-0.2, 0.2))
def test_the_exponent_is_that_of_a_line_through_logarithms(seed, slope):
    rng = np.random.default_rng(seed)
    counts_E = np.unique(rng.integers(2, 300, 6)).astype(float)
    if len(counts_E) < 3:
        return
    losses_EN = 3 * counts_E[:, None] ** -slope * rng.uniform(0.99, 1.01, (len(counts_E), 4))
    found = exponent(counts_E, losses_EN)
    fits = [-np.polyfit(np.log(counts_E), np.log(seed_E), 1)[0] for seed_E in losses_EN.T]
    assert found.values == pytest.approx(fits, abs=1e-9)
    assert found.mean == pytest.approx(np.mean(fits)) and found.low <= found.mean <= found.high


def test_a_pure_power_gives_its_exponent_back():
    counts = np.array([4.0, 16.0, 64.0])
    assert exponent(counts, [[3 * n**-0.05] * 2 for n in counts]).mean == pytest.approx(0.05)
    assert math.isinf(exponent(counts, [[3.0], [2.9], [2.8]]).high)


@given(st.integers(3, 7), st.integers(0, 999))
def test_the_exponent_of_one_curve_and_its_interval_are_those_of_scipys_line(sizes, seed):
    rng = np.random.default_rng(seed)
    counts, losses = rng.uniform(2, 300, sizes), rng.uniform(2, 4, sizes)
    line = linregress(np.log(counts), np.log(losses))
    reach = line.stderr * t.ppf(0.975, sizes - 2)
    assert exponent_of_line(counts, losses) == pytest.approx((-line.slope, reach), rel=1e-6)


def test_two_sizes_have_no_line_with_an_interval():
    with pytest.raises(ValueError, match="needs three sizes at least, got 2"):
        exponent_of_line([4, 8], [3.0, 2.9])


@given(st.floats(0.2, 1.5), st.floats(0.5, 3), st.floats(0.3, 2), st.integers(0, 99))
def test_a_floor_is_found_again_and_lies_in_its_interval(power, floor, a, seed):
    counts = np.array([4, 8, 16, 32, 64, 128])
    level_N = np.random.default_rng(seed).normal(0, 0.1, 3)
    level_N -= level_N.mean()
    loss_EN = floor + a * counts[:, None] ** -power + level_N
    found = with_floor(counts, loss_EN)
    assert found.floor == pytest.approx(floor, abs=0.02 * a)
    assert found.power == pytest.approx(power, rel=0.03)
    noise = 0.01 * a * np.random.default_rng(seed + 1).standard_normal(loss_EN.shape)
    noisy = with_floor(counts, loss_EN + noise)
    assert noisy.low <= noisy.floor <= noisy.high or noisy.floor < 0


def test_the_ends_of_a_floor_are_where_scipys_best_fit_with_it_is_as_bad_as_f_allows():
    counts = np.array([4.0, 8, 16, 32, 64, 128, 256])
    noise = 0.004 * np.random.default_rng(3).standard_normal(7)
    loss = 2.0 + 1.5 * counts**-0.6 + noise
    found = with_floor(counts, loss[:, None])

    def left(floor):
        def of(ab):
            return floor + ab[0] * counts ** -ab[1] - loss

        return 2 * least_squares(of, (1.5, 0.6)).cost

    best = 2 * least_squares(lambda p: p[0] + p[1] * counts ** -p[2] - loss, (2, 1.5, 0.6)).cost
    limit = best * (1 + f.ppf(0.95, 1, 4) / 4)
    low, high = (
        brentq(lambda v: left(v) - limit, *ends)
        for ends in ((1.5, found.floor), (found.floor, 2.05))
    )
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-3)


def test_a_straight_line_in_the_logarithm_has_no_floor_and_few_sizes_have_no_fit():
    counts = np.array([4, 8, 16, 32, 64])
    noise = 0.01 * np.random.default_rng(0).standard_normal((5, 3))
    assert with_floor(counts, 3.0 - 0.05 * np.log(counts)[:, None] + noise).low == 0
    with pytest.raises(ValueError, match="four counts at least, got 3"):
        with_floor(counts[:3], np.ones((3, 1)))
    with pytest.raises(ValueError, match="give a row for each count"):
        with_floor(counts, np.ones(5))
