"""Predictions of 10_efficiency_frontier."""

from __future__ import annotations

from moeviz.costs.laws.answers import answers
from moeviz.costs.laws.law import Model, size
from moeviz.predictions.prediction import Measured, nearest, prediction


@prediction(
    "10.laws",
    "Five published scaling laws are asked about one sparse model: 1.6T parameters, 1 % of them "
    "for a token, 300B tokens. Each names the dense model that is as good. How far apart are the "
    "smallest and the largest of these?",
    "less than 3 times", "about 10 times", "more than 50 times",
)  # fmt: skip
def laws() -> Measured:
    told = answers(Model(1.6e12, 0.01, 3e11, 8))
    least, most = (pick(told, key=lambda each: each.dense) for pick in (min, max))
    times = most.dense / least.dense
    options = {"less than 3 times": 2, "about 10 times": 10, "more than 50 times": 80}
    figure = (
        f"{least.law.short} names {size(least.dense)} and {most.law.short} {size(most.dense)}, "
        f"{times:.3g} times apart"
    )
    known = sum(not each.law.beyond(each.model) for each in told)
    because = f"{known or 'none'} of the five was fitted on runs that reach so far"
    return Measured(nearest(times, options, ratio=True), figure, because)
