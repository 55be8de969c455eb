"""Exercises: check("01.2", answer) works offline and needs no file.

A wrong answer gets one sentence on what is wrong; each further wrong one a hint, and after two
hints the solution is offered.
"""

from __future__ import annotations

from typing import Any

from moeviz.exercises import (
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
from moeviz.exercises.exercise import Exercise

__all__ = ["check", "solution"]

EXERCISES: dict[str, Exercise] = {
    "00.1": start_here.BUSIEST,
    "00.2": start_here.ROWS,
    "00.3": start_here.PICK,
    "01.1": dense_vs_moe.TWIN_WIDTH,
    "01.2": dense_vs_moe.ACTIVE_SHARE,
    "01.3": dense_vs_moe.AHEAD,
    "02.1": inside_layer.RENORMALISE,
    "02.2": inside_layer.TOP_ONE,
    "02.3": inside_layer.ROUTER,
    "03.1": routing.CAUSAL_ONES,
    "03.2": routing.UNSERVED,
    "03.3": routing.PROBE,
    "03.4": routing.CAREFUL,
    "04.1": collapse.MAX_VIOLATION,
    "04.2": collapse.FAILING,
    "04.3": collapse.BIAS_RULE,
    "04.4": collapse.BALANCING_LOSS,
    "05.1": capacity.SLOTS,
    "05.2": capacity.TWO_TOKENS,
    "05.3": capacity.CAUSAL,
    "05.4": capacity.PRIORITY,
    "08.1": hardware.DEVICES,
    "08.2": hardware.DISTINCT,
    "08.3": hardware.SECONDS,
    "09.1": frontier.RUMOUR,
    "09.2": frontier.LAYER,
    "09.3": frontier.CACHE,
    "12.1": kernels.PADDING,
    "12.2": kernels.RANK,
    "12.3": kernels.GATHER_SUM,
}

_wrong: dict[str, int] = {}


def check(number: str, answer: Any) -> None:
    """Say whether an answer is right. Raises ValueError for an exercise that does not exist."""
    exercise = _find(number)
    try:
        fault = exercise.fault(answer)
    except Exception as error:  # whatever a learner's code raises is an answer to be explained
        fault = f"Your code raised {type(error).__name__}: {str(error).rstrip('.')}."
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
        raise ValueError(f"There is no exercise '{number}'; there is {', '.join(EXERCISES)}.")
    return EXERCISES[number]
