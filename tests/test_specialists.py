"""Specialists, lift and locality against plain loops, enumeration and what must hold of any."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.numerics import distinct_choices, domains_of_sequences
from moeviz.records.locality import (
    distinct_experts,
    distinct_experts_if_even,
    distinct_experts_of_strangers,
    repeat_rate,
)
from moeviz.records.specialisation import domain_information
from moeviz.records.specialists import (
    EFFECT,
    FALSE_DISCOVERIES,
    domain_lift,
    lift_beside_null,
    replication,
    specialist_share,
    specialists,
)

NAN = float("nan")


def table(rng, T, E, K, D):
    """Choices of tokens, a tenth of them unserved, and domains, none of them empty."""
    expert = distinct_choices(rng, T, E, K)
    return np.where(rng.random(expert.shape) < 0.1, -1, expert), np.arange(T) % D


def shares(expert, domain, E, D):
    """P(e | d) by counting, [D][E]; None where a domain has no served choice."""
    rows = []
    for d in range(D):
        served = [e for row in expert[domain == d].tolist() for e in row if e >= 0]
        if not served:
            return None
        rows.append([served.count(e) / len(served) for e in range(E)])
    return rows


def share_by_loops(expert, domain, E, D):
    rows = shares(expert, domain, E, D)
    if rows is None:
        return NAN
    special, used = 0, 0
    for of_expert in zip(*rows, strict=True):
        used += sum(of_expert) > 0
        special += max(of_expert) >= 0.45 * sum(of_expert) - 1e-12 and sum(of_expert) > 0
    return special / used


# Lift and specialists

sizes = (st.integers(4, 40), st.integers(2, 6), st.integers(1, 2), st.integers(2, 4))


@settings(max_examples=40)
@given(*sizes, st.integers(0, 2**32 - 1))
def test_lift_and_specialists_against_loops(T, E, K, D, seed):
    expert, domain = table(np.random.default_rng(seed), T, E, K, D)
    count = np.array(
        [[(expert[domain == d] == e).sum() for e in range(E)] for d in range(D)], float
    )
    lift, rows = domain_lift(count), shares(expert, domain, E, D)
    for d, e in itertools.product(range(D), range(E)):
        total = 0 if rows is None else sum(row[e] for row in rows)
        assert lift[d, e] == pytest.approx(D * rows[d][e] / total if total else NAN, nan_ok=True)
    want = share_by_loops(expert, domain, E, D)
    assert specialist_share(count) == pytest.approx(want, nan_ok=True)
    # However many tokens each domain has: they weigh the same.
    scaled = count * np.arange(1, D + 1)[:, None]
    np.testing.assert_allclose(domain_lift(scaled), lift, rtol=1e-9)
    # A domain's largest lift is D, where it alone uses the expert.
    assert not (lift > D + 1e-9).any()


@settings(max_examples=40)
@given(*sizes, st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_specialists_of_stretches_against_loops(T, E, K, D, tokens, seed):
    expert, domain = table(np.random.default_rng(seed), T, E, K, D)
    own = [expert[domain == d] for d in range(D)]
    real, null = [], []
    for start in range(0, min(map(len, own)) - tokens + 1, tokens):
        part = np.concatenate([rows[start : start + tokens] for rows in own])
        real.append(share_by_loops(part, np.repeat(np.arange(D), tokens), E, D))
    for rows in own:
        for start in range(0, len(rows) - D * tokens + 1, D * tokens):
            part = rows[start : start + D * tokens]
            null.append(share_by_loops(part, np.repeat(np.arange(D), tokens), E, D))
    got = specialists(expert, domain, E, D, tokens=tokens)
    assert got.value == pytest.approx(np.mean(real) if real else NAN, nan_ok=True)
    assert got.null == pytest.approx(np.mean(null) if null else NAN, nan_ok=True)


def test_few_tokens_make_specialists_out_of_noise_and_many_do_not():
    """The exhibit: routing that knows no domain, at two sizes of a sample."""
    rng = np.random.default_rng(0)
    expert, domain = distinct_choices(rng, 16_000, 64, 6), np.repeat(np.arange(4), 4000)
    few, many = (specialists(expert, domain, 64, 4, tokens=n) for n in (16, 1000))
    assert few.value > 0.4 and few.null > 0.4 and few.value == pytest.approx(few.null, abs=0.05)
    assert many.value < 0.01 and many.null < 0.01


def test_the_null_of_lift_by_enumeration():
    """Every order of four sequences' domains, counted one by one."""
    expert, domain, group = domains_of_sequences(np.random.default_rng(3), 4, 6, 3, 0.5)
    got = lift_beside_null(expert, domain, group, 3, 2, permutations=4000)
    orders = [
        domain_lift([[(expert[np.array(order)[group] == d] == e).sum() for e in range(3)]
                     for d in range(2)])
        for order in itertools.permutations([0, 1, 0, 1])
    ]  # fmt: skip
    np.testing.assert_allclose(got.null_mean, np.mean(orders, 0), atol=0.05)
    np.testing.assert_allclose(got.null_sd, np.std(orders, 0), atol=0.05)
    reached = np.mean([order >= got.lift - 1e-12 for order in orders], 0)
    np.testing.assert_allclose(got.p_value, reached, atol=0.05)
    assert got.q_value == pytest.approx(
        scipy.stats.false_discovery_control(got.p_value.ravel()).reshape(2, 3)
    )


