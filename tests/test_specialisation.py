"""Specialisation against closed forms, scipy, scikit-learn and plain loops."""

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

from helpers.numerics import distinct_choices
from moeviz.records.specialisation import (
    churn,
    co_activation,
    domain_information,
    gate_entropy,
    linear_cka,
    mutual_information,
    mutual_information_of_counts,
    mutual_information_tokens,
    saturation,
    transitions,
)

NAN = float("nan")

# Gates

SCORES = st.tuples(st.integers(1, 8), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(0, 1).map(lambda x: round(x, 3)))
)


@settings(max_examples=60, deadline=None)
@given(SCORES.filter(lambda scores: scores.any(axis=1).all()))
def test_gates_against_scipy_and_plain_loops(scores):
    E = scores.shape[1]
    p = scores / scores.sum(axis=1, keepdims=True)
    entropy = [scipy.stats.entropy(row) for row in p]
    expected = np.mean(entropy) / math.log(E) if E > 1 else 1
    assert gate_entropy(scores) == pytest.approx(expected, abs=1e-12)
    # Another formula of the same information: the mean divergence from the mean.
    divergence = np.mean([scipy.stats.entropy(row, p.mean(axis=0)) for row in p])
    assert mutual_information_tokens(scores) == pytest.approx(divergence, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(SCORES, st.floats(0.01, 100))
def test_gates_ignore_scale_order_and_silent_tokens(scores, factor):
    more = np.concatenate([np.zeros((2, scores.shape[1])), scores[::-1, ::-1] * factor])
    for measure in (gate_entropy, mutual_information_tokens):
        value = measure(scores)
        assert math.isnan(value) == (not scores.any())
        assert measure(more) == pytest.approx(value, abs=1e-9, nan_ok=True)


def test_sure_undecided_and_collapsed_gates():
    sure, undecided, collapsed = np.eye(8), np.full((5, 8), 0.3), np.eye(8)[[2] * 5]
    assert gate_entropy(sure) == 0 and gate_entropy(undecided) == pytest.approx(1)
    assert mutual_information_tokens(sure) == pytest.approx(math.log(8))
    assert mutual_information_tokens(undecided) == pytest.approx(0, abs=1e-12)
    assert mutual_information_tokens(collapsed) == 0


# Information


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 5)), max_size=60))
def test_mutual_information_is_scikit_learns(pairs):
    expert, label = np.array(pairs, dtype=int).reshape(-1, 2).T
    counted = (expert >= 0) & (label >= 0)
    known = label[counted], expert[counted]
    expected = sklearn.metrics.mutual_info_score(*known) if counted.any() else NAN
    got = mutual_information(expert, label, 4, 6)
    assert got == pytest.approx(expected, abs=1e-12, nan_ok=True)
    # Of the table of counts, as a share of H(label): NaN with one label.
    count_DE = np.zeros((6, 4))
    np.add.at(count_DE, known, 1)
    one = len(set(known[0])) < 2
    expected = NAN if one else sklearn.metrics.homogeneity_score(*known)
    share = mutual_information_of_counts(count_DE)
    assert share == pytest.approx(expected, abs=1e-12, nan_ok=True)


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
        expert, domain = distinct_choices(rng, 120, 6, 2), rng.integers(0, 3, 120)
        p.append(domain_information(expert, domain, 6, 3, permutations=39, seed=seed).p_value)
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_dependence_is_found():
    rng = np.random.default_rng(0)
    expert, domain, group = sequences(rng, 20, 20, 4, 1)
    for groups in (group, None):
        got = domain_information(expert, domain, 4, 2, groups_T=groups)
        assert got.p_value == pytest.approx(1 / 101)
        assert got.value > got.null_mean + 4 * got.null_sd > 0


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
        table = distinct_choices(rng, T, 6, k)
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


def test_saturation_by_hand_and_by_chance():
    assert saturation([[0, 1], [2, 3]], [[1, 0], [3, 4]]) == 0.75
    assert saturation([[0, -1], [-1, -1]], [[0, 1], [-1, -1]]) == 0.5
    assert churn([[0], [1], [2]], [[0], [2], [1]]) == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    for E, K in ((8, 1), (8, 2), (64, 8)):
        a, b = distinct_choices(rng, 4000, E, K), distinct_choices(rng, 4000, E, K)
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


def test_co_activation_by_chance():
    """(K - 1) / (E - 1); not less, as of adjacent ranks alone."""
    got = co_activation(distinct_choices(np.random.default_rng(0), 5000, 8, 3), 8)
    assert np.isnan(got.diagonal()).all() and np.nanmax(abs(got - 2 / 7)) < 0.05


