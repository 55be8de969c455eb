"""Metrics against closed forms, scipy, scikit-learn and plain loops."""

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moeviz.records.metrics import (
    churn,
    co_activation,
    coefficient_of_variation,
    collapsed,
    confidence,
    dead_experts,
    dead_fraction,
    domain_information,
    drop_rate,
    effective_experts,
    gap,
    gate_entropy,
    gate_margin,
    gini,
    last_common,
    linear_cka,
    load_entropy,
    max_violation,
    mutual_information,
    mutual_information_tokens,
    noise_floor,
    padding_waste,
    saturation,
    transitions,
    unserved,
    validation_at,
)
from moeviz.records.runs import Curve

NAN = float("nan")


def curve(steps, validation):
    steps = np.array(steps, dtype=float)
    return Curve(
        step=steps,
        seconds=steps * 2,
        flops=steps * 1e6,
        loss=np.ones_like(steps),
        load=np.zeros((len(steps), 0, 0)),
        validation=np.array(validation, dtype=float),
    )


@pytest.mark.parametrize("E", [1, 2, 7, 64])
def test_even_load_and_total_collapse(E):
    even, one = np.full(E, 13), np.eye(E, dtype=int)[E - 1] * 13
    assert max_violation(even) == 0 and effective_experts(even) == pytest.approx(E)
    assert max_violation(one) == pytest.approx(E - 1) and effective_experts(one) == 1


@pytest.mark.parametrize("used", [1, 2, 5])
def test_a_few_equal_experts_count_as_so_many(used):
    load = np.array([3] * used + [0] * (8 - used))
    assert effective_experts(load) == pytest.approx(used)
    assert max_violation(load) == pytest.approx(8 / used - 1)


def test_uneven_load_by_hand():
    load = np.array([4.0, 2.0, 1.0, 1.0])
    # Shares 1/2, 1/4, 1/8, 1/8: an entropy of 1.75 bits.
    assert effective_experts(load) == pytest.approx(2**1.75)
    assert max_violation(load) == pytest.approx(1.0)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20), st.integers(1, 50))
def test_bounds_scale_and_order(counts, factor):
    load = np.array(counts)
    if not load.sum():
        assert math.isnan(max_violation(load)) and math.isnan(effective_experts(load))
        return
    assert -1e-9 <= max_violation(load) <= len(load) - 1 + 1e-9
    assert 1 - 1e-9 <= effective_experts(load) <= np.count_nonzero(load) + 1e-9
    for metric in (max_violation, effective_experts):
        assert metric(load * factor) == pytest.approx(metric(load))
        assert metric(load[::-1]) == pytest.approx(metric(load))
        assert metric(load / load.sum()) == pytest.approx(metric(load))


def test_validation_is_linear_between_measurements_and_unknown_outside():
    made = curve([1, 2, 3, 4, 5], [NAN, 3.0, NAN, 1.0, NAN])
    for axis, unit in (("step", 1), ("seconds", 2), ("flops", 1e6)):
        assert validation_at(made, axis, 2 * unit) == 3.0
        assert validation_at(made, axis, 2.5 * unit) == pytest.approx(2.5)
        assert validation_at(made, axis, 4 * unit) == 1.0
        assert math.isnan(validation_at(made, axis, 1.9 * unit))
        assert math.isnan(validation_at(made, axis, 4.1 * unit))


@pytest.mark.parametrize("steps,losses", [([], []), ([1, 2], [NAN, NAN])])
def test_where_nothing_was_measured_nothing_is_known(steps, losses):
    made, known = curve(steps, losses), curve([1], [2.0])
    assert math.isnan(validation_at(made, "step", 1))
    assert math.isnan(last_common([made], "step"))
    assert math.isnan(last_common([known, made], "step"))
    assert math.isnan(gap(known, made, "step")) and math.isnan(gap(made, known, "step"))


