"""How a trained router decides outside training, in the words that checkpoint formats share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from moeviz.routing import ROUTERS, BaseRouter
from moeviz.routing.base import overridden
from moeviz.routing.capacity import WithCapacity
from moeviz.routing.gate import LinearRouter
from moeviz.routing.noisy import NoisyTopK
from moeviz.routing.switch import CoinTossTopK
from moeviz.routing.token_choice import GroupScore, Score, TokenChoice, Weighting

STEPS = ("logits", "choose", "score", "adjust", "select", "weight", "route")


@dataclass(frozen=True)
class Decision:
    """Scores x W^T, the K best of them, and their weights. gate_ED: W, over the temperature; the
    rest as in TokenChoice. num_groups is 1 where a token may visit all groups."""

    gate_ED: Tensor
    score: Score = "softmax"
    weighting: Weighting = "renormalise"
    scale: float = 1.0
    bias_E: Tensor | None = None
    num_groups: int = 1
    top_groups: int = 1
    group_score: GroupScore = "max"


def decision_of(router: BaseRouter) -> Decision:
    """What the router does once it is trained; its noise, coins and capacity are of training alone.
    ValueError for one that does more than to take the K best of a matrix's scores."""
    while isinstance(router, WithCapacity):
        if router.capacity.eval_factor is not None:
            raise ValueError(
                "The router limits its experts outside training too, which no checkpoint can say; "
                f"leave the capacity's eval_factor out, got {router.capacity.eval_factor:g}."
            )
        router = router.router
    plain = type(router) in (NoisyTopK, CoinTossTopK)
    steps = isinstance(router, TokenChoice) and not overridden(router, TokenChoice, *STEPS)
    if not (plain or steps):
        known = [name for name, kind in ROUTERS.items() if kind.family == TokenChoice.family]
        known += [n for n, kind in ROUTERS.items() if issubclass(kind, TokenChoice)]
        raise ValueError(
            f"The router {type(router).__name__} does more than take the K best scores of one "
            f"matrix, which is all that a checkpoint can say; train with one of "
            f"{', '.join(dict.fromkeys(known))}."
        )
    assert isinstance(router, LinearRouter)
    if bool(router.killed_E.any()):
        raise ValueError(
            f"Expert {int(router.killed_E.nonzero()[0])} was killed, which no checkpoint can say; "
            "export a model whose experts all live."
        )
    gate_ED = router.weight_ED / router.gate.temperature
    if not isinstance(router, TokenChoice):
        return Decision(gate_ED)
    grouped = router.top_groups < router.num_groups
    return Decision(
        gate_ED,
        router.score_by,
        router.weighting,
        router.scale,
        None if router.bias is None else router.bias.bias_E,
        router.num_groups if grouped else 1,
        router.top_groups if grouped else 1,
        router.group_score if grouped else "max",
    )
