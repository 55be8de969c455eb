"""Predictions of 04_collapse."""

from __future__ import annotations

from moeviz.experiments.cures import recorded
from moeviz.pictures.plot import gap_words
from moeviz.predictions.prediction import Measured, nearest, prediction
from moeviz.records.compare import compare

EXPERTS = 16


@prediction(
    "04.survivors",
    "No cure, 16 experts, top-1, 300 steps: how many experts still get a tenth of a fair share or "
    "more?",
    "all 16", "about 12", "about 8", "4 or fewer",
)  # fmt: skip
def survivors() -> Measured:
    arm = recorded()["arms"]["nothing"]
    alive = EXPERTS - arm["dead_experts"]["mean"]
    options = {"all 16": 16, "about 12": 12, "about 8": 8, "4 or fewer": 3}
    figure = (
        f"{alive:.1f} of {EXPERTS} are left in the least even layer, mean of {arm['runs']} "
        "recorded runs"
    )
    because = "an expert that gets more tokens learns more, its score rises, and it gets more still"
    return Measured(nearest(alive, options), figure, because)


@prediction(
    "04.quality",
    "A balancing loss makes the load even. What happens to the validation loss?",
    "it falls", "no difference that five seeds can show", "it rises",
)  # fmt: skip
def quality() -> Measured:
    arms = recorded()["arms"]
    cured, base = (
        arms[name]["validation_loss"]["values"] for name in ("balancing loss 0.1", "nothing")
    )
    gap = compare(cured, base)
    option = (
        "it falls" if gap.high < 0 else "it rises" if gap.low > 0
        else "no difference that five seeds can show"
    )  # fmt: skip
    figure = f"with a balancing loss of 0.1 it is {gap_words(gap)} than without a cure"
    because = {
        "it falls": "experts that get tokens learn something",
        "it rises": "the router has to send tokens to experts that suit them less",
    }.get(option, "so small a model hardly misses its other experts within so few steps")
    return Measured(option, figure, because)
