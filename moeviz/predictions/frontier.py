"""Predictions of 09_frontier_models."""

from __future__ import annotations

from moeviz.costs import active_parameters, parameters
from moeviz.costs.cost.parameters import active_share
from moeviz.costs.known.models import published, shape_of
from moeviz.pictures.costs.cache_ladder import rungs
from moeviz.predictions.prediction import Measured, nearest, prediction

MIXTRAL, V3, LLAMA = "Mixtral 8x22B", "DeepSeek-V3 / R1", "Llama 3.1 405B"


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
    "09.sparsest",
    "Which of these uses the smallest share of its parameters for a token?",
    "Switch-C, 2021", "DeepSeek-V3, 2024", "Kimi K2, 2025",
)  # fmt: skip
def sparsest() -> Measured:
    names = {
        "Switch-C, 2021": "Switch-C 1.6T", "DeepSeek-V3, 2024": V3, "Kimi K2, 2025": "Kimi K2"
    }  # fmt: skip
    shares = {option: active_share(shape_of(name)).total for option, name in names.items()}
    least = min(shares, key=lambda option: shares[option])
    told = ", ".join(
        f"{option.split(',')[0]} {100 * share:.2g} %" for option, share in shares.items()
    )
    sizes = {option: shape_of(name).moe for option, name in names.items()}
    moe = sizes[least]
    because = f"{least.split(',')[0]} sends a token to {moe.top_k} of {moe.num_experts:,} experts"
    return Measured(least, f"the shares are {told}", because)


@prediction(
    "09.cache",
    "Latent attention (MLA) keeps a 57 times smaller cache. Smaller than which one?",
    "the cache of the model before it", "one of full heads, which nobody built",
    "one of grouped heads (GQA), as in Llama",
)  # fmt: skip
def cache() -> Measured:
    ratio = {name: times for name, _, _, times, _ in rungs(131072, 16)}
    full, grouped = ratio["MHA, 128 heads, keys and values of 128"], ratio["GQA, 8 groups"]
    options = ("the cache of the model before it", "one of full heads, which nobody built",
               "one of grouped heads (GQA), as in Llama")  # fmt: skip
    measured = (24.9, full, grouped)  # the first: DeepSeek-V2, 2405.04434, table 9
    nearest_one = min(range(3), key=lambda i: abs(measured[i] - 57))
    figure = (
        f"against full heads it is {full:.1f} times smaller, against grouped heads {grouped:.1f} "
        f"times, and against the full heads of a model that was trained {measured[0]} times"
    )
    return Measured(
        options[nearest_one], figure, "the factor is as large as the baseline that one chooses"
    )


@prediction(
    "09.hours",
    "How many times the device hours of DeepSeek-V3 did the training of Llama 3.1 405B take?",
    "about 2 times", "about 11 times", "about 100 times",
)  # fmt: skip
def hours() -> Measured:
    dense, sparse = (published(name, "device_hours") for name in (LLAMA, V3))
    times = dense / sparse
    options = {"about 2 times": 2, "about 11 times": 11, "about 100 times": 100}
    met = [active_parameters(shape_of(name)).total / 1e9 for name in (LLAMA, V3)]
    figure = f"{dense / 1e6:.1f} million H100 hours against {sparse / 1e6:.1f} million H800 hours"
    tokens = published(LLAMA, "tokens") / published(V3, "tokens")
    because = (
        f"a token meets {met[0] / met[1]:.0f} times as many parameters of Llama, which read "
        f"{tokens:.2f} times as many tokens"
    )
    return Measured(nearest(times, options, ratio=True), figure, because)
