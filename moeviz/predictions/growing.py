"""Predictions of 14_many_models_in_one on models that grow from a dense one."""

from __future__ import annotations

from moeviz.pictures.over_seeds import gap_words, mean_sd, recorded_gap
from moeviz.pictures.training.upcycling_told import lead_sentence
from moeviz.predictions.prediction import OPEN, Measured, open_because, prediction, recorded_run
from moeviz.records.growth import COPIES, EQUAL_COMPUTE, LATE, SCRATCH, name_of

ALIKE = {"above 0.9": 0.9, "from 0.5 to 0.9": 0.5, "below 0.5": -1.0}


@prediction(
    "14.grow",
    "Every FFN of a trained dense model becomes eight experts. Beside it a sparse model begins "
    "from scratch and trains for as much compute as the dense and the grown model together. In the "
    "end, how does the grown model's loss stand beside it?",
    "it is lower", "it is higher", OPEN,
)  # fmt: skip
def grow() -> Measured:
    recorded = recorded_run("upcycling")
    pair = (COPIES, SCRATCH, EQUAL_COMPUTE)
    gap = recorded["gaps"][LATE][name_of(pair)]
    option = {"lower": "it is lower", "higher": "it is higher", "open": OPEN}[gap["verdict"]]
    figure = f"after {recorded['steps']:,} steps its loss is {gap_words(recorded_gap(gap))}"
    if option == OPEN:
        return Measured(option, figure, open_because(gap))
    lead = lead_sentence(recorded, pair).rstrip(".")
    lead = f"{lead[:1].lower()}{lead[1:]}"
    kept = "it begins with what the dense model learned, and " * (option == "it is lower")
    return Measured(option, figure, f"{kept}{lead}")


@prediction(
    "14.alike",
    "The eight experts of a layer begin as the same FFN, to the last bit, and get no noise. After "
    "800 steps of training, what is the mean cosine of two experts' weights (1: the same up to a "
    "factor, 0: nothing in common)?",
    *ALIKE,
)
def alike() -> Measured:
    recorded = recorded_run("upcycling")
    last, scratch = (recorded["arms"][arm]["cosine"][-1] for arm in (COPIES, SCRATCH))
    option = next(name for name, least in ALIKE.items() if last["mean"] >= least)
    figure = f"it is {mean_sd(last, 2)}, and {mean_sd(scratch, 2)} where they began apart"
    because = "the router sends each copy other tokens, and other tokens give other gradients"
    if last["mean"] >= ALIKE["above 0.9"]:
        because = (
            "most likely the steps are too few and too small to take the copies far; what parts "
            f"them at all is that {because}"
        )
    return Measured(option, figure, because)
