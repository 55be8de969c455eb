"""The tables of paired differences of the recording of compression, and which claims hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moeviz.experiments.recipes import (
    BITS,
    CHANCE,
    CRITERIA,
    FIRST_REAP,
    HC,
    KEPT,
    LOAD,
    MERGES,
    PLAIN_RANK,
    RANK,
    REAP,
)
from moeviz.experiments.recording import judged

BATCH = "batch"  # the regime that ships
TUNED = f"{REAP}, router tuned"
TUNED_WHOLE = "router tuned, all experts"
AT_HALF = {PLAIN_RANK: "half", RANK: "half", **dict.fromkeys((*CRITERIA, *MERGES), "4")}
BY_REGIME = (LOAD, REAP, CHANCE, HC)  # with 4 kept

Figures = dict[str, Any]
Place = tuple[str, str]
Pairs = dict[Place, tuple[list[float], list[float]]]


def tables(runs: Mapping[str, list[Figures]]) -> Figures:
    """The paired differences of all comparisons, with verdicts; runs: those of every seed, by
    regime. See the head of experiments.compression."""

    def losses(recipe: str, amount: str, regime: str = BATCH) -> list[float]:
        each = [run["recipes"][recipe][amount] for run in runs[regime]]
        return [rise["loss"] if isinstance(rise, dict) else rise for rise in each]

    def minus(base: str, recipes: tuple[str, ...], amounts: tuple[str, ...] = KEPT) -> Figures:
        pairs: Pairs = {
            (recipe, amount): (losses(recipe, amount), losses(base, amount))
            for recipe in recipes
            for amount in amounts
        }
        return _nested(judged(pairs))

    at_half: Pairs = {at: (losses(*at), losses(BITS, "int4")) for at in AT_HALF.items()}
    by_regime: Pairs = {
        (regime, recipe): (losses(recipe, "4", regime), losses(recipe, "4"))
        for regime in runs
        if regime != BATCH
        for recipe in BY_REGIME
    }
    (whole,) = runs[BATCH][0]["recipes"][TUNED_WHOLE]
    tuned, kept = losses(TUNED, "4"), losses(REAP, "4")
    gain = [after - before for after, before in zip(tuned, kept, strict=True)]
    return {
        "chance": minus(CHANCE, CRITERIA),
        "load": minus(LOAD, CRITERIA[1:]),
        "first REAP": minus(FIRST_REAP, (REAP,)),
        "merging": minus(REAP, MERGES, ("6", "4")),
        "bytes": _nested(judged(at_half)),
        "regimes": _nested(judged(by_regime)),
        "tuning": judged(
            {"pruned": (tuned, kept), "beside the whole": (gain, losses(TUNED_WHOLE, whole))}
        ),
    }


def _nested(table: Mapping[Place, Figures]) -> Figures:
    nested: Figures = {}
    for (first, second), gap in table.items():
        nested.setdefault(first, {})[second] = gap
    return nested


def claims(judged: Figures, cost: float) -> dict[str, bool]:
    """What the verdicts let stand; see the head of experiments.compression. cost: the mean rise of
    pruning to 4 by REAP under "batch"."""

    def verdict(table: str, *names: str) -> str:
        gap = judged[table]
        for name in names:
            gap = gap[name]
        return str(gap["verdict"])

    merges = [name for name in MERGES if verdict("merging", name, "4") == "lower"]
    other = [gap[REAP] for gap in judged["regimes"].values()]
    tuning = judged["tuning"]
    return {
        **{f"{c} is worth it": verdict("chance", c, "4") == "lower" for c in CRITERIA},
        "REAP beats load": verdict("load", REAP, "4") == "lower"
        and not any(verdict("load", REAP, kept) == "higher" for kept in ("6", "2")),
        "renormalising helps REAP": verdict("first REAP", REAP, "4") == "lower",
        "merging beats pruning": any(verdict("merging", m, "6") != "higher" for m in merges),
        "tuning the router mends": all(gap["verdict"] == "lower" for gap in tuning.values())
        and -tuning["beside the whole"]["mean"] >= cost / 2,
        "quantise, do not prune": all(
            gap["verdict"] == "higher" for row in judged["bytes"].values() for gap in row.values()
        ),
        "balancing decides": any(
            gap["verdict"] != "open" and abs(gap["mean"]) >= cost / 10 for gap in other
        ),
    }