def test_the_race_is_read_where_both_have_been():
    slow, fast = curve([1, 2, 3], [5.0, 4.0, NAN]), curve([1, 5], [5.0, 1.0])
    assert last_common([slow, fast], "step") == 2
    assert last_common([slow, fast], "seconds") == 4
    assert math.isnan(last_common([], "step"))
    # The first at step 2: 4; the second there, between 5 at step 1 and 1 at step 5: 4.
    assert gap(slow, fast, "step") == pytest.approx(0.0)
    assert gap(curve([1, 2], [5.0, 4.5]), fast, "step") == pytest.approx(0.5)
    assert gap(fast, curve([1, 2], [5.0, 4.5]), "step") == pytest.approx(-0.5)


def choices(rng, T, E, K):
    """K different experts per token, at random."""
    return rng.permuted(np.tile(np.arange(E), (T, 1)), axis=1)[:, :K]


# Balance of load

LOADS = st.lists(st.integers(0, 1000), min_size=1, max_size=20).map(np.array)


def test_noise_floor_formula():
    # T 2048, E 16, K 2: sqrt(2 ln 16) = 2.3548 and sqrt(16 / 4096) = 1 / 16.
    assert noise_floor(2048, 16, 2) == pytest.approx(2.3548 / 16, rel=1e-4)
    assert noise_floor(100, 1, 1) == 0
    assert noise_floor(4 * 300, 8, 1) == pytest.approx(noise_floor(300, 8, 1) / 2)
    assert noise_floor(300, 8, 4) == pytest.approx(noise_floor(300, 8, 1) / 2)


@pytest.mark.parametrize(
    "T,E,K,low,high",
    # Measured ratios of floor to mean: 1.36, 1.46, 1.27, 1.14, 1.92 and, no longer useful, 2.7.
    [
        (2048, 16, 2, 1.25, 1.5),
        (256, 8, 1, 1.3, 1.6),
        (512, 64, 8, 1.15, 1.4),
        (640, 64, 1, 1.05, 1.25),
        (512, 8, 4, 1.75, 2.1),
        (512, 8, 6, 2.4, 3.1),
    ],
)
def test_noise_floor_lies_above_an_even_random_router(T, E, K, low, high):
    rng = np.random.default_rng(0)
    loads = (np.bincount(choices(rng, T, E, K).ravel(), minlength=E) for _ in range(200))
    seen = np.array([max_violation(load) for load in loads])
    floor = noise_floor(T, E, K)
    assert low * seen.mean() < floor < high * seen.mean()
    assert (seen > floor).mean() < 0.25


def test_noise_floor_is_too_low_where_experts_expect_one_assignment():
    rng = np.random.default_rng(0)
    seen = [max_violation(np.bincount(rng.integers(0, 64, 64), minlength=64)) for _ in range(300)]
    assert noise_floor(64, 64, 1) < np.mean(seen)


