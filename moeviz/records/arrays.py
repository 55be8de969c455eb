"""Arrays that a user gives to a metric: each is checked, or refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

NAN = float("nan")


def check_array(name: str, values: ArrayLike, low: float, high: float, dtype: type) -> np.ndarray:
    """The values as an array with the axes that the name ends in; ValueError for any other."""
    array, axes = np.asarray(values), name.rsplit("_", 1)[1]
    # Without tokens or served choices nothing counts; without experts or width nothing is asked.
    if array.ndim != len(axes) or (array.shape[-1] == 0 and axes[-1] not in "TNK"):
        wanted = f"an array [{', '.join(axes)}] that is not empty"
        raise ValueError(f"{name} must be {wanted}, got the shape {array.shape}.")
    if dtype is np.int64 and array.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integers, got {array.dtype}.")
    bad = array[~(np.isfinite(array) & (array >= low) & (array <= high))]
    if len(bad):
        raise ValueError(f"{name} must hold finite numbers in {low}..{high}, got {bad[0]}.")
    return array.astype(dtype)


def amounts(name: str, values: ArrayLike) -> np.ndarray:
    return check_array(name, values, 0, np.inf, np.float64)


def indices(name: str, values: ArrayLike, count: float = np.inf) -> np.ndarray:
    return check_array(name, values, -1, count - 1, np.int64)


def check_equally_long(**arrays: np.ndarray) -> None:
    lengths = [len(array) for array in arrays.values()]
    if len(set(lengths)) > 1:
        got = " and ".join(map(str, lengths))
        raise ValueError(f"{' and '.join(arrays)} must be equally long, got {got}.")


def ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole > 0 else NAN


def entropy(counts: np.ndarray) -> float:
    """H in nats of the shares of the counts, with 0 log 0 = 0."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
