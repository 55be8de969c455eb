"""Exercises of 00_start_here."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from moeviz.exercises.answers import as_number
from moeviz.exercises.exercise import exercise, function_fault, number_near
from moeviz.experiments.recorded import recorded_trace
from moeviz.records import Trace


@cache
def recorded() -> Trace:
    """The trace that 00_start_here opens on."""
    return recorded_trace(Trace, "start_here")


@exercise(
    "00.1",
    'Choose "load" in the panel.',
    "The last layer is the lowest row of bars.",
    difficulty=1,
    minutes=2,
    asks="the number of an expert",
    solution="recorded.load()[-1].argmin()",
    praise="No bar of the last layer is shorter.",
)
def least_busy(answer: Any) -> str | None:
    load_LE = recorded().load()
    number = as_number(answer)
    if number is None or number not in range(load_LE.shape[1]):
        return f"the answer is the number of an expert, 0 to {load_LE.shape[1] - 1}."
    expert = int(number)
    count = int(load_LE[-1, expert])
    if count == load_LE[-1].min():
        return None
    if count == load_LE[-1].max():
        return f"expert {expert} takes the most of the last layer; the fewest are asked for."
    for layer, load_E in enumerate(load_LE[:-1]):
        if load_E[expert] == load_E.min():
            return (
                f"expert {expert} takes the fewest of layer {layer}; the last layer is asked for."
            )
    return f"expert {expert} takes {count} assignments in the last layer; another takes fewer."


@exercise(
    "00.2",
    "Every token is sent to K experts.",
    "A token makes one row for each of its choices. Other layers are not counted.",
    difficulty=1,
    minutes=2,
    asks="one number",
    solution="len(recorded.tokens) * recorded.top_k",
    praise="T tokens with K choices each make N = T·K rows, whatever the number of experts.",
)
def rows(answer: Any) -> str | None:
    tokens, layers, top_k = recorded().expert.shape
    mistakes = {
        tokens: f"that is the number of tokens; each goes to {top_k} experts.",
        tokens * top_k * layers: "that counts all layers; one layer is asked for.",
        tokens * recorded().num_experts: "a token does not go to every expert.",
    }
    return number_near(answer, tokens * top_k, mistakes)


def pick(score_E):
    return np.argsort(-score_E, kind="stable")[:2]


@exercise(
    "00.3",
    "np.argsort sorts upwards: sort the negated scores.",
    "Where scores are equal, only one kind of sort keeps the order they came in: look at the "
    "argument `kind`.",
    difficulty=2,
    minutes=5,
    solution=pick,
    praise="It chose as the trained router did, for every token of the recorded text.",
)
def picks(answer: Any) -> str | None:
    cases = [
        [0.1, 0.6, 0.3],
        [0.25] * 4,
        [0.1, 0.4, 0.1, 0.4],
        [-3.0, -1.0, -2.0],
        # NumPy sorts short arrays stably whatever it is asked; these it does not.
        [0.0] * 40,
        [0.25, 0.5] * 200,
    ]

    def say(case: tuple[np.ndarray], found: list[int], wanted: np.ndarray) -> str:
        scores, best = case[0].tolist(), wanted.tolist()
        why = "it must be "
        if found == best[::-1]:
            why = "the best expert comes first: "
        elif sorted(scores)[-1] == sorted(scores)[-2]:
            why = "the lower number wins a tie: "
        shown = f"[{', '.join(map(str, scores[:8]))}{', …' if len(scores) > 8 else ''}]"
        return f"for {shown} {why}{best}, not {found}."

    arrays = [(np.array(case),) for case in cases]
    if fault := function_fault(lambda s: [int(e) for e in answer(s)], pick, arrays, (), say):
        return fault
    trace = recorded()
    choice_TK = np.array([answer(row.copy()) for row in trace.score[:, -1]])
    if not (choice_TK == trace.expert[:, -1]).all():
        return "it disagrees with the real router on the recorded text."
    return None
