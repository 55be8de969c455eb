"""What a model does with a text, copied once as numpy: Trace (every layer) and Anatomy (one)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from moeviz.checks import check_choice
from moeviz.model.config import ModelConfig
from moeviz.model.experts import apply_experts
from moeviz.model.layer import MoEFFN
from moeviz.model.transformer import LanguageModel
from moeviz.records.routes import Anatomy, Trace
from moeviz.records.store import fitting, load_arrays
from moeviz.routing import Plan, RouteContext, RouterOut, SoftPlan
from moeviz.routing.token_choice import TokenChoice, Weighting
from moeviz.text.tokenizer import Tokenizer

MAX_TOKENS = 512


def load_model(path: str | Path, tokenizer: Tokenizer) -> LanguageModel:
    """The model that Trainer.export wrote, ready to read with, without the experts that its run had
    killed; ValueError where the file is damaged or foreign, or the model was trained with another
    tokenizer."""
    arrays, header = load_arrays(path, kind="model")
    with fitting(path):
        trained_with = header["tokenizer"]
        config = ModelConfig.from_dict(header["model"])
        killed = [(layer, expert) for layer, expert in header.get("killed", ())]
    if trained_with != tokenizer.sha256:
        raise ValueError(
            f"{path} was trained with another tokenizer; train it again with this one, or restore "
            "both files from the repository."
        )
    model = LanguageModel(config)
    model.load_arrays(arrays, path)
    with fitting(path):
        for layer, expert in killed:
            model.routers()[layer].kill(expert)
    return model.eval()


@torch.no_grad()
def trace_text(
    model: LanguageModel, tokenizer: Tokenizer, text: str, *, meta: dict[str, Any] | None = None
) -> Trace:
    """The routing of a text, in as many columns as its busiest token visits experts.

    Of a longer text the first MAX_TOKENS tokens are read. Raises ValueError on an empty text, and
    on a model without MoE layers or with soft ones.
    """
    layers = moe_layers(model)
    tokens_S = encode(tokenizer, text)
    with model.evaluating():
        out = model(tokens_S[None].to(model.head.weight.device))
    routes = [out.routes[layer] for layer in layers]
    rows = [rows_by_token(route.plan, len(tokens_S)) for route in routes]
    return Trace(
        tokens=tuple(tokenizer.pieces(tokens_S.numpy())),
        expert=stacked([expert_TK for expert_TK, _ in rows], -1),
        weight=stacked([weight_TK for _, weight_TK in rows], 0),
        score=stacked([route.scores.float().cpu().numpy() for route in routes], 0),
        layers=layers,
        meta=meta or {},
    )


def stacked(tables: list[np.ndarray], fill: float) -> np.ndarray:
    """[T, L, columns] of L tables, each as wide as the widest and as one column at least."""
    width = max(1, *(table.shape[1] for table in tables))
    padded = [
        np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=fill)
        for table in tables
    ]
    return np.stack(padded, axis=1)


@torch.no_grad()
def dissect(
    model: LanguageModel, tokenizer: Tokenizer, text: str, *, layer: int, weighting: str
) -> Anatomy:
    """Every matrix on a text's way through one MoE layer, with the gate weights renormalised or
    raw; a fixed output scale counts as a part of the experts. ValueError as trace_text, for another
    weighting, and where the layer has no experts, or shared ones."""
    check_choice("weighting", weighting, get_args(Weighting))
    tokens_S, x_TD = layer_input(model, tokenizer, text, layer)
    ffn = model.blocks[layer].ffn
    if not isinstance(ffn.router, TokenChoice):
        raise ValueError(
            f"The layer's router is a {type(ffn.router).__name__}; the stages are those of "
            "TokenChoice."
        )
    if ffn.shared is not None:
        raise ValueError(
            "The layer has shared experts too; the stages are those of chosen experts alone. "
            "Give a model without shared experts."
        )
    with model.evaluating():
        route = ffn.router(x_TD, RouteContext(token_ids=tokens_S.to(x_TD.device)))
    plan = _weighted(route, weighting, ffn.router.scale)
    expert_TK, weight_TK = rows_by_token(plan, len(tokens_S))
    factor = 1.0 if ffn.factor_P is None else ffn.factor_P[0]
    row_output_ND = row_outputs(x_TD, plan, ffn) * factor
    y_TD = apply_experts(x_TD, plan, ffn.w13_E2FD, ffn.w2_EDF) * factor
    return Anatomy(
        text=text,
        tokens=tuple(tokenizer.pieces(tokens_S.numpy())),
        layer=layer,
        model_layers=moe_layers(model),
        weighting=weighting,
        x=x_TD.cpu().numpy(),
        logits=route.logits.cpu().numpy(),
        score=route.scores.cpu().numpy(),
        expert=expert_TK,
        weight=weight_TK,
        row_token=plan.token.cpu().numpy(),
        row_expert=plan.expert.cpu().numpy(),
        row_weight=plan.weight.cpu().numpy(),
        offsets=plan.offsets.cpu().numpy(),
        row_output=row_output_ND.cpu().numpy(),
        y=y_TD.cpu().numpy(),
    )


def _weighted(route: RouterOut, weighting: str, scale: float) -> Plan:
    """The route's plan under either weighting: the choice does not depend on it."""
    assert isinstance(route.plan, Plan)
    token_N = route.plan.token.long()
    weight_N = route.scores[token_N, route.plan.expert.long()]
    if weighting == "renormalise":
        sum_T = weight_N.new_zeros(route.plan.num_tokens).index_add(0, token_N, weight_N)
        weight_N = weight_N / sum_T[token_N].clamp(min=1e-20)
    return dataclasses.replace(route.plan, weight=weight_N * scale)


