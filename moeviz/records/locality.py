"""How alike the choices of neighbouring tokens are, and how many experts a batch touches.

numpy and scipy, from choices [T, K] in the order of the text. A choice of -1 was not served and
never counts; NaN where nothing counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from moeviz.checks import check_whole
from moeviz.records.arrays import NAN, amounts, check_equally_long, indices, ratio
from moeviz.records.specialisation import saturation, visits


@dataclass(frozen=True)
class RepeatRate:
    """value: the share of a token's experts that the token before it chose too; chance: the same
    for two tokens drawn alone, sum of p^2 over the choices of a token, where p is the share of
    tokens that choose an expert; it is K / E where all loads are even. in_text: the same for two
    tokens of one sequence, wherever they stand: what the kind of text makes of value."""

    value: float
    chance: float
    in_text: float


def repeat_rate(
    expert_TK: ArrayLike, num_experts: int, *, groups_T: ArrayLike | None = None
) -> RepeatRate:
    """How often a token goes where the token before it went (Jiang et al. 2024, Mixtral), within
    the sequences that groups_T tells apart."""
    expert = indices("expert_TK", expert_TK, num_experts)
    groups = np.zeros(len(expert), int) if groups_T is None else indices("groups_T", groups_T)
    check_equally_long(expert_TK=expert, groups_T=groups)
    follows = groups[1:] == groups[:-1]
    visits_TE = visits(expert, num_experts)
    served = visits_TE.any(1)
    visits_TE = visits_TE[served]
    if not len(visits_TE):
        return RepeatRate(NAN, NAN, NAN)
    share_E = visits_TE.mean(0)
    group_T = np.unique(groups[served], return_inverse=True)[1]
    visits_GE = np.stack([np.bincount(group_T, of_expert) for of_expert in visits_TE.T], axis=1)
    others_G = np.bincount(group_T) - 1
    shared = (visits_GE**2).sum() - visits_TE.sum()  # of all pairs of a sequence, each twice
    return RepeatRate(
        value=saturation(expert[1:][follows], expert[:-1][follows]),
        chance=ratio((share_E**2).sum(), share_E.sum()),
        in_text=ratio(shared, (others_G * visits_GE.sum(1)).sum()),
    )


def distinct_experts(expert_TK: ArrayLike, num_experts: int, batch: int) -> float:
    """How many experts a batch of neighbouring tokens touches, the mean over whole batches."""
    expert = indices("expert_TK", expert_TK, num_experts)
    check_whole("batch", batch)
    whole = len(expert) // batch
    if not whole:
        return NAN
    touched = visits(expert[: whole * batch].reshape(whole, -1), num_experts)
    return float(touched.sum(1).mean())


def distinct_experts_of_strangers(visits_E: ArrayLike, num_tokens: int, batch: int) -> float:
    """The same for a batch drawn at random from the tokens, without repetition: the exact mean,
    sum_e 1 - C(T - n_e, B) / C(T, B), where n_e of T tokens visit expert e. NaN where B > T."""
    visits_E = amounts("visits_E", visits_E)
    check_whole("num_tokens", num_tokens, low=int(visits_E.max()))
    check_whole("batch", batch)
    if batch > num_tokens:
        return NAN

    from scipy.special import gammaln  # here: a panel that opens waits for no statistics

    def log_ways(count: ArrayLike) -> np.ndarray:
        """log C(count, batch), without the part that is the same above and below."""
        missed = np.asarray(count) - batch
        ways = gammaln(np.asarray(count) + 1.0) - gammaln(np.maximum(missed, 0) + 1.0)
        return np.where(missed < 0, -np.inf, ways)

    missed_E = np.exp(log_ways(num_tokens - visits_E) - log_ways(num_tokens))
    return float((1 - missed_E).sum())


def distinct_experts_if_even(num_experts: int, top_k: int, batch: int) -> float:
    """The textbook's E (1 - (1 - K / E)^B): what tokens touch that choose alone and evenly."""
    check_whole("num_experts", num_experts)
    check_whole("top_k", top_k, high=num_experts)
    check_whole("batch", batch)
    return float(num_experts * (1 - (1 - top_k / num_experts) ** batch))
