"""Exercises 03.10 and 03.11: whether two arms differ over paired seeds, and in a whole table."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.checks import brief
from moeviz.exercises.exercise import Wrong, function_asked

# Student's t of a 95 % interval, by the number of seeds.
STUDENT_T = {3: 4.303, 5: 2.776, 8: 2.365}


def paired(losses, base_losses, t):
    gap_N = np.asarray(losses) - np.asarray(base_losses)
    reach = t * gap_N.std(ddof=1) / len(gap_N) ** 0.5
    return gap_N.mean(), gap_N.mean() - reach, gap_N.mean() + reach


def _losses() -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Losses of an arm and its base over a few seeds: seeds differ more than arms do."""
    rng = np.random.default_rng(3)
    cases = []
    for seeds, t in STUDENT_T.items():
        luck_N = 3.3 + 0.05 * rng.standard_normal(seeds)
        arm_N, base_N = (luck_N + 0.01 * rng.standard_normal(seeds) for _ in range(2))
        cases.append((arm_N - 0.02, base_N, t))
    return cases


def _around(mean: float, reach: float) -> tuple[float, float, float]:
    return mean, mean - reach, mean + reach


def _numbers(count: int | None, what: str) -> Any:
    """A reader of as many finite numbers (None: any) in a row."""

    def read(given: Any) -> np.ndarray:
        try:
            found = np.asarray(given, dtype=float)
        except (TypeError, ValueError):
            found = np.zeros(0)
        if found.ndim != 1 or not len(found) or count not in (None, len(found)):
            raise Wrong(f"it must return {what}, not {brief(given)}.")
        if not np.isfinite(found).all():
            raise Wrong("it returns numbers that are not finite.")
        return found

    return read


function_asked(
    "03.10",
    "Take the difference of each seed first: what is luck of a seed then cancels.",
    "The mean of n differences has a standard error: their sample deviation over the root of n. "
    "Does your deviation divide by n - 1?",
    difficulty=2,
    minutes=6,
    solution=paired,
    praise="That is the interval in the tables of this lab. Where it leaves out zero, one "
    "comparison taken by itself speaks of a difference.",
    cases=_losses,
    mistakes=(
        (
            lambda a, b, t: _around((a - b).mean(), t * (a - b).std() / len(a) ** 0.5),
            "the deviation divides by n; of a sample it divides by n - 1.",
        ),
        (
            lambda a, b, t: _around((a - b).mean(), t * (a - b).std(ddof=1)),
            "that is where single seeds fall; the mean of n of them is surer by the root of n.",
        ),
        (
            lambda a, b, t: _around(
                a.mean() - b.mean(), t * ((a.var(ddof=1) + b.var(ddof=1)) / len(a)) ** 0.5
            ),
            "that treats the seeds as unrelated: both arms saw the same batches, so subtract seed "
            "by seed.",
        ),
        (
            lambda a, b, t: paired(b, a, t),
            "the sign is turned around: the arm's loss minus the base's.",
        ),
        (
            lambda a, b, t: _around((a - b).mean(), (a - b).std(ddof=1) / len(a) ** 0.5),
            "that is one standard error to both sides; a 95 % interval has t of them.",
        ),
    ),
    words="it gives {found[0]:.4f}, {found[1]:.4f} to {found[2]:.4f}; it must be {wanted[0]:.4f}, "
    "{wanted[1]:.4f} to {wanted[2]:.4f}.",
    read=_numbers(3, "three numbers (mean, low, high)"),
)


def holm(p_values):
    p_N = np.asarray(p_values)
    order = p_N.argsort()
    adjusted_N = np.empty(len(p_N))
    adjusted_N[order] = np.maximum.accumulate(p_N[order] * np.arange(len(p_N), 0, -1))
    return adjusted_N.clip(max=1)


def _falling(p_N: np.ndarray, *, carried: bool = True, capped: bool = True) -> np.ndarray:
    """Holm's rule with a step left out."""
    order = p_N.argsort()
    steps_N = p_N[order] * np.arange(len(p_N), 0, -1)
    found_N = np.empty(len(p_N))
    found_N[order] = np.maximum.accumulate(steps_N) if carried else steps_N
    return found_N.clip(max=1) if capped else found_N


def _tables() -> list[tuple[np.ndarray]]:
    """p-values of tables, in no order."""
    rng = np.random.default_rng(11)
    return [
        (np.array([0.03, 0.004, 0.02]),),
        (np.array([0.011, 0.012, 0.5, 0.01]),),
        (rng.random(29) ** 4,),
    ]


function_asked(
    "03.11",
    "The smallest of n p-values is multiplied by n, the next one by n - 1, and so on.",
    "No corrected value may lie below one that was smaller before, and none above 1. Give them "
    "back in the order in which they came.",
    difficulty=3,
    minutes=10,
    solution=holm,
    praise="With it, a table without any effect shows one in at most 5 % of all cases, however "
    "many rows it has.",
    cases=_tables,
    mistakes=(
        (
            lambda p: (p * len(p)).clip(max=1),
            "that is Bonferroni's rule: every value times n. Holm's multiplies the second smallest "
            "by n - 1 only.",
        ),
        (
            lambda p: _falling(p, carried=False),
            "a corrected value lies below one that was smaller before: carry the largest on.",
        ),
        (lambda p: _falling(p, capped=False), "no probability is above 1."),
        (lambda p: np.sort(holm(p)), "the values are right, but sorted: give them back in order."),
        (lambda p: p, "nothing is corrected."),
    ),
    words="for a table of p-values it gives {found}; it must be {wanted}.",
    read=_numbers(None, "one number for each p-value"),
)
