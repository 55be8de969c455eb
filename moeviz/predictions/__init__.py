"""Predictions: a question that is asked before something is shown, and the sentence that the
measurement then makes of the answer.

`predictions()` is the table of what was said and what was measured, to copy.
"""

from __future__ import annotations

from moeviz.checks import check_choice
from moeviz.pictures.table import Table
from moeviz.predictions import (  # noqa: F401  (each enters its own)
    adapting,
    capacity,
    collapse,
    compression,
    dense_vs_moe,
    efficiency_frontier,
    fine_grained,
    frontier,
    growing,
    hardware,
    inside_layer,
    kernels,
    mixing,
    own_expert,
    real_models,
    routing,
    specialisation,
    start_here,
)
from moeviz.predictions.prediction import ANSWERS, PREDICTIONS, Prediction

__all__ = ["ANSWERS", "PREDICTIONS", "find", "predictions"]

RIGHT = "✔"


def predictions() -> Table:
    """Every prediction of this kernel in the order of the shelf: what was said, what was measured.
    Of a question that is not answered yet, the measurement stays untold."""
    rows = []
    for key, prediction in sorted(PREDICTIONS.items(), key=lambda item: item[0].split(".")[0]):
        if (said := ANSWERS.get(key)) is None:
            rows.append((key, prediction.question, "", "", "not answered yet"))
        else:
            measured = prediction.measured()
            right = RIGHT if said == measured.option else "✘"
            rows.append((key, prediction.question, said, right, prediction.sentence(None)))
    answered = sum(key in ANSWERS for key in PREDICTIONS)
    hits = sum(row[3] == RIGHT for row in rows)
    caption = f"{answered} of {len(rows)} predictions made, {hits} of them right."
    return Table(caption, ("prediction", "question", "you said", "right", "measured"), rows)


def find(key: str) -> Prediction:
    """The prediction of that key; ValueError, with those that there are, where there is none."""
    return PREDICTIONS[check_choice("prediction", key, PREDICTIONS)]
