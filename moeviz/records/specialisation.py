"""What routing depends on, and how it changes: with tokens, domains, layers and training.

numpy, from scores [T, E], choices [T, K] and counts. A choice of -1 was not served and never
counts; NaN where nothing counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from moeviz.checks import check_whole
from moeviz.records.arrays import (
    NAN,
    amounts,
    average,
    check_array,
    check_equally_long,
    indices,
    ratio,
)


def _entropy(share: np.ndarray) -> np.ndarray:
    """H in nats along the last axis, with 0 log 0 = 0."""
    return -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=-1)


def _probabilities(scores_TE: ArrayLike) -> np.ndarray:
    """Rows of scores (softmax, sigmoid, ReLU) that sum to 1; rows of zeros are left out."""
    scores = amounts("scores_TE", scores_TE)
    scores = scores[scores.any(axis=1)]
    return scores / scores.sum(axis=1, keepdims=True)


def gate_entropy(scores_TE: ArrayLike) -> float:
    """Mean over tokens of H(p_t) / ln E: 0 where the gate is sure, 1 where it is undecided (and
    for a single expert). Scores are normalised to p_t; tokens without any score do not count."""
    p_TE = _probabilities(scores_TE)
    E = p_TE.shape[1]
    return average(_entropy(p_TE) / np.log(E) if E > 1 else np.ones(len(p_TE)))


def mutual_information_tokens(scores_TE: ArrayLike) -> float:
    """I(expert; token) = H(mean p) - mean H(p_t) in nats: ln E when sure and balanced, 0 when
    collapsed or undecided (minus the MI loss of Pan et al. 2024, DS-MoE)."""
    p_TE = _probabilities(scores_TE)
    mean_E = p_TE.sum(axis=0) / max(len(p_TE), 1)
    return max(float(_entropy(mean_E)) - average(_entropy(p_TE)), 0.0)


def _joint(x_N: np.ndarray, y_N: np.ndarray, size_x: int, size_y: int) -> np.ndarray:
    """How often each pair of values occurs [size_x, size_y], without pairs that hold a -1."""
    counted = (x_N >= 0) & (y_N >= 0)
    pair = x_N[counted] * size_y + y_N[counted]
    return np.bincount(pair, minlength=size_x * size_y).reshape(size_x, size_y)


def _information(count_XY: np.ndarray) -> float:
    """Plug-in mutual information of a contingency table, in nats."""
    if not count_XY.any():
        return NAN
    p_XY = count_XY / count_XY.sum()
    separate = _entropy(p_XY.sum(axis=0)) + _entropy(p_XY.sum(axis=1))
    return max(float(separate - _entropy(p_XY.ravel())), 0.0)


def mutual_information(
    expert_N: ArrayLike, label_N: ArrayLike, num_experts: int, num_labels: int
) -> float:
    """Plug-in mutual information of two discrete variables, in nats; for independent ones it is
    still about (E - 1)(labels - 1) / 2N (Miller 1955), so set it beside a shuffle."""
    expert = indices("expert_N", expert_N, num_experts)
    label = indices("label_N", label_N, num_labels)
    check_equally_long(expert_N=expert, label_N=label)
    return _information(_joint(expert, label, num_experts, num_labels))


def mutual_information_of_counts(count_DE: ArrayLike) -> float:
    """The same from a table of counts, as a share of the entropy of its rows (domains): 1 where
    the expert tells the domain, 0 where it tells nothing."""
    count = amounts("count_DE", count_DE)
    rows = count.sum(1)
    return ratio(_information(count), _entropy(rows / max(rows.sum(), 1.0)))


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
        normalised=ratio(value, float(_entropy(observed.sum(axis=1) / observed.sum()))),
        null_mean=float(null.mean()),
        null_sd=float(null.std()),
        p_value=(1 + reached) / (1 + permutations),
    )


def _chosen(expert_TK: np.ndarray, num_experts: int) -> np.ndarray:
    """1.0 where a token visits an expert, float64 [T, E]."""
    chosen = np.zeros((len(expert_TK), num_experts + 1))
    chosen[np.arange(len(expert_TK))[:, None], expert_TK] = 1  # -1 lands in the surplus column
    return chosen[:, :num_experts]


def _overlap(**two: ArrayLike) -> float:
    """Mean over tokens of |A & B| / max(|A|, |B|), without tokens that neither side serves."""
    sets = {name: indices(name, expert_TK) for name, expert_TK in two.items()}
    check_equally_long(**sets)
    num_experts = 1 + max(int(expert_TK.max(initial=-1)) for expert_TK in sets.values())
    a_TE, b_TE = (_chosen(expert_TK, num_experts) for expert_TK in sets.values())
    size_T = np.maximum(a_TE.sum(axis=1), b_TE.sum(axis=1))
    return average((a_TE * b_TE).sum(axis=1)[size_T > 0] / size_T[size_T > 0])


def saturation(expert_TK: ArrayLike, final_TK: ArrayLike) -> float:
    """Mean over tokens of |S & S_final| / K, the share of the final choices already made; K / E by
    chance (Muennighoff et al. 2024, OLMoE). With -1 among them, K is the larger set's size."""
    return _overlap(expert_TK=expert_TK, final_TK=final_TK)


def churn(a_TK: ArrayLike, b_TK: ArrayLike) -> float:
    """1 - |S_a & S_b| / K: the share of choices that differ between two moments."""
    return 1 - _overlap(a_TK=a_TK, b_TK=b_TK)


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


def _centred(name: str, values: ArrayLike) -> np.ndarray:
    x_NA = check_array(name, values, -np.inf, np.inf, np.float64)
    x_NA = x_NA - x_NA[:1]  # a constant column becomes exactly 0: its mean may have rounded
    return x_NA - x_NA.mean(axis=0) if len(x_NA) else x_NA


def linear_cka(x_NA: ArrayLike, y_NB: ArrayLike) -> float:
    """How alike two representations of the same N inputs are, up to rotation and scale: 1 when
    equal (linear CKA, Kornblith et al. 2019). NaN where one is constant."""
    x, y = _centred("x_NA", x_NA), _centred("y_NB", y_NB)
    check_equally_long(x_NA=x, y_NB=y)
    norm = np.linalg.norm
    return ratio(norm(y.T @ x) ** 2, norm(x.T @ x) * norm(y.T @ y))
