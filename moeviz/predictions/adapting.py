"""Predictions of 14_many_models_in_one on adapting experts."""

from __future__ import annotations

from moeviz.pictures.over_seeds import gap_words, mean_sd, recorded_gap
from moeviz.predictions.prediction import (
    OPEN,
    Measured,
    open_because,
    prediction,
    recorded_run,
)
from moeviz.records.adapting import ALL_SMALL, ATTENTION, BASE, BY_GATE, BY_LOT, ONE_FOR_ALL
from moeviz.words import percent

TASK = "c"
ONE_OR_TWO, SOME, MANY_OF_THEM = "1 or 2", "3 to 6", "12 or more"


@prediction(
    "14.fifth",
    "A layer of a model of DeepSeek-V2-Lite's size has 64 experts, and each token chooses 6 of "
    "them. The experts that a task likes most: how many of the 64 get a fifth of all its tokens' "
    "choices together?",
    ONE_OR_TWO, SOME, MANY_OF_THEM,
)  # fmt: skip
def fifth() -> Measured:
    figures = recorded_run("esft_selection")
    means = {t: of["again"]["token, experts"]["mean"] for t, of in figures["tasks"].items()}
    mean = sum(means.values()) / len(means)
    each = ", ".join(f"{task} {count:.1f}" for task, count in means.items())
    figure = f"in the mean over 26 layers, {each}"
    option = ONE_OR_TWO if mean < 2.5 else SOME if mean < 9 else MANY_OF_THEM
    even = figures["top_p"] * figures["experts"]
    because = (
        f"a task likes some experts: with even use a fifth of the choices would take {even:.1f} of "
        f"them, and here {mean:.1f}, that is {percent(mean / figures['experts'])} of a layer"
    )
    return Measured(option, figure, because)


MATTERS, LOT = "the chosen ones learn it better", "the drawn ones learn it better"


@prediction(
    "14.who",
    "LoRA may train a few experts of each layer, and a new kind of text is to be learned: C code, "
    "by a model that never read any. Does it matter whether the experts are those that the text "
    "gives most gate weight, or as many that are drawn by lot?",
    MATTERS, LOT, OPEN,
)  # fmt: skip
def who() -> Measured:
    of_task = recorded_run("adapting")["tasks"][TASK]
    gap = of_task["gaps"]["task"][BY_LOT]
    option = {"higher": MATTERS, "lower": LOT, "open": OPEN}[gap["verdict"]]
    figure = f"with experts by lot the loss of the new text ends {gap_words(recorded_gap(gap))}"
    because = open_because(gap)
    if option != OPEN:
        gains = {w: mean_sd(of_task["ways"][w]["gain"], 2) for w in (BY_GATE, BY_LOT)}
        because = (
            f"the chosen ones gain {gains[BY_GATE]} nats per token and the drawn ones "
            f"{gains[BY_LOT]}, with equally many trained numbers"
        )
    return Measured(option, figure, because)


PLACES = {
    "LoRA on the experts that matter": BY_GATE,
    "LoRA on all experts": ALL_SMALL,
    "one LoRA for all experts alike": ONE_FOR_ALL,
    "LoRA on the attention": ATTENTION,
}


@prediction(
    "14.forget",
    "Four ways to train about equally many numbers are to learn C equally well. Of which does the "
    "other text suffer least?",
    *PLACES, OPEN,
)  # fmt: skip
def forget() -> Measured:
    of_task = recorded_run("adapting")["tasks"][TASK]
    costs = {name: of_task["ways"][way]["at_equal_gain"] for name, way in PLACES.items()}
    gaps = of_task["gaps"]["at_equal_gain"]
    others = {name: gaps[way]["verdict"] for name, way in PLACES.items() if way != BASE}
    lower = [name for name, verdict in others.items() if verdict == "lower"]
    (first,) = PLACES.keys() - others.keys()
    option = OPEN
    if lower:
        option = min(lower, key=lambda name: costs[name]["mean"])
    elif {*others.values()} == {"higher"}:
        option = first
    each = ", ".join(f"{name} {mean_sd(cost, 2, '+')}" for name, cost in costs.items())
    figure = (
        f"when all have gained as much, the loss elsewhere has risen, in nats per token, by: {each}"
    )
    shown = sum(verdict != "open" for verdict in others.values())
    because = (
        f"beside the experts that matter, {shown or 'none'} of the {len(others)} others "
        f"{'are' if shown > 1 else 'is'} shown to lose more or less"
    )
    if option in lower:
        because = "it loses less than the experts that matter, and that is shown"
    return Measured(option, figure, because)
