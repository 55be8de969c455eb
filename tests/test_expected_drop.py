"""The closed form of dropping, against scipy, against drawing, and against the real router."""

import numpy as np
import pytest
import scipy.stats

from moeviz.records.metrics import expected_drop_rate

EVEN, ZIPF = np.ones(8) / 8, np.arange(1, 9) ** -1.0 / (np.arange(1, 9) ** -1.0).sum()


def by_scipy(share_E, num_assignments, places):
    n = np.arange(num_assignments + 1)
    over = np.maximum(n - places, 0)
    lost = sum((scipy.stats.binom.pmf(n, num_assignments, p) * over).sum() for p in share_E)
    return lost / (num_assignments * np.sum(share_E))


@pytest.mark.parametrize("share", [EVEN, ZIPF, [1.0, 0.0], [0.5, 0.5], [1.0], [1e-12, 1 - 1e-12]])
@pytest.mark.parametrize(("total", "places"), [(1, 1), (7, 2), (64, 10), (64, 10.5), (4096, 512)])
def test_it_is_the_sum_over_the_binomial(share, total, places):
    wanted = by_scipy(share, total, places)
    assert expected_drop_rate(share, total, places) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("share", [EVEN, ZIPF])
@pytest.mark.parametrize(("total", "places"), [(64, 8), (256, 40)])
def test_it_is_what_drawing_gives(share, total, places):
    demand_RE = np.random.default_rng(0).multinomial(total, share, size=20_000)
    rates = np.maximum(demand_RE - places, 0).sum(1) / total
    error = rates.std() / np.sqrt(len(rates))
    assert abs(rates.mean() - expected_drop_rate(share, total, places)) < 4 * error


def test_its_ends():
    assert expected_drop_rate(EVEN, 100, 0) == pytest.approx(1)
    assert expected_drop_rate(ZIPF, 100, 100) == expected_drop_rate(ZIPF, 100, 1e9) == 0
    assert expected_drop_rate([1, 0, 0], 90, 30) == pytest.approx(2 / 3)
    assert np.isnan(expected_drop_rate([0.0, 0.0], 5, 1))


@pytest.mark.parametrize(
    ("share", "total", "places", "sentence"),
    [
        ([], 4, 1, "share_E must be an array"),
        ([0.5, 1.5], 4, 1, r"share_E must hold finite numbers in 0..1, got 1.5"),
        ([0.5, np.nan], 4, 1, "share_E must hold finite numbers"),
        ([1.0], 0, 1, "num_assignments must be a whole number of at least 1, got 0"),
        ([1.0], 4, -1, "capacity must be a finite number of at least 0, got -1"),
        ([1.0], 4, np.nan, "capacity must be a finite number of at least 0, got nan"),
    ],
)
def test_what_it_refuses(share, total, places, sentence):
    with pytest.raises(ValueError, match=sentence):
        expected_drop_rate(share, total, places)
