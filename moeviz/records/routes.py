"""Where a text's tokens were routed, as numpy: the line between computing and showing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from moeviz.checks import check_whole
from moeviz.records.store import Record


def _check_sizes(kind: str, **sizes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """ValueError where a size, got and wanted, is another one."""
    for name, (got, wanted) in sizes.items():
        if got != wanted:
            raise ValueError(f"The {name} of a {kind} must have the size {wanted}, got {got}.")


def _check_within(name: str, values: np.ndarray, count: int) -> None:
    """ValueError for an index outside -1 .. count - 1."""
    if values.size and not -1 <= values.min() <= values.max() < count:
        raise ValueError(
            f"The {name} of a trace must lie in -1..{count - 1}, got "
            f"{values.min()}..{values.max()}."
        )


@dataclass(frozen=True)
class Trace(Record):
    """The routing of one text through every MoE layer of a model.

    tokens: T readable pieces; expert: int16 [T, L, K], -1 where a choice was not served;
    weight: float32 [T, L, K]; score: float32 [T, L, E], the router's probabilities;
    layers: the L block numbers; meta: provenance and model facts (JSON values).
    A trace of another program may lack weights or scores: they are NaN then, so ask has_weights
    and has_scores before you use them. ValueError where sizes disagree, for an expert that is not
    there, and for weights of which some alone are NaN.
    """

    kind: ClassVar[str] = "trace"
    tokens: tuple[str, ...]
    expert: np.ndarray
    weight: np.ndarray
    score: np.ndarray
    layers: tuple[int, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens, num_experts = (len(self.tokens), len(self.layers)), self.score.shape[-1]
        _check_sizes(
            "trace",
            expert=(self.expert.shape, (*tokens, self.expert.shape[-1])),
            weight=(self.weight.shape, self.expert.shape),
            score=(self.score.shape, (*tokens, num_experts)),
        )
        _check_within("experts", self.expert, num_experts)
        missing = np.isnan(self.weight)
        if missing.any() and not missing.all():
            raise ValueError(
                "Of the weights of a trace all must be numbers, or none; some are NaN."
            )

    @property
    def num_experts(self) -> int:
        return self.score.shape[2]

    @property
    def top_k(self) -> int:
        return self.expert.shape[2]

    @property
    def has_weights(self) -> bool:
        """Whether it says how much each choice counts."""
        return not np.isnan(self.weight).any()

    @property
    def has_scores(self) -> bool:
        """Whether it says what the router thought of every expert, chosen or not."""
        return not np.isnan(self.score[:1]).any()  # a trace has scores of all tokens or of none

    def load(self) -> np.ndarray:
        """Assignments each expert took, int64 [L, E]."""
        load = np.zeros((len(self.layers), self.num_experts), np.int64)
        for place, load_E in enumerate(load):
            served = self.expert[:, place][self.expert[:, place] >= 0]
            load_E += np.bincount(served, minlength=self.num_experts)
        return load


@dataclass(frozen=True)
class DomainCounts(Record):
    """How often each domain chose each expert: a study that kept counts and no tokens.

    domains: D names; count: int64 [D, L, E]; tokens: int64 [D], how many each domain had; top_k:
    choices of a token; layers: the L block numbers; meta: JSON values. ValueError where sizes
    disagree.
    """

    kind: ClassVar[str] = "domain_counts"
    domains: tuple[str, ...]
    count: np.ndarray
    tokens: np.ndarray
    top_k: int
    layers: tuple[int, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        domains = len(self.domains)
        _check_sizes(
            "study",
            count=(self.count.shape, (domains, len(self.layers), self.count.shape[-1])),
            tokens=(self.tokens.shape, (domains,)),
        )


@dataclass(frozen=True)
class DomainTrace(Record):
    """Where the tokens of many sequences went, each sequence of one domain.

    domains: D names; expert: int16 [T, L, K], the sequences end to end, -1 where a choice was not
    served; token: int32 [T], a number for each different token, -1 where it is not known; domain,
    length: int32 [G], of each sequence; num_experts: E; layers: the L block numbers; meta: JSON
    values. ValueError where sizes disagree, and for an expert or a domain that is not there.
    """

    kind: ClassVar[str] = "domain_trace"
    domains: tuple[str, ...]
    expert: np.ndarray
    token: np.ndarray
    domain: np.ndarray
    length: np.ndarray
    num_experts: int
    layers: tuple[int, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens = int(self.length.sum())
        _check_sizes(
            "trace",
            expert=(self.expert.shape, (tokens, len(self.layers), self.expert.shape[-1])),
            token=(self.token.shape, (tokens,)),
            domain=(self.domain.shape, self.length.shape),
        )
        _check_within("experts", self.expert, self.num_experts)
        _check_within("domains", self.domain, len(self.domains))

    @property
    def has_tokens(self) -> bool:
        """Whether it says which tokens are the same."""
        return bool((self.token >= 0).all())

    @property
    def sequence(self) -> np.ndarray:
        """The sequence of each token, its number, int64 [T]."""
        return np.repeat(np.arange(len(self.length)), self.length)

    @property
    def shortest(self) -> int:
        """How many tokens every domain has at least."""
        return int(np.bincount(self.domain, self.length, len(self.domains)).min())

    def load(self, place: int) -> np.ndarray:
        """Each domain's share of assignments for each expert of a layer, float64 [D, E]."""
        expert_TK, domain_T, *_ = self.labelled(place)
        one_TE = (expert_TK[..., None] == np.arange(self.num_experts)).sum(1)
        count_DE = np.stack([one_TE[domain_T == d].sum(0) for d in range(len(self.domains))])
        return count_DE / np.maximum(count_DE.sum(1, keepdims=True), 1)

    def labelled(self, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
        """What the statistics of specialisation are computed from: expert_TK of a layer (its place
        in `layers`), domain_T, sequence_T, E and D."""
        expert_TK = self.expert[:, place]
        domain_T = np.repeat(self.domain, self.length)
        return expert_TK, domain_T, self.sequence, self.num_experts, len(self.domains)

    def sample(self, tokens: int, *, seed: int = 0) -> DomainTrace:
        """So many tokens of each domain, in sequences that are drawn at random; the last one of a
        domain is cut. A domain that has fewer gives all of them."""
        check_whole("tokens", tokens)
        drawn_G = np.random.default_rng(seed).permutation(len(self.domain))
        start_G, kept, lengths = self.length.cumsum() - self.length, [], []
        for domain in range(len(self.domains)):
            drawn = drawn_G[self.domain[drawn_G] == domain]
            before = self.length[drawn].cumsum() - self.length[drawn]
            left = np.minimum(self.length[drawn], tokens - before)
            kept.append(drawn[left > 0])
            lengths.append(left[left > 0])
        sequence, length = np.concatenate(kept), np.concatenate(lengths)
        place = np.arange(length.sum()) - np.repeat(length.cumsum() - length, length)
        row = np.repeat(start_G[sequence], length) + place
        return replace(
            self, expert=self.expert[row], token=self.token[row],
            domain=self.domain[sequence], length=length.astype(np.int32),
        )  # fmt: skip


@dataclass(frozen=True)
class Anatomy(Record):
    """Every matrix on a text's way through one MoE layer, all float32 but the indices.

    x [T, D] -> logits [T, E] -> score = softmax [T, E] -> expert int16, weight [T, K]
    -> dispatch: row_token, row_expert int32 [N] sorted by expert, offsets int32 [E + 1]
    -> experts: row_output [N, D] -> combine: y [T, D] = sum of row_weight * row_output
    """

    kind: ClassVar[str] = "anatomy"
    text: str
    tokens: tuple[str, ...]
    layer: int
    model_layers: tuple[int, ...]
    weighting: str
    x: np.ndarray
    logits: np.ndarray
    score: np.ndarray
    expert: np.ndarray
    weight: np.ndarray
    row_token: np.ndarray
    row_expert: np.ndarray
    row_weight: np.ndarray
    offsets: np.ndarray
    row_output: np.ndarray
    y: np.ndarray
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision(Record):
    """What one router decides for some tokens: the same record for every router.

    label; tokens: T readable pieces; score: float32 [T, E]; weight: float32 [T, E], the combine
    weight, 0 where the token does not visit the expert (a soft router: the share of its slots);
    visits, dropped: bool [T, E]; leaks: bool [T], tokens proven to depend on later ones; load,
    demand: int64 [E]; capacity: slots of each expert, None where there is no limit; causal: what
    the router declares; soft: whether experts read mixtures; meta: JSON values.
    """

    kind: ClassVar[str] = "decision"
    label: str
    tokens: tuple[str, ...]
    score: np.ndarray
    weight: np.ndarray
    visits: np.ndarray
    dropped: np.ndarray
    leaks: np.ndarray
    load: np.ndarray
    demand: np.ndarray
    capacity: int | None
    causal: bool
    soft: bool
    meta: dict[str, Any] = field(default_factory=dict)
