"""Exercises: check("01.2", answer) works offline and needs no file.

A wrong answer gets one sentence on what is wrong; each further wrong one a hint, and after two
hints the solution is offered.
"""

from __future__ import annotations

from typing import Any

from moeviz.exercises import (  # noqa: F401  (each enters its own)
    capacity,
    collapse,
    dense_vs_moe,
    frontier,
    hardware,
    inside_layer,
    kernels,
    routing,
    start_here,
)
from moeviz.exercises.exercise import EXERCISES, Exercise

__all__ = ["EXERCISES", "check", "solution"]

_wrong: dict[str, int] = {}


def check(number: str, answer: Any) -> None:
    """Say whether an answer is right. Raises ValueError for an exercise that does not exist."""
    exercise = _find(number)
    fault = exercise.fault(answer)
    if fault is None:
        _wrong.pop(number, None)
        print(f"✔ {number}: right. {exercise.praise}")
        return
    tries = _wrong[number] = _wrong.get(number, 0) + 1
    print(f"✘ {number}: {fault}")
    if tries >= 2:
        print(f"Hint: {exercise.hints[min(tries - 2, len(exercise.hints) - 1)]}")
    if tries > 1 + len(exercise.hints):
        print(f'The solution: run solution("{number}").')


def solution(number: str) -> None:
    """Show the solution. Raises ValueError for an exercise that does not exist."""
    print(_find(number).solution)


def _find(number: str) -> Exercise:
    if number not in EXERCISES:
        raise ValueError(
            f"There is no exercise '{number}'; there is {', '.join(sorted(EXERCISES))}."
        )
    return EXERCISES[number]