@pytest.mark.parametrize("E", [1, 2, 7, 64])
def test_spread_of_an_even_load_and_of_total_collapse(E):
    even, one = np.full(E, 13), np.eye(E, dtype=int)[E // 2] * 13
    assert coefficient_of_variation(even) == 0 == gini(even)
    assert load_entropy(even) == pytest.approx(1)
    assert dead_experts(even) == 0 == dead_fraction(even)
    assert coefficient_of_variation(one) == pytest.approx(math.sqrt(E - 1))
    assert gini(one) == pytest.approx((E - 1) / E)
    assert load_entropy(one) == (0 if E > 1 else 1)
    assert dead_experts(one) == E - 1 and dead_fraction(one) == pytest.approx((E - 1) / E)


def test_without_load_there_is_no_balance():
    for metric in (coefficient_of_variation, gini, load_entropy, dead_fraction):
        assert math.isnan(metric([0, 0, 0])) and math.isnan(metric([0]))
    assert dead_experts([0, 0, 0]) == 0
    assert math.isnan(drop_rate([0, 0], [0, 0]))


@settings(max_examples=60, deadline=None)
@given(LOADS.filter(np.any))
def test_balance_against_plain_formulas(load):
    E, mean = len(load), sum(load.tolist()) / len(load)
    differences = sum(abs(a - b) for a in load.tolist() for b in load.tolist())
    assert gini(load) == pytest.approx(differences / (2 * E * E * mean))
    assert coefficient_of_variation(load) == pytest.approx(scipy.stats.variation(load))
    expected = scipy.stats.entropy(load) / math.log(E) if E > 1 else 1
    assert load_entropy(load) == pytest.approx(expected, abs=1e-12)
    assert dead_experts(load, 0.5) == sum(2 * one < mean for one in load.tolist())


@settings(max_examples=60, deadline=None)
@given(LOADS.filter(np.any), st.integers(1, 50), st.randoms(use_true_random=False))
def test_balance_ranges_scale_and_order(load, factor, random):
    E, shuffled = len(load), load.tolist()
    random.shuffle(shuffled)
    ranges = {
        coefficient_of_variation: math.sqrt(E - 1),
        gini: (E - 1) / E,
        load_entropy: 1,
        dead_fraction: (E - 1) / E,
    }
    for metric, highest in ranges.items():
        assert -1e-9 <= metric(load) <= highest + 1e-9
        assert metric(load * factor) == pytest.approx(metric(load), abs=1e-9)
        assert metric(shuffled) == pytest.approx(metric(load), abs=1e-9)
        assert metric(load / load.sum()) == pytest.approx(metric(load), abs=1e-9)


def test_collapsed_is_the_worst_layer_over_the_last_fifty_steps():
    """Two layers of four experts: the second loses half of its experts after step 50."""
    step = np.arange(1.0, 101)
    late = step > 50
    load = np.full((100, 2, 4), 0.25)
    load[late, 1] = [0.49, 0.49, 0.01, 0.01]
    run = dataclasses.replace(curve(step, step), load=load)
    assert collapsed(run) and not collapsed(run.upto("step", 50))
    # A hundred steps hold twice as much of the even load: a tenth of the mean is then exceeded.
    assert not collapsed(run, steps=100)
    three = dataclasses.replace(run, load=load.copy())
    three.load[late, 1] = [0.4, 0.3, 0.29, 0.01]
    assert not collapsed(three)
    assert not collapsed(run.upto("step", 0)) and not collapsed(curve(step, step))


def test_dead_is_below_the_threshold_not_at_it():
    load = [100, 78, 14, 8]  # mean 50
    assert dead_experts(load) == 0 and dead_experts(load, 0.16) == 0
    assert dead_experts(load, 0.17) == 1 and dead_experts(load, 0.3) == 2
    assert dead_fraction(load, 0.3) == 0.5 and dead_fraction(load, 0) == 0
    assert dead_fraction([97, 1, 1, 1]) == 0.75 and dead_experts([97, 1, 1, 1]) == 3


def test_dropped_unserved_and_padded():
    assert drop_rate([6, 2, 0], [4, 2, 0]) == pytest.approx(0.25)
    assert drop_rate([6, 2, 0], [4, 2, 2]) == 0  # another expert took them
    assert drop_rate([6, 2], [0, 0]) == 1
    assert drop_rate([0.3, 0.2, 0.1], [0.1, 0.2, 0.3]) == 0 < sum([0.1, 0.2, 0.3]) - 0.6
    assert unserved([[0, 1], [-1, 2], [-1, -1], [3, -1]]) == 0.25
    assert unserved(np.full((3, 2), -1)) == 1 == unserved(np.zeros((3, 0), dtype=np.int16))
    assert math.isnan(unserved(np.zeros((0, 2), dtype=int)))
    assert padding_waste([4, 2, 0], 4) == pytest.approx(0.5)
    assert padding_waste([4, 4], 4) == 0 and padding_waste([0, 0], 4) == 1


# Gates

SCORES = st.tuples(st.integers(1, 8), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(0, 1).map(lambda x: round(x, 3)))
)


