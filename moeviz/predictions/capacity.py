"""Predictions of 05_capacity."""

from __future__ import annotations

import math

import numpy as np

from moeviz.pictures.over_seeds import gap_words, recorded_gap
from moeviz.pictures.routing.limits import BY_PROBABILITY
from moeviz.predictions.prediction import Measured, nearest, prediction, recorded_run
from moeviz.records.metrics import expected_drop_rate
from moeviz.words import percent

# Other later tokens, of another kind of text, also make a pool more mixed.
LOOKS_ON = (
    "the experts compare a token with those that follow it; that the exchange also mixes two kinds "
    "of text in a pool may be a part of it"
)


@prediction(
    "05.zipf",
    "8 experts, K = 1, and the r-th most popular expert is asked for in proportion to 1/r. Every "
    "expert gets twice as many slots as an even load needs. What share of 4,096 tokens is dropped?",
    "none", "about 3 %", "about 12 %", "about 40 %",
)  # fmt: skip
def zipf() -> Measured:
    share_E = 1 / np.arange(1, 9)
    share_E /= share_E.sum()
    capacity = math.ceil(2 * 4096 / 8)
    lost = expected_drop_rate(share_E, 4096, capacity)
    options = {"none": 0.0, "about 3 %": 0.03, "about 12 %": 0.12, "about 40 %": 0.4}
    because = (
        f"{percent(share_E[0])} of the tokens ask for the most popular expert, and its slots hold "
        f"{percent(capacity / 4096)}"
    )
    return Measured(
        nearest(lost, options), f"{percent(lost, 1)} of the tokens are dropped", because
    )


@prediction(
    "05.priority",
    "Slots go to tokens in the order of the text. Which tokens are dropped?",
    "the unsure ones", "the last ones", "any, at random",
)  # fmt: skip
def priority() -> Measured:
    from moeviz.experiments.slots import drops_by_place

    lost = drops_by_place(top_k=2, factor=1.0, seeds=5)["position"]
    first, last = lost[: len(lost) // 4].mean(), lost[-len(lost) // 4 :].mean()
    option = "the last ones" if last > 2 * first else "any, at random"
    figure = (
        f"{percent(first)} of the assignments of the batch's first quarter are dropped, and "
        f"{percent(last)} of its last quarter's (K = 2, factor 1, skew 1)"
    )
    because = "an expert is full only after others have come, and who comes late finds it full"
    return Measured(option, figure, because)


@prediction(
    "05.limit",
    "A model was trained under factor 1.25, which drops some tokens. Then its loss is measured on "
    "the same text twice: under this limit, and freed of it. What does the limit cost?",
    "nothing that can be shown", "less than 0.1 nats per token", "0.1 nats per token or more",
)  # fmt: skip
def limit_costs() -> Measured:
    arm = recorded_run("capacity")["limits"]["factor 1.25"]
    cost = arm["cost_mixed"]
    gap = recorded_gap(cost)
    option, because = "nothing that can be shown", "the seeds differ too much to show a cost"
    if cost["verdict"] == "higher":
        small = gap.mean < 0.1
        option = "less than 0.1 nats per token" if small else "0.1 nats per token or more"
        dropped = arm["dropped_mixed"]["mean"]
        because = f"{percent(dropped, 1)} of the tokens pass the layer without an expert"
        sure = recorded_run("capacity")["limits"][BY_PROBABILITY]
        if sure["cost_mixed"]["verdict"] == "open":
            because += (
                f"; which ones counts too, for by probability, factor 1, "
                f"{percent(sure['dropped_mixed']['mean'], 1)} do, and no cost is shown"
            )
    figure = f"in batches mixed as in training the limit makes the loss {gap_words(gap)}"
    return Measured(option, figure, because)


@prediction(
    "05.leak",
    "Expert choice is trained on pools of 16 neighbours. Now the tokens after each token are "
    "exchanged for those of another text. What happens to the loss?",
    "it falls", "no difference that can be shown", "it rises",
)  # fmt: skip
def leak_costs() -> Measured:
    arm = recorded_run("capacity")["leaks"]["pool of 16 neighbours"]
    worth = arm["worth_of_later_tokens"]
    option, because = {
        "higher": ("it rises", LOOKS_ON),
        "lower": ("it falls", LOOKS_ON),
        "open": ("no difference that can be shown", "the seeds differ too much to show one"),
    }[worth["verdict"]]
    words = gap_words(recorded_gap(worth))
    return Measured(option, f"it is {words} than with the text's own later tokens", because)
