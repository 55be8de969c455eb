"""What an exercise is, and the ways in which answers are judged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from moeviz.checks import brief
from moeviz.exercises.answers import as_names, as_number, untouched

# Given the answer: None where it is right, else one sentence on what is wrong.
Judge = Callable[[Any], str | None]
# A wrong answer that people arrive at, and the sentence that it is told.
Mistake = tuple[Any, str]

EXERCISES: dict[str, Exercise] = {}


class Wrong(Exception):
    """One sentence on what is wrong, from deep within a judge."""


@dataclass(frozen=True)
class Exercise:
    """One task and how its answer is judged.

    difficulty: 1 to 3. minutes: about how long it takes. hints: two, which lead to the answer and
    do not hold it. stated: the solution, its text or the function itself. asks: what the answer
    is, "one number". start: what the notebook's cell begins with, where that runs. mistakes: wrong
    answers that have a sentence of their own.
    """

    judge: Judge = field(repr=False)
    difficulty: int
    minutes: int
    hints: tuple[str, ...]
    stated: str | Callable[..., Any]
    praise: str
    asks: str
    start: str = ""
    mistakes: Sequence[Mistake] = ()

    @property
    def solution(self) -> str:
        if isinstance(self.stated, str):
            return self.stated
        return inspect.getsource(self.stated).rstrip()

    @property
    def is_code(self) -> bool:
        """Whether the learner writes a function, a class or a kernel."""
        return "def " in self.solution

    @property
    def effort(self) -> str:
        """Difficulty and time, as a notebook shows them."""
        return f"{'★' * self.difficulty}{'☆' * (3 - self.difficulty)} · {self.minutes} min"

    def untouched(self, answer: Any) -> str | None:
        """What is to be done, where nothing was done yet."""
        if not untouched(answer, self.start):
            return None
        if not self.is_code:
            return f"Put {self.asks} in place of the dots."
        if self.start:
            return "The cell runs, but it does not solve the task yet: change its code."
        return f"Write {self.asks}."

    def fault(self, answer: Any) -> str | None:
        """None when the answer is right, else one sentence on what is wrong."""
        if self.is_code and not callable(answer):
            return f"the answer is {self.asks}."
        try:
            fault = self.judge(answer)
        except Wrong as wrong:
            fault = str(wrong)
        except Exception as error:  # whatever a learner's code raises is an answer to be explained
            fault = f"Your code raised {type(error).__name__}: {str(error).rstrip('.')}."
        return fault and " ".join(fault.split())  # what it quotes may have several lines


def exercise(
    number: str,
    *hints: str,
    difficulty: int,
    minutes: int,
    solution: str | Callable[..., Any],
    praise: str,
    asks: str = "",
    start: str = "",
    mistakes: Sequence[Mistake] = (),
) -> Callable[[Judge], Judge]:
    """Enter an exercise, which the decorated function judges. asks: may be left out where the
    solution is a function."""
    if not asks and callable(solution):
        asks = f"a function {solution.__name__}{inspect.signature(solution)}"

    def enter(judge: Judge) -> Judge:
        EXERCISES[number] = Exercise(
            judge, difficulty, minutes, hints, solution, praise, asks, start, mistakes
        )
        return judge

    return enter


def number_asked(
    number: str,
    wanted: float,
    mistakes: dict[float, str],
    *hints: str,
    tolerance: float = 0.0,
    **rest: Any,
) -> None:
    """Enter an exercise whose answer is one number. rest: as of `exercise`."""
    enter = exercise(number, *hints, asks="one number", mistakes=[*mistakes.items()], **rest)
    enter(lambda answer: number_near(answer, wanted, mistakes, tolerance=tolerance))


def name_asked(
    number: str, wanted: str, mistakes: dict[str, str], *hints: str, **rest: Any
) -> None:
    """Enter an exercise whose answer is one of the known names. mistakes: what each of the others
    is told."""
    known = sorted([wanted, *mistakes])  # a message lists them: their order must tell nothing

    def judge(answer: Any) -> str | None:
        if not isinstance(answer, Iterable):
            return f"the answer is {rest['asks']}."
        names = as_names(answer, known)
        if isinstance(names, str):
            return names
        for name in names:
            if name in mistakes:
                return mistakes[name]
        return None if names else f"the answer is {rest['asks']}."

    exercise(number, *hints, mistakes=[*mistakes.items()], **rest)(judge)


def function_asked(
    number: str,
    *hints: str,
    solution: Callable[..., Any],
    cases: Callable[[], Sequence[tuple[Any, ...]]],
    mistakes: Sequence[Mistake],
    words: str,
    read: Callable[[Any], Any] | None = None,
    **rest: Any,
) -> None:
    """Enter an exercise whose answer is a function of numbers. read: what is taken of its result;
    words: as say of function_fault, a format of the case, `found` and `wanted`."""
    read = read or one_number

    def judge(answer: Any) -> str | None:
        def say(case: tuple[Any, ...], found: float, wanted: float) -> str:
            return words.format(*case, found=found, wanted=wanted)

        return function_fault(lambda *c: read(answer(*c)), solution, cases(), mistakes, say)

    exercise(number, *hints, solution=solution, mistakes=mistakes, **rest)(judge)


def one_number(value: Any) -> float:
    """What a function gave, where that is one finite number."""
    number = as_number(value)
    if number is None:
        raise Wrong(f"it must give one number, not {brief(value)}.")
    return number


def number_near(
    answer: Any, wanted: float, mistakes: dict[float, str], *, tolerance: float = 0.0
) -> str | None:
    """The fault of a numeric answer; `mistakes` explains the wrong values people arrive at. Of any
    other value only the order of magnitude is told: more would lead to the answer by trying."""
    value = as_number(answer)
    if value is None:
        return f"the answer is one number, not {brief(answer)}."
    if abs(value - wanted) <= tolerance:
        return None
    for other, explanation in mistakes.items():
        if abs(value - other) <= tolerance:
            return explanation
    if wanted / 2 <= value <= wanted * 2:
        return f"{value:g} is of the right size, but it is not exact."
    return f"{value:g} is much too {'small' if value < wanted else 'large'}."


def function_fault(
    answer: Callable[..., Any],
    right: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    mistakes: Sequence[Mistake],
    say: Callable[[tuple[Any, ...], Any, Any], str],
    *,
    rtol: float = 1e-6,
    atol: float = 1e-12,
) -> str | None:
    """Where a function of numbers or arrays is not the right one: said by the well-known other
    function that it is in all cases, or by say(case, found, wanted) of the first that differs."""
    same = partial(_same, rtol=rtol, atol=atol)
    given = [answer(*(a.copy() if isinstance(a, np.ndarray) else a for a in c)) for c in cases]
    wanted = [right(*case) for case in cases]
    differs = [not same(a, b) for a, b in zip(given, wanted, strict=True)]
    if not any(differs):
        return None
    for other, sentence in mistakes:
        if all(same(a, other(*case)) for a, case in zip(given, cases, strict=True)):
            return sentence
    if all(_rounded(a, b) for a, b in zip(given, wanted, strict=True)):
        return "that is rounded to whole numbers: leave the result as it is."
    first = differs.index(True)
    return say(cases[first], given[first], wanted[first])


def _same(found: Any, wanted: Any, *, rtol: float, atol: float) -> bool:
    same_shape = np.shape(found) == np.shape(wanted)
    return same_shape and np.allclose(found, wanted, rtol=rtol, atol=atol)


def _rounded(found: Any, wanted: Any) -> bool:
    """Whether it is the right number, rounded up, down or to the nearest."""
    if np.shape(found) != np.shape(wanted):
        return False
    found = np.asarray(found, dtype=float)
    return bool((found == np.round(found)).all() and (np.abs(found - wanted) < 1).all())
