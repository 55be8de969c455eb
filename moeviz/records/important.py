"""Which experts matter for a task, and how few of them carry most of it (ESFT, 2407.01906)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from moeviz.checks import check_number, check_whole
from moeviz.records.arrays import amounts, indices

ROUNDED = 0.02  # how far published scores of 4 decimals may be from a sum of 1


def token_share(expert_TK: ArrayLike, num_experts: int) -> np.ndarray:
    """ESFT's token score: each expert's share of all choices of a task's tokens, float64 [E]. A
    place of -1 is no choice. ValueError where nothing was chosen."""
    expert = indices("expert_TK", expert_TK, check_whole("num_experts", num_experts))
    return _shares(expert, np.ones(expert.shape), num_experts)


def gate_share(expert_TK: ArrayLike, weight_TK: ArrayLike, num_experts: int) -> np.ndarray:
    """ESFT's gate score: the mean gate weight that the task's tokens give each expert, 0 where they
    did not choose it, as a share of the sum over experts, float64 [E]. ValueError where all weights
    are 0, or the shapes differ."""
    expert = indices("expert_TK", expert_TK, check_whole("num_experts", num_experts))
    weight = amounts("weight_TK", weight_TK)
    if weight.shape != expert.shape:
        raise ValueError(
            f"expert_TK and weight_TK must have one shape, got {expert.shape} and {weight.shape}."
        )
    return _shares(expert, weight, num_experts)


def _shares(expert_TK: np.ndarray, weight_TK: np.ndarray, num_experts: int) -> np.ndarray:
    chosen = expert_TK >= 0
    total_E = np.bincount(expert_TK[chosen], weight_TK[chosen], num_experts)
    if not total_E.sum() > 0:
        raise ValueError("No token chose an expert with a weight above 0, so none has a share.")
    return total_E / total_E.sum()


def important_experts(scores_E: ArrayLike, top_p: float) -> tuple[int, ...]:
    """The fewest experts whose scores reach top_p together, the largest score first; of equal ones
    the lower number first. scores_E: shares of one layer, which sum to 1. ValueError where they do
    not, and for a top_p outside (0, 1]."""
    scores = amounts("scores_E", scores_E)
    check_number("top_p", top_p, 0, 1, open_low=True)
    if abs(scores.sum() - 1) > ROUNDED:
        raise ValueError(
            f"The scores of a layer's experts must sum to 1, got {scores.sum():.3g}: divide them "
            "by their sum over the experts of that layer."
        )
    order = np.argsort(-scores, kind="stable")
    # The sum before each expert: it is taken as long as that is below top_p.
    before = np.concatenate(([0.0], np.cumsum(scores[order])[:-1]))
    taken = (before < top_p) & (scores[order] > 0)
    return tuple(int(expert) for expert in order[taken])
