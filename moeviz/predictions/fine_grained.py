"""Predictions of 06_shared_and_fine_grained."""

from __future__ import annotations

import math

from moeviz.pictures.over_seeds import gap_words, recorded_gap
from moeviz.pictures.training.split_experts import Shape, count_words
from moeviz.predictions.prediction import OPEN, Measured, nearest, prediction, recorded_run
from moeviz.words import percent

LOWER, HIGHER = "it is lower", "it is higher"
SHARED, CHOSEN = "the shared one", "one of its own choices, drawn"


@prediction(
    "06.sets",
    "A token chooses 2 of 16 experts: 120 sets. Each expert is split into four, and the token "
    "chooses 8 of 64. How many sets of experts are there now?",
    "480", "about 500,000", "about 4 billion",
)  # fmt: skip
def sets() -> Measured:
    fine = Shape(4, 0)
    options = {"480": 480.0, "about 500,000": 5e5, "about 4 billion": 4e9}
    figure = (
        f"there are C({fine.routed}, {fine.chosen}) = {count_words(math.comb(64, 8))} sets, and "
        f"the layer has as many parameters as before, but for the router's, which take "
        f"{percent(fine.router_flops, 1)} of the FLOPs"
    )
    because = "each of the eight choices is among dozens of pieces, and the choices multiply"
    return Measured(nearest(fine.sets, options, ratio=True), figure, because)


@prediction(
    "06.split",
    "Models are trained with 16 experts of which a token visits 2, and with 64 of a quarter of the "
    "width of which it visits 8. What of the loss of the finer ones, at the longer training?",
    LOWER, OPEN, HIGHER,
)  # fmt: skip
def split() -> Measured:
    recorded = recorded_run("fine_grained")
    table = recorded["settings"]["fair 1200"]
    gap = table["pairs"]["split 4"]
    option, because = {
        "lower": (LOWER, "of more sets of experts a token can take one that suits it better"),
        "higher": (
            HIGHER,
            "more rows of the gate must be learnt from as many tokens, or for another reason that "
            "is not tested here",
        ),
        "open": (OPEN, "what finer choices gain, if anything, is less than the seeds differ by"),
    }[gap["verdict"]]
    words = gap_words(recorded_gap(gap))
    return Measured(option, f"after {table['steps']:,} steps the loss is {words}", because)


@prediction(
    "06.shared",
    "A trained layer has one shared expert, and a token chooses 7 of 63 others. Every token loses "
    "one of its 8 experts. Without which one does the loss rise more?",
    SHARED, "no difference that the seeds can show", CHOSEN,
)  # fmt: skip
def shared() -> Measured:
    gap = recorded_run("fine_grained")["left_out"]["split 4, 1 shared"]["pairs"]["shared or drawn"]
    option, because = {
        "higher": (
            SHARED,
            "it was there for every token in training, with a weight of 1, and the others could "
            "rely on it",
        ),
        "lower": (CHOSEN, "a token chose its own experts because they suit it"),
        "open": ("no difference that the seeds can show", "the seeds differ too much to show one"),
    }[gap["verdict"]]
    figure = (
        f"without the shared one the loss is {gap_words(recorded_gap(gap))} than without a drawn "
        "choice"
    )
    return Measured(option, figure, because)
