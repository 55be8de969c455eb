"""Predictions of 14_many_models_in_one on an expert of one's own."""

from __future__ import annotations

from moeviz.pictures.many_models.own_arms import ALL, COPY, WHOLE
from moeviz.pictures.over_seeds import gap_words, mean_sd, recorded_gap
from moeviz.predictions.prediction import Measured, prediction, recorded_run
from moeviz.words import percent

NOTHING, LITTLE, MUCH = "nothing: all else is frozen", "up to 0.2 nats per token", "more than that"
SAME = 0.005  # nats: no more than this is nothing


@prediction(
    "14.own",
    "One expert more in each layer learns a text of yours, beside a replay of what the model had "
    "learnt from. All other weights are frozen. By how much does the loss of six other kinds of "
    "text rise, on average?",
    NOTHING, LITTLE, MUCH,
)  # fmt: skip
def own() -> Measured:
    arms = recorded_run("own_expert")["arms"]
    rise, copy = arms[WHOLE]["forgotten"], arms[COPY]["forgotten"]
    option = NOTHING if rise["mean"] < SAME else LITTLE if rise["mean"] <= 0.2 else MUCH
    figure = (
        f"over {len(rise['values'])} texts the six kinds change by {mean_sd(rise, 3, '+')} nats "
        "per token"
    )
    because = (
        f"{percent(arms[WHOLE]['elsewhere']['mean'])} of their tokens visit the new expert too, in "
        f"place of another one; a copy that has learnt nothing changes them by "
        f"{mean_sd(copy, 3, '+')} already"
    )
    return Measured(option, figure, because)


LOWER, HIGHER, OPEN = "lower", "higher", "no difference that these texts can show"


@prediction(
    "14.all",
    "Instead of one expert, all weights of the model learn the same batches, at a learning rate of "
    "their own. Beside the expert's, how is the loss of your text then?",
    LOWER, HIGHER, OPEN,
)  # fmt: skip
def every_weight() -> Measured:
    figures = recorded_run("own_expert")
    own, rise = (figures["judged"][table][ALL] for table in ("own", "forgotten"))
    option = {"lower": LOWER, "higher": HIGHER, "open": OPEN}[own["verdict"]]
    figure = f"with all weights the text's loss is {gap_words(recorded_gap(own))}"
    if option == OPEN and own["low"] is not None and own["low"] * own["high"] > 0:
        figure += ", which so many comparisons at once do not let stand"
    figure = figure.replace(" seeds)", " texts)")
    reason = {
        LOWER: "most likely more weights can change",
        HIGHER: "most likely the new expert need not serve the other texts",
        OPEN: "texts differ much in what they gain, and these are few",
    }[option]
    because = (
        f"{reason}; other texts' losses are {rise['mean']:+z.3f} beside the expert's "
        f"({rise['verdict']}); but all weights are a whole model to give away, and an expert is a "
        "file beside it"
    )
    return Measured(option, figure, because)
