"""What `experiment upcycling` says, in words; every figure comes from its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moeviz.pictures.over_seeds import mean_sd, rate_words
from moeviz.records.growth import (
    COPIES,
    DROP,
    EARLY,
    EQUAL_COMPUTE,
    EQUAL_STEPS,
    GROWN,
    LATE,
    LEADS,
    SCRATCH,
    Pair,
    name_of,
)

Recorded = Mapping[str, Any]
NOT_RECORDED = "The figures over seeds are not recorded yet."
STANDS = {"lower": "ahead of", "higher": "behind"}
NAMES = {SCRATCH: "a start from scratch", COPIES: "copies", DROP: "half drawn anew"}
# The question of a section: the same work, the parent's included, and growing in two ways.
ASKED: tuple[Pair, ...] = ((COPIES, SCRATCH, EQUAL_COMPUTE), (DROP, COPIES, EQUAL_STEPS))


def told(recorded: Recorded) -> str:
    """Who leads early and who late, of a start from scratch, copies, and half drawn anew."""
    return " ".join(told_pair(recorded, pair) for pair in ASKED)


def told_pair(recorded: Recorded, pair: Pair) -> str:
    """How far the first of a pair stands from the second, early and late; how large an open
    difference is, the picture's rows show."""
    first, other, how = pair
    early, late = (recorded["gaps"][moment][name_of(pair)] for moment in (EARLY, LATE))
    verb, again = ("are", "it") if first == COPIES else ("is", "them")
    subject = f"{NAMES[first]} {verb}"
    subject = f"{how}, {subject}" if how == EQUAL_COMPUTE else subject
    subject = subject[0].upper() + subject[1:]
    steps = f"after {recorded['early']:,} steps", f"after {recorded['steps']:,}"
    if early["verdict"] == late["verdict"] == "open":
        return f"{subject} {_stands(early, NAMES[other])} {steps[0]}, nor {steps[1]}."
    stands = _stands(early, NAMES[other]), _stands(late, again)
    return f"{subject} {stands[0]} {steps[0]}, and {stands[1]} {steps[1]}."


def _stands(gap: Mapping[str, Any], other: str) -> str:
    if gap["verdict"] == "open":
        return f"not told apart from {other}"
    return f"{abs(gap['mean']):.3f} nats per token {STANDS[gap['verdict']]} {other}"


def lead_sentences(recorded: Recorded) -> list[str]:
    """For each lead that was followed: with how many seeds it ended, and at which step."""
    return [lead_sentence(recorded, pair) for pair in LEADS]


def lead_sentence(recorded: Recorded, pair: Pair) -> str:
    """Whether the lead of the first of a pair over the second ended, and when."""
    first, other, how = pair
    found = recorded["lead_ends"][name_of(pair)]
    ended = [step for step in found["seeds"] if step is not None]
    seeds, steps = len(found["seeds"]), f"{recorded['steps']:,} steps"
    pair_words = f"{NAMES[first]} {{verb}} {NAMES[other]}, {how}"
    leads = pair_words.format(verb="lead" if first == COPIES else "leads")
    if len(ended) < seeds:
        count = f"{seeds - len(ended)} of {seeds} seeds" if ended else "every seed"
        return f"After {steps} {leads}, with {count}."
    if not any(ended):
        never = pair_words.format(verb="never lead" if first == COPIES else "never leads")
        return f"With every seed {never}."
    where = f"after {found['mean']:,} steps"
    if found["low"] is not None:
        where += f" (95 % interval {max(found['low'], 0):,} to {found['high']:,})"
    return f"The lead of {NAMES[first]} over {NAMES[other]}, {how}, ends {where}."


def recorded_sentences(recorded: Recorded) -> list[str]:
    """All that a notebook tells of the file beside its picture."""
    rates = recorded["rates"]
    told_rates = rate_words(rates), closest_choice(rates)
    return [*lead_sentences(recorded), *cosine_sentences(recorded), *told_rates]


def closest_choice(rates: Mapping[str, Any]) -> str:
    """Whose learning rate another one would have replaced most easily, and by how much it lost."""
    seconds = []
    for name, found in rates.items():
        tried = zip(found["losses"], found["grid"], strict=True)
        (best, _), (second, rate), *_ = sorted(one for one in tried if one[0] is not None)
        seconds.append((second - best, name, rate))
    behind, name, rate = min(seconds)
    return f"The closest choice: {name} with {rate:g} lost {behind:.3f} nats per token more."


def cosine_sentences(recorded: Recorded) -> list[str]:
    """How alike the experts were at the start and at the end, by way of growing."""
    sentences = []
    for name in (*GROWN, SCRATCH):
        first, last = (recorded["arms"][name]["cosine"][place] for place in (0, -1))
        sentences.append(
            f"{name[:1].upper()}{name[1:]}: the mean cosine of two experts' weights begins at "
            f"{first['mean']:z.2f} and ends at {mean_sd(last, 3)}."
        )
    return sentences
