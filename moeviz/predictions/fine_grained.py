"""Predictions of 06_shared_and_fine_grained."""

from __future__ import annotations

import math

from moeviz.pictures.over_seeds import gap_words, recorded_gap
from moeviz.pictures.training.split_experts import Shape, count_words
from moeviz.predictions.prediction import (
    OPEN,
    Measured,
    nearest,
    open_because,
    prediction,
    recorded_run,
)
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
    "width of which it visits 8. How is the loss of the finer ones after 1,200 steps?",
    LOWER, OPEN, HIGHER,
)  # fmt: skip
def split() -> Measured:
    recorded = recorded_run("fine_grained")
    table = recorded["settings"]["fair 1200"]
    gap = table["pairs"]["split 4"]
    option, because = {
        "lower": (
            LOWER,
            "of more sets of experts a token can take one that suits it better, as DeepSeekMoE "
            "says; no other reason is tested here",
        ),
        "higher": (
            HIGHER,
            "more rows of the gate must be learnt from as many tokens, or for another reason that "
            "is not tested here",
        ),
        "open": (OPEN, open_because(gap)),
    }[gap["verdict"]]
    words = gap_words(recorded_gap(gap))
    return Measured(option, f"after {table['steps']:,} steps the loss is {words}", because)


@prediction(
    "06.shared",
    "A trained layer has one shared expert, and a token chooses 7 of 63 others. Every token loses "
    "one of its 8 experts. Without which one does the loss rise more?",
    SHARED, OPEN, CHOSEN,
)  # fmt: skip
def shared() -> Measured:
    of_arm = recorded_run("fine_grained")["left_out"]["split 4, 1 shared"]
    gap, first = (of_arm["pairs"][label] for label in ("shared or drawn", "shared or first"))
    other = "every token meets it; no other reason is tested here"
    if first["verdict"] == "lower":
        of_first, of_shared = (
            of_arm[name]["rise"]["mean"] for name in ("as many of its choices, its first", "shared")
        )
        other = (
            "a token's choices are not worth the same to it, and most drawn ones are not its "
            f"first: without that one the loss rises by {of_first:.3f}, more than the "
            f"{of_shared:.3f} without the shared one"
        )
    option, because = {
        "higher": (SHARED, other),
        "lower": (CHOSEN, "a token's own choices are made for it; no other reason is tested here"),
        "open": (OPEN, open_because(gap)),
    }[gap["verdict"]]
    figure = (
        f"without the shared one the loss is {gap_words(recorded_gap(gap))} than without a drawn "
        "choice"
    )
    return Measured(option, figure, because)
