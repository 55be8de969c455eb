"""What experts bring in right answers, as a share of what the same parameters bring when all of
them work: of recorded models that learned a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moeviz.records.compare import Gap, compare

# The models by name: of the active parameters, with experts, and of all the parameters.
DENSE, MOE, DENSE_ALL = "dense", "MoE", "dense, all parameters"
MODELS = (DENSE, MOE, DENSE_ALL)
LEAST = 0.02  # of the answers: what all parameters bring must not be less, or nothing is told
Sizes = Mapping[str, Mapping[str, Any]]  # by size: the "models" with their "right" answers


def brought(sizes: Sizes) -> Gap | None:
    """The right answers of the MoE beyond those of the dense model of its active parameters, over
    those of the dense model of all its parameters beyond the same: 0 where experts bring nothing,
    1 where they bring as much as a wide FFN. Sums over all sizes, seed by seed; None where a seed
    has less than LEAST to share out."""
    share_N = _by_seed(sizes)
    return None if share_N is None else compare(share_N, np.zeros_like(share_N))


def brought_more(first: Sizes, second: Sizes) -> Gap | None:
    """How much larger that share is in the first task than in the second, over paired seeds."""
    one_N, other_N = _by_seed(first), _by_seed(second)
    return None if one_N is None or other_N is None else compare(one_N, other_N)


def _by_seed(sizes: Sizes) -> np.ndarray | None:
    right = {
        model: np.mean([size["models"][model]["right"]["values"] for size in sizes.values()], 0)
        for model in MODELS
    }
    whole_N = right[DENSE_ALL] - right[DENSE]
    if whole_N.min() < LEAST:
        return None
    share_N: np.ndarray = (right[MOE] - right[DENSE]) / whole_N
    return share_N
