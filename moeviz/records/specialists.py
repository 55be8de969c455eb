"""Which experts a domain uses more than others do, and how much of that is noise.

numpy alone, from choices [T, K], each token's domain and sequence, or counts [D, E]. All
domains weigh the same, however many tokens each has. NaN where nothing counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from moeviz.checks import check_whole
from moeviz.records.arrays import NAN, amounts, check_equally_long, indices
from moeviz.records.compare import false_discovery_rates
from moeviz.records.ranks import spearman
from moeviz.records.specialisation import by_domain, by_sequence, joint_counts

SPECIALIST = 0.45  # share of an expert's selections in one domain from which it is called one
EFFECT = 1.5  # lift below which a domain's liking for an expert is not worth telling
FALSE_DISCOVERIES = 0.05
MOST_SHUFFLES = 10_000  # 128 experts and 6 domains: 60 MB and a second


def domain_lift(count_DE: ArrayLike) -> np.ndarray:
    """P(expert | domain) over its mean over domains, float64 [D, E]: 1 is no liking, D the most.
    NaN for experts that nobody chose."""
    return _lift(amounts("count_DE", count_DE))


def _lift(count_DE: np.ndarray) -> np.ndarray:
    """The same of a whole stack of tables [..., D, E]; a domain without tokens counts as NaN."""
    total = count_DE.sum(-1, keepdims=True)
    share = count_DE / np.where(total > 0, total, np.nan)
    mean = share.mean(-2, keepdims=True)
    return share / np.where(mean > 0, mean, np.nan)


def specialist_share(count_DE: ArrayLike) -> float:
    """The share of experts, of those chosen at all, that get SPECIALIST of their selections or more
    from one domain, where all domains are made equally large."""
    return _specialists(_lift(amounts("count_DE", count_DE)))


def _specialists(lift_DE: np.ndarray) -> float:
    """specialist_share of a stack of tables of lifts [..., D, E], the mean over them."""
    largest_E = lift_DE.max(-2) / lift_DE.shape[-2]  # NaN where nobody chose the expert
    used = (~np.isnan(largest_E)).sum(-1)
    # 1e-12: a share of exactly SPECIALIST is one, however its division was rounded.
    share = (largest_E >= SPECIALIST - 1e-12).sum(-1) / np.where(used > 0, used, np.nan)
    return float(np.mean(share)) if share.size else NAN


@dataclass(frozen=True)
class Specialists:
    """The share of experts called specialists from so many tokens of each domain, and from as many
    of "domains" that are stretches of one, where no expert can be a specialist."""

    tokens: int
    value: float
    null: float


def specialists(
    expert_TK: ArrayLike,
    domain_T: ArrayLike,
    num_experts: int,
    num_domains: int,
    *,
    tokens: int,
) -> Specialists:
    """How many experts look like specialists when each domain is known by so many tokens.

    1. each domain's tokens, in their order, are cut into stretches of `tokens`
    2. value: the i-th stretches of all domains make a table; the mean over tables
    3. null: D neighbouring stretches of one domain make a table; the mean over all of them
    NaN where a domain has too few tokens for one table (the null needs D times as many).
    """
    expert = indices("expert_TK", expert_TK, num_experts)
    domain = indices("domain_T", domain_T, num_domains)
    check_equally_long(expert_TK=expert, domain_T=domain)
    check_whole("tokens", tokens)
    stretches = [_stretches(expert[domain == d], tokens, num_experts) for d in range(num_domains)]
    tables = min(len(count_WE) for count_WE in stretches)
    real = np.stack([count_WE[:tables] for count_WE in stretches], axis=1)
    of_one = [
        count_WE[: len(count_WE) // num_domains * num_domains].reshape(-1, num_domains, num_experts)
        for count_WE in stretches
    ]
    value, null = (_specialists(_lift(t)) for t in (real, np.concatenate(of_one)))
    return Specialists(tokens, value, null)


def _stretches(expert_TK: np.ndarray, tokens: int, num_experts: int) -> np.ndarray:
    """Loads of whole stretches of so many tokens [W, E]."""
    count = len(expert_TK) // tokens
    window = np.repeat(np.arange(count), tokens * expert_TK.shape[1])
    return joint_counts(window, expert_TK[: count * tokens].ravel(), count, num_experts)


@dataclass(frozen=True)
class LiftBesideNull:
    """The lift of each domain for each expert, float64 [D, E], beside the same with the domains of
    sequences shuffled. p_value: how often a shuffle reaches the lift, the observed order counted as
    one; q_value: the least rate of false discoveries at which it is one (Benjamini, Hochberg).
    specialists: specialist_share. null_specialists, null_likings: the means over the shuffles of
    that, and of the number of likings, lifts of EFFECT or more; one_null: the lift of one shuffle.
    """

    lift: np.ndarray
    null_mean: np.ndarray
    null_sd: np.ndarray
    p_value: np.ndarray
    q_value: np.ndarray
    specialists: float
    null_specialists: float
    null_likings: float
    one_null: np.ndarray

    @property
    def likings(self) -> np.ndarray:
        """Where the lift is of EFFECT or more, whether or not by chance, bool [D, E]."""
        return self.lift >= EFFECT

    def found(self) -> np.ndarray:
        """Where a domain likes an expert, bool [D, E]: beyond chance, and enough to be told."""
        return self.likings & (self.q_value <= FALSE_DISCOVERIES)


def lift_beside_null(
    expert_TK: ArrayLike,
    domain_T: ArrayLike,
    groups_T: ArrayLike,
    num_experts: int,
    num_domains: int,
    *,
    permutations: int | None = None,
) -> LiftBesideNull:
    """domain_lift and what it would be by chance. groups_T is each token's sequence: whole
    sequences change their domain, for the tokens of one are alike.

    permutations: so many shuffles; None: as many that a single cell of D x E can be found, and
    MOST_SHUFFLES at most. The least p is 1 / (1 + permutations), and the q of the only cell that
    has it D E times as large.
    """
    if permutations is None:
        alone = math.ceil(num_domains * num_experts / FALSE_DISCOVERIES)
        permutations = min(max(1000, alone), MOST_SHUFFLES)
    check_whole("permutations", permutations)
    domain_G, count_GE = by_sequence(expert_TK, domain_T, groups_T, num_experts, num_domains)
    lift = _lift(by_domain(domain_G, count_GE, num_domains))
    rng = np.random.default_rng(0)
    shuffled_PG = rng.permuted(np.tile(domain_G, (permutations, 1)), axis=1)
    null = _lift(by_domain(shuffled_PG, count_GE, num_domains))
    p_value = (1 + (null >= lift - 1e-12).sum(0)) / (1 + permutations)
    p_value[np.isnan(lift)] = np.nan
    q_value = p_value.copy()
    known = ~np.isnan(p_value)
    q_value[known] = false_discovery_rates(p_value[known])
    by_chance = float((null >= EFFECT).sum((1, 2)).mean())
    return LiftBesideNull(
        lift, null.mean(0), null.std(0), p_value, q_value,
        specialists=_specialists(lift), null_specialists=_specialists(null), null_likings=by_chance,
        one_null=null[0],
    )  # fmt: skip


@dataclass(frozen=True)
class Replication:
    """Whether two halves of the sequences agree on who likes which expert.

    first, second: likings (lift of at least the effect) in each half; both: those in both;
    by_chance: how many would be in both if the halves had nothing in common; correlation:
    Spearman's, of the two tables of lifts.
    """

    first: int
    second: int
    both: int
    by_chance: float
    correlation: float


def replication(
    expert_TK: ArrayLike,
    domain_T: ArrayLike,
    groups_T: ArrayLike,
    num_experts: int,
    num_domains: int,
) -> Replication:
    """Split-half replication: every other sequence of each domain makes the second half.
    ValueError where a domain has fewer than two sequences."""
    domain_G, count_GE = by_sequence(expert_TK, domain_T, groups_T, num_experts, num_domains)
    sequences_D = np.bincount(domain_G, minlength=num_domains)
    if sequences_D.min() < 2:
        raise ValueError(
            f"Each domain must have at least two sequences to be halved, domain "
            f"{sequences_D.argmin()} has {sequences_D.min()}."
        )
    half_G = np.zeros(len(domain_G), int)
    for d in range(num_domains):
        half_G[domain_G == d] = np.arange(sequences_D[d]) % 2
    lifts = [
        _lift(by_domain(domain_G[half_G == half], count_GE[half_G == half], num_domains))
        for half in (0, 1)
    ]
    liked = [lift >= EFFECT for lift in lifts]  # NaN, an expert that a half never chose, is not
    known = ~np.isnan(lifts[0]) & ~np.isnan(lifts[1])
    first, second = (int(table.sum()) for table in liked)
    varied = all(len(np.unique(lift[known])) > 1 for lift in lifts)
    return Replication(
        first=first,
        second=second,
        both=int((liked[0] & liked[1]).sum()),
        by_chance=first * second / liked[0].size,
        correlation=spearman(lifts[0][known], lifts[1][known]) if varied else NAN,
    )
