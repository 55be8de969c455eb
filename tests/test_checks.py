"""The one dialect of errors: what is let through, what is refused, and in which words."""

import functools
import math

import pytest

from moeviz.checks import brief, check_choice, check_flag, check_number, check_whole, one_line

NAMES = ("cosine", "constant")
above = functools.partial(check_number, open_low=True)


@pytest.mark.parametrize(
    "check,bounds,values",
    [
        (check_whole, (), [1, 2**63 - 1]),
        (check_whole, (0, 7), [0, 7]),
        (check_whole, (-3, -3), [-3]),
        (check_number, (0, 1), [0, 0.5, 1.0]),
        (check_number, (-2, 0), [-2]),
        (check_number, (), [10**300]),
        (above, (), [1e-9]),
        (check_choice, (NAMES,), [*NAMES]),
        (check_flag, (), [True, False]),
    ],
)
def test_what_is_allowed_comes_back(check, bounds, values):
    assert all(check("it", value, *bounds) is value for value in values)


NEITHER = [math.nan, True, "1", None, [1]]


@pytest.mark.parametrize(
    "check,bounds,values,words",
    [
        (check_whole, (), [0, *NEITHER], "a whole number of at least 1"),
        (check_whole, (), [2**63], f"a whole number of at least 1 and at most {2**63 - 1}"),
        (check_whole, (1, 7), [0, 8, 10.0, 2.5], "a whole number of at least 1 and at most 7"),
        (check_number, (), [-1, math.inf, -math.inf, *NEITHER], "a finite number of at least 0"),
        (check_number, (), [10**400], "a finite number of at least 0"),
        (check_number, (0, 1), [-1e-9, 1.1, 1e9], "a finite number of at least 0 and at most 1"),
        (above, (), [0, 0.0, math.inf], "a finite number above 0"),
        (check_choice, (NAMES,), ["step", None], "one of cosine, constant"),
        (check_flag, (), [0, 1, None], "True or False"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_one_sentence(check, bounds, values, words):
    for value in values:
        with pytest.raises(ValueError) as error:
            check("it", value, *bounds)
        assert str(error.value) == f"it must be {words}, got {brief(value)}."


def test_a_long_message_ends_with_a_sentence_or_a_word():
    for words, end in (
        ("No network here. " + "Look at https://a.b/c. " * 20, "/c"),
        ("word " * 90, "word …"),
    ):
        line = one_line(OSError(words.replace(" ", "\n")))
        assert len(line) <= 202 and line.endswith(end)
