"""Metrics against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeviz.metrics import effective_experts, gap, last_common, max_violation, validation_at
from moeviz.snapshot import Curve

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
