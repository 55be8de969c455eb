"""Predictions of 14_many_models_in_one on models as experts and loading on demand."""

from __future__ import annotations

from moeviz.pictures.many_models.models_told import BASE, said
from moeviz.pictures.over_seeds import gap_words, recorded_gap
from moeviz.predictions.prediction import (
    OPEN,
    Measured,
    nearest,
    open_because,
    prediction,
    recorded_run,
)
from moeviz.records.models_as_experts import BY_START, BY_TOKEN, MIXED, TOLD
from moeviz.words import percent


@prediction(
    "14.apart",
    "Three models learn one domain each. A router weighs them by the first 16 tokens of a text. "
    "One dense model learned all three domains with no less compute. Whose loss is lower?",
    "the mixture's", "the dense model's", OPEN,
)  # fmt: skip
def apart() -> Measured:
    recorded = recorded_run("models_as_experts")
    gap = recorded["gaps"]["seen"][MIXED]
    options = {"lower": "the mixture's", "higher": "the dense model's", "open": OPEN}
    figure = f"{said(MIXED)} ends {gap_words(recorded_gap(gap))} than {BASE}"
    mixed, own = recorded["arms"][MIXED], recorded["gaps"]["seen"][TOLD]
    because = {
        "open": open_because(gap),
        "lower": "most likely three models know more than one, at "
        f"{mixed['answer']:.3g} times the FLOPs for every token of an answer and "
        f"{percent(mixed['training'])} of those for training",
        "higher": f"even the domain's own model, picked without a fault, ends {own['mean']:.3f} "
        "nats per token higher than that one"
        if own["verdict"] == "higher"
        else "most likely a choice by 16 tokens has its faults; no other reason is tested here",
    }[gap["verdict"]]
    return Measured(options[gap["verdict"]], figure, because)


@prediction(
    "14.right",
    "The router was told no domain; it learned from what the models lose. Of texts of the three "
    "domains, for how many does it pick the domain's own model?",
    "about a third", "about two thirds", "about 80 %", "nearly all",
)  # fmt: skip
def right() -> Measured:
    figures = recorded_run("models_as_experts")["right"]
    router, prompt = (figures[name]["mean"] for name in ("picked", "by_prompt"))
    options = {"about a third": 1 / 3, "about two thirds": 2 / 3, "about 80 %": 0.8,
               "nearly all": 0.97}  # fmt: skip
    figure = f"it picks that model for {percent(router)} of them"
    because = (
        "most likely it sees too little: it reads the mean of 16 embeddings and nothing of their "
        "order; the models themselves read the prompt, and the one with the lowest loss on it is "
        f"the domain's own for {percent(prompt)}"
    )
    return Measured(nearest(router, options), figure, because)


@prediction(
    "14.beacon",
    "A sparse model chooses its experts by the first 16 tokens, once for the whole text. Another "
    "one chooses anew for every token. Whose loss on the rest of the text is lower?",
    "one choice for the text", "a choice for every token", OPEN,
)  # fmt: skip
def beacon() -> Measured:
    recorded = recorded_run("models_as_experts")["one_set"]
    gap = recorded["gaps"][f"{BY_START} minus {BY_TOKEN}"]
    options = {"lower": "one choice for the text", "higher": "a choice for every token",
               "open": OPEN}  # fmt: skip
    figure = f"the one choice ends {gap_words(recorded_gap(gap))} than a choice for every token"
    met = recorded["arms"][BY_TOKEN]["experts_a_text"]["mean"]
    because = {
        "open": open_because(gap),
        "higher": "most likely a text has a use for more than 2 experts of a layer: where every "
        f"token chooses, it meets {met:.1f}",
        "lower": "no reason is tested here",
    }[gap["verdict"]]
    return Measured(options[gap["verdict"]], figure, because)


@prediction(
    "14.loads",
    "Twelve texts, python, english and sums in turn. Each chooses one expert of each of two "
    "layers, and a layer has room for one. How many experts are loaded?",
    "about 6", "about 12", "about 20", "more than 100",
)  # fmt: skip
def loads() -> Measured:
    recorded = recorded_run("loaded_experts")
    runs = {
        (run["way"], run["stream"]): run["loads"]
        for run in recorded["runs"]
        if run["form"] == "fp32"
    }
    changing, gathered = (runs["text", stream] for stream in ("changing", "gathered"))
    options = {"about 6": 6, "about 12": 12, "about 20": 20, "more than 100": 300}
    because = (
        f"nearly every text asks for others than the one before; gathered by their topic the same "
        f"texts load {gathered}, and a choice for every token loads {runs['token', 'changing']:,}"
    )
    return Measured(nearest(changing, options, ratio=True), f"{changing} are loaded", because)
