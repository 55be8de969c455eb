"""What a prediction is: a question, its answers, and what is measured to judge them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from moeviz.checks import check_choice
from moeviz.experiments.recorded import recorded_figures


@dataclass(frozen=True)
class Measured:
    """What a measurement says of a question.

    option: the answer that it makes right. figure: the measured figures with their setting, and
    because: what brings them about; two clauses, made from the figures.
    """

    option: str
    figure: str
    because: str


Measure = Callable[[], Measured]

# What is answered where a difference is not shown.
OPEN = "no difference that the seeds can show"

PREDICTIONS: dict[str, Prediction] = {}
# What the learner said, by the prediction's key; it lasts as long as the kernel.
ANSWERS: dict[str, str] = {}


@dataclass(frozen=True)
class Prediction:
    """measure: reads a recording or calculates, within a moment; it is asked when it is wanted."""

    key: str
    question: str
    options: tuple[str, ...]
    measure: Measure

    def measured(self) -> Measured:
        """What was measured, always the same. ValueError where nothing is recorded."""
        return self._measured

    @cached_property
    def _measured(self) -> Measured:
        measured = self.measure()
        check_choice("measured option", measured.option, self.options)
        return measured

    def sentence(self, said: str | None) -> str:
        """What is told when it is measured: how it is beside what was said, and why. None: to
        somebody who said nothing."""
        measured = self.measured()
        if said is None:
            start = f"It is “{measured.option}”"
        elif said == measured.option:
            start = f"You said “{said}”, and so it is"
        else:
            start = f"You said “{said}”; it is “{measured.option}”"
        return f"{start}: {measured.figure}, because {measured.because}."


def prediction(key: str, question: str, *options: str) -> Callable[[Measure], Measure]:
    """Enter a prediction, which the decorated function measures."""

    def enter(measure: Measure) -> Measure:
        PREDICTIONS[key] = Prediction(key, question, options, measure)
        return measure

    return enter


def open_because(gap: Mapping[str, Any]) -> str:
    """Why a recorded difference is open."""
    if gap["low"] is None:
        return "one seed says nothing of luck"
    if gap["low"] * gap["high"] > 0:
        return "so many comparisons at once ask for a clearer difference than this"
    return "the interval holds 0: what differs from seed to seed hides any difference of the two"


def recorded_run(name: str) -> dict[str, Any]:
    """The figures of an experiment; ValueError where none are recorded."""
    figures = recorded_figures(name)
    if figures is None:
        raise ValueError(f"Nothing is recorded: run 'python -m moeviz experiment {name}'.")
    return figures


def nearest(value: float, options: Mapping[str, float], *, ratio: bool = False) -> str:
    """The option whose figure lies nearest to a value; ratio: by how many times, not how much."""
    scale = math.log if ratio else float
    return min(options, key=lambda name: abs(scale(options[name]) - scale(value)))