def test_likings_are_found_where_they_are_and_not_where_sequences_only_differ():
    """Without dependence a discovery is rare in a table, however alike a sequence's tokens are."""
    any_found = []
    for seed in range(60):
        data = domains_of_sequences(np.random.default_rng(seed), 30, 20, 4, 0)
        q_value = lift_beside_null(*data, 4, 2, permutations=200).q_value
        any_found.append((q_value <= FALSE_DISCOVERIES).any())  # of whatever size
    assert np.mean(any_found) < 0.15
    expert, domain, group = domains_of_sequences(np.random.default_rng(0), 30, 20, 4, 0.9)
    got = lift_beside_null(expert, domain, group, 4, 2)
    np.testing.assert_array_equal(got.found(), [[1, 0, 0, 0], [0, 1, 0, 0]])
    small = dataclasses.replace(got, lift=got.lift / got.lift.max() * (EFFECT - 0.01))
    assert not small.found().any(), "certain, and yet too small to be told"


def test_a_single_liking_among_many_cells_can_be_found():
    """With few shuffles the least p, times the number of cells, would be above any rate."""
    rng = np.random.default_rng(0)
    domain_G = np.arange(80) % 4
    group = np.repeat(np.arange(80), 30)
    expert = rng.integers(1, 64, len(group))
    expert[(domain_G[group] == 2) & (rng.random(len(group)) < 0.3)] = 0
    got = lift_beside_null(expert[:, None], domain_G[group], group, 64, 4)
    np.testing.assert_array_equal(np.argwhere(got.found()), [[2, 0]])


def test_unused_experts_have_no_lift():
    data = domains_of_sequences(np.random.default_rng(0), 10, 5, 3, 0.5)
    got = lift_beside_null(*data, 4, 2, permutations=50)
    for column in (got.lift, got.p_value, got.q_value):
        assert np.isnan(column[:, 3]).all() and not np.isnan(column[:, :3]).any()
    assert not got.found()[:, 3].any()


def test_halves_replicate_what_is_there_and_noise_as_chance_has_it():
    def of(dependence, seed):
        data = domains_of_sequences(np.random.default_rng(seed), 40, 20, 8, dependence)
        return replication(*data, 8, 2)

    real, noise = of(0.9, 0), [of(0, seed) for seed in range(40)]
    assert real.both >= 2 > 2 * real.by_chance and real.correlation > 0.5
    assert np.mean([r.both for r in noise]) == pytest.approx(
        np.mean([r.by_chance for r in noise]), abs=1
    )
    assert abs(np.mean([r.correlation for r in noise])) < 0.15


def test_halves_by_hand():
    """Domain 0 likes expert 0 in both halves; domain 1 likes 1 in the first, 2 in the second."""
    group, domain = np.repeat(np.arange(4), 4), np.repeat([0, 1, 0, 1], 4)
    expert = [[0]] * 4 + [[1]] * 4 + [[0]] * 4 + [[2]] * 4
    got = replication(expert, domain, group, 3, 2)
    # In each half two likings of six; one is the same, by chance two thirds of one.
    assert (got.first, got.second, got.both) == (2, 2, 1)
    assert got.by_chance == pytest.approx(2 / 3)
    # Expert 0 alone was chosen in both, and liked alike.
    assert got.correlation == pytest.approx(1)


# Neighbours and batches


