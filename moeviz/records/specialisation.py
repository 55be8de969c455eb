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

SWEEPS = 2  # of trades between two tables of the null of co-activation


def joint_counts(x_N: np.ndarray, y_N: np.ndarray, size_x: int, size_y: int) -> np.ndarray:
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

    @property
    def normalised_null(self) -> float:
        """null_mean as a share of H(domain), to stand beside normalised."""
        return ratio(self.null_mean * self.normalised, self.value)


def _domain_of_groups(domain_T: np.ndarray, groups_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The domain of each group, and each token's group as a number from 0."""
    _, first, group = np.unique(groups_T, return_index=True, return_inverse=True)
    mixed = groups_T[domain_T[first][group] != domain_T]
    if len(mixed):
        raise ValueError(f"A sequence must have one domain, sequence {mixed[0]} has more.")
    return domain_T[first], group


def by_sequence(
    expert_TK: ArrayLike,
    domain_T: ArrayLike,
    groups_T: ArrayLike,
    num_experts: int,
    num_domains: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The domain of each sequence [G], and its load, float64 [G, E]; tokens of domain or group -1
    do not count."""
    expert = indices("expert_TK", expert_TK, num_experts)
    domain, groups = indices("domain_T", domain_T, num_domains), indices("groups_T", groups_T)
    check_equally_long(expert_TK=expert, domain_T=domain, groups_T=groups)
    known = (domain >= 0) & (groups >= 0)
    domain_G, group = _domain_of_groups(domain[known], groups[known])
    group_N = np.repeat(group, expert.shape[1])
    count_GE = joint_counts(group_N, expert[known].ravel(), len(domain_G), num_experts)
    return domain_G, count_GE.astype(float)  # whole numbers still, and their product is fast


def by_domain(domain_G: np.ndarray, count_GE: np.ndarray, num_domains: int) -> np.ndarray:
    """Loads of domains [..., D, E], for each labelling [..., G] of the sequences."""
    per_domain = [(domain_G == d).astype(float) @ count_GE for d in range(num_domains)]
    return np.stack(per_domain, axis=-2)


def domain_information(
    expert_TK: ArrayLike,
    domain_T: ArrayLike,
    num_experts: int,
    num_domains: int,
    *,
    groups_T: ArrayLike | None = None,
    permutations: int = 100,
) -> DomainInformation:
    """I(expert; domain) over the served choices, beside its value with domains shuffled.

    groups_T is each token's sequence: tokens of one sequence are alike, and shuffled one by one
    (without groups_T) they make almost anything significant. Tokens of domain or group -1 do not
    count.
    """
    check_whole("permutations", permutations)
    if groups_T is None:
        groups_T = np.arange(len(np.asarray(domain_T)))
    domain_G, count_GE = by_sequence(expert_TK, domain_T, groups_T, num_experts, num_domains)
    observed = by_domain(domain_G, count_GE, num_domains)
    if not observed.any():
        return DomainInformation(NAN, NAN, NAN, NAN, NAN)
    value = _information(observed)
    rng = np.random.default_rng(0)
    shuffled = (rng.permutation(domain_G) for _ in range(permutations))
    null = np.array([_information(by_domain(order, count_GE, num_domains)) for order in shuffled])
    reached = int((null >= value - 1e-12).sum())  # equal tables in another order round differently
    return DomainInformation(
        value=value,
        normalised=ratio(value, entropy(observed.sum(axis=1))),
        null_mean=float(null.mean()),
        null_sd=float(null.std()),
        p_value=(1 + reached) / (1 + permutations),
    )


def visits(expert_TK: np.ndarray, num_experts: int) -> np.ndarray:
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
    now_TE, final_TE = visits(expert, num_experts), visits(final, num_experts)
    size_T = np.maximum(now_TE.sum(axis=1), final_TE.sum(axis=1))
    share_T = (now_TE * final_TE).sum(axis=1) / np.maximum(size_T, 1)
    return ratio(share_T.sum(), np.count_nonzero(size_T))


@dataclass(frozen=True)
class CoActivation:
    """How many tokens chose both of two experts, float64 [E, E], NaN on the diagonal, beside the
    mean and the standard deviation over tables where every token keeps its number of choices and
    every expert its load, and nothing else."""

    together: np.ndarray
    null_mean: np.ndarray
    null_sd: np.ndarray

    @property
    def lift(self) -> np.ndarray:
        """How many times more often two experts meet than their loads alone make them; NaN where
        they never would."""
        return self.together / np.where(self.null_mean > 0, self.null_mean, np.nan)


def co_activation_beside_null(
    expert_TK: ArrayLike, num_experts: int, *, samples: int = 20
) -> CoActivation:
    """Meetings of experts, and their null that keeps degrees: popular experts meet often anyway.

    Curveball trades (Strona et al. 2014): two tokens pool the experts that only one of them chose
    and deal them out anew, each as many as it had. In a sweep every token trades once; a table is
    sampled after SWEEPS of them, the first one after ten times as many.
    """
    check_whole("samples", samples)
    expert = indices("expert_TK", expert_TK, num_experts)

    def meetings(expert: np.ndarray) -> np.ndarray:
        chosen_TE = visits(expert, num_experts).astype(np.float32)  # counts are exact to 2^24
        # All pairs: OLMoE's script pairs adjacent ranks only, 7 of the 28 that K = 8 makes.
        both_EE = (chosen_TE.T @ chosen_TE).astype(float)
        np.fill_diagonal(both_EE, np.nan)
        return both_EE

    rng, table, null = np.random.default_rng(0), expert, []
    for sample in range(samples):
        for _ in range(SWEEPS if sample else 10 * SWEEPS):
            table = _traded(table, rng)
        null.append(meetings(table))
    return CoActivation(meetings(expert), np.mean(null, axis=0), np.std(null, axis=0))


def _traded(expert_TK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The table after each token has traded with one other (of an odd number one sits out)."""
    order, half = rng.permutation(len(expert_TK)), len(expert_TK) // 2
    left, right = expert_TK[order[:half]], expert_TK[order[half : 2 * half]]
    shared = left[:, :, None] == right[:, None, :]
    # A choice that both made, or that was not served, stays on its side: its key sorts it there.
    keys = rng.random((half, 2 * left.shape[1]))
    keys[:, : left.shape[1]][shared.any(2) | (left < 0)] = -1
    keys[:, left.shape[1] :][shared.any(1) | (right < 0)] = 2
    pooled = np.concatenate([left, right], axis=1)
    dealt = np.take_along_axis(pooled, np.argsort(keys, axis=1), axis=1)
    traded = expert_TK.copy()
    traded[order[:half]], traded[order[half : 2 * half]] = np.split(dealt, 2, axis=1)
    return traded


def transitions(earlier_TK: ArrayLike, later_TK: ArrayLike, num_experts: int) -> np.ndarray:
    """Of the tokens that visit an expert of the earlier layer, the share that visits one of the
    later layer, float64 [E, E]: a row sums to K, and is NaN for an expert that none visits."""
    earlier = indices("earlier_TK", earlier_TK, num_experts)
    later = indices("later_TK", later_TK, num_experts)
    check_equally_long(earlier_TK=earlier, later_TK=later)
    earlier_TE, later_TE = visits(earlier, num_experts), visits(later, num_experts)
    tokens_E = earlier_TE.sum(axis=0)
    return earlier_TE.T @ later_TE / np.where(tokens_E > 0, tokens_E, np.nan)[:, None]
