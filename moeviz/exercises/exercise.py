"""What an exercise is, and the ways in which answers are judged."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Given the answer: None where it is right, else one sentence on what is wrong.
Judge = Callable[[Any], str | None]
# A wrong answer that people arrive at, and the sentence that it is told.
Mistake = tuple[Any, str]

EXERCISES: dict[str, Exercise] = {}


class Wrong(Exception):
    """One sentence on what is wrong, from deep within a judge."""


@dataclass(frozen=True)
class Exercise:
    """judge: see Judge. stated: the solution, its text or the function itself. mistakes: those that
    have a sentence of their own."""

    judge: Judge
    hints: tuple[str, ...]
    stated: str | Callable[..., Any]
    praise: str
    mistakes: Sequence[Mistake] = ()

    @property
    def solution(self) -> str:
        if isinstance(self.stated, str):
            return self.stated
        return inspect.getsource(self.stated).rstrip()

    def fault(self, answer: Any) -> str | None:
        """None when the answer is right, else one sentence on what is wrong."""
        head = self.solution.partition(":\n")[0]
        if head.startswith("def ") and not callable(answer):
            return f"the answer is a function {head.removeprefix('def ')}."
        try:
            fault = self.judge(answer)
        except Wrong as wrong:
            fault = str(wrong)
        except Exception as error:  # whatever a learner's code raises is an answer to be explained
            fault = f"Your code raised {type(error).__name__}: {str(error).rstrip('.')}."
        return fault and " ".join(fault.split())  # what it quotes may have several lines


def is_number(answer: Any) -> bool:
    """Whether it is one real number, numpy's included."""
    return isinstance(answer, numbers.Real) and not isinstance(answer, bool)


def one_number(value: Any) -> Any:
    """What a function gave, where that is one finite number."""
    if not is_number(value) or not math.isfinite(value):
        raise Wrong(f"it must give one number, not {value!r}.")
    return value


def exercise(
    number: str,
    *hints: str,
    solution: str | Callable[..., Any],
    praise: str,
    mistakes: Sequence[Mistake] = (),
) -> Callable[[Judge], Judge]:
    """Enter an exercise, which the decorated function judges."""

    def enter(judge: Judge) -> Judge:
        EXERCISES[number] = Exercise(judge, hints, solution, praise, mistakes)
        return judge

    return enter


def number_asked(
    number: str,
    wanted: float,
    mistakes: dict[float, str],
    *hints: str,
    tolerance: float = 0.0,
    **text: str,
) -> None:
    """Enter an exercise whose answer is one number. text: its solution and praise."""
    enter = exercise(number, *hints, mistakes=[*mistakes.items()], **text)
    enter(lambda answer: number_near(answer, wanted, mistakes, tolerance=tolerance))


def function_asked(
    number: str,
    *hints: str,
    solution: Callable[..., Any],
    praise: str,
    cases: Callable[[], Sequence[tuple[Any, ...]]],
    mistakes: Sequence[Mistake],
    words: str,
    read: Callable[[Any], Any] = one_number,
) -> None:
    """Enter an exercise whose answer is a function of numbers. read: what is taken of its result;
    words: as say of function_fault, a format of the case, `found` and `wanted`."""

    def judge(answer: Any) -> str | None:
        def say(case: tuple[Any, ...], found: float, wanted: float) -> str:
            return words.format(*case, found=found, wanted=wanted)

        return function_fault(lambda *c: read(answer(*c)), solution, cases(), mistakes, say)

    exercise(number, *hints, solution=solution, praise=praise, mistakes=mistakes)(judge)


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


def names_fault(answer: Any, known: Iterable[str]) -> str | None:
    """Why an answer is no list of some of the known names."""
    if not isinstance(answer, list | tuple | set) or not all(isinstance(n, str) for n in answer):
        return "the answer is a list of names, each in quotes."
    unknown = sorted({*answer} - {*known})
    return f"'{unknown[0]}' is none of the names to choose from." if unknown else None


def function_fault(
    answer: Callable[..., Any],
    right: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    mistakes: Sequence[Mistake],
    say: Callable[[tuple[Any, ...], Any, Any], str],
) -> str | None:
    """Where a function of numbers or arrays is not the right one: said by the well-known other
    function that it is in all cases, or by say(case, found, wanted) of the first that differs."""
    given = [answer(*(a.copy() if isinstance(a, np.ndarray) else a for a in c)) for c in cases]
    wanted = [right(*case) for case in cases]
    differs = [not _same(a, b) for a, b in zip(given, wanted, strict=True)]
    if not any(differs):
        return None
    for other, sentence in mistakes:
        if all(_same(a, other(*case)) for a, case in zip(given, cases, strict=True)):
            return sentence
    first = differs.index(True)
    return say(cases[first], given[first], wanted[first])


def _same(found: Any, wanted: Any) -> bool:
    return np.shape(found) == np.shape(wanted) and np.allclose(found, wanted, rtol=1e-6, atol=1e-12)
