"""Exercises on comparing: what makes two runs incomparable (03.8), and how to make hash lose with
what is recorded (04.8)."""

from __future__ import annotations

from typing import Any

from moeviz.exercises.answers import as_names
from moeviz.exercises.exercise import exercise
from moeviz.experiments.cures import recorded
from moeviz.pictures.table import Table
from moeviz.pictures.training.balance_over_time import RESTARTED
from moeviz.records.compare import Gap, compare, verdicts

# 03.8: name, run 1, run 2, and why it matters, or why it does not; None where both are the same.
MATTERS, HARMLESS = "matters", "harmless"
SETTINGS: dict[str, tuple[str, str, tuple[str, str] | None]] = {
    "router": (
        "token choice",
        "hash",
        (HARMLESS, "is what the comparison asks about: it must differ."),
    ),
    "experts": ("E = 16, K = 2", "E = 16, K = 2", None),
    "output scale": (
        "as written, starts at 0.09 of dense",
        "fair",
        (MATTERS, "one FFN starts much quieter than the other."),
    ),
    "active FLOPs": (
        "1.7 M a token",
        "2.0 M a token",
        (MATTERS, "one of them computes more for each token."),
    ),
    "training text": ("moeviz embedded corpus", "moeviz embedded corpus", None),
    "steps": ("1,200", "1,200", None),
    "learning rate": (
        "the default, 4e-3",
        "the best of five, by validation",
        (MATTERS, "one of them had five chances."),
    ),
    "seeds": ("0 to 4", "0 to 4", None),
    "final loss": (
        "on reserve, 512 windows",
        "on validation, 512 windows",
        (MATTERS, "one is measured on the very text by which its learning rate was chosen."),
    ),
    "batches of the final loss": (
        "six domains mixed",
        "six domains mixed",
        None,
    ),
    "expert backend": (
        "grouped",
        "reference",
        (HARMLESS, "differs, but the backends agree to rounding: it changes seconds, not losses."),
    ),
    "machine": (
        "2 cores",
        "16 cores",
        (HARMLESS, "differs, but losses are compared, not seconds."),
    ),
    "validation curve": (
        "every 50 steps",
        "every 10 steps",
        (HARMLESS, "differs, but looking at a model more often does not change it."),
    ),
}


def two_runs() -> Table:
    """The settings of two runs whose final losses somebody wants to compare."""
    rows = [(name, first, second) for name, (first, second, _) in SETTINGS.items()]
    caption = "Two runs, made up for this exercise: is hash the better router?"
    return Table(caption, ("setting", "run 1", "run 2"), rows)


@exercise(
    "03.8",
    "Go through the table line by line. Would another value there change the final loss?",
    "What differs, is not the question itself, and could move the loss: how loud, how much, how "
    "often chosen, where measured.",
    difficulty=2,
    minutes=6,
    asks="a list of names of settings",
    solution=repr([n for n, (*_, why) in SETTINGS.items() if why and why[0] == MATTERS]),
    praise="Look for the rate of each alike and make the rest equal: then the loss speaks of the "
    "router.",
)
def unfair(answer: Any) -> str | None:
    names = as_names(answer, SETTINGS)
    if isinstance(names, str):
        return names
    for name in names:
        _, _, why = SETTINGS[name]
        if why is None:
            return f"'{name}' is the same in both runs."
        if why[0] == HARMLESS:
            return f"'{name}' {why[1]}"
    wanted = [name for name, (*_, why) in SETTINGS.items() if why and why[0] == MATTERS]
    missing = len(wanted) - len(names)
    if missing:
        return f"{missing} more {'settings matter' if missing > 1 else 'setting matters'}."
    return None


# 04.8

LOSS = "reserve_loss"


def hash_against_others() -> dict[tuple[str, str], Gap]:
    """Every recorded setting of hash beside every other recorded setting of the same schedule, as
    paired losses."""
    arms = {n: arm for n, arm in recorded()["arms"].items() if n != RESTARTED}
    losses = {n: arm[LOSS]["values"] for n, arm in arms.items() if LOSS in arm}
    hashed = [name for name in losses if name.startswith("hash")]
    return {
        (one, other): compare(losses[one], losses[other])
        for one in hashed
        for other in losses
        if other not in hashed
    }


def hash_loses() -> list[tuple[str, str]]:
    """The pairs in which hash has the higher loss, corrected for having looked at all of them."""
    return [
        pair for pair, verdict in verdicts(hash_against_others()).items() if verdict == "higher"
    ]


@exercise(
    "04.8",
    "The same hash is recorded at several output scales. Which of them is the quietest?",
    "Let a quiet hash meet a learned router that is as loud as the dense twin.",
    difficulty=2,
    minutes=5,
    asks="two names, a setting of hash and another setting",
    solution="hash_loses()[0]",
    praise="The seeds agree, also after a correction for all pairs that there are. Before you tell "
    "anyone: what else differs between the two besides the router?",
)
def make_hash_lose(answer: Any) -> str | None:
    arms = recorded()["arms"]
    names = as_names(answer, arms)
    if isinstance(names, str):
        return names
    if RESTARTED in names:
        return f"'{RESTARTED}' has another schedule of the learning rate: compare like with like."
    gaps = hash_against_others()
    if not gaps:
        return "the recorded runs hold no final losses yet: record them again."
    if (pair := tuple(names)) not in gaps:
        return "the answer is two names: first a setting of hash, then one of another router."
    gap, verdict = gaps[pair], verdicts(gaps)[pair]
    if verdict == "higher":
        return None
    size = f"{gap.mean:+.3f} nats (95 % interval {gap.low:+.3f} to {gap.high:+.3f})"
    if verdict == "lower":
        return f"there hash wins: its loss minus the other's is {size}."
    return f"there it is open: hash's loss minus the other's is {size}, corrected for all pairs."
