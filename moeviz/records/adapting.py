"""The ways to adapt a model that `experiment adapting` compares, by the names of its recording."""

from __future__ import annotations

import numpy as np

BY_GATE = "experts that matter, by gate"
BY_TOKEN = "experts that matter, by token share"
BY_LOT = "as many experts, by lot"
ALL_SMALL = "all experts, rank 1"
ONE_FOR_ALL = "one LoRA for all experts"
ATTENTION = "attention"
ALL = "all experts, rank 4"
WHOLE = "experts that matter, whole"
EVERYTHING = "everything"

# LoRA that trains as many numbers as ALL_SMALL does, as nearly as a rank allows; the others train
# more.
EQUAL = (BY_GATE, BY_TOKEN, BY_LOT, ALL_SMALL, ONE_FOR_ALL, ATTENTION)
LARGER = (ALL, WHOLE, EVERYTHING)
WAYS = EQUAL + LARGER
BASE = BY_GATE  # what the others are compared with
MEASURES = ("task", "elsewhere", "at_equal_gain")  # the lower, the better


def at_gain(wanted: float, gain: list[float], elsewhere: list[float]) -> float:
    """The loss elsewhere when the gain first reaches what is wanted: between measured points, of
    which the first is that before training, 0 and 0, both are taken as linear. The last where the
    gain never reaches it."""
    gains, others = np.array([0.0, *gain]), np.array([0.0, *elsewhere])
    reached = np.flatnonzero(gains >= wanted)
    if not len(reached):
        return float(others[-1])
    after = int(reached[0])
    if after == 0:
        return 0.0
    share = (wanted - gains[after - 1]) / (gains[after] - gains[after - 1])
    return float(others[after - 1] + share * (others[after] - others[after - 1]))
