"""What a model does with a text, copied once as numpy: Trace (every layer) and Anatomy (one)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from moeviz.model.experts import apply_experts
from moeviz.model.layer import MoEFFN
from moeviz.model.transformer import LanguageModel, ModelConfig
from moeviz.records.routes import Anatomy, Trace
from moeviz.records.store import fitting, load_arrays
from moeviz.routing import Plan, RouteContext, SoftPlan
from moeviz.routing.token_choice import TokenChoice, Weighting
from moeviz.text.tokenizer import Tokenizer

MAX_TOKENS = 512


def load_model(path: str | Path, tokenizer: Tokenizer) -> LanguageModel:
    """The model that Trainer.export wrote, ready to read with; ValueError where the file is
    damaged or foreign, or the model was trained with another tokenizer."""
    arrays, header = load_arrays(path, kind="model")
    with fitting(path):
        trained_with = header["tokenizer"]
        config = ModelConfig.from_dict(header["model"])
    if trained_with != tokenizer.sha256:
        raise ValueError(
            f"{path} was trained with another tokenizer; train it again with this one, or restore "
            "both files from the repository."
        )
    model = LanguageModel(config)
    model.load_arrays(arrays, path)
    return model.eval()


@torch.no_grad()
def trace_text(
    model: LanguageModel, tokenizer: Tokenizer, text: str, *, meta: dict[str, Any] | None = None
) -> Trace:
    """The routing of a text. Raises ValueError on an empty text, a text of more than MAX_TOKENS
    tokens, and a model without MoE layers or with soft ones."""
    layers = moe_layers(model)
    tokens_S = encode(tokenizer, text)
    out = model.eval()(tokens_S[None].to(model.head.weight.device))
    routes = [out.routes[layer] for layer in layers]
    if any(isinstance(route.plan, SoftPlan) for route in routes):
        raise ValueError(
            "This model's router is a soft one and sends no token to an expert: its experts read "
            "mixtures of all tokens, so there is no route to trace."
        )
    chosen = [rows_by_token(route.plan, len(tokens_S)) for route in routes]
    return Trace(
        tokens=tuple(tokenizer.pieces(tokens_S.numpy())),
        expert=np.stack([expert for expert, _ in chosen], axis=1),
        weight=np.stack([weight for _, weight in chosen], axis=1),
        score=np.stack([route.scores.cpu().numpy() for route in routes], axis=1),
        layers=layers,
        meta=meta or {},
    )


@torch.no_grad()
def dissect(
    model: LanguageModel, tokenizer: Tokenizer, text: str, *, layer: int, weighting: str
) -> Anatomy:
    """Every matrix on a text's way through one MoE layer, with the gate weights renormalised or
    raw. ValueError as trace_text, where the layer has no experts, and for another weighting."""
    if weighting not in get_args(Weighting):
        raise ValueError(
            f"weighting must be one of {', '.join(get_args(Weighting))}, got {weighting!r}."
        )
    tokens_S, x_TD = layer_input(model, tokenizer, text, layer)
    ffn = model.blocks[layer].ffn
    router = copy.copy(ffn.router)  # shares its parameters
    if not isinstance(router, TokenChoice):
        raise ValueError(
            f"The layer's router is a {type(router).__name__}; the stages are those of TokenChoice."
        )
    router.weighting = weighting  # type: ignore[assignment]
    route = router(x_TD, RouteContext(token_ids=tokens_S.to(x_TD.device)))
    plan = route.plan
    expert_TK, weight_TK = rows_by_token(plan, len(tokens_S))
    y_TD = apply_experts(x_TD, plan, ffn.w13_E2FD, ffn.w2_EDF)
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
        row_output=_row_outputs(x_TD, plan, ffn).cpu().numpy(),
        y=y_TD.cpu().numpy(),
    )


def _row_outputs(x_TD: Tensor, plan: Plan, ffn: MoEFFN) -> Tensor:
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
        model.eval()(tokens_S[None].to(model.head.weight.device))
    finally:
        hook.remove()
    return tokens_S, seen[0]


def moe_layers(model: LanguageModel) -> tuple[int, ...]:
    """The blocks with experts; ValueError where there are none to look into."""
    if not model.config.moe_layers:
        raise ValueError("This model is dense: it has no router to look into.")
    return model.config.moe_layers


def encode(tokenizer: Tokenizer, text: str) -> Tensor:
    """Token ids int64 [S] of a learner's text; ValueError where it is empty or too long."""
    tokens_S = torch.from_numpy(tokenizer.encode(text).astype(np.int64))
    if not len(tokens_S):
        raise ValueError("The text is empty; type a few words.")
    if len(tokens_S) > MAX_TOKENS:
        raise ValueError(
            f"The text has {len(tokens_S)} tokens; at most {MAX_TOKENS} fit, so give a shorter one."
        )
    return tokens_S


def rows_by_token(plan: Plan, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """The plan as a table: expert int16 [T, K], -1 where a token has fewer than K, and weight."""
    bounds = plan.token_offsets.tolist()
    top_k = max((b - a for a, b in zip(bounds, bounds[1:], strict=False)), default=0)
    expert = np.full((num_tokens, top_k), -1, dtype=np.int16)
    weight = np.zeros((num_tokens, top_k), dtype=np.float32)
    for token in range(num_tokens):
        rows = plan.inverse[bounds[token] : bounds[token + 1]].long()
        rows = rows[plan.choice[rows].argsort(stable=True)]
        expert[token, : len(rows)] = plan.expert[rows].cpu().numpy()
        weight[token, : len(rows)] = plan.weight[rows].detach().cpu().numpy()
    return expert, weight
