"""What the recorded runs of collapse say, in words that their figures decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moeviz.pictures.over_seeds import Figure, told_gap
from moeviz.pictures.training.arms import FAIR, table_of
from moeviz.records.compare import LEVEL, compare, p_of_counts, verdicts
from moeviz.records.metrics import over_seeds

DENSE, BASE, FROZEN = "dense", "nothing", "frozen router"
Summary = dict[str, Any]


def worst_layer(summary: Summary) -> int:
    """The layer whose load is the least even without a cure, at the end of training."""
    layers = summary["arms"][BASE]["training"]["max_violation"]
    return int(np.argmax([figure["mean"] for figure in layers]))


def cures_of(summary: Summary) -> list[str]:
    """The cures, by name: all settings but the dense twin, the one without a cure, and those in
    which something else was changed, which have a comma in their names."""
    return [name for name in summary["arms"] if name not in (DENSE, BASE) and ", " not in name]


def balance(summary: Summary, name: str) -> Figure:
    """MaxVio of training's last 50 steps in the layer that is the least even without a cure."""
    figure: Figure = summary["arms"][name]["training"]["max_violation"][worst_layer(summary)]
    return figure


def balance_verdicts(summary: Summary) -> dict[str, str]:
    """Whether each cure's `balance` is "lower" or "higher" than without one, or "open"."""
    base = balance(summary, BASE)["values"]
    gaps = {n: compare(balance(summary, n)["values"], base) for n in cures_of(summary)}
    return verdicts(gaps)


def failing(summary: Summary) -> list[str]:
    """The cures under which at least half of the recorded runs collapsed."""
    arms = summary["arms"]
    return [n for n in cures_of(summary) if 2 * arms[n]["collapsed"] >= arms[n]["runs"]]


def dead_without_cure(summary: Summary) -> float:
    """Experts that are dead in training's last 50 steps, in the layer that is the least even."""
    dead = summary["arms"][BASE]["training"]["dead_experts"][worst_layer(summary)]
    return float(dead["mean"])


def told_layers(summary: Summary) -> str:
    """What happens without a cure, layer by layer."""
    arm, layer = summary["arms"][BASE], worst_layer(summary)
    violation = [figure["mean"] for figure in arm["training"]["max_violation"]]
    dead = dead_without_cure(summary)
    others = [i for i in range(len(violation)) if i != layer]
    rest = " and ".join(f"{violation[i]:.1f} in layer {i}" for i in others)
    fell = arm["collapsed_by_layer"][layer]
    return (
        f"Without a cure training ends with MaxVio {violation[layer]:.1f} in layer {layer}"
        + (f", and {rest}. " if rest else ". ")
        + f"In layer {layer}, {dead:.1f} experts are dead on average. "
        f"Half of its experts or more are dead in {fell} of {arm['runs']} runs."
    )


def told_frozen(summary: Summary) -> str:
    """Whether the load is more even where a router cannot learn to prefer an expert."""
    layer, arms = worst_layer(summary), (FROZEN, BASE)
    gap = single(*(balance(summary, name)["values"] for name in arms))
    gap |= {"verdict": balance_verdicts(summary)[FROZEN]}
    return told_difference(f"MaxVio in layer {layer} with a {FROZEN}", "with a learned one", gap)


def told_fallen(summary: Summary, one: str, other: str, words: tuple[str, str]) -> str:
    """In how many runs of two settings half of the experts or more end dead, and whether so few
    runs tell the two counts apart."""
    (fell, runs), (fell_too, of) = (
        (arm["collapsed"], arm["runs"]) for arm in (summary["arms"][n] for n in (one, other))
    )
    open_words = ": so few runs do not tell these apart"
    return (
        f"Half of the experts or more end dead in {fell} of {runs} runs {words[0]}, and in "
        f"{fell_too} {words[1]}{open_words * (p_of_counts(fell, runs, fell_too, of) >= LEVEL)}."
    )


