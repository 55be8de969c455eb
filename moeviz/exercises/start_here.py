"""Exercises of 00_start_here."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from moeviz.exercises.exercise import Exercise, is_number, number_near
from moeviz.experiments.recorded import recorded_trace
from moeviz.records import Trace


@cache
def recorded() -> Trace:
    """The trace that 00_start_here opens on."""
    return recorded_trace(Trace, "start_here")


def _busiest(answer: Any) -> str | None:
    load_LE = recorded().load()
    first = int(load_LE[0].argmax())
    if not is_number(answer) or answer not in range(load_LE.shape[1]):
        return f"the answer is the number of an expert, 0 to {load_LE.shape[1] - 1}."
    if load_LE[-1, int(answer)] == load_LE[-1].max():
        return None
    if answer == first:
        return f"expert {first} is the busiest of the first layer; the last layer is asked for."
    count = int(load_LE[-1, int(answer)])
    return f"expert {answer} takes {count} assignments in the last layer; another takes more."


def _rows(answer: Any) -> str | None:
    trace = recorded()
    tokens, layers, top_k = trace.expert.shape
    return number_near(
        answer,
        tokens * top_k,
        {
            tokens: f"that is the number of tokens; each goes to {top_k} experts.",
            tokens * top_k * layers: "that counts all layers; one layer is asked for.",
            tokens * trace.num_experts: "a token does not go to every expert.",
        },
    )


def _pick(answer: Any) -> str | None:
    if not callable(answer):
        return "the answer is a function of one array of scores."
    cases = [
        (np.array([0.1, 0.6, 0.3]), [1, 2]),
        (np.array([0.25, 0.25, 0.25, 0.25]), [0, 1]),
        (np.array([0.1, 0.4, 0.1, 0.4]), [1, 3]),
        (np.array([-3.0, -1.0, -2.0]), [1, 2]),
    ]
    for scores, wanted in cases:
        found = [int(e) for e in answer(scores.copy())]
        if found == wanted[::-1]:
            return f"for {scores.tolist()} the best expert comes first: {wanted}, not {found}."
        if found != wanted and sorted(scores)[-1] == sorted(scores)[-2]:
            return f"for {scores.tolist()} the lower number wins a tie: {wanted}, not {found}."
        if found != wanted:
            return f"for {scores.tolist()} it must be {wanted}, not {found}."
    trace = recorded()
    mine_TK = np.array([answer(row) for row in trace.score[:, -1]])
    if not (mine_TK == trace.expert[:, -1]).all():
        return "it disagrees with the real router on the recorded text."
    return None


BUSIEST = Exercise(
    _busiest,
    ('Choose "load" in the panel.', "The last layer is the lowest row of bars."),
    "recorded.load()[-1].argmax()",
    "Its bar is the highest of the last layer.",
)
ROWS = Exercise(
    _rows,
    ("Every token is sent to K experts.", "len(recorded.tokens) * recorded.top_k"),
    "len(recorded.tokens) * recorded.top_k",
    "T tokens with K choices each make N = T·K rows, whatever the number of experts.",
)
PICK = Exercise(
    _pick,
    (
        "np.argsort sorts upwards: sort the negated scores.",
        'np.argsort(..., kind="stable") keeps the lower number first where scores are equal.',
    ),
    'def pick(score_E):\n    return np.argsort(-score_E, kind="stable")[:2]',
    "It chose as the trained router did, for every token of the recorded text.",
)
