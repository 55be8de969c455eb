"""Who goes where: routers, and the Plan that experts and kernels consume."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable
from typing import Any

from moeviz.checks import brief, check_whole, one_line
from moeviz.routing.assignment import Base, Sinkhorn
from moeviz.routing.base import BaseRouter, NonFiniteLogitsError
from moeviz.routing.capacity import Capacity, WithCapacity
from moeviz.routing.causality import leaking_tokens
from moeviz.routing.context import RouteContext
from moeviz.routing.deepseek import DeepSeekV2, DeepSeekV3, QuantileBalanced
from moeviz.routing.dense import DenseMixture, SequenceLevel
from moeviz.routing.depth import MixtureOfDepths
from moeviz.routing.expert_choice import ExpertChoice, ExpertThreshold
from moeviz.routing.gate import Gate
from moeviz.routing.hashing import Hash
from moeviz.routing.hierarchy import ExpertPrototyping, Hierarchical
from moeviz.routing.noisy import NoisyTopK
from moeviz.routing.null_experts import NullExperts
from moeviz.routing.out import RouterOut, RouterStats
from moeviz.routing.plan import Plan, SoftPlan
from moeviz.routing.relu import ReMoE
from moeviz.routing.soft import MixtureOfTokens, SoftMoE
from moeviz.routing.switch import GShard, STMoE, Switch
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
    "rule_of",
    "title_of",
    "untrained_router",
]

# A new router is one file and one line here: all tables, buttons and comparisons are made of these.
ROUTERS: dict[str, type[BaseRouter]] = {
    "token_choice": TokenChoice,
    "noisy_topk": NoisyTopK,
    "switch": Switch,
    "gshard": GShard,
    "st_moe": STMoE,
    "expert_prototyping": ExpertPrototyping,
    "hierarchical": Hierarchical,
    "deepseek_v2": DeepSeekV2,
    "deepseek_v3": DeepSeekV3,
    "quantile_balanced": QuantileBalanced,
    "expert_choice": ExpertChoice,
    "expert_threshold": ExpertThreshold,
    "base": Base,
    "sinkhorn": Sinkhorn,
    "soft_moe": SoftMoE,
    "mixture_of_tokens": MixtureOfTokens,
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
    init_scale, learning), which go before those of a given gate=. capacity: limits the slots of any
    router but a soft one. Raises ValueError on an unknown name or option, and on values that the
    router cannot have. Warns of weights that are all the same: they teach the gate nothing.
    """
    sizes = dict(d_model=d_model, num_experts=num_experts, top_k=top_k)
    router = untrained_router(name, capacity=capacity, **sizes, **options)
    learns = any(parameter.requires_grad for parameter in router.parameters())
    if router.renormalises and top_k == 1 < num_experts and learns:
        warnings.warn(
            f"With top_k=1, router {name!r} gives every chosen expert the same weight, so the task "
            "does not train its gate; only balancing losses do. Use a top_k of 2 or more, or "
            'router="token_choice" with weighting="raw".',
            stacklevel=2,
        )
    return router


def untrained_router(name: str, *, capacity: Capacity | None = None, **options: Any) -> BaseRouter:
    """As build_router, for a router that is only looked at: what training it would lack is no
    matter. options: the sizes too."""
    if name not in list(ROUTERS):  # a list looks at a name that cannot be hashed too
        known = ", ".join(sorted(ROUTERS))
        raise ValueError(f"There is no router {brief(name)}; there is {known}.")
    make: Callable[..., BaseRouter] = ROUTERS[name]
    gate = ROUTERS[name].default_gate
    allowed = own_options(name) + list(_GATE if gate else ())
    hidden = (*_SIZES, "gate") if gate else _SIZES
    if unknown := [option for option in options if option not in (*allowed, *hidden)]:
        raise ValueError(
            f"Router {name!r} has no option {', '.join(unknown)}; "
            f"its options are {', '.join(allowed) or 'none'}."
        )
    for size in _SIZES:  # before a router divides by them
        check_whole(size, options.get(size, 1))
    of_gate = {option: options.pop(option) for option in _GATE if gate and option in options}
    given = options.get("gate") or gate
    if of_gate and isinstance(given, Gate):
        options["gate"] = dataclasses.replace(given, **of_gate)
    try:
        router = make(**options)
    # A word where a number belongs, a number too large, or no memory.
    except (TypeError, ArithmeticError, RuntimeError) as error:
        reason = one_line(error)
        raise ValueError(f"Router {name!r} cannot take these values: {reason}.") from None
    return router if capacity is None else WithCapacity(router, capacity)


def own_options(name: str) -> list[str]:
    """The options of a router beside its sizes and its gate."""
    parameters = inspect.signature(ROUTERS[name]).parameters.values()
    named = [one.name for one in parameters if one.kind != inspect.Parameter.VAR_KEYWORD]
    return [option for option in named if option not in (*_SIZES, "gate")]


def title_of(name: str) -> str:
    """How a router is called on a button: by its own title, or by its name in ROUTERS."""
    return vars(ROUTERS[name]).get("title") or name


def rule_of(name: str) -> str:
    """What a router does, in one line: its own rule, or how its docstring begins."""
    router = ROUTERS[name]
    return vars(router).get("rule") or (router.__doc__ or "").strip().partition("\n")[0]
