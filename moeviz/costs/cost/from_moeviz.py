"""moeviz's own small models, read from what ModelConfig.to_dict() says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moeviz.checks import check_choice
from moeviz.costs.shape.feedforward import DenseFFN, MoE
from moeviz.costs.shape.layers import Layer
from moeviz.costs.shape.mixers import Attention

# Routers that send each token to top_k experts (on average, where experts choose) by so many
# matrices of d_model x num_experts.
ROUTER_MATRICES = {
    "token_choice": 1,
    "gshard": 1,
    "switch": 1,
    "st_moe": 1,
    "expert_prototyping": 1,
    "deepseek_v2": 1,
    "deepseek_v3": 1,
    "quantile_balanced": 1,
    "base": 1,
    "sinkhorn": 1,
    "sequence_level": 1,
    "noisy_topk": 2,
    "hash": 0,
}
SHARED_GATES = {"one": 0, "sigmoid": 1, "softmax": 2}
FIELDS = ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "moe", "dense_layers")


def read_moeviz(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of Architecture for a moeviz model."""
    if not isinstance(config, Mapping):
        raise ValueError(f"config must be what ModelConfig.to_dict() returns, got {config!r}.")
    if missing := [name for name in FIELDS if name not in config]:
        raise ValueError(f"{missing[0]} is missing from the moeviz config.")
    d_model, heads = config["d_model"], config["num_heads"]
    attention = Attention(heads, heads, d_model // heads)
    dense, moe = DenseFFN(config["d_ff"]), config["moe"]
    experts = None if moe is None else _experts(moe)
    layers = tuple(
        Layer(attention, dense if experts is None or i in config["dense_layers"] else experts)
        for i in range(config["num_layers"])
    )
    return dict(name="moeviz", d_model=d_model, vocab=config["vocab_size"], layers=layers)


def _experts(moe: Mapping[str, Any]) -> MoE:
    router = check_choice("router", moe["router"], ROUTER_MATRICES)
    shared = moe["num_shared"]
    return MoE(
        num_experts=moe["num_experts"],
        top_k=moe["top_k"],
        expert_width=moe["d_expert"],
        shared_experts=shared,
        shared_width=shared * moe["d_expert"],
        shared_gates=SHARED_GATES[check_choice("shared_gate", moe["shared_gate"], SHARED_GATES)]
        if shared
        else 0,
        router_matrices=ROUTER_MATRICES[router],
    )
