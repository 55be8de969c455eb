"""Predictions of 04_collapse."""

from __future__ import annotations

import math

from moeviz.experiments.cures import recorded
from moeviz.pictures.over_seeds import gap_words, recorded_gap
from moeviz.pictures.training.cures_told import FROZEN, balance_verdicts, dead_without_cure
from moeviz.predictions.prediction import OPEN, Measured, nearest, prediction
from moeviz.words import percent

EXPERTS = 16
# Does the router's learning drive it? By the verdict on the load under a router that cannot learn.
LEARNED = {
    "open": (
        "whether the router learns to prefer some experts is open, for with one that keeps its "
        "random matrix the load is not shown to be more even"
    ),
    "lower": (
        "a part of it is learned, for with a router that keeps its random matrix the load is more "
        "even"
    ),
    "higher": (
        "the router need not learn it, for with one that keeps its random matrix the load is less "
        "even"
    ),
}


@prediction(
    "04.survivors",
    "No cure, 16 experts, top-1, 300 steps: how many experts still get a tenth of an even share or "
    "more?",
    "all 16", "about 12", "about 8", "4 or fewer",
)  # fmt: skip
def survivors() -> Measured:
    arm = recorded()["arms"]["nothing"]
    alive = EXPERTS - dead_without_cure(recorded())
    options = {"all 16": 16, "about 12": 12, "about 8": 8, "4 or fewer": 3}
    figure = (
        f"{alive:.1f} of {EXPERTS} do in the least even layer and the last 50 steps, mean of "
        f"{arm['runs']} recorded runs"
    )
    option = nearest(alive, options)
    because = f"nothing asks for an even load; {LEARNED[balance_verdicts(recorded())[FROZEN]]}"
    if option == "all 16":
        because = "no expert has fallen that far behind within so few steps"
    return Measured(option, figure, because)


@prediction(
    "04.step",
    "The gradient of a busy expert is larger than that of an expert with few tokens. The optimiser "
    "is AdamW. How much further do the busy expert's weights move in one step?",
    "as much further as its gradient is larger", "further, but by much less", "not further",
)  # fmt: skip
def one_step() -> Measured:
    found = recorded()["busy_experts"]
    gradient, update = (
        found[f"step_busy_{name}"]["mean"] / found[f"step_rare_{name}"]["mean"]
        for name in ("gradient", "update")
    )
    share = math.log(update) / math.log(gradient)  # of the gradient's advantage that is left
    options = {
        "not further": 0.0,
        "further, but by much less": 0.5,
        "as much further as its gradient is larger": 1.0,
    }
    figure = (
        f"in one early step of the recorded runs the gradient of busy experts is {gradient:.1f} "
        f"times as large, and their weights move {update:.1f} times as far"
    )
    because = "AdamW divides each weight's step by the size of its recent gradients"
    return Measured(nearest(share, options), figure, because)


@prediction(
    "04.quality",
    "A balancing loss makes the load even. What happens to the loss on held-out text?",
    "it falls", OPEN, "it rises",
)  # fmt: skip
def quality() -> Measured:
    figure = recorded()["arms"]["balancing loss 0.1"]["loss_minus_nothing"]
    gap = recorded_gap(figure)
    option, because = {
        "lower": ("it falls", "most likely experts that get tokens learn something"),
        "higher": ("it rises", "most likely tokens then go to experts that suit them less"),
        "open": (OPEN, "the seeds differ too much to show one among so many settings"),
    }[figure["verdict"]]
    if option == OPEN and gap.low * gap.high > 0:
        because = (
            "the interval is that of one comparison alone, and among so many one like it may be "
            "chance"
        )
    words = f"with a balancing loss of 0.1 it is {gap_words(gap)} than without a cure"
    return Measured(option, words, because)


@prediction(
    "04.frozen",
    "A frozen router keeps its random matrix for 300 steps. What share of the tokens still goes to "
    "the same expert as at the start, in the last layer?",
    "all of them", "about half", "about a quarter", "next to none",
)  # fmt: skip
def frozen() -> Measured:
    share = recorded()["arms"]["frozen router"]["kept_experts"][-1]["mean"]
    options = {"all of them": 1.0, "about half": 0.5, "about a quarter": 0.25, "next to none": 0.0}
    learned = recorded()["arms"]["nothing"]["kept_experts"][-1]["mean"]
    figure = (
        f"{percent(share)} of the held-out tokens do, and {percent(learned)} with a router that "
        "learns"
    )
    because = "the matrix stays, but all that lies below it learns and changes what it reads"
    return Measured(nearest(share, options), figure, because)
