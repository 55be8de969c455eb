"""Predictions of 02_inside_a_layer."""

from __future__ import annotations

import numpy as np

from moeviz.experiments.recorded import recorded_trace
from moeviz.predictions.prediction import Measured, prediction
from moeviz.records.routes import Anatomy


@prediction(
    "02.sum",
    "The two best of eight probabilities become a token's two weights, as they are. What do the "
    "two weights sum to?",
    "exactly 1", "less than 1", "more than 1",
)  # fmt: skip
def raw_sum() -> Measured:
    anatomy = recorded_trace(Anatomy, "inside_layer")
    raw_TK = np.take_along_axis(anatomy.score, anatomy.expert.astype(np.int64), axis=1)
    sum_T = raw_TK.sum(axis=1)
    num_experts = anatomy.score.shape[1]
    option = (
        "less than 1" if sum_T.max() < 1 else "exactly 1" if sum_T.min() == 1 else "more than 1"
    )
    figure = f"in the recorded text the sum lies between {sum_T.min():.2f} and {sum_T.max():.2f}"
    because = (
        f"all {num_experts} probabilities sum to 1, and the experts that are not chosen hold a part"
    )
    return Measured(option, figure, because)