@settings(max_examples=60, deadline=None)
@given(SCORES.filter(lambda scores: scores.any(axis=1).all()))
def test_gates_against_scipy_and_plain_loops(scores):
    T, E = scores.shape
    p = scores / scores.sum(axis=1, keepdims=True)
    entropy = [scipy.stats.entropy(row) for row in p]
    expected = np.mean(entropy) / math.log(E) if E > 1 else 1
    assert gate_entropy(scores) == pytest.approx(expected, abs=1e-12)
    assert confidence(scores) == pytest.approx(np.mean([max(row) for row in p]))
    for K in range(1, E):
        lead = [sorted(row)[-K] - sorted(row)[-K - 1] for row in p]
        assert gate_margin(scores, K) == pytest.approx(np.mean(lead), abs=1e-12)
    # Another formula of the same information: the mean divergence from the mean.
    divergence = np.mean([scipy.stats.entropy(row, p.mean(axis=0)) for row in p])
    assert mutual_information_tokens(scores) == pytest.approx(divergence, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(SCORES, st.floats(0.01, 100))
def test_gates_ignore_scale_order_and_silent_tokens(scores, factor):
    E = scores.shape[1]
    more = np.concatenate([np.zeros((2, E)), scores[::-1, ::-1] * factor])
    measures = [gate_entropy, confidence, mutual_information_tokens]
    measures += [lambda s, K=K: gate_margin(s, K) for K in range(1, E)]
    for measure, highest in zip(measures, [1, 1, math.log(E)] + [1] * E, strict=False):
        value = measure(scores)
        assert math.isnan(value) == (not scores.any())
        if scores.any():
            assert 0 <= value <= highest + 1e-9
            assert measure(more) == pytest.approx(value, abs=1e-9)


def test_sure_undecided_and_collapsed_gates():
    E = 8
    sure, undecided, collapsed = np.eye(E), np.full((5, E), 0.3), np.eye(E)[[2] * 5]
    assert gate_entropy(sure) == 0 and gate_entropy(undecided) == pytest.approx(1)
    assert confidence(sure) == 1 and confidence(undecided) == pytest.approx(1 / E)
    assert gate_margin(sure, 1) == 1 and gate_margin(sure, 2) == 0
    assert gate_margin([[0.1, 0.6, 0.3]], 1) == pytest.approx(0.3)
    assert gate_margin([[0.1, 0.6, 0.3]], 2) == pytest.approx(0.2)
    assert math.isnan(gate_margin(sure, E))
    assert mutual_information_tokens(sure) == pytest.approx(math.log(E))
    assert mutual_information_tokens(undecided) == pytest.approx(0, abs=1e-12)
    assert mutual_information_tokens(collapsed) == 0


# Information


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 5)), max_size=60),
    st.permutations(range(4)),
)
def test_mutual_information_is_scikit_learns(pairs, renamed):
    expert, label = np.array(pairs, dtype=int).reshape(-1, 2).T
    counted = (expert >= 0) & (label >= 0)
    got = mutual_information(expert, label, 4, 6)
    if not counted.any():
        assert math.isnan(got)
        return
    expected = sklearn.metrics.mutual_info_score(expert[counted], label[counted])
    assert got == pytest.approx(expected, abs=1e-12)
    assert got == pytest.approx(mutual_information(label, expert, 6, 4), abs=1e-12)
    other_names = np.append(renamed, -1)[expert]
    assert got == pytest.approx(mutual_information(other_names, label, 4, 6), abs=1e-12)
    assert 0 <= got <= math.log(4) + 1e-12


def test_mutual_information_by_hand():
    coin = np.array([0, 1] * 4)
    assert mutual_information(coin, coin, 2, 2) == pytest.approx(math.log(2))
    assert mutual_information(coin, np.repeat(coin[:4], 2)[[0, 1, 2, 3] * 2], 2, 2) == 0
    # A joint of 3/8, 1/8, 1/8, 3/8: ln 2 less the entropy of (3/4, 1/4).
    label = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    expected = math.log(2) - scipy.stats.entropy([0.75, 0.25])
    assert mutual_information([0, 0, 0, 0, 1, 1, 1, 1], label, 2, 2) == pytest.approx(expected)


def test_mutual_information_of_independent_variables_has_the_known_bias():
    rng = np.random.default_rng(0)
    E, D, N = 8, 4, 2000
    seen = [
        mutual_information(rng.integers(0, E, N), rng.integers(0, D, N), E, D) for _ in range(200)
    ]
    assert np.mean(seen) == pytest.approx((E - 1) * (D - 1) / (2 * N), rel=0.1)


