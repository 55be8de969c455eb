"""Our own models as the calculators see them."""

from __future__ import annotations

from moeviz.checks import check_choice
from moeviz.costs import Architecture
from moeviz.costs.shape.feedforward import FFN, MoE
from moeviz.costs.shape.layers import Layer
from moeviz.costs.shape.mixers import Attention
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.routing import ROUTERS

SHARED_GATES = {"one": 0, "sigmoid": 1, "softmax": 2}  # vectors of width D


def architecture_of(config: ModelConfig) -> Architecture:
    """The shape of a model of ours, for parameters, FLOPs and memory. ValueError for routers that
    do not send every token to K experts by matrices alone: those have no closed form."""
    heads = config.num_heads
    attention = Attention(heads, heads, config.d_model // heads)
    experts = None if config.moe is None else _experts(config.moe)
    ffns = [
        experts if experts is not None and config.is_moe(layer) else FFN(config.d_ff)
        for layer in range(config.num_layers)
    ]
    return Architecture(
        name="moeviz",
        d_model=config.d_model,
        vocab=config.vocab_size,
        layers=tuple(Layer(attention, ffn) for ffn in ffns),
    )


def _experts(moe: MoEConfig) -> MoE:
    countable = {n: r.matrices for n, r in ROUTERS.items() if r.matrices is not None}
    check_choice("router", moe.router, countable)
    return MoE(
        num_experts=moe.num_experts,
        top_k=moe.top_k,
        expert_width=moe.d_expert,
        shared_experts=moe.num_shared,
        shared_width=moe.num_shared * moe.d_expert,
        shared_gates=SHARED_GATES[moe.shared_gate] if moe.num_shared else 0,
        router_matrices=countable[moe.router],
    )
