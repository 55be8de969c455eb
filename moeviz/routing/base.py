"""What all routers share: facts, checks, masks, noise, groups of tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeviz.checks import check_whole
from moeviz.ops import can_look
from moeviz.routing.context import PER_TOKEN, RouteContext
from moeviz.routing.out import RouterOut, RouterStats
from moeviz.routing.plan import Plan, SoftPlan

FILLS = "gives every expert its share of tokens whatever they score"  # for never_kills
IN_GROUPS = "chooses in groups, which need all of their experts"

Waits = Literal["never", "in training", "always"]


class NonFiniteLogitsError(ValueError):
    """Router logits that are NaN or infinite: the model has diverged, or its input had."""

    def __init__(self, value: float, token: int, expert: int) -> None:
        self.value, self.token, self.expert = value, token, expert
        super().__init__(
            f"Router logits must be finite numbers, got {value} for token {token}, expert "
            f"{expert}: look for NaN or overflow in the layer's input or in the router's weights."
        )


class KeepsFloat32(nn.Module):
    """A module whose buffers, and those of its parts, keep their precision under a cast: small
    steps added to a balancing state are lost in 16 bits."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        states = [
            (module, name, state)
            for module in self.modules()
            for name, state in module._buffers.items()
            if state is not None and state.is_floating_point() and not state.is_meta
        ]
        super()._apply(fn, recurse)
        for module, name, state in states:
            module._buffers[name] = state.to(module._buffers[name].device)
        return self


