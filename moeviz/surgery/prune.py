"""Experts taken out of a model with their rows of the router: a smaller model, no mask."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from moeviz.checks import check_whole
from moeviz.model.transformer import LanguageModel
from moeviz.routing import BaseRouter, RouteContext
from moeviz.surgery.calibration import Seen, check_experts


def keep_best(saliency_LE: np.ndarray, kept: int) -> np.ndarray:
    """Which experts are kept, bool [L, E]: in each layer the `kept` of the largest saliency, of
    equal ones the first."""
    saliency_LE = np.asarray(saliency_LE, np.float64)
    check_whole("kept", kept, high=saliency_LE.shape[1])
    order_LE = np.argsort(-saliency_LE, axis=1, kind="stable")
    keep_LE = np.zeros(saliency_LE.shape, bool)
    np.put_along_axis(keep_LE, order_LE[:, :kept], True, axis=1)
    return keep_LE


def pruned(model: LanguageModel, keep_LE: np.ndarray) -> LanguageModel:
    """The model with these experts alone, keep_LE bool [L, E] of its L MoE layers, and nothing
    trained: a token takes the K best of those that are left, and weights them as before. It
    computes what the model does with the others killed (router.kill).

    All layers of a model have one number of experts. Where layers keep different numbers, each has
    as many as the one that keeps most; the rest are zeros that get no token.

    Raises ValueError for a table of another shape, for a layer that keeps fewer than top_k, and
    as calibration.check_experts.
    """
    check_experts(model)
    moe = model.config.moe
    assert moe is not None
    keep_LE = _check_keep(keep_LE, len(model.config.moe_layers), moe.num_experts, moe.top_k)
    size = int(keep_LE.sum(1).max())
    state = model.state_dict()
    for keep_E, layer in zip(keep_LE, model.config.moe_layers, strict=True):
        # Its place among the kept, and -1, which stands for zeros, where it keeps fewer than size.
        rows = np.flatnonzero(keep_E).tolist()
        for name in list(state):
            if name.startswith(_per_expert(layer)):
                state[name] = _rows(state[name], rows, size)
    with torch.random.fork_rng(devices=[]):
        config = dataclasses.replace(model.config, moe=dataclasses.replace(moe, num_experts=size))
        smaller = LanguageModel(config)
    weight = model.head.weight
    smaller.to(weight.device, weight.dtype)
    smaller.load_state_dict(state)
    routers = zip(model.routers().values(), smaller.routers().values(), keep_LE, strict=True)
    for before, after, keep_E in routers:
        idle = [*np.flatnonzero(before.killed_E.cpu().numpy()[keep_E]), *range(keep_E.sum(), size)]
        for expert in idle:
            after.kill(int(expert))
    return smaller.eval()


def _per_expert(layer: int) -> tuple[str, ...]:
    """How the names of a layer's tensors begin that have a row for each expert."""
    ffn = f"blocks.{layer}.ffn"
    return f"{ffn}.w13_E2FD", f"{ffn}.w2_EDF", f"{ffn}.router."


def _rows(value: Tensor, rows: list[int], size: int) -> Tensor:
    cut = value.new_zeros(size, *value.shape[1:])
    cut[: len(rows)] = value[rows]
    return cut


def _check_keep(keep_LE: np.ndarray, layers: int, num_experts: int, top_k: int) -> np.ndarray:
    keep_LE = np.asarray(keep_LE)
    if keep_LE.shape != (layers, num_experts) or keep_LE.dtype != bool:
        raise ValueError(
            f"keep_LE must be bool [L, E] = [{layers}, {num_experts}], one value for each expert "
            f"of each MoE layer, got {keep_LE.dtype} {list(keep_LE.shape)}."
        )
    least = int(keep_LE.sum(1).min())
    if least < top_k:
        raise ValueError(
            f"Each token visits top_k = {top_k} experts, so every layer must keep {top_k} at "
            f"least; one would keep {least}."
        )
    return keep_LE


@torch.no_grad()
def best_subset(model: LanguageModel, seen: Sequence[Seen], kept: int) -> np.ndarray:
    """Which experts are kept, bool [L, E], when each layer tries all subsets of `kept` experts and
    takes the one whose output is nearest to that of all (NAEE, Lu et al. 2024, 2402.14800): least
    mean square difference on the tokens that `seen` holds, which come from the whole model.
    ValueError where a token visits more than `kept`."""
    keep = []
    for layer in seen:
        router = model.routers()[layer.layer]
        check_whole("kept", kept, low=router.top_k, high=router.num_experts)
        errors = {
            subset: subset_error(router, layer, subset)
            for subset in combinations(range(router.num_experts), kept)
        }
        keep.append(np.isin(np.arange(router.num_experts), min(errors, key=errors.__getitem__)))
    return np.array(keep)


@torch.no_grad()
def subset_error(router: BaseRouter, seen: Seen, subset: Sequence[int]) -> float:
    """How far a layer's output with these experts alone lies from that with all: the mean over
    tokens of the squared distance."""
    cut = copy.deepcopy(router)
    for expert in set(range(router.num_experts)) - set(subset):
        cut.kill(expert)
    weight_TE = cut(seen.x, RouteContext()).plan.dense_weights()
    gap_TD = torch.einsum("te,etd->td", weight_TE - seen.weight, seen.output)
    return float(gap_TD.square().sum(1).mean())
