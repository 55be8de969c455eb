"""Predictions of 11_compression."""

from __future__ import annotations

from moeviz.costs import device
from moeviz.pictures.compression.names import (
    AMOUNTS,
    BITS,
    CRITERIA,
    FITTED_RANK,
    HC,
    REAP,
    REGIMES,
    loss_of,
    spoken,
)
from moeviz.pictures.costs.edge import candidate
from moeviz.pictures.over_seeds import mean_sd
from moeviz.pictures.training.cures_told import listed
from moeviz.predictions.prediction import Measured, nearest, prediction, recorded_run
from moeviz.words import percent

PI, SPARSE, DENSE = "Raspberry Pi 5, 16 GB", "DeepSeek-V2-Lite", "Llama 3.1 8B"
HALVES = {
    "half of the bits": (BITS, "int8"),
    "half by low rank": (FITTED_RANK, "half"),
    "half of the experts": (REAP, "4"),
    "half by merging": (HC, "4"),
}


@prediction(
    "11.half",
    "Half of the experts' bytes must go, and nothing is trained afterwards. Which way costs the "
    "loss least: 8 bits a weight instead of 16, matrices of low rank, half of the experts taken "
    "out, or experts merged to half as many?",
    *HALVES,
)  # fmt: skip
def half() -> Measured:
    figures = recorded_run("compression")
    costs = {words: loss_of(figures, *place) for words, place in HALVES.items()}
    best = min(costs, key=lambda words: costs[words]["mean"])
    each = ", ".join(
        f"{words} ({AMOUNTS[amount] if recipe == BITS else spoken(recipe)}) "
        f"{mean_sd(costs[words], 3, '+')}"
        for words, (recipe, amount) in HALVES.items()
    )
    count = len(costs[best]["values"])
    figure = f"the loss rises, in nats per token over {count} seeds, by: {each}"
    because = "most likely every expert is still there, with all its directions, only less exact"
    if best != "half of the bits":
        because = "most likely rounding each weight loses more here than leaving a part out"
    return Measured(best, figure, because)


NONE, SOME, ALL = "none of them", "some of them", "all of them"


@prediction(
    "11.whom",
    "Half of the experts of each layer are taken out, chosen by load, by ablation, by REAP in two "
    "forms, or by the error of the layer's output. How many of these five beat an order by lot?",
    NONE, SOME, ALL,
)  # fmt: skip
def whom() -> Measured:
    figures = recorded_run("compression")
    table = figures["judged"]["chance"]
    better = [c for c in CRITERIA if table[c]["4"]["verdict"] == "lower"]
    option = NONE if not better else ALL if len(better) == len(CRITERIA) else SOME
    chance = mean_sd(loss_of(figures, "prune by chance", "4"), 3, "+")
    figure = (
        f"chance costs {chance} nats per token, and a lower cost is shown for "
        f"{listed([spoken(c) for c in better])}"
    )
    others = [table[c]["4"]["mean"] for c in CRITERIA if c not in better]
    below = sum(mean < 0 for mean in others)
    part = "all" if below == len(others) else f"{below or 'none'}"
    because = {
        NONE: "no cost below that of chance is clear enough over the seeds",
        SOME: f"for those the difference is clear over the seeds; {part} of the other "
        f"{len(others)} cost less on average too, and what is not shown may be so all the same",
        ALL: "most likely experts differ in what they are worth, and each of these figures sees a "
        "part of that",
    }[option]
    return Measured(option, figure, because)


@prediction(
    "11.merge",
    "Two experts become one whose weights are the average of theirs, which leaves an error in the "
    "layer's output. The best fixed mix of what the two say leaves one too. How large is it beside "
    "the first?",
    "about a tenth of it", "about a third of it", "about as large",
)  # fmt: skip
def merge() -> Measured:
    errors = recorded_run("compression")["regimes"]["batch"]["errors"]
    lost = {name: sum(f["mean"] for f in errors[name]) / len(errors[name]) for name in errors}
    part = lost["mixture"] / lost["merged"]
    options = {
        "about a tenth of it": 0.1, "about a third of it": 1 / 3, "about as large": 1.0
    }  # fmt: skip
    figure = (
        f"over all pairs and layers the average of two experts' weights leaves an error of "
        f"{percent(lost['merged'], 1)} of the output's square, and the best fixed mix "
        f"{percent(lost['mixture'], 1)}, which is {percent(part)} of that"
    )
    because = (
        "the mix only lacks the share that the router sets anew for each token, and an average of "
        "weights computes something else than either expert"
    )
    return Measured(nearest(part, options), figure, because)


MUCH, LITTLE = "yes, by a tenth of the cost or more", "no such difference is shown"


@prediction(
    "11.regime",
    "The same model is trained with its load balanced in three ways: by a loss for each batch, by "
    "one for each sequence, and by a bias. Does that decide what pruning to half of the experts "
    "costs?",
    MUCH, LITTLE,
)  # fmt: skip
def regime() -> Measured:
    figures = recorded_run("compression")
    costs = {name: loss_of(figures, REAP, "4", name) for name in figures["regimes"]}
    each = ", ".join(f"{REGIMES[name]} {mean_sd(cost, 3, '+')}" for name, cost in costs.items())
    figure = f"pruning by REAP costs, in nats per token, by what balanced the load: {each}"
    shown = [
        name
        for name, of_regime in figures["judged"]["regimes"].items()
        if of_regime[REAP]["verdict"] != "open"
    ]
    because = "the other ways are not shown to differ from a loss for each batch"
    if shown:
        because = f"beside a loss for each batch, {listed([REGIMES[n] for n in shown])} differs"
    return Measured(MUCH if figures["claims"]["balancing decides"] else LITTLE, figure, because)


@prediction(
    "11.edge",
    "A Raspberry Pi 5 with 16 GB, weights in about 5 bits. Beside a dense model of 8 billion "
    "parameters: how fast may a sparse one of 16 billion write, which uses 2.7 billion for a "
    "token?",
    "half as fast", "as fast", "three times as fast",
)  # fmt: skip
def edge() -> Measured:
    sparse, dense = (candidate(name, device(PI), "q4_k_m", 4096) for name in (SPARSE, DENSE))
    assert sparse.speed is not None and dense.speed is not None  # both fit
    times = sparse.speed / dense.speed
    options = {"half as fast": 0.5, "as fast": 1.0, "three times as fast": 3.0}
    figure = (
        f"at most {sparse.speed:.1f} tokens a second ({SPARSE}, {sparse.bytes / 1e9:.1f} GB) "
        f"beside {dense.speed:.1f} ({DENSE}, {dense.bytes / 1e9:.1f} GB)"
    )
    because = (
        "for each token the weights that it meets are read once, at 17.1 GB a second, and the "
        f"sparse model reads {sparse.active / 1e9:.1f} billion of them; the rest must only have "
        "room"
    )
    return Measured(nearest(times, options, ratio=True), figure, because)
