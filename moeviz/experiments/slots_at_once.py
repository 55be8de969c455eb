"""Who gets a slot in a synthetic batch, without torch: what a panel shows at the first move.

The same as experiments.slots decides with the library's router, which tests hold, as far as no
order of placement can look at later tokens: to prove that one does takes the router.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

from moeviz.pictures.routing.batch import Rows, arrivals, limit_of
from moeviz.records.routes import Decision
from moeviz.watch.clusters import SHARPNESS, clusters

NUM_EXPERTS = 8
# As near to its centre that each token's first choice is its own cluster: the load is Zipf's.
SPREAD = 0.15
# The batch is taken for so many sequences of equal length.
SEQUENCES = 4
# What a decision says of its limit where it has none.
NO_LIMIT = {"factor": None, "priority": "position", "overflow": "none", "pool": "batch"}
UNLIMITED = "no limit"  # a panel's factor


def never_looks_ahead(values: dict[str, Any]) -> bool:
    """Whether a panel's controls name an order that sees no later token."""
    unlimited = values["factor"] == UNLIMITED or values["overflow"] == "pad"
    return unlimited or values["priority"] == "position"


def decision_at_once(values: dict[str, Any]) -> Decision:
    """What a panel with these controls shows, of synthetic tokens, under a limit (or none) that
    `never_looks_ahead`."""
    num_tokens, top_k = values["tokens"], values["top_k"]
    rule = NO_LIMIT if values["factor"] == UNLIMITED else {name: values[name] for name in NO_LIMIT}
    group_T, x_TD = clusters(
        num_tokens, NUM_EXPERTS, skew=values["skew"], spread=SPREAD, seed=values["seed"]
    )
    score_TE = _softmax(SHARPNESS * x_TD)
    sequence_T = np.arange(num_tokens) * SEQUENCES // num_tokens
    part_T = sequence_T if rule["pool"] == "sequence" else np.zeros_like(sequence_T)
    choice_TK = np.argsort(-score_TE, axis=1, kind="stable")[:, :top_k]
    asked = sorted((int(e), t, k) for (t, k), e in np.ndenumerate(choice_TK))
    meta = {
        "top_k": top_k, "training": True, "substitute": "", "learned": NUM_EXPERTS**2, **rule,
        "own": False, "part": part_T.tolist(), "placed": asked, "lost": [],
        "visits": [round(float(v), 6) for v in visit_chances(values["skew"], top_k)],
    }  # fmt: skip
    visits_TE = np.zeros_like(score_TE, bool)
    np.put_along_axis(visits_TE, choice_TK, True, axis=1)
    demand_E = visits_TE.sum(0)
    one = Decision(
        label="no limit" if rule is NO_LIMIT else f"factor {rule['factor']:g}, {rule['priority']}",
        tokens=tuple(f"c{g}" for g in group_T), score=score_TE, weight=score_TE * visits_TE,
        visits=visits_TE, dropped=np.zeros_like(visits_TE), leaks=np.zeros(num_tokens, bool),
        load=demand_E, demand=demand_E, causal=True, soft=False, meta=meta,
        capacity=int(demand_E.max()) if rule["overflow"] == "pad" else None,
    )  # fmt: skip
    return _limited(one) if rule["overflow"] == "drop" else one


def _limited(one: Decision) -> Decision:
    """The decision with at most C assignments an expert and part of the pool, the first to come."""
    part_T, num_experts = one.meta["part"], len(one.load)
    sizes = Counter(part_T)
    share = one.meta["factor"] * one.meta["top_k"] / num_experts
    limit = {part: limit_of(share, size) for part, size in sizes.items()}
    used: Counter[tuple[int, int]] = Counter()
    placed: Rows = []
    lost: Rows = []
    for e, t, k in arrivals(one):
        cell = part_T[t], e
        (placed if used[cell] < limit[part_T[t]] else lost).append((e, t, k))
        used[cell] += 1
    dropped_TE = np.zeros_like(one.visits)
    dropped_TE[[t for _, t, _ in lost], [e for e, _, _ in lost]] = True
    visits_TE = one.visits & ~dropped_TE
    placed.sort(key=lambda row: row[0])  # an expert's rows stand in the order of placement
    return dataclasses.replace(
        one, weight=one.score * visits_TE, visits=visits_TE, dropped=dropped_TE,
        load=visits_TE.sum(0), capacity=max(limit.values()),
        meta={**one.meta, "placed": placed, "lost": lost},
    )  # fmt: skip


def visit_chances(skew: float, top_k: int) -> np.ndarray:
    """The chance that a synthetic token asks for each expert, float [E], K in all: its first choice
    by Zipf, the others alike among the rest."""
    first_E = np.arange(1, NUM_EXPERTS + 1) ** -float(skew)
    first_E /= first_E.sum()
    return first_E + (1 - first_E) * (top_k - 1) / (NUM_EXPERTS - 1)


def _softmax(logits_TE: np.ndarray) -> np.ndarray:
    power_TE = np.exp(logits_TE - logits_TE.max(1, keepdims=True))
    return power_TE / power_TE.sum(1, keepdims=True)
