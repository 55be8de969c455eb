"""Checks of what a user gives: each returns the value, or raises ValueError in one sentence."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Iterable
from typing import Any

LARGEST_SEED = 2**31 - 1  # what every random generator here takes
LARGEST_WHOLE = 2**63 - 1  # what a tensor of whole numbers holds
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother, _BRIEF.maxlong = 3, 60, 60, 40


def brief(value: Any) -> str:
    """How a refusal names a value: its repr, its middle left out where that is long."""
    return _BRIEF.repr(value)


def check_whole(name: str, value: Any, low: int = 1, high: int | None = None) -> int:
    """A whole number of at least `low`, and of at most `high` (None: that of 64 bits)."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    most = LARGEST_WHOLE if high is None else high
    if not whole or not low <= value <= most:
        limited = high is not None or (whole and value > most)
        upper = f" and at most {most}" if limited else ""
        raise ValueError(
            f"{name} must be a whole number of at least {low}{upper}, got {brief(value)}."
        )
    return value


def check_number(
    name: str, value: Any, low: float = 0.0, high: float = math.inf, *, open_low: bool = False
) -> float:
    """A finite number in [low, high], or in (low, high] where open_low."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # Comparisons, not math.isfinite: that overflows on a whole number of 400 digits.
    if (
        not number
        or not low <= value <= high
        or abs(value) > sys.float_info.max
        or (open_low and value == low)
    ):
        allowed = f"above {low:g}" if open_low else f"of at least {low:g}"
        upper = "" if math.isinf(high) else f" and at most {high:g}"
        raise ValueError(f"{name} must be a finite number {allowed}{upper}, got {brief(value)}.")
    return value


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> str:
    """One of the allowed words."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {brief(value)}.")
    return value


def one_line(error: BaseException) -> str:
    """Another library's message, on one line and short enough for a sentence: of a long one its
    first sentences, or its first words."""
    words = " ".join(str(error).split())
    if len(words) > 200:
        sentences, end, _ = words[:200].rpartition(". ")
        words = sentences if end else words[:200].rpartition(" ")[0] + " …"
    return words.rstrip(". ") or type(error).__name__


def check_flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {brief(value)}.")
    return value