@settings(max_examples=60)
@given(
    st.integers(0, 12), st.integers(2, 6), st.integers(1, 2), st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_repeats_and_batches_against_sets(T, E, K, batch, seed):
    rng = np.random.default_rng(seed)
    expert, _ = table(rng, T, E, K, 1)
    groups = np.sort(rng.integers(0, 3, T))
    sets = [set(row) - {-1} for row in expert.tolist()]
    pairs = [
        (a, b)
        for a, b, near in zip(sets, sets[1:], groups[1:] == groups[:-1], strict=False)
        if near
    ]
    repeats = [len(a & b) / max(len(a), len(b)) for a, b in pairs if a or b]
    got = repeat_rate(expert, E, groups_T=groups)
    served = [s for s in sets if s]
    if served:
        assert got.value == pytest.approx(np.mean(repeats) if repeats else NAN, nan_ok=True)
        chance = np.sum([len(a & b) for a in served for b in served]) / len(served)
        assert got.chance == pytest.approx(chance / sum(map(len, served)))
        of_text = [
            (len(a & b), len(a))
            for (i, a), (j, b) in itertools.permutations(enumerate(sets), 2)
            if a and b and groups[i] == groups[j]
        ]
        shared, choices = np.sum(of_text, axis=0) if of_text else (0, 0)
        in_text = shared / choices if choices else NAN
        assert got.in_text == pytest.approx(in_text, nan_ok=True)
    else:
        assert math.isnan(got.value) and math.isnan(got.chance) and math.isnan(got.in_text)
    batches = [set().union(*sets[i : i + batch]) for i in range(0, T - batch + 1, batch)]
    got = distinct_experts(expert, E, batch)
    assert got == pytest.approx(np.mean([len(b) for b in batches]) if batches else NAN, nan_ok=True)
    drawn = [len(set().union(*some)) for some in itertools.combinations(sets, batch)]
    visits = [sum(e in s for s in sets) for e in range(E)]
    if T:
        got = distinct_experts_of_strangers(visits, T, batch)
        assert got == pytest.approx(np.mean(drawn) if drawn else NAN, nan_ok=True)


def test_the_formula_of_even_routing():
    for E, K, batch in ((4, 1, 1), (4, 2, 3), (64, 6, 32)):
        # Of the E choices of K, by the chance that nobody of the batch picks an expert.
        missed = math.comb(E - 1, K) / math.comb(E, K)
        want = E * (1 - missed**batch)
        assert distinct_experts_if_even(E, K, batch) == pytest.approx(want)
    # Strangers of even loads touch as many, but for drawing without repetition.
    even = distinct_experts_of_strangers(np.full(64, 6000), 64_000, 32)
    assert even == pytest.approx(distinct_experts_if_even(64, 6, 32), rel=1e-3)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: domain_lift([1, 2]), r"count_DE must be an array \[D, E\]"),
        (lambda: specialist_share([[1, NAN]]), "must hold finite"),
        (lambda: specialists([[0]], [0], 1, 1, tokens=0), "tokens must be a whole"),
        (lambda: specialists([[0]], [0, 0], 1, 1, tokens=1), "equally long"),
        (
            lambda: lift_beside_null([[0]] * 2, [0, 1], [5, 5], 1, 2),
            "A sequence must have one domain, sequence 5 has more",
        ),
        (
            lambda: replication([[0]] * 3, [0, 0, 1], [0, 1, 2], 1, 2),
            "at least two sequences to be halved, domain 1 has 1",
        ),
        (lambda: repeat_rate([[0]], 1, groups_T=[0, 1]), "equally long"),
        (lambda: repeat_rate([[3]], 2), r"in -1..1, got 3"),
        (lambda: distinct_experts([[0]], 1, 0), "batch must be a whole"),
        (lambda: distinct_experts_of_strangers([5], 4, 1), "num_tokens must be .* at least 5"),
        (lambda: distinct_experts_of_strangers([5], 5, 0), "batch must be a whole"),
        (lambda: distinct_experts_if_even(4, 5, 1), "top_k must be .* at most 4"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_shuffled_sequences_are_the_same_null_as_that_of_information():
    """Both nulls come from whole sequences: a likeness within sequences alone is no finding."""
    data = domains_of_sequences(np.random.default_rng(1), 20, 30, 4, 0)
    expert, domain, group = data
    p = domain_information(expert, domain, 4, 2, groups_T=group).p_value
    singly = domain_information(expert, domain, 4, 2).p_value
    assert singly < 0.02 < p
    assert not lift_beside_null(*data, 4, 2).found().any()