def sequences(rng, num_sequences, length, E, dependence):
    """Top-1 routing of sequences that each like one expert, and their domains (of 2); with
    dependence (0 to 1) so often the expert of their domain."""
    domain_G = np.arange(num_sequences) % 2
    liked_G = np.where(
        rng.random(num_sequences) < dependence, domain_G, rng.integers(0, E, num_sequences)
    )
    group = np.repeat(np.arange(num_sequences), length)
    stays = rng.random(len(group)) < 0.8
    expert = np.where(stays, liked_G[group], rng.integers(0, E, len(group)))
    return expert[:, None], domain_G[group], group


def test_domain_information_is_scikit_learns():
    rng = np.random.default_rng(0)
    expert, domain, group = sequences(rng, 12, 30, 5, 0.7)
    expert = np.concatenate([expert, rng.integers(-1, 5, expert.shape)], axis=1)
    got = domain_information(expert, domain, 5, 2, groups_T=group, permutations=5)
    served = expert.ravel() >= 0
    pairs = np.repeat(domain, 2)[served], expert.ravel()[served]
    assert got.value == pytest.approx(sklearn.metrics.mutual_info_score(*pairs))
    # homogeneity is I(label; cluster) / H(label)
    assert got.normalised == pytest.approx(sklearn.metrics.homogeneity_score(*pairs))
    assert got.value == pytest.approx(mutual_information(pairs[1], pairs[0], 5, 2))
    assert got.normalised != pytest.approx(sklearn.metrics.normalized_mutual_info_score(*pairs))


def test_the_null_with_groups_is_right_and_without_them_is_not():
    rng = np.random.default_rng(0)
    with_groups, without = [], []
    for seed in range(200):
        expert, domain, group = sequences(rng, 20, 20, 4, 0)
        options = dict(permutations=39, seed=seed)
        with_groups.append(domain_information(expert, domain, 4, 2, groups_T=group, **options))
        without.append(domain_information(expert, domain, 4, 2, **options))
    p = np.array([one.p_value for one in with_groups])
    # Under independence p is uniform on 1/40, 2/40, ... 1; here within sampling error.
    for level in (0.1, 0.25, 0.5, 0.75):
        assert (p <= level).mean() == pytest.approx(level, abs=4 * math.sqrt(level / 200))
    assert p.min() >= 1 / 40
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    z = [(one.value - one.null_mean) / one.null_sd for one in with_groups]
    assert abs(np.mean(z)) < 0.25 and 0.8 < np.std(z) < 1.4
    # The trap: tokens of a sequence are alike, and shuffled singly they all look special.
    assert np.mean([one.p_value <= 0.05 for one in without]) > 0.8


def test_the_null_of_single_tokens_is_uniform_where_tokens_are_independent():
    rng = np.random.default_rng(1)
    p = []
    for seed in range(200):
        expert, domain = choices(rng, 120, 6, 2), rng.integers(0, 3, 120)
        p.append(domain_information(expert, domain, 6, 3, permutations=39, seed=seed).p_value)
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_dependence_is_found():
    rng = np.random.default_rng(0)
    expert, domain, group = sequences(rng, 20, 20, 4, 1)
    for groups in (group, None):
        got = domain_information(expert, domain, 4, 2, groups_T=groups)
        assert got.p_value == pytest.approx(1 / 101)
        assert got.value > got.null_mean + 4 * got.null_sd > 0
        assert 0.3 < got.normalised <= 1
    exact = domain_information(domain[:, None], domain, 2, 2, groups_T=group)
    assert exact.value == pytest.approx(math.log(2)) and exact.normalised == pytest.approx(1)


def test_the_null_by_enumeration():
    # Four sequences, each true to one expert: of 4! orders 8 split the experts as the domains do.
    expert, domain = np.repeat([0, 0, 1, 1], 3)[:, None], np.repeat([0, 0, 1, 1], 3)
    group = np.repeat([7, 3, 5, 9], 3)
    got = domain_information(expert, domain, 2, 2, groups_T=group, permutations=2000)
    orders = [
        mutual_information(expert[:, 0], np.repeat(order, 3), 2, 2)
        for order in itertools.permutations([0, 0, 1, 1])
    ]
    assert got.p_value == pytest.approx(8 / 24, abs=0.05)
    assert got.null_mean == pytest.approx(np.mean(orders), abs=0.05)
    assert got.null_sd == pytest.approx(np.std(orders), abs=0.03)


