"""What sets routers apart on the same tokens: facts in words, and what they come to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moeviz.records.metrics import drop_rate, max_violation
from moeviz.records.routes import Decision
from moeviz.words import percent

LEARN_NOTHING = "learn nothing"
BEFORE = "MaxVio, before drops"
NAMES = ("sees later tokens", "dropped", "no expert", f"{BEFORE} (even: 0)")
ALIKE = 1.05  # times the load of another one's busiest expert: told as the same


def finding(decisions: Sequence[Decision]) -> str:
    """What sets these routers apart, in at most two sentences: who looks ahead, who drops, who
    leaves tokens alone, and whose busiest expert gets how much."""
    tokens, told = len(decisions[0].tokens), []
    ahead = max(decisions, key=lambda d: d.leaks.sum())
    drops = max(decisions, key=lambda d: d.dropped.sum())
    alone = max(decisions, key=lambda d: (~d.visits.any(1)).sum())
    if count := int(ahead.leaks.sum()):
        told.append(
            f"{ahead.label} looks ahead: {count} of {tokens} decisions change when only later "
            "tokens do."
        )
    if count := int(drops.dropped.sum()):
        told.append(
            f"{drops.label} drops {count} of {int(drops.demand.sum())} choices: no slot was left."
        )
    elif count := int((~alone.visits.any(1)).sum()):
        told.append(f"{alone.label} leaves {count} of {tokens} tokens without an expert.")
    told.append(_busiest(decisions, if_alike=not told))
    return " ".join(told[:2]).rstrip()


def _busiest(decisions: Sequence[Decision], *, if_alike: bool) -> str:
    """How much the busiest expert is asked for, under the least and the most even router."""
    times = {d.label: max_violation(d.demand) + 1 for d in decisions if d.demand.any()}
    if not times:
        return "No expert gets a token."
    most, least = max(times, key=lambda n: times[n]), min(times, key=lambda n: times[n])
    share = "times the even share"
    if times[most] < ALIKE * times[least]:
        words = f"The busiest expert is asked for {times[most]:.1f} {share} under all of them."
        return words if if_alike else ""
    return (
        f"The busiest expert is asked for {times[most]:.1f} {share} under {most}, "
        f"{times[least]:.1f} under {least}."
    )


def facts_of(one: Decision) -> tuple[str, ...]:
    """NAMES of one decision, in words."""
    dropped, unserved = int(one.dropped.sum()), int((~one.visits.any(1)).sum())
    asked = int(one.demand.sum())
    return (
        sees_later(one),
        f"{dropped} of {asked} ({percent(drop_rate(one.demand, one.load))})"
        if dropped
        else "nothing",
        f"{unserved} of {len(one.tokens)} tokens" if unserved else "none",
        f"{max_violation(one.demand):.2f}" if one.demand.any() else "no load",
    )


def sees_later(one: Decision) -> str:
    """Whether decisions depend on later tokens: what was proven here, else what is declared."""
    if one.leaks.any():
        return f"yes: {int(one.leaks.sum())} of {len(one.tokens)} tokens"
    if one.causal:
        return "no"
    if one.meta.get("substitute") and not one.meta.get("training", True):
        return "no: another rule"
    return "can, but not seen here"


def who_does(decisions: Sequence[Decision]) -> dict[str, list[str]]:
    """Which routers do what."""
    return {
        "see later tokens": [d.label for d in decisions if d.leaks.any()],
        "drop assignments": [d.label for d in decisions if d.dropped.any()],
        "leave tokens without an expert": [d.label for d in decisions if not d.visits.any(1).all()],
        LEARN_NOTHING: [d.label for d in decisions if not d.meta.get("learned", 1)],
    }


def fate_of(one: Decision, token: int) -> str:
    """All about one token in one decision."""
    visited = np.flatnonzero(one.visits[token])
    parts = [", ".join(f"e{e} {one.weight[token, e]:.2f}" for e in visited) or "no expert"]
    if one.dropped[token].any():
        lost = ", ".join(f"e{e}" for e in np.flatnonzero(one.dropped[token]))
        parts.append(f"dropped at {lost}")
    if one.leaks[token]:
        parts.append("sees later tokens")
    return "; ".join(parts)


def most_telling(decisions: Sequence[Decision], count: int) -> range:
    """The page of so many tokens with the most that sets routers apart: of drops, of decisions by
    later tokens, of tokens without an expert, and of other experts; the first one among equals."""
    first, tokens = decisions[0].visits, len(decisions[0].tokens)
    telling_T = sum(
        d.dropped.any(1) + d.leaks + ~d.visits.any(1) + (d.visits != first).any(1).astype(int)
        for d in decisions
    )
    pages = [range(at, min(at + count, tokens)) for at in range(0, tokens, count)]
    return max(pages, key=lambda page: int(np.sum(telling_T[page])), default=range(0))
