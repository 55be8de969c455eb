"""Predictions of 09_frontier_models."""

from __future__ import annotations

import math
from statistics import median

from moeviz.costs import active_parameters, device, parameters, training_flops_per_token
from moeviz.costs.known.models import published, shape_of
from moeviz.pictures.costs.cache_ladder import LARGE_PAIR, RUNGS, SMALL_PAIR, rungs
from moeviz.pictures.costs.model_map import points, typical_share
from moeviz.pictures.costs.training_cost import SEQUENCE
from moeviz.predictions.prediction import Measured, nearest, prediction
from moeviz.words import percent

MIXTRAL, GPT_OSS = "Mixtral 8x22B", "gpt-oss-120b"


@prediction(
    "09.mixtral",
    "Mixtral 8x22B has 8 experts, of which a token visits 2. How many parameters does it have?",
    "176 billion, which is 8 × 22", "141 billion", "44 billion, which is 2 × 22",
)  # fmt: skip
def mixtral() -> Measured:
    architecture = shape_of(MIXTRAL)
    every, active = (
        parameters(architecture).total / 1e9,
        active_parameters(architecture).total / 1e9,
    )
    options = {
        "176 billion, which is 8 × 22": 176, "141 billion": 141, "44 billion, which is 2 × 22": 44
    }  # fmt: skip
    figure = (
        f"its config makes {every:.1f} billion parameters, and a token meets {active:.1f} billion"
    )
    return Measured(
        nearest(every, options), figure, "the eight share one attention, one embedding and one head"
    )


@prediction(
    "09.years",
    "In the typical sparse model of 2024, the median of the map, a token meets nearly a fifth of "
    "the parameters. How much is it in 2026?",
    "still about a fifth", "about a tenth", "about a twentieth",
)  # fmt: skip
def years() -> Measured:
    shares = {year: typical_share(points(), year) or math.nan for year in (2024, 2026)}
    options = {"still about a fifth": 0.2, "about a tenth": 0.1, "about a twentieth": 0.05}
    figure = f"the median fell from {percent(shares[2024], 1)} to {percent(shares[2026], 1)}"
    (before, some), (experts, few) = (_typical_layer(year) for year in (2024, 2026))
    because = (
        f"the typical layer has {experts:.0f} experts instead of {before:.0f}, and a token visits "
        f"{few:.0f} of them instead of {some:.0f}"
    )
    return Measured(nearest(shares[2026], options, ratio=True), figure, because)


def _typical_layer(year: int) -> tuple[float, float]:
    """Medians over the counted sparse models of a year: experts of a layer, and those that a token
    visits."""
    shapes = (p.model.architecture for p in points() if p.model.year == year and p.is_counted)
    layers = [shape.moe for shape in shapes if shape is not None and shape.moe_layers]
    return median(m.num_experts for m in layers), median(m.top_k for m in layers)


@prediction(
    "09.cache",
    "Articles say that latent attention (MLA) keeps a 57 times smaller cache than full heads. "
    "DeepSeek's makers trained two large models alike, one with full heads and one with MLA. How "
    "many times smaller was the cache there?",
    "about 57 times", "about 25 times", "about 4 times",
)  # fmt: skip
def cache() -> Measured:
    ratio = {name: times for name, _, _, times, _ in rungs(131072, 16)}
    options = {"about 57 times": 57, "about 25 times": 25, "about 4 times": 4}
    figure = (
        f"it was {LARGE_PAIR} times smaller, and {SMALL_PAIR} times with two small models, while "
        "DeepSeek-V3's is "
        f"{ratio[RUNGS['full heads']]:.1f} times smaller than with full heads, which nobody built"
    )
    because = "the factor is as large as the baseline that one chooses"
    return Measured(nearest(LARGE_PAIR, options, ratio=True), figure, because)


@prediction(
    "09.tokens",
    "The card of gpt-oss-120b says 2.1 million hours of H100. Suppose that they were one pass over "
    "its tokens, at 40 % of the device's peak. How many tokens would that be?",
    "about 1 trillion", "about 10 trillion", "about 100 trillion",
)  # fmt: skip
def tokens() -> Measured:
    hours, architecture = published(GPT_OSS, "device_hours"), shape_of(GPT_OSS)
    flops = 0.4 * device("H100 SXM").bf16_flops_per_s * 3600 * hours
    each = training_flops_per_token(architecture, SEQUENCE).total
    options = {f"about {number} trillion": number for number in (1, 10, 100)}
    trillions = flops / each / 1e12
    met = active_parameters(architecture).total / 1e9
    figure = f"{hours / 1e6:.1f} million hours would be {trillions:.0f} trillion tokens"
    because = (
        f"a token meets only {met:.1f} billion parameters; nobody claims so many tokens, so the "
        "share of the peak was lower, or the hours hold more than one pass"
    )
    return Measured(nearest(trillions, options, ratio=True), figure, because)
