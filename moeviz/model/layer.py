"""A block's FFN: dense or Mixture-of-Experts, by the same call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from moeviz.backend import Backend
from moeviz.checks import check_choice, check_whole
from moeviz.model.division import Division
from moeviz.model.experts import swiglu
from moeviz.model.scale import SWIGLU_SQUARE, factors_for
from moeviz.routing import BaseRouter, Capacity, Plan, RouteContext, RouterOut, build_router
from moeviz.routing.base import KeepsFloat32

MOST_EXPERTS = 1_000_000  # a router of that many is made to check its options
SharedGate = Literal["one", "sigmoid", "softmax"]


@dataclass(frozen=True)
class MoEConfig:
    """The experts of a layer. d_expert: width F of one expert; router, options, capacity: see
    routing.build_router.

    num_shared: experts that every token visits beside the chosen ones (DeepSeekMoE, Dai et al.
    2024), as one FFN of num_shared * d_expert. shared_gate, what multiplies it: "one" (DeepSeekMoE;
    a wide one is Snowflake Arctic's dense path), "sigmoid" of x . w (Qwen2-MoE), or "softmax": two
    weights from x for the chosen experts' sum and for it (Residual MoE, Rajbhandari et al. 2022).

    Raises ValueError on what cannot be built.
    """

    num_experts: int = 16
    top_k: int = 2
    d_expert: int = 128
    router: str = "token_choice"
    options: dict[str, Any] = field(default_factory=dict)
    capacity: Capacity | None = None
    num_shared: int = 0
    shared_gate: SharedGate = "one"
    backend: str = "auto"

    def __post_init__(self) -> None:
        check_whole("num_experts", self.num_experts, high=MOST_EXPERTS)
        check_whole("d_expert", self.d_expert)
        check_whole("num_shared", self.num_shared, low=0)
        check_choice("backend", self.backend, get_args(Backend))
        check_choice("shared_gate", self.shared_gate, get_args(SharedGate))
        # The router's own checks, before anything is trained: K > E, unknown names.
        self._counted(1)

    def build_router(self, d_model: int) -> BaseRouter:
        return build_router(
            self.router,
            d_model=d_model,
            num_experts=self.num_experts,
            top_k=self.top_k,
            capacity=self.capacity,
            **self.options,
        )

    def flops_per_token(self, d_model: int, seq_len: int) -> float:
        """Forward FLOPs of one token in this layer, 2 per multiply-add."""
        router = self._counted(d_model)
        experts = router.active_experts(seq_len) + self.num_shared
        return router.flops(seq_len) + 6 * d_model * self.d_expert * experts

    def _counted(self, d_model: int) -> BaseRouter:
        """A router to ask, whose random start leaves the process's random numbers as they were."""
        with torch.random.fork_rng(devices=[]):
            return self.build_router(d_model)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> MoEConfig:
        """What dataclasses.asdict made of one."""
        values = dict(values)
        if values.get("capacity") is not None:
            values["capacity"] = Capacity(**values["capacity"])
        return MoEConfig(**values)


class DenseFFN(nn.Module):
    """SwiGLU feed-forward of width F: y = W2 (silu(W1 x) * W3 x), W1 and W3 stacked in w13_2FD.
    scale: what y is multiplied by."""

    division = Division()

    def __init__(self, d_model: int, d_ff: int, scale: float | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.w13_2FD = nn.Parameter(torch.empty(2 * d_ff, d_model))
        self.w2_DF = nn.Parameter(torch.empty(d_model, d_ff))
        nn.init.normal_(self.w13_2FD, std=d_model**-0.5)
        nn.init.normal_(self.w2_DF, std=d_ff**-0.5)

    def forward(self, x_TD: Tensor, context: RouteContext) -> tuple[Tensor, RouterOut | None]:
        (y_TD,) = self.division.in_pieces(lambda x_tD, _: (self._run(x_tD),), x_TD)
        return y_TD, None

    def _run(self, x_TD: Tensor) -> Tensor:
        y_TD = swiglu(x_TD @ self.w13_2FD.T) @ self.w2_DF.T
        return y_TD if self.scale is None else y_TD * self.scale


class MoEFFN(KeepsFloat32):
    """Router, dispatch, experts, combine.

    1. route = router(x_TD): which experts take each token, with which weight
    2. y_TD = sum over a token's experts of weight * expert(x_TD), and what experts without an FFN
       add
    3. with shared experts, their output is added, weighted as MoEConfig.shared_gate says
    4. where the scale was fixed, each of the two parts is multiplied by its factor before
    The losses come back in the RouterOut; nothing is collected on the side.
    """

    factor_P: Tensor | None  # of chosen and of shared experts; None: as the paper writes it
    division = Division()

    def __init__(self, d_model: int, config: MoEConfig) -> None:
        super().__init__()
        num_experts, d_expert = config.num_experts, config.d_expert
        self.num_active = (config.top_k, config.num_shared)
        self.backend = config.backend
        self.router = config.build_router(d_model)
        self.w13_E2FD = nn.Parameter(torch.empty(num_experts, 2 * d_expert, d_model))
        self.w2_EDF = nn.Parameter(torch.empty(num_experts, d_model, d_expert))
        nn.init.normal_(self.w13_E2FD, std=d_model**-0.5)
        nn.init.normal_(self.w2_EDF, std=d_expert**-0.5)
        self.shared, self.shared_gate, self.shared_gate_GD = None, config.shared_gate, None
        if config.num_shared:
            self.shared = DenseFFN(d_model, config.num_shared * d_expert)
            if config.shared_gate != "one":
                rows = 1 if config.shared_gate == "sigmoid" else 2
                self.shared_gate_GD = nn.Parameter(torch.zeros(rows, d_model))
        self.register_buffer("factor_P", None)

    def forward(self, x_TD: Tensor, context: RouteContext) -> tuple[Tensor, RouterOut | None]:
        parts, route = self.parts(x_TD, context)
        if self.factor_P is not None:
            parts = tuple(p_TD * factor for p_TD, factor in zip(parts, self.factor_P, strict=True))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1], route

    def parts(self, x_TD: Tensor, context: RouteContext) -> tuple[tuple[Tensor, ...], RouterOut]:
        """What the chosen experts add and, where there are any, what the shared ones do, each
        [T, D] and not yet multiplied by its factor."""
        route = self.division.route(self.router, x_TD, context)
        plan = self.division.own_plan(route.plan)
        bypass = () if route.bypass is None else (self.division.own_tokens(route.bypass),)
        # Autocast does not reach grouped_mm: its dtype is taken here.
        device = x_TD.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else x_TD.dtype
        x_TD, w13_E2FD, w2_EDF = (v.to(dtype) for v in (x_TD, self.w13_E2FD, self.w2_EDF))

        def work(x_tD: Tensor, start: int, *bypass: Tensor) -> tuple[Tensor, ...]:
            part = plan
            if isinstance(plan, Plan) and len(x_tD) < len(x_TD):
                part = plan.of_tokens(start, start + len(x_tD))
            y_tD = self.division.experts(x_tD, part, w13_E2FD, w2_EDF, self.backend)
            for bypass_tD in bypass:
                y_tD = y_tD + bypass_tD.to(y_tD.dtype)
            if self.shared is None:
                return (y_tD,)
            shared_tD, _ = self.shared(x_tD, context)
            return self._gated(y_tD, shared_tD, x_tD)

        # A soft plan's slots read all tokens of a group.
        whole = not isinstance(plan, Plan)
        parts = work(x_TD, 0, *bypass) if whole else self.division.in_pieces(work, x_TD, *bypass)
        return parts, route

    @torch.no_grad()
    def fix_scale(self, ffn_scale: float, x_TD: Tensor, context: RouteContext) -> None:
        """Give the output, from now on, ffn_scale**2 times the variance that a dense FFN has whose
        weights have the variance of these; on these tokens, of mean square 1. Where there are
        shared experts, each active expert has an equal share in it. The router stays as it is."""
        state = [buffer.clone() for buffer in self.router.buffers()]
        parts, _ = self.parts(x_TD, context)
        for buffer, before in zip(self.router.buffers(), state, strict=True):
            buffer.copy_(before)
        w2_square = float(torch.linalg.vector_norm(self.w2_EDF)) ** 2 / self.w2_EDF.numel()
        dense = SWIGLU_SQUARE * self.w2_EDF.shape[2] * w2_square
        shares = [n / sum(self.num_active) for n in self.num_active[: len(parts)]]
        self.factor_P = factors_for(parts, [share * ffn_scale**2 * dense for share in shares])

    def num_idle_parameters(self) -> int:
        """Those of the experts that one token does not visit."""
        router = self.router
        # A soft router's token is mixed into what every expert reads.
        used = router.num_experts if router.soft else router.active_experts(1)
        return round((router.num_experts - used) * self._per_expert())

    def num_parameters_elsewhere(self) -> int:
        """Those of the experts that live in other processes."""
        return (self.router.num_experts - len(self.w2_EDF)) * self._per_expert()

    def _per_expert(self) -> int:
        return int((self.w13_E2FD.numel() + self.w2_EDF.numel()) // len(self.w2_EDF))

    def _gated(self, y_TD: Tensor, shared_TD: Tensor, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        if self.shared_gate_GD is None:
            return y_TD, shared_TD
        gate_TG = x_TD @ self.shared_gate_GD.T.to(x_TD.dtype)
        if self.shared_gate == "sigmoid":
            return y_TD, gate_TG.sigmoid() * shared_TD
        weight_TG = gate_TG.softmax(-1)
        return weight_TG[:, :1] * y_TD, weight_TG[:, 1:] * shared_TD
