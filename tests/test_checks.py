"""The one dialect of errors: what is let through, what is refused, and in which words."""

import math

import pytest

from moeviz.checks import check_choice, check_flag, check_number, check_whole


@pytest.mark.parametrize(
    "value, bounds", [(1, ()), (0, (0,)), (7, (0, 7)), (-3, (-3, -3)), (10**30, ())]
)
def test_whole_numbers_within_bounds_come_back(value, bounds):
    assert check_whole("steps", value, *bounds) is value


@pytest.mark.parametrize("value", [0, -1, 8, 10.0, 10.5, True, "3", None, math.nan, [1]])
def test_any_other_whole_number_is_refused(value):
    allowed = "steps must be a whole number of at least 1 and at most 7, got "
    with pytest.raises(ValueError) as error:
        check_whole("steps", value, 1, 7)
    assert str(error.value) == f"{allowed}{value!r}."


@pytest.mark.parametrize("value, low, high", [(0, 0, 1), (1.0, 0, 1), (0.5, 0, 1), (-2, -2, 0)])
def test_numbers_within_bounds_come_back(value, low, high):
    assert check_number("clip", value, low, high) == value


@pytest.mark.parametrize("value", [-1e-9, 1.1, math.nan, math.inf, -math.inf, True, "1", None])
def test_any_other_number_is_refused(value):
    with pytest.raises(ValueError, match="clip must be a finite number of at least 0 and at most"):
        check_number("clip", value, 0, 1)


def test_a_number_without_an_upper_bound_is_finite_and_may_be_large():
    assert check_number("clip", 10**400) == 10**400
    with pytest.raises(ValueError, match="clip must be a finite number of at least 0, got inf"):
        check_number("clip", math.inf)


def test_an_open_bound_is_refused_itself():
    assert check_number("rate", 1e-9, open_low=True) == 1e-9
    with pytest.raises(ValueError, match=r"rate must be a finite number above 0, got 0\."):
        check_number("rate", 0, open_low=True)


def test_choices_and_flags():
    assert check_choice("schedule", "cosine", ("cosine", "constant")) == "cosine"
    assert check_flag("compile", False) is False
    with pytest.raises(ValueError, match=r"schedule must be one of cosine, constant, got 'step'\."):
        check_choice("schedule", "step", ("cosine", "constant"))
    with pytest.raises(ValueError, match=r"compile must be True or False, got 1\."):
        check_flag("compile", 1)