def test_the_seed_decides_and_unlabelled_tokens_do_not_count():
    rng = np.random.default_rng(0)
    expert, domain, group = sequences(rng, 10, 6, 3, 0.5)
    got = domain_information(expert, domain, 3, 2, groups_T=group, seed=4)
    assert got == domain_information(expert, domain, 3, 2, groups_T=group, seed=4)
    assert got.null_mean != domain_information(expert, domain, 3, 2, groups_T=group).null_mean
    # Padding: no domain, or no sequence.
    padded = domain_information(
        np.concatenate([expert, [[0]] * 4]),
        np.append(domain, [-1, -1, 0, 1]),
        3,
        2,
        groups_T=np.append(group, [0, 1, -1, -1]),
        seed=4,
    )
    assert padded == got


def test_one_domain_and_nothing_at_all():
    got = domain_information([[0], [1], [1]], [1, 1, 1], 2, 2)
    assert got.value == 0 and math.isnan(got.normalised) and got.p_value == 1
    for nothing in (
        domain_information([[-1], [-1]], [0, 1], 2, 2),
        domain_information(np.zeros((0, 2), dtype=int), np.zeros(0, dtype=int), 2, 2),
        domain_information([[0], [1]], [-1, -1], 2, 2, groups_T=[0, 1]),
    ):
        assert all(math.isnan(value) for value in vars(nothing).values())


def test_a_sequence_of_two_domains_is_refused():
    with pytest.raises(ValueError, match="A sequence must have one domain, sequence 7 has more"):
        domain_information([[0]] * 4, [0, 0, 0, 1], 2, 2, groups_T=[4, 4, 7, 7])


# Choices

CHOICES = st.tuples(
    st.integers(0, 12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1)
)


def served_choices(case, how_many=1):
    """Tables of different experts per token, a fifth of the choices unserved; E is 6."""
    T, K, other_K, seed = case
    rng = np.random.default_rng(seed)
    tables = []
    for k in (K, other_K)[:how_many]:
        table = choices(rng, T, 6, k)
        tables.append(np.where(rng.random(table.shape) < 0.2, -1, table))
    return tables


@settings(max_examples=60, deadline=None)
@given(CHOICES)
def test_saturation_and_churn_against_sets(case):
    a, b = served_choices(case, 2)
    shares = []
    for row_a, row_b in zip(a.tolist(), b.tolist(), strict=True):
        set_a, set_b = set(row_a) - {-1}, set(row_b) - {-1}
        if set_a or set_b:
            shares.append(len(set_a & set_b) / max(len(set_a), len(set_b)))
    assert saturation(a, b) == pytest.approx(np.mean(shares) if shares else NAN, nan_ok=True)
    assert churn(a, b) == pytest.approx(1 - saturation(b, a), nan_ok=True)
    if (a >= 0).any():
        assert saturation(a, a[:, ::-1]) == 1 and churn(a, a) == 0


def test_saturation_by_hand_and_by_chance():
    assert saturation([[0, 1], [2, 3]], [[1, 0], [3, 4]]) == 0.75
    assert saturation([[0, -1], [-1, -1]], [[0, 1], [-1, -1]]) == 0.5
    assert churn([[0], [1], [2]], [[0], [2], [1]]) == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    for E, K in ((8, 1), (8, 2), (64, 8)):
        a, b = choices(rng, 4000, E, K), choices(rng, 4000, E, K)
        assert saturation(a, b) == pytest.approx(K / E, rel=0.1)


@settings(max_examples=60, deadline=None)
@given(CHOICES)
def test_co_activation_against_loops(case):
    [table] = served_choices(case)
    pairs: Counter = Counter()
    times: Counter = Counter()
    for row in table.tolist():
        served = [e for e in row if e >= 0]
        times.update(served)
        pairs.update(itertools.permutations(served, 2))
    got = co_activation(table, 6)
    for i, j in itertools.product(range(6), repeat=2):
        expected = pairs[i, j] / times[i] if times[i] and i != j else NAN
        assert got[i, j] == pytest.approx(expected, nan_ok=True)


