"""Who goes where: routers, and the Plan that experts and kernels consume."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from moeviz.routing.plan import Plan, RouteContext, Router, RouterOut, RouterStats, SoftPlan
from moeviz.routing.token_choice import TokenChoice

__all__ = [
    "ROUTERS",
    "Plan",
    "RouteContext",
    "Router",
    "RouterOut",
    "RouterStats",
    "SoftPlan",
    "build_router",
]

ROUTERS: dict[str, Callable[..., nn.Module]] = {"token_choice": TokenChoice}


def build_router(
    name: str, *, d_model: int, num_experts: int, top_k: int, **options: Any
) -> nn.Module:
    """The router called `name`, one of ROUTERS. Raises ValueError on an unknown name or option."""
    if name not in ROUTERS:
        raise ValueError(f"There is no router {name!r}; there is {', '.join(sorted(ROUTERS))}.")
    allowed = set(inspect.signature(ROUTERS[name]).parameters) - {"d_model", "num_experts", "top_k"}
    if unknown := set(options) - allowed:
        raise ValueError(
            f"Router {name!r} has no option {', '.join(sorted(unknown))}; "
            f"its options are {', '.join(sorted(allowed))}."
        )
    return ROUTERS[name](d_model=d_model, num_experts=num_experts, top_k=top_k, **options)
