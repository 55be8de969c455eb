"""What is recorded of models as experts, in sentences made from the figures."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.over_seeds import rate_words, told_briefly, told_gap
from moeviz.records.models_as_experts import (
    BY_PROMPT,
    BY_START,
    BY_TEXT,
    BY_TOKEN,
    MIXED,
    MOE_ALL,
    NO_EXPERTS,
    PICKED,
    TOLD,
    TUNED,
)
from moeviz.words import percent

Recorded = dict[str, Any]
BASE = "one dense model of all three domains"
SAID = {
    TOLD: "picking the domain's own model", PICKED: "a picked model",
    MIXED: "the router's mixture", BY_PROMPT: "the mixture by the prompt's loss",
    TUNED: "Branch-Train-MiX", MOE_ALL: "one MoE of all three domains",
}  # fmt: skip
CHOICES = {
    BY_TOKEN: "a choice for every token", BY_START: "one set of experts by the prompt",
    BY_TEXT: "one set by the whole text", NO_EXPERTS: "the dense twin",
}  # fmt: skip
STAGES = {
    "apart": "the three models", "one dense model": "the one dense model",
    "one MoE": "the one MoE", "together": "the training together",
}  # fmt: skip


def said(arm: str) -> str:
    """An arm as a sentence names it."""
    return SAID.get(arm, arm)


def told(recorded: Recorded, arm: str = MIXED) -> str:
    """An arm beside the dense control, on the domains that were learned."""
    gap = recorded["gaps"]["seen"].get(arm)
    return told_briefly(said(arm), BASE, gap) if gap else "Every arm is set beside that one."


def told_together(recorded: Recorded) -> list[str]:
    """Both ways to put models together, beside the controls: a sentence each, with intervals."""
    seen = recorded["gaps"]["seen"]
    sentences = [told_gap(said(arm), BASE, seen[arm]) for arm in (MIXED, TUNED, MOE_ALL)]
    for pair in (f"{TUNED} minus {MIXED}", f"{TUNED} minus {MOE_ALL}"):
        first, _, second = pair.partition(" minus ")
        gap = recorded["gaps"]["pairs"][pair]
        sentences.append(told_gap(said(first), said(second), gap))
    return sentences


def told_choice(recorded: Recorded) -> list[str]:
    """Who picks the domain's own model how often, and whether mixing beats being told."""
    right = recorded["right"]
    router, prompt = (percent(right[name]["mean"]) for name in ("picked", "by_prompt"))
    start = (
        f"For held-out text of the three domains the router picks the domain's own model "
        f"{router} of the time; the model with the lowest loss on the prompt is the domain's own "
        f"{prompt} of the time."
    )
    pairs = recorded["gaps"]["pairs"]
    others = [(PICKED, TOLD), (MIXED, TOLD), (MIXED, BY_PROMPT)]
    return [start] + [told_gap(said(a), said(b), pairs[f"{a} minus {b}"]) for a, b in others]


def told_unseen(recorded: Recorded) -> list[str]:
    """The same arms on the domains that nobody has learned."""
    gaps = recorded["gaps"]["unseen"]
    names = ", ".join(recorded["unseen"])
    return [f"On domains that nobody has learned ({names}):"] + [
        told_gap(said(arm), BASE, gaps[arm]) for arm in (MIXED, BY_PROMPT, TUNED)
    ]


def told_cost(recorded: Recorded) -> str:
    """What was spent."""
    arms = recorded["arms"]
    mixed, tuned = arms[MIXED], arms[TUNED]
    return (
        f"The mixture of whole models took {percent(mixed['training'])} of the controls' training "
        f"and computes {mixed['answer']:.3g} dense models for every token of an answer; "
        f"Branch-Train-MiX took all of it and computes {tuned['answer']:.3g}."
    )


def told_one_set(recorded: Recorded) -> list[str]:
    """One set of experts for a text beside a choice for every token."""
    of = recorded["one_set"]
    met = {name: arm["experts_a_text"]["mean"] for name, arm in of["arms"].items()
           if "experts_a_text" in arm}  # fmt: skip
    sentences = [
        f"After {of['steps']:,} steps a text of 64 tokens has met {met[BY_TOKEN]:.1f} of the 16 "
        f"experts of a layer where every token chooses, and {met[BY_START]:.1f} where one set "
        "serves the whole text."
    ]
    for pair, gap in of["gaps"].items():
        first, _, second = pair.partition(" minus ")
        sentences.append(told_gap(CHOICES[first], CHOICES[second], gap))
    return sentences


def told_rates(recorded: Recorded) -> str:
    """The rate of each stage that has one, and which of them are an end of what was tried."""
    return rate_words({STAGES[name]: found for name, found in recorded["rates"].items()})
