"""Any router on the same tokens: a text's hidden states, or synthetic ones of known skew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from moeviz.model.transformer import LanguageModel
from moeviz.records.routes import Decision
from moeviz.routing import (
    BaseRouter,
    Capacity,
    Gate,
    Plan,
    RouteContext,
    RouterOut,
    SoftPlan,
    leaking_tokens,
    untrained_router,
)
from moeviz.routing.capacity import WithCapacity
from moeviz.routing.gate import Basics, LinearRouter
from moeviz.text.tokenizer import Tokenizer
from moeviz.watch.clusters import SHARPNESS, clusters
from moeviz.watch.text import layer_input

PROBE_CUTS = 6
Rule = Callable[[Tensor], Tensor]


@contextmanager
def one_thread() -> Iterator[None]:
    """Around work on tiny tensors: several threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Tokens:
    """Tokens to route: pieces, T readable names; x_TD; gate_ED, the matrix that scores them;
    context without a mode; group: int64 [T], the cluster that each synthetic token is of."""

    pieces: tuple[str, ...]
    x_TD: Tensor
    gate_ED: Tensor
    context: RouteContext
    group: np.ndarray | None = None

    def first(self, count: int) -> Tokens:
        """The first tokens alone. A model is causal: their hidden states know nothing of the rest,
        and are those of the shorter text."""
        return self.part(0, count)

    def part(self, start: int, end: int) -> Tokens:
        """Those from one place to another, as they are in the whole text."""
        place_T = torch.arange(len(self.pieces))
        context = self.context.select((start <= place_T) & (place_T < end))
        group = None if self.group is None else self.group[start:end]
        return Tokens(self.pieces[start:end], self.x_TD[start:end], self.gate_ED, context, group)


@one_thread()
@torch.no_grad()
def text_tokens(model: LanguageModel, tokenizer: Tokenizer, text: str, *, layer: int) -> Tokens:
    """What the router of a layer gets to see of a text, and its trained matrix. ValueError where
    the text is empty, and where the layer has no experts or its router no matrix."""
    ids_S, x_TD = layer_input(model, tokenizer, text, layer)
    router = model.routers()[layer]
    gate_ED = router.gate_matrix()
    if gate_ED is None:
        raise ValueError(f"The layer's router is a {type(router).__name__}: it has no gate matrix.")
    pieces = tuple(tokenizer.pieces(ids_S.numpy()))
    return Tokens(pieces, x_TD.cpu(), gate_ED.detach().cpu(), _context(ids_S))


def synthetic_tokens(
    num_tokens: int, num_experts: int, *, skew: float, spread: float = 0.5, seed: int = 0
) -> Tokens:
    """Tokens of `clusters`, with a gate whose rows are the clusters' centres."""
    group_T, x_TD = clusters(num_tokens, num_experts, skew=skew, spread=spread, seed=seed)
    pieces = tuple(f"c{g}" for g in group_T)
    gate_ED, ids_T = SHARPNESS * torch.eye(num_experts), torch.from_numpy(group_T)
    return Tokens(pieces, torch.from_numpy(x_TD), gate_ED, _context(ids_T), group_T)


def _context(ids_T: Tensor) -> RouteContext:
    position_T = torch.arange(len(ids_T))
    return RouteContext(ids_T, sequence=torch.zeros_like(position_T), position=position_T)


