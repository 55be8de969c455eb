"""Who goes where: routers, and the Plan that experts and kernels consume."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from moeviz.routing.assignment import Base, Sinkhorn
from moeviz.routing.base import BaseRouter, Gate, NonFiniteLogitsError
from moeviz.routing.capacity import Capacity, WithCapacity
from moeviz.routing.causality import leaking_tokens
from moeviz.routing.context import RouteContext
from moeviz.routing.deepseek import deepseek_v2, deepseek_v3, quantile_balanced
from moeviz.routing.dense import DenseMixture, SequenceLevel
from moeviz.routing.depth import MixtureOfDepths
from moeviz.routing.expert_choice import ExpertChoice, ExpertThreshold
from moeviz.routing.hashing import Hash
from moeviz.routing.hierarchy import ExpertPrototyping, Hierarchical
from moeviz.routing.noisy import NoisyTopK
from moeviz.routing.null_experts import NullExperts
from moeviz.routing.out import RouterOut, RouterStats
from moeviz.routing.plan import Plan, SoftPlan
from moeviz.routing.relu import ReMoE
from moeviz.routing.soft import MixtureOfTokens, SoftMoE
from moeviz.routing.switch import gshard, st_moe, switch
from moeviz.routing.token_choice import TokenChoice

__all__ = [
    "ROUTERS",
    "BaseRouter",
    "Capacity",
    "Gate",
    "NonFiniteLogitsError",
    "Plan",
    "RouteContext",
    "RouterOut",
    "RouterStats",
    "SoftPlan",
    "build_router",
    "leaking_tokens",
]

ROUTERS: dict[str, Callable[..., BaseRouter]] = {
    "token_choice": TokenChoice,
    "noisy_topk": NoisyTopK,
    "gshard": gshard,
    "switch": switch,
    "st_moe": st_moe,
    "expert_prototyping": ExpertPrototyping,
    "hierarchical": Hierarchical,
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "quantile_balanced": quantile_balanced,
    "expert_choice": ExpertChoice,
    "expert_threshold": ExpertThreshold,
    "soft_moe": SoftMoE,
    "mixture_of_tokens": MixtureOfTokens,
    "base": Base,
    "sinkhorn": Sinkhorn,
    "hash": Hash,
    "remoe": ReMoE,
    "null_experts": NullExperts,
    "mixture_of_depths": MixtureOfDepths,
    "dense_mixture": DenseMixture,
    "sequence_level": SequenceLevel,
}

_SIZES = ("d_model", "num_experts", "top_k")
_GATE = tuple(field.name for field in dataclasses.fields(Gate))


def build_router(
    name: str,
    *,
    d_model: int,
    num_experts: int,
    top_k: int,
    capacity: Capacity | None = None,
    **options: Any,
) -> BaseRouter:
    """The router called `name`, one of ROUTERS.

    options: the router's own, and for one with a gate those of Gate (temperature, noise, jitter,
    init_scale, dtype, learning). capacity: limits the places of any router but a soft one. Raises
    ValueError on an unknown name or option, and on values that the router cannot have.
    """
    if name not in ROUTERS:
        raise ValueError(f"There is no router {name!r}; there is {', '.join(sorted(ROUTERS))}.")
    parameters = inspect.signature(ROUTERS[name]).parameters
    own = [p for p in parameters if p not in _SIZES]
    of_gate = _GATE if "gate" in own else ()
    allowed = [option for option in own if option != "gate"] + list(of_gate)
    if unknown := [option for option in options if option not in (*allowed, "gate")]:
        raise ValueError(
            f"Router {name!r} has no option {', '.join(unknown)}; "
            f"its options are {', '.join(allowed) or 'none'}."
        )
    try:
        if gate := {option: options.pop(option) for option in of_gate if option in options}:
            default = parameters["gate"].default
            options["gate"] = dataclasses.replace(default or Gate(), **gate)
        router = ROUTERS[name](d_model=d_model, num_experts=num_experts, top_k=top_k, **options)
    except TypeError as error:  # a word where a number belongs
        raise ValueError(f"Router {name!r} cannot take these values: {error}.") from None
    return router if capacity is None else WithCapacity(router, capacity)
