"""Predictions of 14_many_models_in_one on adapting experts."""

from __future__ import annotations

from moeviz.predictions.prediction import Measured, prediction, recorded_run
from moeviz.words import percent

ONE_OR_TWO, SOME, MANY_OF_THEM = "1 or 2", "3 to 6", "12 or more"


@prediction(
    "14.fifth",
    "A layer of DeepSeek-V2-Lite has 64 experts, and each token chooses 6 of them. How many of the "
    "64 get a fifth of all choices that the tokens of one task make?",
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