class BaseRouter(KeepsFloat32):
    """A router: `route` says where the tokens go; checks, masks and precision are seen to here.

    What the rest of the house must know of a router stands on its class:

    title, rule, family, paper: how it is called on a button, what it does in one line, its kind
        and its source. A class of your own may leave them out (see routing.title_of).
    causal: whether the decision for a token is independent of what later tokens are, of a given
        number of tokens, in training as elsewhere. substitute: the rule, in words, by which a
        router that is not causal decides outside training ("": none, so it cannot generate).
    waits, waits_for: when it makes a GPU wait for the host, and for what.
    default_gate: the Gate it has by default, None where Gate's options do not act on it.
    renormalises: whether the weights of a token sum to a constant, so that with one choice they are
        all the same.
    matrices: its parameters as a number of matrices [E, D], where every token visits K experts;
        None for other parameters or another number of visits, which no calculator counts.
    soft: whether it makes a SoftPlan. needs: fields of the RouteContext that it cannot do without.
    never_kills: why no expert can be taken away from it, if so.

    Raises ValueError on sizes, tokens and contexts that it cannot route.
    """

    title: ClassVar[str] = ""
    rule: ClassVar[str] = ""
    family: ClassVar[str] = "your own"
    paper: ClassVar[str] = ""
    causal: bool = True
    substitute: str = ""
    waits: ClassVar[Waits] = "never"
    waits_for: ClassVar[str] = ""
    default_gate: ClassVar[Any] = None
    renormalises: bool = False
    matrices: ClassVar[int | None] = None
    soft: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()
    never_kills: str = "has no gate to take an expert from"

    def __init__(self, d_model: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        check_whole("d_model", d_model)
        check_whole("num_experts", num_experts)
        check_whole("top_k", top_k)
        if top_k > num_experts:
            raise ValueError(f"top_k must be at most num_experts = {num_experts}, got {top_k}.")
        self.d_model, self.num_experts, self.top_k = d_model, num_experts, top_k

    def forward(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        self._check(x_TD, context)
        # In float32 whatever the rest runs in: rounding logits to bf16 destabilises the softmax
        # (Switch Transformers, table 2).
        x_TD = x_TD.to(torch.promote_types(x_TD.dtype, torch.float32))
        with torch.autocast(x_TD.device.type, enabled=False):
            if context.mask is None:
                return self.route(x_TD, context)
            real_T = context.mask
            try:
                out = self.route(x_TD[real_T], context.select(real_T))
            except NonFiniteLogitsError as error:
                token = int(real_T.nonzero()[error.token])
                raise NonFiniteLogitsError(error.value, token, error.expert) from None
            return _spread(out, real_T)

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        """The router's definition, on real tokens only."""
        raise NotImplementedError

    def post_step(self, stats: RouterStats) -> None:
        """Once after each optimiser step; nothing to do for a router without state."""

    def active_experts(self, seq_len: int) -> float:
        """Expert FFNs that run per token on average: what its FLOPs are counted by."""
        return float(self.top_k)

    def flops(self, seq_len: int) -> float:
        """Forward FLOPs per token of deciding, 2 per multiply-add: all but the experts' own."""
        return 0.0

    @classmethod
    def limit(cls, factor: float | None, *, top_k: int, share: float) -> dict[str, Any]:
        """The options under which an expert takes at most `factor` times its even share of the
        assignments, `share` rows; None: as the router limits itself, with even work for all.
        "capacity" stands for a Capacity of that factor."""
        return {} if factor is None else {"capacity": factor}

    def gate_matrix(self) -> Tensor | None:
        """The matrix [E, D] by which tokens are scored; None where there is none."""
        return None

    @torch.no_grad()
    def take_gate(self, gate_ED: Tensor, x_TD: Tensor, context: RouteContext) -> None:
        """Score by this matrix, as if trained to it on these tokens; without a gate, nothing."""

    def cannot_generate(self) -> str:
        """Why it cannot decide one token after another; "" where it can."""
        if self.causal or self.substitute:
            return ""
        return "it is not causal, its choice for a token depends on later ones"

    def kill(self, expert: int) -> None:
        """Let an expert get no token from now on; ValueError where the rule needs all of them."""
        raise ValueError(f"{type(self).__name__} {self.never_kills}: none can be taken away.")

    def _check(self, x_TD: Tensor, context: RouteContext) -> None:
        if x_TD.ndim != 2 or x_TD.shape[1] != self.d_model:
            raise ValueError(f"x_TD must be [T, {self.d_model}], got {tuple(x_TD.shape)}.")
        if len(x_TD) == 0:
            raise ValueError("There are no tokens to route: x_TD has 0 rows, at least 1 is needed.")
        for name in PER_TOKEN:
            values_T = getattr(context, name)
            if values_T is None and name in self.needs:
                raise ValueError(
                    f"{type(self).__name__} routes by {name}; give RouteContext({name}=...)."
                )
            if values_T is not None and values_T.shape != x_TD.shape[:1]:
                raise ValueError(
                    f"RouteContext.{name} must be [T] = [{len(x_TD)}], got {tuple(values_T.shape)}."
                )
        if context.mask is not None and not context.mask.any():
            raise ValueError("All tokens are padding: the mask has no real token to route.")


def _spread(out: RouterOut, real_T: Tensor) -> RouterOut:
    """The routing of real tokens, told of all: padding has no load, no score and no loss."""
    index_t = real_T.nonzero()[:, 0]

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(len(real_T), *values.shape[1:]).index_copy(0, index_t, values)

    plan: Plan | SoftPlan
    if isinstance(out.plan, SoftPlan):
        place_T = index_t.new_full((len(real_T),), -1)
        assert out.plan.place is not None
        plan = dataclasses.replace(out.plan, place=place_T.index_copy(0, index_t, out.plan.place))
    else:
        dropped = out.plan.dropped.clone()
        dropped[:, 0] = index_t[dropped[:, 0].long()].int()
        rows_T = spread(out.plan.token_offsets.diff())
        plan = dataclasses.replace(
            out.plan,
            token=index_t[out.plan.token.long()].int(),
            token_offsets=F.pad(rows_T.cumsum(0), (1, 0)).int(),
            dropped=dropped,
        )
    bypass = None if out.bypass is None else spread(out.bypass)
    return dataclasses.replace(
        out, logits=spread(out.logits), scores=spread(out.scores), plan=plan, bypass=bypass
    )


def overridden(router: nn.Module, owner: type, *steps: str) -> bool:
    """Whether a subclass of `owner`, or the router itself, put a method of its own in the place of
    one of these steps: then no fast path may stand for them."""
    return any(
        getattr(type(router), step) is not getattr(owner, step) or step in vars(router)
        for step in steps
    )


def check_finite(logits_TE: Tensor) -> None:
    """NonFiniteLogitsError on NaN or infinity. On a GPU looking would make it wait for the host,
    and break torch.compile's graph: there the trainer's check of the loss must do."""
    if not can_look(logits_TE):
        return
    if not torch.isfinite(logits_TE).all():
        token, expert = (~torch.isfinite(logits_TE)).nonzero()[0].tolist()
        raise NonFiniteLogitsError(logits_TE[token, expert].item(), token, expert)


def normal(shape: torch.Size, like: Tensor, context: RouteContext) -> Tensor:
    """Standard normal noise from the context's generator."""
    return torch.randn(shape, generator=context.generator, device=like.device, dtype=like.dtype)


def uniform(shape: torch.Size, like: Tensor, context: RouteContext) -> Tensor:
    """Uniform noise in [0, 1) from the context's generator."""
    return torch.rand(shape, generator=context.generator, device=like.device, dtype=like.dtype)


def groups_of(values_T: Tensor | None, num_tokens: int, device: torch.device) -> tuple[Tensor, int]:
    """Tokens numbered by what they share: group int64 [T] in 0..G-1, and G; one group for None."""
    if values_T is None:
        return torch.zeros(num_tokens, dtype=torch.int64, device=device), 1
    distinct, group_T = values_T.unique(return_inverse=True)
    return group_T, len(distinct)
