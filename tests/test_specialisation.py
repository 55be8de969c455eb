"""Specialisation against scikit-learn, enumeration and plain loops."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.numerics import distinct_choices, domains_of_sequences
from moeviz.records.specialisation import (
    CoActivation,
    _traded,
    co_activation_beside_null,
    domain_information,
    mutual_information_of_counts,
    saturation,
    transitions,
)

NAN = float("nan")

# Information


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 5)), max_size=60), st.booleans())
def test_information_is_scikit_learns(pairs, padded):
    expert, domain = np.array(pairs, dtype=int).reshape(-1, 2).T
    if padded:  # a choice may be unserved, and a token have no domain
        known = (expert >= 0) & (domain >= 0)
    else:
        expert, domain = abs(expert), abs(domain)
        known = np.full(len(expert), True)
    count_DE = np.zeros((6, 4))
    np.add.at(count_DE, (domain[known], expert[known]), 1)
    got = domain_information(expert[:, None], domain, 4, 6, permutations=1)
    share = mutual_information_of_counts(count_DE)
    assert got.normalised == pytest.approx(share, nan_ok=True)
    if not known.any():
        assert all(math.isnan(value) for value in (share, *vars(got).values()))
        return
    value = sklearn.metrics.mutual_info_score(domain[known], expert[known])
    assert got.value == pytest.approx(value, abs=1e-12) and got.value >= 0
    # homogeneity is I(label; cluster) / H(label); of one label nothing can be told.
    one = len(set(domain[known])) < 2
    value = NAN if one else sklearn.metrics.homogeneity_score(domain[known], expert[known])
    assert share == pytest.approx(value, abs=1e-12, nan_ok=True)
    assert not one or (got.p_value == 1 and got.null_sd == 0)


def test_sequences_must_be_shuffled_whole():
    """Without dependence p is uniform so; shuffled singly, alike tokens all look special."""
    rng, whole, singly = np.random.default_rng(0), [], []
    for _ in range(200):
        expert, domain, group = domains_of_sequences(rng, 20, 20, 4, 0)
        for groups, found in ((group, whole), (None, singly)):
            got = domain_information(expert, domain, 4, 2, groups_T=groups, permutations=39)
            found.append(got.p_value)
    assert min(whole) >= 1 / 40 and scipy.stats.kstest(whole, "uniform").pvalue > 0.01
    assert np.mean(np.array(singly) <= 0.05) > 0.8


def test_dependence_is_found():
    expert, domain, group = domains_of_sequences(np.random.default_rng(0), 20, 20, 4, 1)
    for groups in (group, None):
        got = domain_information(expert, domain, 4, 2, groups_T=groups)
        assert got.p_value == pytest.approx(1 / 101)
        assert got.value > got.null_mean + 4 * got.null_sd > 0


def test_the_null_by_enumeration():
    # Four sequences, each true to one expert: of 4! orders 8 split the experts as the domains do.
    expert, domain = np.repeat([0, 0, 1, 1], 3), np.repeat([0, 0, 1, 1], 3)
    group = np.repeat([7, 3, 5, 9], 3)
    got = domain_information(expert[:, None], domain, 2, 2, groups_T=group, permutations=2000)
    orders = [
        sklearn.metrics.mutual_info_score(expert, np.repeat(order, 3))
        for order in itertools.permutations([0, 0, 1, 1])
    ]
    assert got.p_value == pytest.approx(8 / 24, abs=0.05)
    assert got.null_mean == pytest.approx(np.mean(orders), abs=0.05)
    assert got.null_sd == pytest.approx(np.std(orders), abs=0.03)


def test_unlabelled_tokens_do_not_count():
    expert, domain, group = domains_of_sequences(np.random.default_rng(0), 10, 6, 3, 0.5)
    got = domain_information(expert, domain, 3, 2, groups_T=group)
    # Padding: no domain, or no sequence.
    expert, domain = np.concatenate([expert, [[0]] * 4]), np.append(domain, [-1, -1, 0, 1])
    group = np.append(group, [0, 1, -1, -1])
    assert domain_information(expert, domain, 3, 2, groups_T=group) == got


# Choices


@settings(max_examples=60)
@given(st.integers(0, 12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_choices_against_sets_and_loops(T, K, other_K, seed):
    """Tables of different experts per token, a fifth of the choices unserved, and read-only."""
    rng, E = np.random.default_rng(seed), 6
    tables = []
    for k in (K, other_K):
        table = distinct_choices(rng, T, E, k)
        tables.append(np.where(rng.random(table.shape) < 0.2, -1, table).astype(np.int16))
        tables[-1].setflags(write=False)
    shares, times, pairs, steps = [], Counter(), Counter(), Counter()
    for rows in zip(*(table.tolist() for table in tables), strict=True):
        now, later = (set(row) - {-1} for row in rows)
        if now or later:
            shares.append(len(now & later) / max(len(now), len(later)))
        times.update(now)
        pairs.update(itertools.permutations(now, 2))
        steps.update(itertools.product(now, later))
    got = saturation(*tables)
    assert got == pytest.approx(np.mean(shares) if shares else NAN, nan_ok=True)
    together = co_activation_beside_null(tables[0], E, samples=1).together
    flow = transitions(*tables, E)
    for i, j in itertools.product(range(E), repeat=2):
        assert together[i, j] == pytest.approx(pairs[i, j] if i != j else NAN, nan_ok=True)
        leads = steps[i, j] / times[i] if times[i] else NAN
        assert flow[i, j] == pytest.approx(leads, nan_ok=True)


def test_meetings_by_loads_alone_by_enumeration():
    """Every table of four tokens and four experts with the same degrees, one choice unserved."""
    expert = np.array([[0, 1], [0, 1], [2, 0], [3, -1]])
    choices = [frozenset(some) for k in (1, 2) for some in itertools.combinations(range(4), k)]
    of_size = {k: [some for some in choices if len(some) == k] for k in (1, 2)}
    load = Counter(expert[expert >= 0].tolist())
    tables = [
        rows
        for rows in itertools.product(*(of_size[k] for k in (2, 2, 2, 1)))
        if Counter(e for row in rows for e in row) == load
    ]
    got = co_activation_beside_null(expert, 4, samples=2000)
    for i, j in itertools.permutations(range(4), 2):
        meetings = [sum(i in row and j in row for row in rows) for rows in tables]
        assert got.null_mean[i, j] == pytest.approx(np.mean(meetings), abs=0.06)
        assert got.null_sd[i, j] == pytest.approx(np.std(meetings), abs=0.06)
    assert got.together[0, 1] == 2 and np.isnan(got.together.diagonal()).all()
    assert got.lift[0, 1] == pytest.approx(2 / got.null_mean[0, 1])


def test_two_experts_that_chance_never_brings_together_have_no_lift():
    met, never = np.array([[NAN, 2.0], [2.0, NAN]]), np.zeros((2, 2))
    assert np.isnan(CoActivation(met, never, never).lift).all()


def test_a_trade_keeps_every_degree_and_forgets_the_rest():
    rng = np.random.default_rng(0)
    # Experts 2 i and 2 i + 1 always meet, and the first pair is ten times as popular.
    pair = rng.choice(8, 601, p=np.array([10] + [1] * 7) / 17)
    expert = np.stack([2 * pair, 2 * pair + 1], axis=1)
    traded = _traded(expert, rng)
    assert (np.sort(traded)[:, 1:] != np.sort(traded)[:, :-1]).all() and (traded != expert).any()
    load = [np.bincount(table.ravel(), minlength=16) for table in (expert, traded)]
    np.testing.assert_array_equal(*load)
    got = co_activation_beside_null(expert, 16)
    # The popular pair meets little more often than it must.
    assert got.lift[0, 1] < 3 < 5 < got.lift[14, 15]
    far = got.lift[2, 4]
    assert far == 0 and abs(got.null_mean[2, 4] - got.null_mean[2, 5]) < 1


# Refusals

TWO = [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: co_activation_beside_null(TWO, 2, samples=0), "samples must be a whole"),
        (lambda: co_activation_beside_null([0, 1], 2), r"expert_TK must be an array \[T, K\]"),
        (
            lambda: co_activation_beside_null([[0.5]], 2),
            "expert_TK must hold integers, got float64",
        ),
        (
            lambda: co_activation_beside_null([[-2]], 2),
            "expert_TK must hold finite .* in -1..1, got -2",
        ),
        (lambda: co_activation_beside_null(TWO, 1), "expert_TK must hold .* in -1..0, got 1"),
        (lambda: domain_information(TWO, [0], 2, 2), "expert_TK and domain_T and .* 2 and 1"),
        (lambda: domain_information(TWO, [0, 2], 2, 2), "domain_T must hold .* in -1..1, got 2"),
        (lambda: domain_information(TWO, [0, 1], 2, 2, groups_T=[0]), "equally long"),
        (
            lambda: domain_information([[0]] * 4, [0, 0, 0, 1], 2, 2, groups_T=[4, 4, 7, 7]),
            "A sequence must have one domain, sequence 7 has more",
        ),
        (
            lambda: domain_information(TWO, [0, 1], 2, 2, permutations=0),
            "permutations must be a whole",
        ),
        (lambda: saturation(TWO, [[0]]), "expert_TK and final_TK must be equally long"),
        (lambda: transitions(TWO, [[0]], 2), "earlier_TK and later_TK must be equally long"),
        (lambda: transitions(TWO, [[0], [2]], 2), "later_TK must hold .* in -1..1, got 2"),
        (lambda: mutual_information_of_counts([1, 2]), r"count_DE must be an array \[D, E\]"),
        (lambda: mutual_information_of_counts(np.zeros((3, 0))), r"count_DE .* not empty"),
        (lambda: mutual_information_of_counts([[NAN]]), "count_DE must hold finite .* got nan"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
