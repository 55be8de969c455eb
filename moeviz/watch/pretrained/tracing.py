"""The routing of a text through a real model, proven before anything is drawn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from moeviz.records.routes import Trace
from moeviz.watch.pretrained.capture import Captured, in_order, read, sites, watched
from moeviz.watch.pretrained.model import Pretrained
from moeviz.watch.pretrained.rule import Rule, rule_of
from moeviz.watch.text import MAX_TOKENS, stacked
from moeviz.words import percent

# How far a layer's output, computed again from the recorded experts and weights, may be from the
# model's own: rounding, in the type in which the model computes.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}


@torch.no_grad()
def trace(pretrained: Pretrained, text: str) -> Trace:
    """Where each MoE layer of the model sends the tokens of a text.

    Of a longer text the first MAX_TOKENS tokens are read. A token's choices stand in the order of
    their weights. meta: model; model_type; text_tokens, how many the text has; rules, one a layer,
    in words; by_score, see Rule; errors, one a layer, see Captured. ValueError for an empty text,
    and where the recorded routing does not give a layer's output.
    """
    text_S = pretrained.encode(text)
    ids_S = text_S[:MAX_TOKENS]
    captured = capture(pretrained, ids_S)
    ruled = [rule_of_layer(c) for c in captured]
    return Trace(
        tokens=pretrained.pieces(ids_S),
        expert=stacked([c.expert_TK.cpu().numpy() for c in captured], -1).astype(np.int16),
        weight=stacked([c.weight_TK.float().cpu().numpy() for c in captured], 0),
        score=stacked([score_TE.cpu().numpy() for _, score_TE in ruled], 0),
        layers=tuple(c.layer for c in captured),
        meta=pretrained.facts()
        | {"text_tokens": len(text_S)}
        | _facts(captured, [rule for rule, _ in ruled]),
    )


def describe(trace: Trace) -> str:
    """What was recorded, in sentences: sizes, the count of parameters, the weighting rule, and how
    exactly the record gives the model's own output."""
    meta, layers, read = trace.meta, len(trace.layers), len(trace.tokens)
    tokens = f"{read} tokens"
    if meta["text_tokens"] > read:
        tokens = f"the first {read} of {meta['text_tokens']:,} tokens"
    sentences = [
        f"{meta['model']} ({meta['model_type']}): {tokens}, {layers} MoE layers, "
        f"{trace.num_experts} experts, {trace.top_k} a token.",
        _counted(meta["num_parameters"], meta["counted"]),
    ]
    if meta["unused"]:
        sentences.append(
            f"The files hold {meta['unused']} tensors more, which the model that their config.json "
            "describes has no place for."
        )
    rules = dict.fromkeys(meta["rules"])
    sentences.append(f"Weights: {'; in other layers: '.join(rules)}.")
    by_score = min(meta["by_score"])
    if by_score < 1:
        sentences.append(
            f"In a layer only {percent(by_score)} of the tokens visit the experts of their highest "
            "scores: a bias, groups or the token itself decides too."
        )
    sentences.append(
        "Each layer's output was computed again from this record; of all tokens, the largest "
        f"relative error is {max(meta['errors']):.1g}."
    )
    return "\n".join(sentences)


def _counted(loaded: int, counted: int | None) -> str:
    if counted is None:
        return f"{loaded:,} parameters; the calculator does not know this model type."
    if counted == loaded:
        return f"{loaded:,} parameters, as many as the calculator counts from its configuration."
    return f"{loaded:,} parameters; the calculator counts {counted:,} from its configuration."


def capture(
    pretrained: Pretrained, ids_S: torch.Tensor, *, whole: int | None = None
) -> list[Captured]:
    """Each MoE layer's way with these tokens, in the order of its blocks, and a token's choices in
    that of their weights; what each expert said (part_KTD) of the layer `whole` alone. ValueError
    where a layer's output is not what the recorded routing gives."""
    layers = sites(pretrained.model)
    if not layers:
        raise ValueError(
            f"{pretrained.name} ({pretrained.model_type}) has no module of experts that moeviz "
            "knows; it is a dense model, or a family whose way is not known."
        )
    with watched(layers):
        pretrained.run(ids_S)
    # What each expert makes of each token is as large as all that a model computes of a text.
    captured = [
        in_order(found if found.layer == whole else dataclasses.replace(found, part_KTD=[]))
        for found in map(read, layers)
    ]
    captured.sort(key=lambda c: c.layer)
    for c in captured:
        if len(c.expert_TK) != len(ids_S):
            raise ValueError(
                f"Layer {c.layer} of {pretrained.name}: its experts were last called with "
                f"{len(c.expert_TK)} of the {len(ids_S)} tokens. Its routing is not understood, so "
                "none is shown."
            )
        if not bool(c.y_TD.isfinite().all()):
            raise ValueError(
                f"Layer {c.layer} of {pretrained.name} gives numbers that are not finite: its "
                "weights are damaged, or too large for their number type."
            )
        limit = TOLERANCE.get(c.y_TD.dtype, 1e-4)
        if not c.error <= limit:
            raise ValueError(
                f"Layer {c.layer} of {pretrained.name}: the recorded experts and weights give "
                f"another output than the model's (relative error {c.error:.2g}, at most "
                f"{limit:g} is rounding). Its routing is not understood, so none is shown."
            )
    return captured


def rule_of_layer(found: Captured) -> tuple[Rule, torch.Tensor]:
    """rule_of, with what the layer itself adds to it."""
    rule, score_TE = rule_of(found.logits_TE, found.expert_TK, found.weight_TK)
    return dataclasses.replace(rule, after=found.scale), score_TE


def _facts(captured: list[Captured], rules: list[Rule]) -> dict[str, Any]:
    return {
        "rules": [str(rule) for rule in rules],
        "by_score": [round(rule.by_score, 4) for rule in rules],
        "errors": [float(f"{c.error:.3g}") for c in captured],
    }
