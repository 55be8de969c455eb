"""One MoE layer of a real model: every matrix on a text's way, and what its router reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from moeviz.costs import Architecture
from moeviz.records.routes import Anatomy
from moeviz.routing import RouteContext
from moeviz.watch.pretrained.capture import flat, logits_of, sites, watched
from moeviz.watch.pretrained.model import Pretrained
from moeviz.watch.pretrained.tracing import capture, rule_of_layer
from moeviz.watch.routers import Tokens
from moeviz.watch.text import MAX_TOKENS

# How far x times the router's matrix may be from what it says, in relation to its size.
SAME = 2e-2


def layers_of(pretrained: Pretrained) -> tuple[int, ...]:
    """The numbers of the blocks with experts."""
    return tuple(sorted(site.layer for site in sites(pretrained.model)))


def top_k_of(pretrained: Pretrained) -> int | None:
    """How many experts a token visits, by the configuration; None where its type is not known, or
    layers differ."""
    config: Any = pretrained.model.config
    try:
        return Architecture.from_hf(config.to_dict()).moe.top_k
    except ValueError:
        return None


@torch.no_grad()
def dissect(pretrained: Pretrained, text: str, *, layer: int) -> Anatomy:
    """Every matrix on a text's way through one MoE layer, weighted by the model's own rule, which
    `weighting` says in words. meta: model; error, see Captured; score, see Rule. ValueError as
    `trace`, and where the router is not seen."""
    ids_S = pretrained.encode(text)[:MAX_TOKENS]
    captured = capture(pretrained, ids_S, whole=layer)
    by_layer = {c.layer: c for c in captured}
    if layer not in by_layer:
        raise ValueError(f"Layer {layer} has no experts; layers {[*by_layer]} have.")
    found = by_layer[layer]
    if found.logits_TE is None:
        raise ValueError(
            f"The router of layer {layer} of {pretrained.name} is no module of its own, so its "
            "scores are not seen; RouteText shows whom it chooses."
        )
    rule, score_TE = rule_of_layer(found)
    expert_TK = found.expert_TK.cpu().numpy()
    part_TKD = torch.stack(found.part_KTD, 1).float().cpu().numpy()
    token_N, choice_N = np.nonzero(expert_TK >= 0)
    order_N = np.argsort(expert_TK[token_N, choice_N], kind="stable")
    token_N, choice_N = token_N[order_N], choice_N[order_N]
    expert_N = expert_TK[token_N, choice_N]
    load_E = np.bincount(expert_N, minlength=score_TE.shape[1])
    factor_TK = found.factor_TK.float().cpu().numpy()
    return Anatomy(
        text=text,
        tokens=pretrained.pieces(ids_S),
        layer=layer,
        model_layers=tuple(by_layer),
        weighting=str(rule),
        x=found.x_TD.float().cpu().numpy(),
        logits=found.logits_TE.float().cpu().numpy(),
        score=score_TE.cpu().numpy(),
        expert=expert_TK.astype(np.int16),
        weight=found.weight_TK.float().cpu().numpy(),
        row_token=token_N.astype(np.int32),
        row_expert=expert_N.astype(np.int32),
        row_weight=factor_TK[token_N, choice_N],
        offsets=np.concatenate([[0], load_E.cumsum()]).astype(np.int32),
        row_output=part_TKD[token_N, choice_N],
        y=found.y_TD.reshape(len(ids_S), -1).float().cpu().numpy(),
        meta={"model": pretrained.name, "error": found.error, "score": rule.score},
    )


@torch.no_grad()
def router_tokens(pretrained: Pretrained, text: str, *, layer: int) -> tuple[Tokens, int]:
    """What the router of a layer gets to see of a text, with its matrix, and how many tokens the
    text has. ValueError for an empty text, and where the router's scores are not one matrix times
    the token: no other rule can be put on them."""
    ids_S = pretrained.encode(text)
    read_S, layers = ids_S[:MAX_TOKENS], sites(pretrained.model)
    site = next((site for site in layers if site.layer == layer), None)
    if site is None:
        raise ValueError(f"Layer {layer} has no experts; layers {layers_of(pretrained)} have.")
    with watched([site]):
        pretrained.run(read_S)
    logits_TE = logits_of(site)
    if site.router is not None and logits_TE is not None and site.seen:
        x_TD, logits_TE = flat(site.seen[0]).float(), logits_TE.float()
        for weight in site.router.parameters():
            if weight.shape != (logits_TE.shape[1], x_TD.shape[1]):
                continue
            gate_ED = weight.float()
            if (x_TD @ gate_ED.T - logits_TE).norm() > SAME * logits_TE.norm():
                continue
            place_T = torch.arange(len(read_S))
            context = RouteContext(read_S, sequence=torch.zeros_like(place_T), position=place_T)
            pieces = pretrained.pieces(read_S)
            return Tokens(pieces, x_TD.cpu(), gate_ED.detach().cpu(), context), len(ids_S)
    raise ValueError(
        f"The scores of layer {layer} of {pretrained.name} are not one matrix times the token, so "
        "no other rule can be put on them."
    )
