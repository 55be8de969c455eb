"""Trained experts cut into finer ones that add up to the same, and put together again.

A SwiGLU expert is a sum over its F hidden units f: y = sum_f w2[:, f] silu(w1[f] x) (w3[f] x).
So m pieces of F/m units each add up to the expert exactly, where all m are chosen together and with
one weight. Both are so when every piece gets the expert's row of the gate:

1. choice: the m pieces of an expert score alike, and the best m K pieces are those of the best K
2. weight: a softmax over m E scores gives a piece 1/m of what the expert had, and so does
   renormalising over m K; raw sigmoid scores stay as they were. Where the weight is divided by m,
   W2 is multiplied by it
3. a bias that steers the choice goes with the row, divided by m where softmax scores are
4. shared experts are one FFN already: only how it is counted changes

"Upcycling" in this way: He et al. 2024 (2410.07524), "virtual groups". Here nothing is drawn anew.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor

from moeviz.checks import check_whole
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.routing import BaseRouter
from moeviz.routing.base import overridden
from moeviz.routing.capacity import WithCapacity
from moeviz.routing.token_choice import TokenChoice

STEPS = ("route", "choose", "score", "adjust", "select", "weight")


def split_bank(w13_E2FD: Tensor, w2_EDF: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Every expert of a bank as m pieces of F/m hidden units, one after the other: [m E, 2 F/m, D]
    and [m E, D, F/m]. The outputs of an expert's pieces add up to its own. ValueError where m does
    not divide F."""
    check_whole("m", m)
    experts, d_model, width = w2_EDF.shape
    if width % m:
        raise ValueError(f"m must divide the width of an expert, {width}, got {m}.")
    # Gate and up projection are cut apart: piece p has rows p of each.
    w13_E2mfD = w13_E2FD.view(experts, 2, m, width // m, d_model)
    w13 = w13_E2mfD.transpose(1, 2).reshape(experts * m, 2 * (width // m), d_model)
    w2 = w2_EDF.view(experts, d_model, m, width // m).transpose(1, 2)
    return w13, w2.reshape(experts * m, d_model, width // m)


def merge_bank(w13_E2FD: Tensor, w2_EDF: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Every m experts that follow each other as one of m times the width: what split_bank undoes.
    ValueError where m does not divide E."""
    check_whole("m", m)
    pieces, d_model, width = w2_EDF.shape
    if pieces % m:
        raise ValueError(f"m must divide the number of experts, {pieces}, got {m}.")
    w13_Em2fD = w13_E2FD.view(pieces // m, m, 2, width, d_model)
    w13 = w13_Em2fD.transpose(1, 2).reshape(pieces // m, 2 * m * width, d_model)
    w2 = w2_EDF.view(pieces // m, m, d_model, width).transpose(1, 2)
    return w13, w2.reshape(pieces // m, d_model, m * width)


def split_experts(model: LanguageModel, m: int) -> LanguageModel:
    """A model whose every expert is m exact pieces of 1/m of its width, and whose tokens choose m
    times as many. Outside training it gives the same logits, to rounding; tokens whose K-th and
    next expert score the same to the last bit may choose otherwise.

    Shared experts are counted as m times as many of 1/m of the width. The model that was given
    stays as it is. In training the two differ: pieces of one expert have gradients of their own.

    ValueError for a model without experts, where m does not divide their width, and for routers
    whose pieces would not be chosen together: only token choice takes the K best of the scores
    themselves, and no sum of two of them.
    """
    moe = _experts_of(model)
    router = _splittable(model)
    check_whole("m", m)
    if moe.d_expert % m:
        raise ValueError(f"m must divide the width of an expert, {moe.d_expert}, got {m}.")
    config = dataclasses.replace(
        moe,
        num_experts=moe.num_experts * m,
        top_k=moe.top_k * m,
        d_expert=moe.d_expert // m,
        num_shared=moe.num_shared * m,
        options=_pinned(moe, router),
    )
    louder = m if _divides(router) else 1

    def change(name: str, state: dict[str, Tensor]) -> None:
        w13, w2 = split_bank(state[name + "w13_E2FD"], state[name + "w2_EDF"], m)
        state[name + "w13_E2FD"], state[name + "w2_EDF"] = w13, w2 * louder
        for key in _per_expert(name, state):
            state[key] = state[key].repeat_interleave(m, 0)
            if key.endswith("bias_E") and router.score_by == "softmax":
                state[key] = state[key] / m

    return _changed(model, config, change)


def merge_pieces(model: LanguageModel, m: int) -> LanguageModel:
    """A model whose every m experts that follow each other are one of m times the width: what
    split_experts undoes, bit by bit where m is a power of two.

    ValueError where m divides the experts, the choices or the shared experts with a rest, and where
    neighbours have other rows of the gate, so that they are no pieces of one expert (any more).
    """
    moe = _experts_of(model)
    router = _splittable(model)
    check_whole("m", m)
    for what, number in (
        ("experts", moe.num_experts),
        ("choices", moe.top_k),
        ("shared experts", moe.num_shared),
    ):
        if number % m:
            raise ValueError(f"m must divide the number of {what}, {number}, got {m}.")
    config = dataclasses.replace(
        moe,
        num_experts=moe.num_experts // m,
        top_k=moe.top_k // m,
        d_expert=moe.d_expert * m,
        num_shared=moe.num_shared // m,
        options=_pinned(moe, router),
    )
    louder = m if _divides(router) else 1

    def change(name: str, state: dict[str, Tensor]) -> None:
        w13, w2 = merge_bank(state[name + "w13_E2FD"], state[name + "w2_EDF"], m)
        state[name + "w13_E2FD"], state[name + "w2_EDF"] = w13, w2 / louder
        for key in _per_expert(name, state):
            piece_Em = state[key].unflatten(0, (-1, m))
            if not torch.equal(piece_Em, piece_Em[:, :1].expand_as(piece_Em)):
                raise ValueError(
                    f"The experts are no pieces of {m} each: neighbours have other values in "
                    f"{key!r}. Only what split_experts made, and nothing trained since, is merged."
                )
            state[key] = piece_Em[:, 0].clone()
            if key.endswith("bias_E") and router.score_by == "softmax":
                state[key] = state[key] * m

    return _changed(model, config, change)


def _experts_of(model: LanguageModel) -> MoEConfig:
    if model.config.moe is None or not model.config.moe_layers:
        raise ValueError("The model has no experts; give one whose config has moe.")
    return model.config.moe


def _splittable(model: LanguageModel) -> TokenChoice:
    """The router of one layer, without its capacity; ValueError where pieces would part."""
    router: BaseRouter = next(iter(model.routers().values()))
    if isinstance(router, WithCapacity):
        router = router.router
    name = model.config.moe.router if model.config.moe else ""
    if not isinstance(router, TokenChoice) or overridden(router, TokenChoice, *STEPS):
        raise ValueError(
            f"Router {name!r} does not send a token to the K best of its scores, so the pieces of "
            "an expert would not be chosen together; use one of token choice."
        )
    if router.num_groups > router.top_groups and router.group_score == "top2":
        raise ValueError(
            f"Router {name!r} scores a group by its two best experts, and two pieces of one would "
            "be taken for two; give num_groups=1."
        )
    return router


def _divides(router: TokenChoice) -> bool:
    """Whether the weight of a piece is 1/m of the expert's."""
    return router.score_by == "softmax" or router.weighting == "renormalise"


def _pinned(moe: MoEConfig, router: TokenChoice) -> dict[str, Any]:
    """The router's options, with the groups that it has: their default depends on E."""
    groups = {"num_groups": router.num_groups, "top_groups": router.top_groups}
    return moe.options | (groups if router.num_groups > 1 or moe.router.startswith("deep") else {})


def _per_expert(name: str, state: dict[str, Tensor]) -> list[str]:
    """What a layer's router keeps of each expert."""
    kept = (key for key in state if key.startswith(name + "router."))
    return [key for key in kept if key.endswith(("weight_ED", "bias_E"))]


def _changed(model: LanguageModel, moe: MoEConfig, change: Any) -> LanguageModel:
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for layer in model.config.moe_layers:
        change(f"blocks.{layer}.ffn.", state)
    config = dataclasses.replace(model.config, moe=moe)
    with torch.random.fork_rng(devices=[]):
        changed = LanguageModel(config)
    changed.load_state_dict(state)
    changed.to(next(model.parameters()))
    return copy.copy(changed).train(model.training)
