"""Predictions of 13_real_models: what the public traces of two real models say."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.predictions.prediction import Measured, nearest, prediction, recorded_run
from moeviz.words import percent

BATCH = 32


def _deepseek() -> dict[str, Any]:
    return recorded_run("real_traces")["deepseek_v2_lite"]


def _of_tasks(figure: dict[str, Any]) -> Any:
    """The mean over tasks."""
    return np.mean([value for task, value in figure.items() if task != "pooled"], axis=0)


@prediction(
    "13.pooled",
    "DeepSeek-V2-Lite was trained with a balancing loss, and four tasks were read with it. How "
    "large is MaxVio within a single task, beside MaxVio of all four as one text?",
    "about half as large", "about as large", "about twice as large",
)  # fmt: skip
def pooled() -> Measured:
    violation = _deepseek()["mean"]["max_violation"]
    single = _of_tasks(violation)
    options = {"about half as large": 0.5, "about as large": 1, "about twice as large": 2}
    figure = f"it is {single:.2f} in a task and {violation['pooled']:.2f} pooled, means over layers"
    because = "each task has favourites of its own, and added up they hide each other"
    return Measured(nearest(single / violation["pooled"], options, ratio=True), figure, because)


@prediction(
    "13.specialists",
    "Take four stretches of one and the same task, of 64 tokens each. Call an expert a specialist "
    "if one stretch makes at least 45 % of its choices. How many of the 64 experts seem to be "
    "specialists of a stretch?",
    "about 1 %", "about 10 %", "about a third",
)  # fmt: skip
def specialists() -> Measured:
    recorded = _deepseek()
    shares, samples = recorded["mean"]["specialists"], recorded["samples"]
    known = [(n, null) for n, null in zip(samples, shares["null"], strict=True) if null is not None]
    (few_tokens, few), *_, (many_tokens, many) = known
    options = {"about 1 %": 0.01, "about 10 %": 0.1, "about a third": 1 / 3}
    figure = (
        f"{percent(few)} seem to be from {few_tokens} tokens, and {percent(many, 1)} from "
        f"{many_tokens:,}"
    )
    because = (
        "an expert that is chosen a few times only is easily chosen in one place, and most likely "
        "neighbours in a text choose alike"
    )
    return Measured(nearest(few, options, ratio=True), figure, because)


@prediction(
    "13.batch",
    "A layer has 64 experts, and a token visits 6. If tokens chose evenly and alone, 32 of them "
    "would touch 61 experts. How many do 32 tokens touch that follow each other in a text?",
    "61 too", "about 48", "about 30",
)  # fmt: skip
def batch() -> Measured:
    recorded = _deepseek()
    at, touched = recorded["batches"].index(BATCH), recorded["mean"]["batch"]
    consecutive, shuffled = (_of_tasks(touched[order])[at] for order in ("consecutive", "shuffled"))
    figure = (
        f"they touch {consecutive:.1f}, tokens of one task in any order {shuffled:.1f}, and tokens "
        f"of all tasks mixed {touched['mixed'][at]:.1f}"
    )
    because = "a task's loads are uneven, and besides, neighbours in a text choose alike"
    options = {"61 too": 61, "about 48": 48, "about 30": 30}
    return Measured(nearest(consecutive, options), figure, because)


@prediction(
    "13.stay",
    "How often is an expert of a token also one of the token before, beside chance given the loads "
    "of its task?",
    "as often as by chance", "up to twice as often", "more than twice as often",
)  # fmt: skip
def stay() -> Measured:
    mean = _deepseek()["mean"]
    rate, chance = _of_tasks(mean["repeat_rate"]), _of_tasks(mean["repeat_chance"])
    option = "up to twice as often" if rate <= 2 * chance else "more than twice as often"
    if rate < 1.1 * chance:
        option = "as often as by chance"
    figure = f"{percent(rate)} of a token's experts stay, where chance would keep {percent(chance)}"
    because = "most likely neighbouring tokens resemble each other more than distant ones"
    return Measured(option, figure, because)
