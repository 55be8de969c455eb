"""What a sample of routed sequences says of the experts of one layer, each figure beside its null.

All statistics are those of `specialisation` and `specialists`; here they are put together, and the
one control is added that no shuffle makes: what the identity of tokens alone would show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeviz.records.arrays import NAN, ratio
from moeviz.records.routes import DomainTrace
from moeviz.records.specialisation import (
    DomainInformation,
    domain_information,
    joint_counts,
    mutual_information_of_counts,
)
from moeviz.records.specialists import (
    LiftBesideNull,
    Replication,
    domain_lift,
    lift_beside_null,
    replication,
)


@dataclass(frozen=True)
class FromTokens:
    """What the identity of tokens alone makes of the domains' likings.

    lift: float64 [D, E]; seen: the share of tokens that the other half of the text has too, the
    only ones that count; explained: the information on the domain that this lift holds, over that
    which the experts of the same tokens hold.
    """

    lift: np.ndarray
    seen: float
    explained: float


def from_tokens(trace: DomainTrace, place: int) -> FromTokens:
    """Suppose that a token's experts hung on the token alone, and on no context.

    1. the sequences of each domain are dealt out into two halves
    2. in the other half, over all domains: how often each token visits each expert
    3. each domain's tokens at these rates make its load, and so its lift
    The trace has to know its tokens (has_tokens). NaN where the halves have none in common.
    """
    expert_TK, domain_T, sequence_T, num_experts, num_domains = trace.labelled(place)
    turn_G = np.zeros(len(trace.domain), int)
    for domain in range(num_domains):
        of_domain = trace.domain == domain
        turn_G[of_domain] = np.arange(of_domain.sum())
    half_T, kinds = turn_G[sequence_T] % 2, int(trace.token.max()) + 1
    wanted_DE, real_DE = np.zeros((2, num_domains, num_experts))
    seen = 0
    for half in (0, 1):
        there = half_T != half
        times_V = np.bincount(trace.token[there], minlength=kinds)
        visits_VE = _visits(trace.token[there], expert_TK[there], kinds, num_experts)
        rate_VE = visits_VE / np.maximum(times_V, 1)[:, None]
        known = ~there & (times_V[trace.token] > 0)
        seen += int(known.sum())
        times_VD = joint_counts(trace.token[known], domain_T[known], kinds, num_domains)
        wanted_DE += times_VD.T @ rate_VE
        real_DE += _visits(domain_T[known], expert_TK[known], num_domains, num_experts)
    if not seen:
        return FromTokens(np.full(real_DE.shape, NAN), 0.0, NAN)
    informations = (mutual_information_of_counts(count) for count in (wanted_DE, real_DE))
    return FromTokens(domain_lift(wanted_DE), seen / len(domain_T), ratio(*informations))


def _visits(label_T: np.ndarray, expert_TK: np.ndarray, size: int, num_experts: int) -> np.ndarray:
    """How often each label visits each expert [size, E]."""
    label_N = np.repeat(label_T, expert_TK.shape[1])
    return joint_counts(label_N, expert_TK.ravel().astype(np.int64), size, num_experts)


@dataclass(frozen=True)
class Look:
    """One layer of a sample. model: the real one that routed it, "" for the lab's own; tokens: of
    the domain that has fewest; halves: None where a domain has one sequence only; by_tokens: None
    where the trace does not know its tokens."""

    domains: tuple[str, ...]
    model: str
    layer: int
    tokens: int
    sequences: int
    lift: LiftBesideNull
    information: DomainInformation
    halves: Replication | None
    by_tokens: FromTokens | None


def look(trace: DomainTrace, place: int, tokens: int, *, seed: int = 0) -> Look:
    """What so many tokens of each domain say of a layer, by its place in `layers`."""
    sample = trace.sample(tokens, seed=seed)
    labelled = sample.labelled(place)
    can_be_halved = np.bincount(sample.domain, minlength=len(sample.domains)).min() > 1
    return Look(
        domains=trace.domains,
        model=trace.meta.get("model", ""),
        layer=trace.layers[place],
        tokens=sample.shortest,
        sequences=len(sample.length),
        lift=lift_beside_null(*labelled),
        information=domain_information(
            labelled[0], labelled[1], *labelled[3:], groups_T=labelled[2]
        ),
        halves=replication(*labelled) if can_be_halved else None,
        by_tokens=from_tokens(sample, place) if can_be_halved and sample.has_tokens else None,
    )


@dataclass(frozen=True)
class Sampled:
    """How many likings a sample of so many tokens of each domain shows, cells whose lift is of
    EFFECT or more. by_chance: as many in shuffled sequences; told: those beyond chance."""

    tokens: int
    likings: int
    by_chance: float
    told: int


def sampled(
    trace: DomainTrace, place: int, sizes: Sequence[int], *, seed: int = 0
) -> list[Sampled]:
    """The same layer from samples of several sizes."""
    found = []
    for tokens in sizes:
        labelled = trace.sample(tokens, seed=seed).labelled(place)
        lift = lift_beside_null(*labelled)
        told = int(lift.found().sum())
        found.append(Sampled(tokens, int(lift.likings.sum()), lift.null_likings, told))
    return found