def row_outputs(x_TD: Tensor, plan: Plan, ffn: MoEFFN) -> Tensor:
    """What each expert says of each of its rows before weighting, float32 [N, D]: every row is
    treated as a token of its own with one expert and weight 1."""
    x_ND = x_TD[plan.token.long()]
    alone = Plan.from_topk(
        plan.expert.long()[:, None], x_ND.new_ones(len(x_ND), 1), num_experts=plan.num_experts
    )
    return apply_experts(x_ND, alone, ffn.w13_E2FD, ffn.w2_EDF)


def layer_input(
    model: LanguageModel, tokenizer: Tokenizer, text: str, layer: int
) -> tuple[Tensor, Tensor]:
    """Token ids int64 [S] of a text, and what the FFN of a block gets to see of them, x_TD.
    ValueError as trace_text, and where the block has no experts."""
    if layer not in moe_layers(model):
        raise ValueError(f"Layer {layer} has no experts; layers {moe_layers(model)} have.")
    tokens_S = encode(tokenizer, text)
    seen: list[Tensor] = []
    hook = model.blocks[layer].ffn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        with model.evaluating():
            model(tokens_S[None].to(model.head.weight.device))
    finally:
        hook.remove()
    return tokens_S, seen[0]


def moe_layers(model: LanguageModel) -> tuple[int, ...]:
    """The blocks with experts; ValueError where there are none to look into."""
    if not model.config.moe_layers:
        raise ValueError("This model is dense: it has no router to look into.")
    return model.config.moe_layers


def encode(tokenizer: Tokenizer, text: str) -> Tensor:
    """Token ids int64 [S] of a learner's text, of the first MAX_TOKENS tokens; ValueError where it
    is empty."""
    tokens_S = torch.from_numpy(tokenizer.encode(text).astype(np.int64))
    if not len(tokens_S):
        raise ValueError("The text is empty; type a few words.")
    return tokens_S[:MAX_TOKENS]


def rows_by_token(plan: Plan | SoftPlan, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """The plan as a table: expert int16 [T, K], -1 where a token has fewer than K, and weight
    float32 [T, K]; a token's experts stand in the order of its choices. ValueError for a soft one.
    """
    if isinstance(plan, SoftPlan):
        raise ValueError(
            "This model's router is a soft one and sends no token to an expert: its experts read "
            "mixtures of all tokens, so there is no route to trace."
        )
    token_N, choice_N, expert_N = (
        values.cpu().numpy() for values in (plan.token, plan.choice, plan.expert)
    )
    order_N = np.lexsort((choice_N, token_N))  # by token, then by choice, then by row
    rows_T = np.bincount(token_N, minlength=num_tokens)
    token_N = token_N[order_N]
    column_N = np.arange(len(order_N)) - (rows_T.cumsum() - rows_T)[token_N]
    shape = num_tokens, int(rows_T.max(initial=0))
    expert_TK = np.full(shape, -1, dtype=np.int16)
    weight_TK = np.zeros(shape, dtype=np.float32)
    expert_TK[token_N, column_N] = expert_N[order_N]
    weight_TK[token_N, column_N] = plan.weight.detach().float().cpu().numpy()[order_N]
    return expert_TK, weight_TK
