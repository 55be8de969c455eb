"""Claims about smaller models that a recorded compression of small models tests."""

from __future__ import annotations

from typing import Any

from moeviz.costs.claims.ledger import Assumption, Outcome, holds_if
from moeviz.costs.claims.measured import difference, interval, of_run
from moeviz.costs.claims.survey import SURVEY
from moeviz.costs.shape.terms import Term
from moeviz.words import percent

COMPRESSION = "data/runs/compression.json: three layers of 8 experts, top-2, 400 steps"
SMALLER = "Future Trajectories in Sparse Computation"


@SURVEY.claim(
    "Inference Optimization and Offloading",
    "INT4 or FP8 drastically reduces the size of the expert matrices",
    "INT4's bytes / those at 16 bits; the loss that it costs", COMPRESSION,
    Assumption("harmless", 0.05, "nats", "rise of the loss that counts as harmless", 0.001, 1),
    stated=0.25, unit="share")  # fmt: skip
@of_run("compression")
def int4_shrinks(figures: dict[str, Any], harmless: float) -> Outcome:
    share, rise = figures["shares"]["bits"]["int4"], cost(figures, "bits", "int4")
    gap = difference(rise["values"], [0.0] * len(rise["values"]))
    terms = (
        Term("INT4 / 16 bits", share, "groups of 128 weights, a scale of 16 bits each"),
        Term("rise of the loss", gap.mean, "mean of seeds, nats per token"),
    )
    why = (
        f"in our small model the experts keep {percent(share)} of their bytes, and the loss rises "
        f"by {gap.mean:+z.3f} nats per token ({interval(gap)})"
    )
    if gap.low <= harmless < gap.high:
        return Outcome("unverifiable", why, share, terms)
    return Outcome(holds_if(gap.high <= harmless), why, share, terms)


@SURVEY.claim(
    SMALLER, "Pruning underused experts by their statistics fits sparse models to small devices",
    "loss with half of the experts kept, by load, minus that at INT4, a quarter of the bytes",
    COMPRESSION, unit="nats")  # fmt: skip
@of_run("compression")
def prune_underused(figures: dict[str, Any]) -> Outcome:
    luck = figures["judged"]["chance"]["prune by load"]["4"]["verdict"]
    beside = {"lower": "better than", "higher": "worse than", "open": "not shown to beat"}[luck]
    return beside_int4(
        figures, "prune by load", "4", f"pruning half of the experts by load is {beside} chance"
    )


@SURVEY.claim(
    SMALLER, "Low-rank decomposition of the experts fits sparse models to small devices",
    "loss with expert matrices of low rank at half of the bytes, fitted to a text, minus that at "
    "INT4, a quarter of the bytes",
    COMPRESSION, unit="nats")  # fmt: skip
@of_run("compression")
def low_rank_experts(figures: dict[str, Any]) -> Outcome:
    plain = cost(figures, "low rank", "half")["mean"]
    return beside_int4(
        figures, "low rank, calibrated", "half", f"not fitted to a text it costs {plain:+z.3f}"
    )


def cost(figures: dict[str, Any], recipe: str, amount: str) -> dict[str, Any]:
    """The rise of the loss by a recipe, where a loss over each batch balanced the model."""
    rise: dict[str, Any] = figures["regimes"]["batch"]["recipes"][recipe][amount]["loss"]
    return rise


def beside_int4(figures: dict[str, Any], recipe: str, amount: str, more: str) -> Outcome:
    """A recipe that keeps half of the experts' bytes, beside INT4, which keeps a quarter."""
    rise, int4 = cost(figures, recipe, amount), cost(figures, "bits", "int4")
    gap = difference(rise["values"], int4["values"])
    words = "mean of seeds, nats per token"
    terms = (
        Term(f"{recipe}, half of the bytes", rise["mean"], words),
        Term("INT4, a quarter", int4["mean"], words),
    )
    why = (
        f"in our small model it costs {rise['mean']:+z.3f} nats per token, and INT4 with half of "
        f"its bytes {int4['mean']:+z.3f} (difference {gap.mean:+z.3f}, {interval(gap)}); {more}"
    )
    if gap.low <= 0 <= gap.high:
        return Outcome("unverifiable", why, gap.mean, terms)
    return Outcome(holds_if(gap.high < 0), why, gap.mean, terms)
