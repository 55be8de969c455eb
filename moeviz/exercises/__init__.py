"""Exercises: check("01.2", answer) works offline and needs no file.

A cell that is as the notebook gives it is not tried yet, and counts nothing. A wrong answer gets
one sentence on what is wrong; each further wrong one a hint, and after two hints the solution is
offered. `progress()` is the table of all of them, to copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from moeviz.exercises import (  # noqa: F401  (each enters its own)
    adapting,
    cached_and_packed,
    capacity,
    collapse,
    comparisons,
    compression,
    dense_vs_moe,
    diagnosis,
    efficiency_frontier,
    fine_grained,
    frontier,
    growing,
    hardware,
    inside_layer,
    kernels,
    many_devices,
    mixing,
    moe_layer,
    other_ways,
    own_expert,
    real_models,
    router_rules,
    routing,
    specialisation,
    start_here,
    verdicts,
)
from moeviz.exercises.answers import fingerprint
from moeviz.exercises.exercise import EXERCISES, Exercise
from moeviz.pictures.table import Table

__all__ = ["EXERCISES", "check", "progress", "solution"]


@dataclass
class _Record:
    """What became of one exercise. wrong: fingerprints of the wrong answers since the last right
    one; tries: of all answers."""

    wrong: list[str] = field(default_factory=list)
    tries: int = 0
    solved: bool = False
    shown: bool = False  # its solution, before it was solved


_records: dict[str, _Record] = {}


def check(number: str, answer: Any) -> None:
    """Say whether an answer is right. Raises ValueError for an exercise that does not exist."""
    exercise = _find(number)
    record = _records.setdefault(number, _Record())
    if todo := exercise.untouched(answer):
        print(f"○ {number} ({exercise.effort}): not tried yet. {todo}")
        return
    fault = exercise.fault(answer)
    if fault is None:
        record.tries += not record.solved
        record.solved, record.wrong = True, []
        print(f"✔ {number}: right. {exercise.praise}\n{progress().caption}")
        return
    print(f"✘ {number}: {fault}")
    if (this := fingerprint(answer)) not in record.wrong:
        record.wrong.append(this)
        record.tries += not record.solved
    tries = len(record.wrong)
    if tries >= 2:
        print(f"Hint: {exercise.hints[min(tries - 2, len(exercise.hints) - 1)]}")
    if tries > 1 + len(exercise.hints):
        print(f'The solution: run solution("{number}").')


def solution(number: str) -> None:
    """Show the solution. Raises ValueError for an exercise that does not exist."""
    exercise = _find(number)
    record = _records.setdefault(number, _Record())
    record.shown |= not record.solved
    print(exercise.solution)


def progress() -> Table:
    """The exercises of this notebook and the tries that they took; its `.csv` is to copy."""
    notebooks = {_notebook(number) for number in _records or EXERCISES}
    numbers = [number for number in _in_order() if _notebook(number) in notebooks]
    rows = []
    for number in numbers:
        exercise, record = EXERCISES[number], _records.get(number, _Record())
        state = "solved" if record.solved else "tried" if record.tries else "not tried yet"
        if record.shown:
            state += ", solution seen"
        kind = "code" if exercise.is_code else "answer"
        rows.append((number, exercise.effort, kind, record.tries, state))
    solved = sum(record.solved for record in _records.values())
    chapters = ", ".join(sorted(notebooks))
    caption = f"{solved} of {len(numbers)} exercises of {chapters} are solved."
    return Table(caption, ("exercise", "difficulty and time", "kind", "tries", "state"), rows)


def _in_order() -> list[str]:
    """All numbers; 03.10 comes after 03.9."""
    return sorted(EXERCISES, key=lambda number: (_notebook(number), int(number.split(".")[1])))


def _notebook(number: str) -> str:
    return number.partition(".")[0]


def _find(number: str) -> Exercise:
    if number not in EXERCISES:
        raise ValueError(f"There is no exercise '{number}'; there is {', '.join(_in_order())}.")
    return EXERCISES[number]
