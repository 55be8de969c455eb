"""Ranks and their correlation, without scipy: a panel that opens waits for no statistics."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def ranks(values: ArrayLike) -> np.ndarray:
    """1 for the smallest of the values [N], and the mean of their places for those that are equal:
    float64 [N]."""
    _, place_N, count = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[place_N]


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """The rank correlation of two lists of values [N], neither of one value alone."""
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])