class OwnRouter(LinearRouter):
    """A router whose rule is one function, such as a learner writes: weight_TE = rule(scores_TE).

    1. scores_TE = softmax over experts of x W^T
    2. token t visits expert e where weight_te > 0, with that weight
    Declared causal, for a rule is meant to look at each token alone; leaking_tokens tells whether
    it does. ValueError where the rule fails, or gives anything but weights of 0 or more, [T, E].
    """

    def __init__(self, *, rule: Rule, **basics: Unpack[Basics]) -> None:
        super().__init__(**basics)
        self.weigh = rule

    def route(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        logits_TE = self.logits(x_TD, context)
        scores_TE = logits_TE.softmax(-1)
        try:
            weight_TE = self.weigh(scores_TE.clone())
        except Exception as error:  # whatever it raises is for its author to read
            raise ValueError(f"Your router raised {type(error).__name__}: {error}.") from error
        if not isinstance(weight_TE, Tensor) or weight_TE.shape != scores_TE.shape:
            given = getattr(weight_TE, "shape", type(weight_TE).__name__)
            given = list(given) if isinstance(given, torch.Size) else f"a {given}"
            raise ValueError(
                f"Your router must return a tensor of weights {list(scores_TE.shape)}, one for "
                f"each token and expert; it returned {given}."
            )
        if not (weight_TE.is_floating_point() and bool((weight_TE >= 0).all())):
            raise ValueError("Your router must return weights that are floats of 0 or more.")
        plan = Plan.from_dense(weight_TE, weight_TE > 0)
        return RouterOut.of(logits_TE, scores_TE, plan)


@one_thread()
def router_for(
    tokens: Tokens,
    name: str | Rule,
    *,
    top_k: int,
    capacity: Capacity | None = None,
    **options: Any,
) -> BaseRouter:
    """A router that scores these tokens by their own gate, whatever its rule makes of the scores:
    so routers differ by rule alone. name: of ROUTERS, or the rule of an OwnRouter, whose options
    are those of Gate. ValueError as build_router."""
    num_experts, d_model = tokens.gate_ED.shape
    sizes = dict(d_model=d_model, num_experts=num_experts, top_k=top_k)
    router: BaseRouter
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # of the CPU alone: a tenth of the time
        if isinstance(name, str):
            router = untrained_router(name, **sizes, capacity=capacity, **options)
        else:
            router = OwnRouter(**sizes, rule=name, gate=Gate(**options))
            router = router if capacity is None else WithCapacity(router, capacity)
    router.take_gate(tokens.gate_ED, tokens.x_TD, tokens.context)
    return router


@one_thread()
@torch.no_grad()
def decide(
    router: BaseRouter,
    tokens: Tokens,
    *,
    label: str,
    training: bool = True,
    seed: int = 0,
    cuts: int = PROBE_CUTS,
) -> Decision:
    """What a router decides for the tokens, and which of its decisions look into the future, as
    far as `cuts` of the text prove it (see leaking_tokens; 0: nothing is proven). meta: top_k;
    training; substitute, the router's own; learned, its number of trained parameters."""
    context = dataclasses.replace(
        tokens.context, training=training, generator=torch.Generator().manual_seed(seed)
    )
    out = router(tokens.x_TD, context)
    if isinstance(out.plan, Plan):
        weight_TE = out.plan.dense_weights()
        visits_TE = torch.zeros_like(weight_TE, dtype=torch.bool)
        visits_TE[out.plan.token.long(), out.plan.expert.long()] = True
        dropped_TE = torch.zeros_like(visits_TE)
        dropped_TE[out.plan.dropped[:, 0].long(), out.plan.dropped[:, 1].long()] = True
    else:
        weight_TE = out.plan.by_token(out.plan.combine.sum(-1))
        visits_TE, dropped_TE = weight_TE > 0, torch.zeros_like(weight_TE, dtype=torch.bool)
    leaks_T = torch.zeros(len(tokens.pieces), dtype=torch.bool)
    if cuts:
        leaks_T = leaking_tokens(router, tokens.x_TD, context, cuts=cuts, seed=seed)
    return Decision(
        label=label,
        tokens=tokens.pieces,
        score=out.scores.numpy(),
        weight=weight_TE.numpy(),
        visits=visits_TE.numpy(),
        dropped=dropped_TE.numpy(),
        leaks=leaks_T.numpy(),
        load=out.stats.load.numpy(),
        demand=out.stats.demand.numpy(),
        capacity=out.stats.capacity,
        causal=router.causal,
        soft=isinstance(out.plan, SoftPlan),
        meta={
            "top_k": router.top_k,
            "training": training,
            "substitute": router.substitute,
            "learned": sum(p.numel() for p in router.parameters() if p.requires_grad),
        },
    )


def library_weights(tokens: Tokens, name: str, *, top_k: int = 2, **options: Any) -> Tensor:
    """The weights [T, E] that the router of this name gives the tokens in training, by their own
    gate: what a rule that a notebook writes out is compared with. options: the router's."""
    router = router_for(tokens, name, top_k=top_k, **options)
    return torch.from_numpy(decide(router, tokens, label=name, cuts=0).weight)
