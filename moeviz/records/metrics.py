"""Balance of expert load, what routing depends on, and who is ahead in a race.

numpy, from what snapshots and traces hold. An index of -1 is a choice that was not served and never
counts; NaN where nothing counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moeviz.records.runs import Curve

NAN = float("nan")


def _checked(name: str, values: ArrayLike, low: float, high: float, dtype: type) -> np.ndarray:
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


def _amounts(name: str, values: ArrayLike) -> np.ndarray:
    return _checked(name, values, 0, np.inf, np.float64)


def _indices(name: str, values: ArrayLike, count: float = np.inf) -> np.ndarray:
    return _checked(name, values, -1, count - 1, np.int64)


def _check_equally_long(**arrays: np.ndarray) -> None:
    lengths = [len(array) for array in arrays.values()]
    if len(set(lengths)) > 1:
        got = " and ".join(map(str, lengths))
        raise ValueError(f"{' and '.join(arrays)} must be equally long, got {got}.")


def _check_top_k(top_k: int, num_experts: int) -> None:
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k must be in 1..{num_experts} (the experts), got {top_k}.")


def _ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole > 0 else NAN


def _mean(values: Any) -> float:
    return float(values.mean()) if len(values) else NAN


def _entropy(share: np.ndarray) -> np.ndarray:
    """H in nats along the last axis, with 0 log 0 = 0."""
    return -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=-1)


def max_violation(load_E: np.ndarray) -> float:
    """MaxVio = max load / mean load - 1: 0 when even, E - 1 when one expert takes all
    (Wang et al. 2024, auxiliary-loss-free balancing). NaN without any load."""
    mean = load_E.mean()
    return float(load_E.max() / mean - 1) if mean > 0 else float("nan")


def effective_experts(load_E: np.ndarray) -> float:
    """exp of the load's entropy: E when even, 1 when one expert takes all. NaN without load."""
    total = load_E.sum()
    if total <= 0:
        return float("nan")
    share = load_E[load_E > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def noise_floor(num_tokens: int, num_experts: int, top_k: int) -> float:
    """The MaxVio that a perfectly even random router shows by sampling alone, about
    sqrt(2 ln E) sqrt(E / (K T)): the bound on the mean maximum of E Gaussians, times the relative
    spread of a Poisson count.

    It lies above the mean (1.1 to 2.1 times for K <= E / 2, further as K nears E, where choices
    without repetition even the load out); up to one batch in five still exceeds it. With fewer than
    10 assignments per expert, whose counts are skewed, it gets too low.
    """
    _check_top_k(top_k, num_experts)
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1, got {num_tokens}.")
    return float(np.sqrt(2 * np.log(num_experts)) * np.sqrt(num_experts / (top_k * num_tokens)))


def coefficient_of_variation(load_E: ArrayLike) -> float:
    """Standard deviation of the load over its mean: 0 when even, sqrt(E - 1) when one expert takes
    all (its square is the balancing loss of Shazeer et al. 2017)."""
    load = _amounts("load_E", load_E)
    return _ratio(load.std(), load.mean())


def gini(load_E: ArrayLike) -> float:
    """Mean absolute difference of two experts' loads over twice the mean load (Gini 1912): 0 when
    even, (E - 1) / E when one expert takes all."""
    load = np.sort(_amounts("load_E", load_E))
    E = len(load)
    return _ratio((2 * np.arange(1, E + 1) - E - 1) @ load, E * load.sum())


def load_entropy(load_E: ArrayLike) -> float:
    """H(load share) / ln E: 1 when even (and for a single expert), 0 when one takes all."""
    load = _amounts("load_E", load_E)
    if len(load) == 1 and load.any():
        return 1.0
    return float(np.log(effective_experts(load)) / np.log(len(load)))


def dead_experts(load_E: ArrayLike, threshold: float = 0.1) -> int:
    """How many experts have less than threshold times the mean load (without any load, none)."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in 0..1, got {threshold}.")
    load = _amounts("load_E", load_E)
    return int((load < threshold * load.mean()).sum())


def collapsed(curve: Curve, steps: int = 50) -> bool:
    """Whether in one of the layers at least half of the experts got less than a tenth of the mean
    load, over the last `steps` steps of training."""
    if not len(curve):
        return False
    load_LE = curve.load[curve.step > curve.step[-1] - steps].mean(0)
    return any(2 * dead_experts(load_E) >= len(load_E) for load_E in load_LE)


def dead_fraction(load_E: ArrayLike, threshold: float = 0.1) -> float:
    """The share of experts with less than threshold times the mean load."""
    dead, load = dead_experts(load_E, threshold), np.asarray(load_E)
    return dead / len(load) if load.any() else NAN


def drop_rate(demand_E: ArrayLike, load_E: ArrayLike) -> float:
    """Assignments dropped / asked for. Only the sums count: what one expert had no room for,
    another may have taken."""
    demand, load = _amounts("demand_E", demand_E), _amounts("load_E", load_E)
    _check_equally_long(demand_E=demand, load_E=load)
    asked, served = demand.sum(), load.sum()
    if served > asked * (1 + 1e-9):  # averages over steps round
        raise ValueError(f"load_E ({served:g} in all) must not exceed demand_E ({asked:g}).")
    return 1 - _ratio(min(served, asked), asked)


def unserved(expert_TK: ArrayLike) -> float:
    """The share of tokens that no expert serves."""
    return _mean((_indices("expert_TK", expert_TK) < 0).all(axis=1))


def padding_waste(load_E: ArrayLike, capacity: int) -> float:
    """1 - sum load / (E capacity): the share of expert slots that are computed and stay empty."""
    load = _amounts("load_E", load_E)
    least = max(load.max(), 1)
    if not capacity >= least:
        raise ValueError(f"capacity must be at least {least:g} to hold every load, got {capacity}.")
    return float(1 - load.sum() / (len(load) * capacity))


def expected_drop_rate(share_E: ArrayLike, num_assignments: int, places: float) -> float:
    """E[sum_e max(0, n_e - C)] / E[sum_e n_e], the share of assignments that is dropped on average
    where each expert takes at most C = places and n_e ~ Binomial(N, share_e).

    share_E: the chance that one of the N = num_assignments goes to each expert; it sums to 1. For
    tokens with K distinct experts give N = T and the chance that a token visits each expert (sum
    K): then this is their drop rate. Exact for independent tokens, whatever the priority.
    """
    share = _checked("share_E", share_E, 0, 1, np.float64)
    if num_assignments < 1 or not places >= 0:
        raise ValueError(
            "num_assignments must be at least 1 and places at least 0, got "
            f"{num_assignments} and {places}."
        )
    # log n! as a sum of logarithms: numpy has no log-gamma.
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, num_assignments + 1)))))
    over = np.arange(math.floor(min(places, num_assignments)) + 1, num_assignments + 1)
    rest = num_assignments - over
    ways = log_factorial[-1] - log_factorial[over] - log_factorial[rest]
    sure = share >= 1  # its log(1 - share) is not finite
    open_E1 = np.where((share > 0) & ~sure, share, 0.5)[:, None]
    chance_En = np.exp(ways + over * np.log(open_E1) + rest * np.log1p(-open_E1))
    lost_E = (chance_En * (over - places)).sum(axis=1)
    lost_E = np.where(sure, max(num_assignments - places, 0.0), np.where(share > 0, lost_E, 0.0))
    return _ratio(lost_E.sum(), num_assignments * share.sum())


def _probabilities(scores_TE: ArrayLike) -> np.ndarray:
    """Rows of scores (softmax, sigmoid, ReLU) that sum to 1; rows of zeros are left out."""
    scores = _amounts("scores_TE", scores_TE)
    scores = scores[scores.any(axis=1)]
    return scores / scores.sum(axis=1, keepdims=True)


def gate_entropy(scores_TE: ArrayLike) -> float:
    """Mean over tokens of H(p_t) / ln E: 0 where the gate is sure, 1 where it is undecided (and
    for a single expert). Scores are normalised to p_t; tokens without any score do not count."""
    p_TE = _probabilities(scores_TE)
    E = p_TE.shape[1]
    return _mean(_entropy(p_TE) / np.log(E) if E > 1 else np.ones(len(p_TE)))


def gate_margin(scores_TE: ArrayLike, top_k: int) -> float:
    """Mean over tokens of p(K) - p(K+1), the lead of the last choice over the first one left out;
    NaN where all are chosen."""
    p_TE = np.sort(_probabilities(scores_TE), axis=1)[:, ::-1]
    _check_top_k(top_k, p_TE.shape[1])
    if top_k == p_TE.shape[1]:
        return NAN
    return _mean(p_TE[:, top_k - 1] - p_TE[:, top_k])


def confidence(scores_TE: ArrayLike) -> float:
    """Mean over tokens of the highest probability."""
    return _mean(_probabilities(scores_TE).max(axis=1))


def mutual_information_tokens(scores_TE: ArrayLike) -> float:
    """I(expert; token) = H(mean p) - mean H(p_t) in nats: ln E when sure and balanced, 0 when
    collapsed or undecided (minus the MI loss of Pan et al. 2024, DS-MoE)."""
    p_TE = _probabilities(scores_TE)
    mean_E = p_TE.sum(axis=0) / max(len(p_TE), 1)
    return max(float(_entropy(mean_E)) - _mean(_entropy(p_TE)), 0.0)


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
    expert = _indices("expert_N", expert_N, num_experts)
    label = _indices("label_N", label_N, num_labels)
    _check_equally_long(expert_N=expert, label_N=label)
    return _information(_joint(expert, label, num_experts, num_labels))


def mutual_information_of_counts(count_DE: ArrayLike) -> float:
    """The same from a table of counts, as a share of the entropy of its rows (domains): 1 where
    the expert tells the domain, 0 where it tells nothing."""
    count = _amounts("count_DE", count_DE)
    rows = count.sum(1)
    return _ratio(_information(count), _entropy(rows / max(rows.sum(), 1.0)))


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
    expert = _indices("expert_TK", expert_TK, num_experts)
    domain = _indices("domain_T", domain_T, num_domains)
    groups = np.arange(len(domain)) if groups_T is None else _indices("groups_T", groups_T)
    _check_equally_long(expert_TK=expert, domain_T=domain, groups_T=groups)
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}.")
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
        normalised=_ratio(value, float(_entropy(observed.sum(axis=1) / observed.sum()))),
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
    sets = {name: _indices(name, expert_TK) for name, expert_TK in two.items()}
    _check_equally_long(**sets)
    num_experts = 1 + max(int(expert_TK.max(initial=-1)) for expert_TK in sets.values())
    a_TE, b_TE = (_chosen(expert_TK, num_experts) for expert_TK in sets.values())
    size_T = np.maximum(a_TE.sum(axis=1), b_TE.sum(axis=1))
    return _mean((a_TE * b_TE).sum(axis=1)[size_T > 0] / size_T[size_T > 0])


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
    chosen_TE = _chosen(_indices("expert_TK", expert_TK, num_experts), num_experts)
    # All pairs: OLMoE's script pairs adjacent ranks only, 7 of the 28 that K = 8 makes.
    both_EE = chosen_TE.T @ chosen_TE
    times_E = both_EE.diagonal()
    given_EE = both_EE / np.where(times_E > 0, times_E, np.nan)[:, None]
    np.fill_diagonal(given_EE, np.nan)
    return given_EE


def transitions(earlier_TK: ArrayLike, later_TK: ArrayLike, num_experts: int) -> np.ndarray:
    """P(expert in the later layer | expert in the earlier one) [E, E], over all pairs of a token's
    choices in the two; rows sum to 1, NaN where nothing leads on."""
    earlier = _indices("earlier_TK", earlier_TK, num_experts)
    later = _indices("later_TK", later_TK, num_experts)
    _check_equally_long(earlier_TK=earlier, later_TK=later)
    count_EE = _chosen(earlier, num_experts).T @ _chosen(later, num_experts)
    total_E = count_EE.sum(axis=1)
    return count_EE / np.where(total_E > 0, total_E, np.nan)[:, None]


def _centred(name: str, values: ArrayLike) -> np.ndarray:
    x_NA = _checked(name, values, -np.inf, np.inf, np.float64)
    x_NA = x_NA - x_NA[:1]  # a constant column becomes exactly 0: its mean may have rounded
    return x_NA - x_NA.mean(axis=0) if len(x_NA) else x_NA


def linear_cka(x_NA: ArrayLike, y_NB: ArrayLike) -> float:
    """How alike two representations of the same N inputs are, up to rotation and scale: 1 when
    equal (linear CKA, Kornblith et al. 2019). NaN where one is constant."""
    x, y = _centred("x_NA", x_NA), _centred("y_NB", y_NB)
    _check_equally_long(x_NA=x, y_NB=y)
    norm = np.linalg.norm
    return _ratio(norm(y.T @ x) ** 2, norm(x.T @ x) * norm(y.T @ y))


def validation_at(curve: Curve, axis: str, x: float) -> float:
    """The validation loss at x on an axis (step, seconds or flops), linear between measurements;
    NaN before the first and after the last."""
    measured = ~np.isnan(curve.validation)
    if not measured.any():
        return float("nan")
    xs, losses = getattr(curve, axis)[measured], curve.validation[measured]
    return float(np.interp(x, xs, losses, left=np.nan, right=np.nan))


def last_common(curves: list[Curve], axis: str) -> float:
    """The furthest x at which every curve has a validation loss; NaN where one has none."""
    ends = []
    for curve in curves:
        measured = ~np.isnan(curve.validation)
        if not measured.any():
            return float("nan")
        ends.append(float(getattr(curve, axis)[measured][-1]))
    return min(ends, default=float("nan"))


def gap(dense: Curve, moe: Curve, axis: str) -> float:
    """Dense minus MoE validation loss (nats per token; above zero: MoE is ahead) at the furthest x
    on an axis that both have reached."""
    x = last_common([dense, moe], axis)
    return validation_at(dense, axis, x) - validation_at(moe, axis, x)
