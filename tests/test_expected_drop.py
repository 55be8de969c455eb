"""The closed form of dropping, against scipy, against drawing, and against the real router."""

import numpy as np
import pytest
import scipy.stats

from moeviz.records.metrics import drop_rate, expected_drop_rate

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


def test_tokens_with_k_distinct_experts():
    """First choice by ZIPF, the second evenly among the others: visits sum to 2."""
    visit_E = ZIPF + (1 - ZIPF) / 7
    rng, tokens, places = np.random.default_rng(1), 64, 20
    rates = []
    for _ in range(3000):
        first_T = rng.choice(8, size=tokens, p=ZIPF)
        second_T = (first_T + rng.integers(1, 8, size=tokens)) % 8
        demand_E = np.bincount([*first_T, *second_T], minlength=8)
        rates.append(drop_rate(demand_E, np.minimum(demand_E, places)))
    error = np.std(rates) / np.sqrt(len(rates))
    assert abs(np.mean(rates) - expected_drop_rate(visit_E, tokens, places)) < 4 * error


def test_its_ends():
    assert expected_drop_rate(EVEN, 100, 0) == pytest.approx(1)
    assert expected_drop_rate(ZIPF, 100, 100) == expected_drop_rate(ZIPF, 100, 1e9) == 0
    assert expected_drop_rate([1, 0, 0], 90, 30) == pytest.approx(2 / 3)
    assert np.isnan(expected_drop_rate([0.0, 0.0], 5, 1))


def test_figures_of_others():
    """Simulations of 4,096 tokens (E = 8, K = 1): even 1.7 % at factor 1 and none at 1.25; Zipf
    24 % at 1.25 and 12 % at 2; one expert with 70 % of the tokens, 54 % at 1.25."""

    def at(share, factor):
        return round(100 * expected_drop_rate(share, 4096, factor * 512))

    collapsed = np.array([0.7] + [0.3 / 7] * 7)
    assert at(EVEN, 1) == 2 and at(EVEN, 1.25) == 0
    assert at(ZIPF, 1.25) == 24 and at(ZIPF, 2) == 12
    assert at(collapsed, 1.25) == 54


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