def told_cures(summary: Summary) -> str:
    """Which cures make the load more even."""
    found = balance_verdicts(summary)
    if summary["arms"][BASE]["runs"] == 1:
        return "One seed does not show which cures make the load more even."
    by = {
        words: [name for name, verdict in found.items() if verdict == of]
        for of, words in (("lower", "more even"), ("higher", "less even"), ("open", "open"))
    }
    told = "; ".join(f"{words} under {listed(names)}" for words, names in by.items() if names)
    return f"The cures, by the load of layer {worst_layer(summary)} beside no cure: {told}."


def told_quality(summary: Summary) -> str:
    """Whether the cures that make the load more even make the model better."""
    arms, found = summary["arms"], balance_verdicts(summary)
    even = [name for name, verdict in found.items() if verdict == "lower"]
    if not even:
        return "No cure is shown to make the load more even, so nothing is said of its worth."
    by = {
        v: [n for n in even if arms[n]["loss_minus_nothing"]["verdict"] == v]
        for v in ("lower", "higher", "open")
    }
    if by["lower"] == even:
        last = "Here every more even load went with a lower loss."
    elif by["lower"]:
        last = "So an even load alone does not decide about the loss."
    else:
        last = "So no more even load is shown to lower the loss."
    return " ".join(
        [
            f"{len(even)} of {len(found)} cures are shown to make the load more even.",
            f"Of these the loss is shown to be lower than without a cure under "
            f"{listed(by['lower'])}.",
            f"It is shown to be higher under {listed(by['higher'])}.",
            f"It is open under {listed(by['open'])}.",
            last,
        ]
    )


def told_against_dense(summary: Summary) -> str:
    """The loss without a cure beside the dense twin's."""
    gap = summary["arms"][BASE]["loss_minus_dense"]
    return told_gap("the model without a cure", "its dense twin", gap)


def told_rate(summary: Summary, routers: Summary) -> str:
    """What the rate of these runs costs the dense twin, beside that of runs/routers.json."""
    table = table_of(routers, FAIR)
    here, best = summary["arms"][DENSE]["reserve_loss"], table["arms"][DENSE]["loss"]
    one, other = (f"after {steps['steps']:,} steps" for steps in (summary, table))
    return (
        f"The dense twin ends at {here['mean']:.3f} nats per token here, {one}. At the rate that "
        "the comparison of routers has for it, which also falls towards the end, it ends at "
        f"{best['mean']:.3f}, {other}."
    )


def told_versus(summary: Summary, a: str, b: str, figure: str, name: str) -> str:
    """One setting beside another in one figure, paired by seed."""
    gap = single(*(summary["arms"][arm][figure]["values"] for arm in (a, b)))
    return told_difference(f"{name} with {a}", f"with {b}", gap)


def single(values: Sequence[float], base: Sequence[float]) -> Figure:
    """One paired difference that stands in no table, as experiments.recording.judged writes it."""
    gap = compare(values, base)
    known = np.isfinite(gap.low)
    ends = {"low": gap.low if known else None, "high": gap.high if known else None}
    return over_seeds(gap.values) | ends | {"verdict": verdicts({"": gap})[""]}


def told_difference(name: str, other: str, gap: Figure) -> str:
    """One sentence on two figures of any kind."""
    if gap["low"] is None:
        return f"{name} and {other}: one seed shows no difference."
    ends = f"95 % interval {gap['low']:+z.3f} to {gap['high']:+z.3f}"
    if gap["verdict"] == "open":
        return f"{name} is not shown to differ from that {other}: {gap['mean']:+z.3f} ({ends})."
    return f"{name} is {abs(gap['mean']):.3f} {gap['verdict']} than that {other} ({ends})."


def listed(names: Sequence[str]) -> str:
    """The names; of more than four, how many they are and the first two: a table has them all."""
    if len(names) > 4:
        return f"{len(names)} of them, {names[0]} and {names[1]} among these"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "none"
