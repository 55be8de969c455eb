"""What an exercise is."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Exercise:
    """fault(answer) is None when the answer is right, else one sentence on what is wrong."""

    fault: Callable[[Any], str | None]
    hints: tuple[str, ...]
    solution: str
    praise: str


def is_number(answer: Any) -> bool:
    """Whether it is one real number, numpy's included."""
    return isinstance(answer, numbers.Real) and not isinstance(answer, bool)


def number_near(
    answer: Any, wanted: float, mistakes: dict[float, str], *, tolerance: float = 0.0
) -> str | None:
    """The fault of a numeric answer; `mistakes` explains the wrong values people arrive at."""
    if not is_number(answer) or not math.isfinite(answer):
        return f"the answer is one number, not {answer!r}."
    if abs(answer - wanted) <= tolerance:
        return None
    for value, explanation in mistakes.items():
        if abs(answer - value) <= tolerance:
            return explanation
    return f"{answer:g} is too {'small' if answer < wanted else 'large'}."
