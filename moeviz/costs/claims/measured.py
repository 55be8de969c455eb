"""Claims that a training of this lab tests, by the figures of a recorded run.

What a small model shows after few steps is a finding about that setting: each sentence names it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from moeviz.costs.claims.ledger import Assumption, Outcome, Test, holds_if
from moeviz.costs.claims.revolution import REVOLUTION
from moeviz.costs.claims.short import BEACON
from moeviz.costs.claims.survey import SURVEY
from moeviz.costs.shape.terms import Term
from moeviz.host import read_figures
from moeviz.words import percent

if TYPE_CHECKING:
    from moeviz.records.compare import Gap

COLLAPSE, CAPACITY = "data/runs/collapse.json", "data/runs/capacity.json"
FINE, DRAWN = "data/runs/fine_grained.json", "as many of its choices, drawn"
FRONTIER = "data/runs/frontier.json"
LEAST, TWIN = "learned, 256 experts", "dense, width 256"
NARROWEST, WIDEST = "dense, width 128", "dense, width 2048"


@cache
def recorded(name: str) -> dict[str, Any]:
    """The figures of a recorded run."""
    return read_figures(name)


def of_run(name: str) -> Callable[[Test], Test]:
    """Give a test the figures of a run first. A claim cannot be tested by a file that is missing,
    damaged, or without what the test reads, as one of an older recording is."""

    def with_figures(test: Test) -> Test:
        @wraps(test)
        def tested(**assumed: float) -> Outcome:
            try:
                return test(recorded(name), **assumed)
            except (OSError, ValueError, LookupError, TypeError):
                command = f"python -m moeviz experiment {name}"
                return Outcome("unverifiable", f"its run is not recorded here: '{command}' does")

        return tested

    return with_figures


def difference(first: list[float], second: list[float]) -> Gap:
    """Paired over seeds."""
    from moeviz.records.compare import compare  # here: counting needs no numpy

    return compare(first, second)


def interval(gap: Gap) -> str:
    return f"95 % interval {gap.low:+z.3f} to {gap.high:+z.3f}, {len(gap.values)} seeds"


@SURVEY.claim(
    "Token Choice Routing and Load Imbalance", "Dropping tokens severely degrades output quality",
    "loss under factor 1.25 minus loss without a limit, in mixed batches",
    f"{CAPACITY}: two layers of 8 experts, top-1, 300 steps",
    Assumption("severe", 0.1, "nats", "loss difference that counts as severe", 0.001, 1),
    unit="nats")  # fmt: skip
@of_run("capacity")
def dropping_degrades(figures: dict[str, Any], severe: float) -> Outcome:
    limits = figures["limits"]
    arm = limits["factor 1.25"]
    gap = difference(arm["loss_mixed"]["values"], limits["no limit"]["loss"]["values"])
    terms = (
        Term("loss under the limit", arm["loss_mixed"]["mean"], "mean of seeds, nats per token"),
        Term("tokens dropped", arm["dropped_mixed"]["mean"], "share, in evaluation"),
    )
    what = (
        f"{percent(arm['dropped_mixed']['mean'], 1)} of the tokens are dropped there, and the loss "
        f"differs by {gap.mean:+z.3f} nats per token ({interval(gap)})"
    )
    if gap.high < severe:
        return Outcome("inaccurate", f"in our small model {what}", gap.mean, terms)
    verdict = holds_if(True) if gap.low >= severe else "unverifiable"
    return Outcome(verdict, f"in our small model {what}", gap.mean, terms)


@SURVEY.claim(
    "Expert Choice", "Expert Choice guarantees perfect load balancing",
    "the busiest expert over the mean, minus 1 (MaxVio); tokens that no expert takes",
    f"{COLLAPSE}; 05_capacity counts the tokens",
    unit="MaxVio")  # fmt: skip
@of_run("collapse")
def expert_choice_balance(figures: dict[str, Any]) -> Outcome:
    violation = least_even(figures, "expert choice")
    terms = (Term("MaxVio in training", violation, "of the least even layer, mean of seeds"),)
    if violation > 0.01:
        return Outcome("contradicted", f"MaxVio is {violation:.2f}", violation, terms)
    why = (
        f"of the experts: their MaxVio is {violation:.2f}; of the tokens not: some are taken by "
        "several experts and some by none"
    )
    return Outcome("inaccurate", why, violation, terms)


@SURVEY.claim(
    "Auxiliary-loss-free routing", "A bias for each expert enforces strict load balancing",
    "the busiest expert over the mean, minus 1 (MaxVio): the least even layer, last 50 steps",
    f"{COLLAPSE}: two layers of 16 experts, top-1, sign bias, 300 steps",
    Assumption("strict", 0.05, "MaxVio", "unevenness that still counts as strict", 0.0, 1),
    unit="MaxVio")  # fmt: skip
@of_run("collapse")
def strict_balance(figures: dict[str, Any], strict: float) -> Outcome:
    violation, bare = (least_even(figures, arm) for arm in ("sign bias", "nothing"))
    terms = (
        Term("MaxVio with the bias", violation, "mean of seeds"),
        Term("MaxVio without", bare, "mean of seeds"),
    )
    why = (
        f"in our small model MaxVio is {bare:.2f} without it and {violation:.2f} with it: a step "
        "corrects the load of the batch before, and enforces nothing in the batch that runs"
    )
    return Outcome(holds_if(violation <= strict), why, violation, terms)


@SURVEY.claim(
    "Granularity and the Shared Expert Paradigm",
    "Shared experts are the repository of universal foundational knowledge",
    "rise of the loss without the shared expert minus that without one of each token's choices",
    f"{FINE}: two layers of 63 experts, 7 chosen, 1 shared, 1,200 steps",
    unit="nats")  # fmt: skip
@of_run("fine_grained")
def shared_knowledge(figures: dict[str, Any]) -> Outcome:
    arm = figures["left_out"]["split 4, 1 shared"]
    missed, even = arm["pairs"]["shared or drawn"], arm["pairs"]["evenness"]
    terms = (
        Term("without the shared expert", arm["shared"]["rise"]["mean"], "rise, nats per token"),
        Term("without a drawn choice", arm[DRAWN]["rise"]["mean"], "rise, nats per token"),
        Term("spread over domains", even["mean"], "of the rise, minus that of the drawn choice"),
    )
    what = (
        f"in our small model the loss rises by {arm['shared']['rise']['mean']:.2f} nats per token "
        f"without the shared expert and by {arm[DRAWN]['rise']['mean']:.2f} without a choice"
    )
    if missed["verdict"] == "lower":
        return Outcome("contradicted", f"{what}: the chosen are missed more", missed["mean"], terms)
    if missed["verdict"] == "open":
        return Outcome("unverifiable", f"{what}, which is open", missed["mean"], terms)
    if even["verdict"] != "lower":
        why = f"{what}; that it is missed more evenly in all domains is not shown"
        return Outcome("inaccurate", why, missed["mean"], terms)
    return Outcome("holds", f"{what}, more evenly in all domains", missed["mean"], terms)


@REVOLUTION.claim(
    "opening", "One percent of the parameters reaches 99.3 % of a dense model's performance",
    "share of a dense model's quality, by the gain over the unigram; three other ways beside it",
    f"{FRONTIER}: 2 of 256 experts beside a dense FFN of width 2,048, two layers, 1,200 steps",
    Assumption("claimed", 0.993, "share", "share of the quality that is claimed", 0.5, 1.5),
    stated=0.993, unit="share")  # fmt: skip
@of_run("frontier")
def near_full_performance(figures: dict[str, Any], claimed: float) -> Outcome:
    shares, narrow = (_shares(figures, arm) for arm in (LEAST, NARROWEST))
    arm = figures["arms"][LEAST]
    met = percent(arm["active_parameters"] / arm["parameters"], 1)
    terms = tuple(Term(way, share, "mean of seeds") for way, share in shares.items())
    own, others = (
        f"{percent(min(each.values()), 1)} to {percent(max(each.values()), 1)}"
        for each in (shares, narrow)
    )
    why = (
        f"which measure it is stands nowhere. Our small model meets {met} of its parameters, and "
        f"four ways give {own}; but a dense one of width 128 has {others} there, and one with as "
        "many parameters was not trained"
    )
    everyhow = min(shares.values()) >= claimed
    return Outcome(holds_if(everyhow), why, shares["gain over the unigram"], terms)


def _shares(figures: dict[str, Any], arm: str) -> dict[str, float]:
    """An arm's share of the widest dense model's quality, by each way."""
    from moeviz.records.quality import Quality, shares_of_quality  # here: counting needs no numpy

    model, dense = (
        Quality(of["loss"]["mean"], of["accuracy"]["mean"])
        for of in (figures["arms"][name] for name in (arm, WIDEST))
    )
    return shares_of_quality(model, dense, figures["unigram"])


@REVOLUTION.claim(
    "How It Works", "Sparsity from the beginning of pre-training costs no catastrophic performance",
    "loss of 2 of 256 experts minus that of a dense model of equal active compute",
    f"{FRONTIER}: two layers, 1,200 steps",
    Assumption("catastrophic", 0.1, "nats", "difference that counts as catastrophic", 0.001, 1),
    unit="nats")  # fmt: skip
@of_run("frontier")
def sparse_from_the_beginning(figures: dict[str, Any], catastrophic: float) -> Outcome:
    arms = figures["arms"]
    gap = difference(arms[LEAST]["loss"]["values"], arms[TWIN]["loss"]["values"])
    terms = (
        Term("loss of 2 of 256 experts", arms[LEAST]["loss"]["mean"], "mean of seeds"),
        Term("loss of the dense twin", arms[TWIN]["loss"]["mean"], "mean of seeds"),
    )
    why = (
        f"in our small model the loss differs by {gap.mean:+z.3f} nats per token ({interval(gap)}) "
        "from a dense model of equal active compute; one with as many parameters was not trained"
    )
    if gap.high < catastrophic:
        return Outcome("holds", why, gap.mean, terms)
    verdict = holds_if(False) if gap.low >= catastrophic else "unverifiable"
    return Outcome(verdict, why, gap.mean, terms)


BEACON.fact(
    "token_dropping", "third paragraph",
    "Token dropping prunes less relevant experts mid-inference", "what the name stands for",
    f"GShard, 2006.16668; Switch, 2101.03961; {CAPACITY}", "contradicted",
    "an expert whose slots are full drops a token, mostly in training")  # fmt: skip


def least_even(figures: dict[str, Any], arm: str) -> float:
    """MaxVio of training's last steps in the layer where it is largest, mean over seeds."""
    layers = figures["arms"][arm]["training"]["max_violation"]
    return float(max(layer["mean"] for layer in layers))