@settings(max_examples=60, deadline=None)
@given(CHOICES)
def test_transitions_against_loops(case):
    earlier, later = served_choices(case, 2)
    count = np.zeros((6, 6))
    for row_a, row_b in zip(earlier.tolist(), later.tolist(), strict=True):
        for a, b in itertools.product(row_a, row_b):
            count[a, b] += a >= 0 and b >= 0
    for e, row in enumerate(transitions(earlier, later, 6)):
        expected = count[e] / count[e].sum() if count[e].any() else [NAN] * 6
        assert row == pytest.approx(expected, nan_ok=True)


# Representations


def hsic_cka(x, y):
    """CKA by double-centred Gram matrices (Kornblith et al. 2019, equations 3 and 4)."""
    N = len(x)
    H = np.eye(N) - 1 / N
    K, L = H @ (x @ x.T) @ H, H @ (y @ y.T) @ H
    return np.trace(K @ L) / math.sqrt(np.trace(K @ K) * np.trace(L @ L))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_cka_against_gram_matrices_and_of_what_is_only_turned(N, A, B, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(3, 1, (N, A)), rng.normal(-2, 1, (N, B))
    y[:, 0] += x[:, 0]
    got = linear_cka(x, y)
    assert got == pytest.approx(hsic_cka(x, y), abs=1e-9)
    rotation = np.linalg.qr(rng.normal(size=(A, A)))[0]
    assert linear_cka(x, -7 * x @ rotation + 5) == pytest.approx(1)


def test_cka_of_orthogonal_stretched_and_constant_features():
    x = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert linear_cka(x[:, :1], x[:, 1:]) == 0
    assert linear_cka(x, x[:, :1]) == pytest.approx(1 / math.sqrt(2))
    # Not invariant to a stretch of one direction: (1 + 9) / (sqrt 2 sqrt(1 + 81)).
    assert linear_cka(x, x * [1, 3]) == pytest.approx(10 / math.sqrt(2 * 82))
    assert math.isnan(linear_cka(x[:3], np.full((3, 2), 0.1)))  # the mean rounds to above 0.1
    assert math.isnan(linear_cka(x[:1], x[:1]))
    assert math.isnan(linear_cka(x[:0], x[:0]))


# Refusals

TWO = [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: co_activation([0, 1], 2), r"expert_TK must be an array \[T, K\]"),
        (lambda: co_activation([[0.5]], 2), "expert_TK must hold integers, got float64"),
        (lambda: co_activation([[-2]], 2), "expert_TK must hold finite .* in -1..1, got -2"),
        (lambda: co_activation(TWO, 1), "expert_TK must hold .* in -1..0, got 1"),
        (lambda: gate_entropy([[1, -1]]), "scores_TE must hold .* in 0..inf, got -1"),
        (lambda: mutual_information_tokens(np.zeros((3, 0))), r"scores_TE .* not empty"),
        (lambda: mutual_information([2], [0], 2, 2), "expert_N must hold .* in -1..1, got 2"),
        (lambda: mutual_information([0], [3], 2, 3), "label_N must hold .* in -1..2, got 3"),
        (lambda: mutual_information([0, 1], [0], 2, 2), "expert_N and label_N .* 2 and 1"),
        (lambda: domain_information(TWO, [0], 2, 2), "expert_TK and domain_T and .* 2 and 1"),
        (lambda: domain_information(TWO, [0, 2], 2, 2), "domain_T must hold .* in -1..1, got 2"),
        (lambda: domain_information(TWO, [0, 1], 2, 2, groups_T=[0]), "equally long"),
        (
            lambda: domain_information(TWO, [0, 1], 2, 2, permutations=0),
            "permutations must be a whole",
        ),
        (lambda: saturation(TWO, [[0]]), "expert_TK and final_TK must be equally long"),
        (lambda: churn(TWO, [[0]]), "a_TK and b_TK must be equally long, got 2 and 1"),
        (lambda: transitions(TWO, [[0]], 2), "earlier_TK and later_TK must be equally long"),
        (lambda: transitions(TWO, [[0], [2]], 2), "later_TK must hold .* in -1..1, got 2"),
        (lambda: linear_cka(np.ones((3, 2)), np.ones((2, 2))), "x_NA and y_NB .* got 3 and 2"),
        (lambda: linear_cka(np.ones(3), np.ones((3, 1))), r"x_NA must be an array \[N, A\]"),
        (lambda: linear_cka(np.ones((2, 1)), [[1], [NAN]]), "y_NB must hold finite .* got nan"),
        (lambda: mutual_information_of_counts([1, 2]), r"count_DE must be an array \[D, E\]"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_inputs_are_left_alone():
    expert = np.array([[0, -1], [2, 1]], dtype=np.int16)
    kept = expert.copy()
    co_activation(expert, 3)
    assert (expert == kept).all()
