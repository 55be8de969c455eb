"""A model grown from a dense one: its arms, how alike its experts are, and where leads end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moeviz.records.compare import half_interval
from moeviz.records.runs import Snapshot

DENSE, SCRATCH = "dense", "from scratch"
COPIES, NOISE, DROP = "copies", "copies with noise", "half drawn anew"
GROWN = (COPIES, NOISE, DROP)
# Every way to grow, with the arguments of surgery.upcycle; those of GROWN are recorded.
WAYS: dict[str, dict[str, float]] = {
    COPIES: {},
    NOISE: {"noise": 0.1},
    "a quarter drawn anew": {"drop": 0.25},
    DROP: {"drop": 0.5},
    "all drawn anew": {"drop": 1.0},
}
EQUAL_STEPS, EQUAL_COMPUTE = "at equal steps", "at equal compute"
EARLY, LATE = "early", "late"
LEARNERS = (DENSE, SCRATCH, "grown")  # of a live run

# What is compared, and counted how: (A, B, how) is A's loss minus B's.
Pair = tuple[str, str, str]
PAIRS: tuple[Pair, ...] = (
    *((grown, other, how) for grown in (COPIES, DROP) for other in (DENSE, SCRATCH)
      for how in (EQUAL_STEPS, EQUAL_COMPUTE)),
    (DROP, COPIES, EQUAL_STEPS), (NOISE, COPIES, EQUAL_STEPS),
)  # fmt: skip
# Whose lead over whom is followed to its end.
LEADS: tuple[Pair, ...] = (
    *(pair for pair in PAIRS if pair[1] == SCRATCH), (COPIES, DROP, EQUAL_STEPS),
)  # fmt: skip

# The notes of a learner: how it grew; FLOPs before its first step, the dense model's; and
# [step, by layer the cosines of the E (E - 1) / 2 pairs of experts] of each look.
WAY, BEFORE, COSINE = "way", "flops before", "cosine"


def name_of(pair: Pair) -> str:
    first, other, how = pair
    return f"{first} minus {other}, {how}"


def cosines(learner: Snapshot) -> tuple[np.ndarray, np.ndarray]:
    """Steps [P] at which its experts were looked at, as far as it has come, and the cosine of each
    two experts' weights, [P, L, E, E]; P = 0 for a dense model."""
    looks = learner.meta.get("notes", {}).get(COSINE, [])
    looks = [(step, pairs) for step, pairs in looks if step <= learner.step]
    if not looks:
        return np.zeros(0), np.zeros((0, 0, 0, 0))
    pairs_PLn = np.array([pairs for _, pairs in looks], np.float64)
    experts = round((1 + (1 + 8 * pairs_PLn.shape[-1]) ** 0.5) / 2)
    matrix = np.broadcast_to(np.eye(experts), (*pairs_PLn.shape[:2], experts, experts)).copy()
    one, other = np.triu_indices(experts, 1)
    matrix[:, :, one, other] = matrix[:, :, other, one] = pairs_PLn
    return np.array([step for step, _ in looks], np.float64), matrix


def mean_cosines(learner: Snapshot) -> list[tuple[float, float]]:
    """(step, mean over all pairs of experts and all layers) of each look."""
    steps_P, matrix = cosines(learner)
    experts = matrix.shape[-1]
    if not len(steps_P):
        return []
    apart = ~np.eye(experts, dtype=bool)
    means_P = matrix[:, :, apart].mean((1, 2))
    return [(float(step), float(mean)) for step, mean in zip(steps_P, means_P, strict=True)]


def lead_ends(steps: Sequence[float], losses: Sequence[float], others: Sequence[float]) -> float:
    """The step at which the first learner's lead ends for good: where its loss rises above the
    other's, to stay there until the end of what was measured. Between two steps the difference is
    taken as linear. The first step where it never led; NaN where it leads, or is level, at the end.
    """
    gap = np.asarray(losses, np.float64) - np.asarray(others, np.float64)
    if gap[-1] <= 0:
        return float("nan")
    led = np.flatnonzero(gap <= 0)
    if not len(led):
        return float(steps[0])
    last = int(led[-1])
    share = -gap[last] / (gap[last + 1] - gap[last])
    return float(steps[last] + share * (steps[last + 1] - steps[last]))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of the seeds' values, and its 95 % interval by Student's t: endless for one."""
    mean, freedom = float(np.mean(values)), len(values) - 1
    if not freedom:
        return mean, -np.inf, np.inf
    reach = half_interval(float(np.std(values, ddof=1)) / len(values) ** 0.5, freedom)
    return mean, mean - reach, mean + reach
