"""What the experts of a model do with calibration text: all that a choice of whom to keep reads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moeviz.checks import brief
from moeviz.model.experts import swiglu
from moeviz.model.transformer import LanguageModel
from moeviz.routing import Plan, RouterOut
from moeviz.routing.token_choice import TokenChoice

AT_ONCE = 32  # sequences


@dataclass(frozen=True)
class Seen:
    """One MoE layer on T tokens, in float32.

    x: [T, D], what the experts read; logits, score: [T, E], of the router; visits: bool [T, E],
    whether the token visits the expert; weight: [T, E], by which an expert's output is then added;
    output: [E, T, D], what every expert says to every token, chosen or not.
    """

    layer: int
    x: Tensor
    logits: Tensor
    score: Tensor
    visits: Tensor
    weight: Tensor
    output: Tensor


def check_experts(model: LanguageModel) -> None:
    """ValueError where experts cannot be taken out or put in the place of each other: of a dense
    model, and of a router that is more than K best scores."""
    if not model.config.moe_layers:
        raise ValueError("This model is dense: it has no experts to compress. Give one with some.")
    for router in model.routers().values():
        if type(router) is not TokenChoice or router.num_groups > 1:
            raise ValueError(
                f"The model's router is {brief(type(router).__name__)}; experts can be taken out "
                "or merged under router='token_choice' without groups and without a capacity, "
                "where each token takes the best of those that are left."
            )


@torch.no_grad()
def look(model: LanguageModel, ids_GS: Tensor) -> list[Seen]:
    """Every MoE layer while the model reads the text, ids int64 [G, S]. ValueError as
    check_experts."""
    check_experts(model)
    routers = model.routers()
    calls: dict[int, list[tuple[Tensor, RouterOut]]] = {layer: [] for layer in routers}

    def hook(layer: int):
        def after(_: nn.Module, args: tuple, out: RouterOut) -> None:
            calls[layer].append((args[0], out))

        return routers[layer].register_forward_hook(after)

    hooks = [hook(layer) for layer in routers]
    try:
        with model.evaluating():
            for ids_BS in ids_GS.split(AT_ONCE):
                model(ids_BS)
    finally:
        for one in hooks:
            one.remove()
    return [_seen(model, layer, calls[layer]) for layer in routers]


def _seen(model: LanguageModel, layer: int, calls: list[tuple[Tensor, RouterOut]]) -> Seen:
    weights, visits = [], []
    for _, out in calls:
        assert isinstance(out.plan, Plan)  # as check_experts insists
        weights.append(out.plan.dense_weights())
        ones_N = torch.ones_like(out.plan.weight)
        visits.append(dataclasses.replace(out.plan, weight=ones_N).dense_weights() > 0)
    x_TD = torch.cat([x_tD for x_tD, _ in calls])
    return Seen(
        layer=layer,
        x=x_TD,
        logits=torch.cat([out.logits for _, out in calls]),
        score=torch.cat([out.scores for _, out in calls]),
        visits=torch.cat(visits),
        weight=torch.cat(weights),
        output=outputs(model, layer, x_TD),
    )


def outputs(model: LanguageModel, layer: int, x_TD: Tensor) -> Tensor:
    """What every expert of a layer says to every token, [E, T, D], before it is weighted."""
    ffn = model.blocks[layer].ffn
    pairs = zip(ffn.w13_E2FD, ffn.w2_EDF, strict=True)
    output_ETD = torch.stack([swiglu(x_TD @ w13_2FD.T) @ w2_DF.T for w13_2FD, w2_DF in pairs])
    return output_ETD if ffn.factor_P is None else output_ETD * ffn.factor_P[0]


@torch.no_grad()
def mean_loss(model: LanguageModel, ids_GS: Tensor) -> float:
    """Nats per token of all tokens but the first of each sequence."""
    total = 0.0
    with model.evaluating():
        for ids_BS in ids_GS.split(AT_ONCE):
            total += float(model(ids_BS[:, :-1], targets_BS=ids_BS[:, 1:]).loss.double().sum())
    return total / ids_GS[:, 1:].numel()