def test_co_activation_counts_every_pair_not_only_adjacent_ranks():
    got = co_activation(np.tile(np.arange(8), (5, 1)), 9)
    off_diagonal = ~np.eye(8, dtype=bool)
    assert (got[:8, :8][off_diagonal] == 1).all() and off_diagonal.sum() == 2 * 28
    assert np.isnan(got.diagonal()).all() and np.isnan(got[8]).all()
    assert (got[:8, 8] == 0).all()  # never chosen: nobody's company
    rng = np.random.default_rng(0)
    got = co_activation(choices(rng, 5000, 8, 3), 8)
    assert np.nanmean(got) == pytest.approx(2 / 7)
    assert np.nanmax(abs(got - 2 / 7)) < 0.05


@settings(max_examples=60, deadline=None)
@given(CHOICES)
def test_transitions_against_loops(case):
    earlier, later = served_choices(case, 2)
    count = np.zeros((6, 6))
    for row_a, row_b in zip(earlier.tolist(), later.tolist(), strict=True):
        for a, b in itertools.product(row_a, row_b):
            count[a, b] += a >= 0 and b >= 0
    got = transitions(earlier, later, 6)
    for e in range(6):
        if count[e].any():
            assert got[e] == pytest.approx(count[e] / count[e].sum())
            assert got[e].sum() == pytest.approx(1)
        else:
            assert np.isnan(got[e]).all()


def test_transitions_by_hand():
    got = transitions([[0], [0], [1]], [[1, 2], [1, 0], [2, 0]], 3)
    np.testing.assert_allclose(got, [[0.25, 0.5, 0.25], [0.5, 0, 0.5], [NAN] * 3])


# Representations


