"""A block's FFN: dense or Mixture-of-Experts, by the same call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from moeviz.backend import Backend
from moeviz.experts import apply_experts, swiglu
from moeviz.routing import RouteContext, RouterOut, build_router


@dataclass(frozen=True)
class MoEConfig:
    """The experts of a layer. d_expert: width F of one expert; options: the router's own.

    Raises ValueError on what cannot be built.
    """

    num_experts: int = 16
    top_k: int = 2
    d_expert: int = 128
    router: str = "token_choice"
    weighting: str = "renormalise"
    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.d_expert < 1:
            raise ValueError(f"d_expert must be at least 1, got {self.d_expert}.")
        if self.backend not in get_args(Backend):
            raise ValueError(
                f"backend must be one of {', '.join(get_args(Backend))}, got {self.backend!r}."
            )
        # The router's own checks, before anything is trained: K > E, unknown names.
        build_router(
            self.router,
            d_model=1,
            num_experts=self.num_experts,
            top_k=self.top_k,
            weighting=self.weighting,
        )


class DenseFFN(nn.Module):
    """SwiGLU feed-forward of width F: y = W2 (silu(W1 x) * W3 x), W1 and W3 stacked in w13_2FD."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w13_2FD = nn.Parameter(torch.empty(2 * d_ff, d_model))
        self.w2_DF = nn.Parameter(torch.empty(d_model, d_ff))
        nn.init.normal_(self.w13_2FD, std=d_model**-0.5)
        nn.init.normal_(self.w2_DF, std=d_ff**-0.5)

    def forward(self, x_TD: Tensor, context: RouteContext) -> tuple[Tensor, RouterOut | None]:
        return swiglu(x_TD @ self.w13_2FD.T) @ self.w2_DF.T, None


class MoEFFN(nn.Module):
    """Router, dispatch, experts, combine.

    1. route = router(x_TD): which experts take each token, with which weight
    2. y_TD = sum over a token's experts of weight * expert(x_TD)
    The losses come back in the RouterOut; nothing is collected on the side.
    """

    def __init__(self, d_model: int, config: MoEConfig) -> None:
        super().__init__()
        num_experts, d_expert = config.num_experts, config.d_expert
        self.backend = config.backend
        self.router = build_router(
            config.router,
            d_model=d_model,
            num_experts=num_experts,
            top_k=config.top_k,
            weighting=config.weighting,
        )
        self.w13_E2FD = nn.Parameter(torch.empty(num_experts, 2 * d_expert, d_model))
        self.w2_EDF = nn.Parameter(torch.empty(num_experts, d_model, d_expert))
        nn.init.normal_(self.w13_E2FD, std=d_model**-0.5)
        nn.init.normal_(self.w2_EDF, std=d_expert**-0.5)

    def forward(self, x_TD: Tensor, context: RouteContext) -> tuple[Tensor, RouterOut | None]:
        route: RouterOut = self.router(x_TD, context)
        # Autocast does not reach grouped_mm: its dtype is taken here.
        device = x_TD.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else x_TD.dtype
        x_TD, w13_E2FD, w2_EDF = (v.to(dtype) for v in (x_TD, self.w13_E2FD, self.w2_EDF))
        return apply_experts(x_TD, route.plan, w13_E2FD, w2_EDF, backend=self.backend), route
