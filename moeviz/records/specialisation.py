"""What routing depends on, and how it changes: with tokens, domains, layers and training.

numpy, from choices [T, K] and counts. A choice of -1 was not served and never counts; NaN where
nothing counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from moeviz.checks import check_whole
from moeviz.records.arrays import NAN, amounts, check_equally_long, entropy, indices, ratio


def _joint(x_N: np.ndarray, y_N: np.ndarray, size_x: int, size_y: int) -> np.ndarray:
    """How often each pair of values occurs [size_x, size_y], without pairs that hold a -1."""
    counted = (x_N >= 0) & (y_N >= 0)
    pair = x_N[counted] * size_y + y_N[counted]
    return np.bincount(pair, minlength=size_x * size_y).reshape(size_x, size_y)


def _information(count_XY: np.ndarray) -> float:
    """Plug-in mutual information of a contingency table, in nats."""
    if not count_XY.any():
        return NAN
    separate = entropy(count_XY.sum(axis=0)) + entropy(count_XY.sum(axis=1))
    return max(separate - entropy(count_XY), 0.0)


def mutual_information_of_counts(count_DE: ArrayLike) -> float:
    """Plug-in mutual information of a table of counts, as a share of the entropy of its rows
    (domains): 1 where the expert tells the domain, 0 where it tells nothing; for independent ones
    still about (D - 1)(E - 1) / 2N nats (Miller 1955), so set it beside a shuffle."""
    count = amounts("count_DE", count_DE)
    return ratio(_information(count), entropy(count.sum(axis=1)))


@dataclass(frozen=True)
class DomainInformation:
    """What experts tell about domains. value: nats; normalised: value / H(domain), NaN with one
    domain; null_mean, null_sd: value with shuffled domains; p_value: how often a shuffle reaches
    value, the observed order counted as one (Phipson and Smyth 2010: never 0)."""

    value: float
    normalised: float
    null_mean: float
    null_sd: float
    p_value: float


def _domain_of_groups(domain_T: np.ndarray, groups_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The domain of each group, and each token's group as a number from 0."""
    _, first, group = np.unique(groups_T, return_index=True, return_inverse=True)
    mixed = groups_T[domain_T[first][group] != domain_T]
    if len(mixed):
        raise ValueError(f"A sequence must have one domain, sequence {mixed[0]} has more.")
    return domain_T[first], group


def domain_information(
    expert_TK: ArrayLike,
    domain_T: ArrayLike,
    num_experts: int,
    num_domains: int,
    *,
    groups_T: ArrayLike | None = None,
    permutations: int = 100,
    seed: int = 0,
) -> DomainInformation:
    """I(expert; domain) over the served choices, beside its value with domains shuffled.

    groups_T is each token's sequence: tokens of one sequence are alike, and shuffled one by one
    (without groups_T) they make almost anything significant. Tokens of domain or group -1 do not
    count.
    """
    expert = indices("expert_TK", expert_TK, num_experts)
    domain = indices("domain_T", domain_T, num_domains)
    groups = np.arange(len(domain)) if groups_T is None else indices("groups_T", groups_T)
    check_equally_long(expert_TK=expert, domain_T=domain, groups_T=groups)
    check_whole("permutations", permutations)
    known = (domain >= 0) & (groups >= 0)
    domain_G, group = _domain_of_groups(domain[known], groups[known])
    expert_N = expert[known].ravel()

    def joint(domain_G: np.ndarray) -> np.ndarray:
        domain_N = np.repeat(domain_G[group], expert.shape[1])
        return _joint(domain_N, expert_N, num_domains, num_experts)

    observed = joint(domain_G)
    if not observed.any():
        return DomainInformation(NAN, NAN, NAN, NAN, NAN)
    value = _information(observed)
    rng = np.random.default_rng(seed)
    null = np.array([_information(joint(rng.permutation(domain_G))) for _ in range(permutations)])
    reached = int((null >= value - 1e-12).sum())  # equal tables in another order round differently
    return DomainInformation(
        value=value,
        normalised=ratio(value, entropy(observed.sum(axis=1))),
        null_mean=float(null.mean()),
        null_sd=float(null.std()),
        p_value=(1 + reached) / (1 + permutations),
    )


def _chosen(expert_TK: np.ndarray, num_experts: int) -> np.ndarray:
    """1.0 where a token visits an expert, float64 [T, E]."""
    chosen = np.zeros((len(expert_TK), num_experts + 1))
    chosen[np.arange(len(expert_TK))[:, None], expert_TK] = 1  # -1 lands in the surplus column
    return chosen[:, :num_experts]


def saturation(expert_TK: ArrayLike, final_TK: ArrayLike) -> float:
    """Mean over tokens of |S & S_final| / K, the share of the final choices already made; K / E by
    chance (Muennighoff et al. 2024, OLMoE). With -1 among them, K is the larger set's size; tokens
    that neither side serves do not count."""
    expert, final = indices("expert_TK", expert_TK), indices("final_TK", final_TK)
    check_equally_long(expert_TK=expert, final_TK=final)
    num_experts = 1 + max(int(choices.max(initial=-1)) for choices in (expert, final))
    now_TE, final_TE = _chosen(expert, num_experts), _chosen(final, num_experts)
    size_T = np.maximum(now_TE.sum(axis=1), final_TE.sum(axis=1))
    share_T = (now_TE * final_TE).sum(axis=1) / np.maximum(size_T, 1)
    return ratio(share_T.sum(), np.count_nonzero(size_T))


def co_activation(expert_TK: ArrayLike, num_experts: int) -> np.ndarray:
    """P(j chosen | i chosen) [E, E], over all K(K - 1) pairs of a token's choices; chance is
    (K - 1) / (E - 1). NaN on the diagonal and where i was never chosen."""
    chosen_TE = _chosen(indices("expert_TK", expert_TK, num_experts), num_experts)
    # All pairs: OLMoE's script pairs adjacent ranks only, 7 of the 28 that K = 8 makes.
    both_EE = chosen_TE.T @ chosen_TE
    times_E = both_EE.diagonal()
    given_EE = both_EE / np.where(times_E > 0, times_E, np.nan)[:, None]
    np.fill_diagonal(given_EE, np.nan)
    return given_EE


def transitions(earlier_TK: ArrayLike, later_TK: ArrayLike, num_experts: int) -> np.ndarray:
    """P(expert in the later layer | expert in the earlier one) [E, E], over all pairs of a token's
    choices in the two; rows sum to 1, NaN where nothing leads on."""
    earlier = indices("earlier_TK", earlier_TK, num_experts)
    later = indices("later_TK", later_TK, num_experts)
    check_equally_long(earlier_TK=earlier, later_TK=later)
    count_EE = _chosen(earlier, num_experts).T @ _chosen(later, num_experts)
    total_E = count_EE.sum(axis=1)
    return count_EE / np.where(total_E > 0, total_E, np.nan)[:, None]