def hsic_cka(x, y):
    """CKA by double-centred Gram matrices (Kornblith et al. 2019, equations 3 and 4)."""
    N = len(x)
    H = np.eye(N) - 1 / N
    K, L = H @ (x @ x.T) @ H, H @ (y @ y.T) @ H
    return np.trace(K @ L) / math.sqrt(np.trace(K @ K) * np.trace(L @ L))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_cka_against_gram_matrices_and_its_invariances(N, A, B, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(3, 1, (N, A)), rng.normal(-2, 1, (N, B))
    y[:, 0] += x[:, 0]
    got = linear_cka(x, y)
    assert got == pytest.approx(hsic_cka(x, y), abs=1e-9)
    assert got == pytest.approx(linear_cka(y, x), abs=1e-12)
    assert -1e-12 <= got <= 1 + 1e-12
    rotation = np.linalg.qr(rng.normal(size=(A, A)))[0]
    assert got == pytest.approx(linear_cka(-7 * x @ rotation + 5, y), abs=1e-9)
    order = rng.permutation(N)
    assert got == pytest.approx(linear_cka(x[order], y[order]), abs=1e-9)
    assert linear_cka(x, x * 0.1) == pytest.approx(1)


def test_cka_of_orthogonal_stretched_and_constant_features():
    x = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert linear_cka(x[:, :1], x[:, 1:]) == 0
    assert linear_cka(x, x[:, :1]) == pytest.approx(1 / math.sqrt(2))
    # Not invariant to a stretch of one direction: (1 + 9) / (sqrt 2 sqrt(1 + 81)).
    assert linear_cka(x, x * [1, 3]) == pytest.approx(10 / math.sqrt(2 * 82))
    assert math.isnan(linear_cka(x[:3], np.full((3, 2), 0.1)))  # the mean rounds to above 0.1
    assert math.isnan(linear_cka(x[:1], x[:1]))
    assert math.isnan(linear_cka(x[:0], x[:0]))
    assert linear_cka(x.astype(np.float32), x) == pytest.approx(1)


# Refusals

TWO = [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: noise_floor(0, 8, 2), "num_tokens must be at least 1, got 0"),
        (lambda: noise_floor(9, 8, 9), r"top_k must be in 1..8 \(the experts\), got 9"),
        (lambda: gini([[1, 2]]), r"load_E must be an array \[E\] .* got the shape \(1, 2\)"),
        (lambda: gini([]), r"load_E .* not empty, got the shape \(0,\)"),
        (lambda: gini([1, -2]), r"load_E must hold finite numbers in 0..inf, got -2"),
        (lambda: load_entropy([1, NAN]), "load_E must hold finite .* got nan"),
        (lambda: coefficient_of_variation([1, np.inf]), "load_E must hold finite .* got inf"),
        (lambda: dead_experts([1], -0.1), "threshold must be in 0..1, got -0.1"),
        (lambda: dead_fraction([1], 2), "threshold must be in 0..1, got 2"),
        (lambda: dead_fraction([-1, 2]), "load_E .* got -1"),
        (lambda: drop_rate([1, 2], [1]), "demand_E and load_E must be equally long, got 2 and 1"),
        (lambda: drop_rate([1, 2], [2, 2]), r"load_E \(4 in all\) must not exceed demand_E \(3\)"),
        (lambda: unserved([0, 1]), r"expert_TK must be an array \[T, K\]"),
        (lambda: unserved([[0.5]]), "expert_TK must hold integers, got float64"),
        (lambda: unserved([[-2]]), "expert_TK must hold finite numbers in -1..inf, got -2"),
        (lambda: padding_waste([3, 5], 4), "capacity must be at least 5 .* got 4"),
        (lambda: padding_waste([0, 0], 0), "capacity must be at least 1 .* got 0"),
        (lambda: gate_entropy([[1, -1]]), "scores_TE must hold .* in 0..inf, got -1"),
        (lambda: confidence([0.5, 0.5]), r"scores_TE must be an array \[T, E\]"),
        (lambda: mutual_information_tokens(np.zeros((3, 0))), r"scores_TE .* not empty"),
        (lambda: gate_margin([[0.5, 0.5]], 0), "top_k must be in 1..2"),
        (lambda: gate_margin([[0.5, 0.5]], 3), "top_k must be in 1..2"),
        (lambda: mutual_information([2], [0], 2, 2), "expert_N must hold .* in -1..1, got 2"),
        (lambda: mutual_information([0], [3], 2, 3), "label_N must hold .* in -1..2, got 3"),
        (lambda: mutual_information([0, 1], [0], 2, 2), "expert_N and label_N .* 2 and 1"),
        (lambda: domain_information(TWO, [0], 2, 2), "expert_TK and domain_T and .* 2 and 1"),
        (lambda: domain_information(TWO, [0, 2], 2, 2), "domain_T must hold .* in -1..1, got 2"),
        (lambda: domain_information(TWO, [0, 1], 2, 2, groups_T=[0]), "equally long"),
        (lambda: domain_information(TWO, [0, 1], 2, 2, permutations=0), "permutations must be"),
        (lambda: saturation(TWO, [[0]]), "expert_TK and final_TK must be equally long"),
        (lambda: churn(TWO, [[0]]), "a_TK and b_TK must be equally long, got 2 and 1"),
        (lambda: co_activation(TWO, 1), "expert_TK must hold .* in -1..0, got 1"),
        (lambda: transitions(TWO, [[0]], 2), "earlier_TK and later_TK must be equally long"),
        (lambda: transitions(TWO, [[0], [2]], 2), "later_TK must hold .* in -1..1, got 2"),
        (lambda: linear_cka(np.ones((3, 2)), np.ones((2, 2))), "x_NA and y_NB .* got 3 and 2"),
        (lambda: linear_cka(np.ones(3), np.ones((3, 1))), r"x_NA must be an array \[N, A\]"),
        (lambda: linear_cka(np.ones((2, 1)), [[1], [NAN]]), "y_NB must hold finite .* got nan"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    text = str(refusal.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text


def test_inputs_are_left_alone():
    load, expert = np.array([3, 1, 2]), np.array([[0, -1], [2, 1]], dtype=np.int16)
    kept = load.copy(), expert.copy()
    for call in (lambda: gini(load), lambda: co_activation(expert, 3), lambda: unserved(expert)):
        call()
    assert (load == kept[0]).all() and (expert == kept[1]).all()
