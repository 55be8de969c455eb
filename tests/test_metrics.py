"""Balance and the race against closed forms, scipy and plain loops."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.numerics import distinct_choices
from moeviz.records.metrics import (
    collapsed,
    dead_experts,
    drop_rate,
    effective_experts,
    expected_drop_rate,
    gap,
    last_common,
    max_violation,
    noise_floor,
    padding_waste,
    training_load,
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


# Balance of load


@pytest.mark.parametrize(
    "load,violation,effective,dead",
    [
        ([13], 0, 1, 0),
        ([0, 0, 0, 13], 3, 1, 3),
        # Shares 1/2, 1/4, 1/8, 1/8: an entropy of 1.75 bits.
        ([4.0, 2.0, 1.0, 1.0], 1, 2**1.75, 0),
        # Mean 10: dead is below a tenth of it, not at it.
        ((37, 1, 1, 1), 2.7, math.exp(scipy.stats.entropy([37, 1, 1, 1])), 0),
        ([0, 0], NAN, NAN, 0),
    ],
)
def test_balance_by_hand(load, violation, effective, dead):
    assert max_violation(load) == pytest.approx(violation, nan_ok=True)
    assert effective_experts(load) == pytest.approx(effective, nan_ok=True)
    assert dead_experts(load) == dead


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=20).map(np.array).filter(np.any),
    st.integers(1, 50),
)
def test_balance_against_plain_formulas_whatever_the_scale_and_the_order(load, factor):
    mean = sum(load.tolist()) / len(load)
    for same in (load, load[::-1] * factor, load / load.sum()):
        assert max_violation(same) == pytest.approx(max(load.tolist()) / mean - 1)
        assert effective_experts(same) == pytest.approx(math.exp(scipy.stats.entropy(load)))
    assert dead_experts(load * factor) == sum(10 * one < mean for one in load.tolist())


def test_noise_floor_formula():
    # T 2048, E 16, K 2: sqrt(2 ln 16) = 2.3548 and sqrt(16 / 4096) = 1 / 16.
    assert noise_floor(2048, 16, 2) == pytest.approx(2.3548 / 16, rel=1e-4)
    assert noise_floor(100, 1, 1) == 0


@pytest.mark.parametrize(
    "T,E,K,low,high",
    # Measured ratios of floor to mean: 1.36, 1.46, 1.14, 1.92, no longer useful 2.7, and below 1
    # where experts expect one assignment.
    [
        (2048, 16, 2, 1.25, 1.5),
        (256, 8, 1, 1.3, 1.6),
        (640, 64, 1, 1.05, 1.25),
        (512, 8, 4, 1.75, 2.1),
        (512, 8, 6, 2.4, 3.1),
        (64, 64, 1, 0.8, 1.0),
    ],
)
def test_noise_floor_beside_an_even_random_router(T, E, K, low, high):
    rng = np.random.default_rng(0)
    loads = (np.bincount(distinct_choices(rng, T, E, K).ravel(), minlength=E) for _ in range(200))
    seen = np.array([max_violation(load) for load in loads])
    floor = noise_floor(T, E, K)
    assert low * seen.mean() < floor < high * seen.mean()
    assert low < 1 or (seen > floor).mean() < 0.25


def test_the_load_of_training_is_the_mean_of_the_last_fifty_steps():
    """Whatever came before: two layers of two experts, of which one wins in the last fifty."""
    step = np.arange(1.0, 121.0)
    load = np.zeros((120, 2, 2))
    load[:70], load[70:95], load[95:] = [[0.5, 0.5]] * 2, [[0.5, 0.5], [1, 0]], [[1, 0], [1, 0]]
    run = Curve(step, step, step, step, load, step)
    assert training_load(run).tolist() == [[0.75, 0.25], [1.0, 0.0]]
    assert training_load(run.upto("step", 30)).tolist() == [[0.5, 0.5]] * 2
    assert max_violation(training_load(run)[1]) == 1.0
    with pytest.raises(ValueError, match="no point yet"):
        training_load(run.upto("step", 0))


def test_collapsed_is_the_worst_layer_over_the_last_fifty_steps():
    """Two layers of four experts: the second loses half of its experts after step 50."""
    step = np.arange(1.0, 101)
    load = np.full((100, 2, 4), 0.25)
    load[50:, 1] = [0.49, 0.49, 0.01, 0.01]
    run = dataclasses.replace(curve(step, step), load=load)
    assert collapsed(run) and not collapsed(run.upto("step", 50))
    # The window holds so many early steps that the two keep a tenth of the mean until step 97:
    # at 96 they have (46 x 0.01 + 4 x 0.25) / 50 = 0.029, at 97 with three early steps 0.0244.
    assert not collapsed(run.upto("step", 96)) and collapsed(run.upto("step", 97))
    three = dataclasses.replace(run, load=load.copy())
    three.load[50:, 1] = [0.4, 0.3, 0.29, 0.01]
    assert not collapsed(three)
    assert not collapsed(run.upto("step", 0)) and not collapsed(curve(step, step))
    five_of_eight = np.tile([1.0, 1, 1, 0, 0, 0, 0, 0], (100, 1, 1))
    assert collapsed(dataclasses.replace(run, load=five_of_eight))


def test_dropped_and_padded():
    assert drop_rate([6, 2, 0], [4, 2, 0]) == pytest.approx(0.25)
    assert drop_rate([6, 2, 0], [4, 2, 2]) == 0  # another expert took them
    assert drop_rate([6, 2], [0, 0]) == 1 and math.isnan(drop_rate([0, 0], [0, 0]))
    assert drop_rate([0.3, 0.2, 0.1], [0.1, 0.2, 0.3]) == 0 < 0.1 + 0.2 + 0.3 - 0.6
    assert padding_waste([4, 2, 0], 4) == pytest.approx(0.5)
    assert padding_waste([4, 4], 4) == 0 and padding_waste([0, 0], 4) == 1


EVEN, ZIPF = np.ones(8) / 8, np.arange(1, 9) ** -1.0 / (np.arange(1, 9) ** -1.0).sum()


@pytest.mark.parametrize("share", [EVEN, ZIPF, [1.0, 0, 0], [0, 0], [0.5, 0.5], [1e-12, 1 - 1e-12]])
@pytest.mark.parametrize(
    "total,capacity", [(1, 1), (7, 2), (64, 0), (64, 10.5), (64, 64), (64, 1e9), (4096, 640)]
)
def test_expected_drops_are_the_sum_over_the_binomial(share, total, capacity):
    n, share = np.arange(total + 1), np.array(share)
    over = np.maximum(n - capacity, 0)
    lost = sum((scipy.stats.binom.pmf(n, total, p) * over).sum() for p in share)
    wanted = lost / (total * share.sum()) if share.any() else NAN
    got = expected_drop_rate(share, total, capacity)
    assert got == pytest.approx(wanted, rel=1e-9, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("K", [1, 2])
def test_expected_drops_are_what_drawing_gives(K):
    """First choices by ZIPF, second ones evenly among the others: visits sum to K."""
    visit_E = ZIPF if K == 1 else ZIPF + (1 - ZIPF) / 7
    rng, tokens, rates = np.random.default_rng(1), 64, []
    for _ in range(3000):
        first_T = rng.choice(8, size=tokens, p=ZIPF)
        choices = [first_T, (first_T + rng.integers(1, 8, size=tokens)) % 8][:K]
        demand_E = np.bincount(np.concatenate(choices), minlength=8)
        rates.append(drop_rate(demand_E, np.minimum(demand_E, 10 * K)))
    error = np.std(rates) / np.sqrt(len(rates))
    assert abs(np.mean(rates) - expected_drop_rate(visit_E, tokens, 10 * K)) < 4 * error


# The race


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


# Refusals


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: noise_floor(0, 8, 2), "num_tokens must be a whole number of at least 1, got 0"),
        (lambda: noise_floor(9, 0, 1), "num_experts must be a whole number of at least 1, got 0"),
        (lambda: noise_floor(9, 8, 9), "top_k must be a whole .* at most 8, got 9"),
        (lambda: max_violation([[1, 2]]), r"load_E must be an array \[E\] .* the shape \(1, 2\)"),
        (lambda: effective_experts([]), r"load_E .* not empty, got the shape \(0,\)"),
        (lambda: max_violation([1, -2]), r"load_E must hold finite numbers in 0..inf, got -2"),
        (lambda: effective_experts([1, NAN]), "load_E must hold finite .* got nan"),
        (lambda: dead_experts([1, np.inf]), "load_E must hold finite .* got inf"),
        (lambda: drop_rate([1, 2], [1]), "demand_E and load_E must be equally long, got 2 and 1"),
        (lambda: drop_rate([1, 2], [2, 2]), r"load_E \(4 in all\) must not exceed demand_E \(3\)"),
        (lambda: padding_waste([3, 5], 4), "capacity must be a .* of at least 5, got 4"),
        (lambda: padding_waste([0, 0], 0), "capacity must be a .* of at least 1, got 0"),
        (lambda: expected_drop_rate([], 4, 1), "share_E must be an array"),
        (lambda: expected_drop_rate([1.5], 4, 1), "share_E must hold .* in 0..1, got 1.5"),
        (lambda: expected_drop_rate([1], 0, 1), "num_assignments must be a .* 1, got 0"),
        (lambda: expected_drop_rate([1], 4, NAN), "capacity must be a .* of at least 0, got nan"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    text = str(refusal.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text
