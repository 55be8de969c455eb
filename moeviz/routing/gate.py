"""The linear gate that most routers score tokens by, with its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NotRequired, TypedDict, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeviz.checks import check_choice, check_number, check_whole
from moeviz.routing.base import BaseRouter, check_finite, normal, uniform
from moeviz.routing.context import RouteContext
from moeviz.routing.out import RouterStats

INIT_STD = 0.02

Learning = Literal["learned", "frozen", "rerandomised"]
Start = Callable[[Tensor, torch.Generator | None], object]


@dataclass(frozen=True)
class Gate:
    """Options of every gate that scores tokens by a matrix; ValueError on impossible ones.

    temperature: divides the logits. noise: standard deviation of Gaussian noise on the logits, in
    training. jitter: inputs are multiplied by U(1 - jitter, 1 + jitter), in training (Switch).
    init_scale: of the initial weights, whose standard deviation is 0.02 times it. learning:
    "frozen" keeps the random start of all that the router could learn, "rerandomised" draws it anew
    after every step (Fan et al. 2024, "Towards an empirical understanding of MoE design choices").
    """

    temperature: float = 1.0
    noise: float = 0.0
    jitter: float = 0.0
    init_scale: float = 1.0
    learning: Learning = "learned"

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, open_low=True)
        check_number("init_scale", self.init_scale, open_low=True)
        check_number("noise", self.noise)
        check_number("jitter", self.jitter, high=0.999)
        check_choice("learning", self.learning, get_args(Learning))


class Basics(TypedDict):
    """What every router with a gate is built of; the gate by default is its `default_gate`."""

    d_model: int
    num_experts: int
    top_k: int
    gate: NotRequired[Gate]


class LinearRouter(BaseRouter):
    """A router whose scores start from logits_TE = x W^T / temperature. What it can learn is made
    by `add_parameter`, which sees to Gate.learning."""

    default_gate = Gate()
    matrices: ClassVar[int | None] = 1
    never_kills = ""
    weight_ED: nn.Parameter

    def __init__(
        self, *, d_model: int, num_experts: int, top_k: int, gate: Gate | None = None
    ) -> None:
        super().__init__(d_model, num_experts, top_k)
        self.gate = self.default_gate if gate is None else gate
        if not isinstance(self.gate, Gate):
            raise ValueError(f"gate must be a routing.Gate, got {gate!r}.")
        self._starts: dict[str, Start] = {}
        self.add_parameter("weight_ED", (num_experts, d_model))
        # Not part of a checkpoint: a trainer keeps its own list of whom it killed.
        self.register_buffer("killed_E", torch.zeros(num_experts, dtype=torch.bool), False)
        self._any_killed = False

    def add_parameter(self, name: str, shape: tuple[int, ...], start: Start | None = None) -> None:
        """A parameter that starts as `start` draws it (default: normal), and learns, stays or is
        drawn again as Gate.learning says."""
        values = nn.Parameter(torch.empty(shape), self.gate.learning == "learned")
        self._starts[name] = start or self._normal
        self._starts[name](values, None)
        self.register_parameter(name, values)

    def _normal(self, values: Tensor, generator: torch.Generator | None) -> None:
        nn.init.normal_(values, std=INIT_STD * self.gate.init_scale, generator=generator)

    def logits(self, x_TD: Tensor, context: RouteContext) -> Tensor:
        """logits_TE, with jitter and noise in training. Raises NonFiniteLogitsError."""
        gate = self.gate
        if gate.jitter and context.training:
            spread = uniform(x_TD.shape, x_TD, context) * 2 - 1
            x_TD = x_TD * (1 + gate.jitter * spread)
        logits_TE = F.linear(x_TD, self.weight_ED.to(x_TD.dtype))
        if gate.temperature != 1.0:
            logits_TE = logits_TE / gate.temperature
        if gate.noise and context.training:
            logits_TE = logits_TE + gate.noise * normal(logits_TE.shape, logits_TE, context)
        check_finite(logits_TE)
        return below_all(logits_TE, self.killed_E) if self._any_killed else logits_TE

    def flops(self, seq_len: int) -> float:
        return 2.0 * self.num_experts * self.d_model

    def gate_matrix(self) -> Tensor | None:
        return self.weight_ED

    @torch.no_grad()
    def take_gate(self, gate_ED: Tensor, x_TD: Tensor, context: RouteContext) -> None:
        self.weight_ED.copy_(gate_ED)

    def post_step(self, stats: RouterStats) -> None:
        if self.gate.learning == "rerandomised":
            # Seeded by the weights themselves, so that a resumed run draws the same.
            seed = int(self.weight_ED.detach().view(torch.int32).sum(dtype=torch.int64).item())
            generator = torch.Generator(self.weight_ED.device).manual_seed(seed & 0x7FFFFFFF)
            for name, start in self._starts.items():
                start(self.get_parameter(name), generator)

    def kill(self, expert: int) -> None:
        """Let an expert get no token from now on. ValueError where it does not exist, where fewer
        than K would be left, and where the rule cannot do without it (never_kills)."""
        if self.never_kills:
            super().kill(expert)
        check_whole("expert", expert, 0, self.num_experts - 1)
        alive = self.num_experts - int((self.killed_E.sum() + ~self.killed_E[expert]).item())
        if alive < self.top_k:
            raise ValueError(f"Each token needs {self.top_k} experts; {alive} would be left alive.")
        self.killed_E[expert] = True
        self._any_killed = True


def below_all(logits_TE: Tensor, killed_E: Tensor) -> Tensor:
    """The logits, those of killed experts so far below a token's others that their softmax and
    sigmoid are exactly 0 at every temperature, and still finite: infinities make NaN gradients."""
    least_T1 = logits_TE.detach().amin(1, keepdim=True).clamp(max=0)
    return torch.where(killed_E, 2 * least_T1 - 1e4, logits_TE)


def zeros(values: Tensor, generator: torch.Generator | None) -> None:
    """The start of a parameter that is not drawn."""
    nn.init.zeros_(values)
