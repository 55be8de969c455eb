"""What each expert is worth: the loss of held-out sequences with one expert left out in turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import permutations
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moeviz.records.arrays import NAN
from moeviz.records.compare import Gap, compare, verdicts
from moeviz.records.ranks import ranks
from moeviz.records.store import Record


class RankCorrelation(NamedTuple):
    """Spearman's: 1 for the same order, about 0 for none. p: two-sided, of no relation at all: the
    share of orders that are as far from 0 (of more than ALL_ORDERS experts, of drawn ones)."""

    value: float
    p: float


ALL_ORDERS, DRAWN = 8, 20_000  # 8! = 40,320


@cache
def _orders(count: int) -> np.ndarray:
    """Orders of so many experts, the given one first."""
    if count <= ALL_ORDERS:
        return np.array([*permutations(range(count))])
    given = np.arange(count)
    drawn = np.random.default_rng(0).permuted(np.tile(given, (DRAWN, 1)), axis=1)
    return np.concatenate([given[None], drawn])


@dataclass(frozen=True)
class Killed(Record):
    """The loss with every expert of every layer left out, one at a time.

    domains: D names; before: float32 [G], nats per token of each sequence with all experts; after:
    float32 [L, E, G], with one left out; domain: int32 [G], of each sequence; load: float64
    [L, D, E], each domain's share of assignments; layers: the L block numbers; meta: JSON values.
    """

    kind: ClassVar[str] = "killed"
    domains: tuple[str, ...]
    before: np.ndarray
    after: np.ndarray
    domain: np.ndarray
    load: np.ndarray
    layers: tuple[int, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def cost(self) -> np.ndarray:
        """How much the loss of each domain rises without the expert, float64 [L, E, D]."""
        rise_LEG = self.after.astype(np.float64) - self.before
        parts = [rise_LEG[..., self.domain == d].mean(-1) for d in range(len(self.domains))]
        return np.stack(parts, axis=-1)

    def gaps(self, place: int) -> dict[tuple[int, int], Gap]:
        """By (expert, domain): the rise in a layer, by its place in `layers`, with its interval
        over the domain's sequences."""
        return {
            (expert, domain): compare(self.after[place, expert, rows], self.before[rows])
            for domain in range(len(self.domains))
            for expert in range(self.after.shape[1])
            for rows in [self.domain == domain]
        }

    def verdicts(self, place: int) -> dict[tuple[int, int], str]:
        """Of each of these "higher" (the domain misses the expert), "lower" (it is better off) or
        "open", corrected for the whole table."""
        return verdicts(self.gaps(place))

    def load_and_cost(self, place: int) -> RankCorrelation:
        """Whether the experts with more tokens are those whose loss is missed more, over domains
        of equal weight. NaN where all are alike."""
        load_E, cost_E = self.load[place].mean(0), self.cost[place].mean(-1)
        if min(len(np.unique(load_E)), len(np.unique(cost_E))) < 2:
            return RankCorrelation(NAN, NAN)
        load_rank, cost_rank = (
            (rank_E - rank_E.mean()) / rank_E.std() for rank_E in map(ranks, (load_E, cost_E))
        )
        # Student's t, which is often taken, finds too much in eight experts.
        value_N = (load_rank * cost_rank[_orders(len(load_E))]).mean(1)
        reached = np.abs(value_N) >= abs(value_N[0]) - 1e-9
        return RankCorrelation(float(value_N[0]), float(reached.mean()))
