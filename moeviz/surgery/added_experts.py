"""Experts that are added to a model: after its own ones, each with a row of every router.

What they are added to is a copy; the model itself is never changed, so that to take them out again
is to go back to the model itself, bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from moeviz.model.transformer import LanguageModel
from moeviz.records.store import checksum
from moeviz.routing.token_choice import TokenChoice

Weights = tuple[
    Tensor, Tensor, Tensor
]  # of one layer: w13 [2F, D], w2 [D, F], the router's row [D]


def check_growable(model: LanguageModel) -> None:
    """ValueError where no expert can be added: to a dense model, and to a router that has no row
    for each expert, or compares experts in another way than by their scores."""
    moe = model.config.moe
    if moe is None or not model.config.moe_layers:
        raise ValueError("This model is dense: no router could choose a new expert.")
    for router in model.routers().values():
        if type(router) is not TokenChoice or router.bias is not None or router.num_groups > 1:
            raise ValueError(
                f"No row can be added to the router '{moe.router}' of this model; an expert of "
                "one's own needs router='token_choice' without groups, bias and capacity."
            )


def fingerprint(model: LanguageModel) -> str:
    """What tells one model from another: a checksum of its shape and of all its weights."""
    arrays = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    return checksum(arrays, model.config.to_dict())


def grown(model: LanguageModel, experts: Sequence[Sequence[Weights]]) -> LanguageModel:
    """A copy of the model with these experts after its own, each given by its weights in every MoE
    layer. Experts that were killed stay so; the mode is the model's."""
    moe = model.config.moe
    assert moe is not None
    more = dataclasses.replace(moe, num_experts=moe.num_experts + len(experts))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for place, layer in enumerate(model.config.moe_layers):
        new = [expert[place] for expert in experts]
        for name, whole in with_rows(model, layer, new).items():
            state[name] = whole.detach()
    with torch.random.fork_rng(devices=[]):
        copied = LanguageModel(dataclasses.replace(model.config, moe=more))
    for layer, router in model.routers().items():
        # A buffer that is None would refuse the value.
        copied.blocks[layer].ffn.factor_P = model.blocks[layer].ffn.factor_P
        for expert in router.killed_E.nonzero()[:, 0].tolist():
            copied.routers()[layer].kill(expert)
    copied.load_state_dict(state)
    return copied.train(model.training)


def with_rows(model: LanguageModel, layer: int, new: Sequence[Weights]) -> dict[str, Tensor]:
    """The tensors of a layer that have a row for each expert, by their names in the model, with
    those of the new experts last. A gradient reaches the new ones alone."""
    ffn = model.blocks[layer].ffn
    own = (ffn.w13_E2FD, ffn.w2_EDF, ffn.router.weight_ED)
    columns = [[expert[i][None] for expert in new] for i in range(3)]
    names = ("w13_E2FD", "w2_EDF", "router.weight_ED")
    return {
        f"blocks.{layer}.ffn.{name}": torch.cat([whole.detach(), *rows])
        for name, whole, rows in zip(names, own, columns, strict=True)
    }
