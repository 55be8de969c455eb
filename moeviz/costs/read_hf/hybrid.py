"""Decoders that mix attention with recurrent layers, by model_type."""

from __future__ import annotations

import math
from typing import Any

from moeviz.costs.read_hf.fields import REQUIRED, Fields
from moeviz.costs.read_hf.parts import (
    FINE,
    SAID,
    attentions,
    biased,
    chosen,
    decoder,
    dense,
    experts,
    gated_shared_experts,
    qwen_layers,
)
from moeviz.costs.shape.feedforward import FFN, MoE
from moeviz.costs.shape.recurrent import gated_delta_net, lightning, mamba, mamba2

# What configs of several years call the two kinds of layer.
KIND = {
    "linear_attention": "linear",
    "mamba": "linear",
    "mamba2": "linear",
    "full_attention": "full",
    "attention": "full",
}


def qwen3_next(f: Fields) -> dict[str, Any]:
    """Also Qwen3.5: three Gated DeltaNet layers, then one of gated attention."""
    every = f.whole("full_attention_interval", default=4)
    f.expect("attn_output_gate", True)
    kinds = f.words("layer_types", KIND)
    if kinds is None:
        kinds = ["linear" if (i + 1) % every else "full" for i in range(f.num_layers)]
    linear = gated_delta_net(
        f.d_model,
        key_heads=f.whole("linear_num_key_heads"),
        value_heads=f.whole("linear_num_value_heads"),
        key_dim=f.whole("linear_key_head_dim"),
        value_dim=f.whole("linear_value_head_dim"),
        conv=f.whole("linear_conv_kernel_dim"),
    )
    moe = gated_shared_experts(f)
    f.expect("use_sliding_window", False)
    full = attentions(f, qk_norm="head", output_gate=True, **SAID, **biased(f))[0]
    return decoder(f, _mixed(kinds, full, linear), qwen_layers(f, moe))


def minimax(f: Fields) -> dict[str, Any]:
    """MiniMax-01: seven lightning layers, then one of softmax attention."""
    kinds = f.words("layer_types", KIND, default=REQUIRED)
    moe = experts(f)
    f.expect("sliding_window", None)
    full = attentions(f, needs_kv_heads=True)[0]
    linear = lightning(f.d_model, f.heads, full.head_dim)
    return decoder(f, _mixed(kinds, full, linear), moe)


def jamba(f: Fields) -> dict[str, Any]:
    """One attention layer in attn_layer_period, experts in every expert_layer_period-th."""
    linear = mamba(
        f.d_model,
        d_state=f.whole("mamba_d_state"),
        conv=f.whole("mamba_d_conv"),
        expand=f.whole("mamba_expand"),
        dt_rank=f.whole_or_auto("mamba_dt_rank", math.ceil(f.d_model / 16)),
        conv_bias=f.flag("mamba_conv_bias", default=True),
        proj_bias=f.flag("mamba_proj_bias", default=False),
    )
    moe, ffn = experts(f), dense(f)
    full = attentions(f, needs_kv_heads=True)[0]
    mixers = chosen(_turns(f, "attn"), full, linear)
    return decoder(f, mixers, chosen(_turns(f, "expert"), moe, ffn))


def _turns(f: Fields, name: str) -> list[bool]:
    """Which layers are one, by its period and offset."""
    period, offset = f.whole(f"{name}_layer_period"), f.whole(f"{name}_layer_offset", low=0)
    if offset >= period:
        raise ValueError(
            f"{f.where}: {name}_layer_offset must be below {name}_layer_period = {period}, got "
            f"{offset}."
        )
    return [i % period == offset for i in range(f.num_layers)]


def granitemoehybrid(f: Fields) -> dict[str, Any]:
    """Granite 4: Mamba-2 and attention; experts beside a shared FFN, or that FFN alone."""
    kinds = f.words("layer_types", KIND, default=REQUIRED)
    heads = f.whole("mamba_n_heads")
    expand = f.whole("mamba_expand")
    inner = expand * f.d_model
    width = f.whole_or_auto("mamba_d_head", inner // heads)
    if width * heads != inner:
        raise ValueError(
            f"{f.where}: mamba_n_heads {heads} × mamba_d_head {width} and mamba_expand {expand} × "
            f"hidden_size {f.d_model} contradict each other."
        )
    linear = mamba2(
        f.d_model,
        heads,
        width,
        f.whole("mamba_d_state"),
        f.whole("mamba_n_groups"),
        f.whole("mamba_d_conv"),
        conv_bias=f.flag("mamba_conv_bias", default=True),
        proj_bias=f.flag("mamba_proj_bias", default=False),
    )
    shared = f.whole("shared_intermediate_size")
    ffn: MoE | FFN = FFN(shared)
    if f.whole("num_local_experts", low=0):
        ffn = experts(f, shared_experts=1, shared_width=shared)
    f.ignore("num_experts_per_tok")
    full = attentions(f, **biased(f))[0]
    return decoder(f, _mixed(kinds, full, linear), ffn)


BLOCKS = {**KIND, "moe": "moe", "mlp": "mlp"}
LETTERS = {"M": "linear", "E": "moe", "*": "full", "-": "mlp"}


def nemotron_h(f: Fields) -> dict[str, Any]:
    """Nemotron-H and Nemotron 3: every layer is one thing only, a mixer or an FFN, un-gated."""
    pattern = f.get("hybrid_override_pattern", default=None)
    blocks = f.get("layers_block_type", "layer_types", default=None)
    if isinstance(blocks, list | tuple):
        name = f.named("layers_block_type", "layer_types")
        kinds = f.words(name, BLOCKS, lengths=(len(blocks),))
    elif blocks is None and isinstance(pattern, str) and set(pattern) <= set(LETTERS):
        kinds = [LETTERS[letter] for letter in pattern]
    else:
        raise ValueError(
            f"{f.where}: layers_block_type must be a list of words, or hybrid_override_pattern a "
            f"word of the letters {' '.join(LETTERS)}."
        )
    if f.get("num_hidden_layers", default=None) is None:
        f.config = {**f.config, "num_hidden_layers": len(kinds)}
    if f.num_layers != len(kinds):
        raise ValueError(
            f"{f.where}: num_hidden_layers {f.num_layers} and {len(kinds)} layers contradict each "
            "other."
        )
    bias = f.flag("mlp_bias", default=False)
    linear = mamba2(
        f.d_model,
        f.whole("mamba_num_heads"),
        f.whole("mamba_head_dim"),
        f.whole("ssm_state_size", "mamba_d_state"),
        f.whole("n_groups", "mamba_n_groups"),
        f.whole("conv_kernel", "mamba_d_conv"),
        conv_bias=f.flag("use_conv_bias", "mamba_conv_bias", default=True),
        proj_bias=f.flag("use_bias", default=False),
    )
    f.expect("sliding_window", None)
    # The modules read none of these: attention has no bias and the head is never the table.
    f.ignore("attention_bias", "mamba_proj_bias", "tie_word_embeddings")
    full = attentions(f, **SAID)[0]
    mixers, ffns = {"linear": linear, "full": full}, dict[str, FFN | MoE]()
    if "mlp" in kinds:
        ffns["mlp"] = dense(f, gated=False, bias=bias)
    if "moe" in kinds:
        ffns["moe"] = _nemotron_experts(f, bias)
    each = decoder(f, [*map(mixers.get, kinds)], [*map(ffns.get, kinds)], norms=1)
    return {**each, "tied": False}


def _nemotron_experts(f: Fields, bias: bool) -> MoE:
    """One shared FFN of the width that is said, whatever n_shared_experts says of it."""
    f.ignore("n_group", "topk_group", "n_shared_experts")
    return experts(
        f,
        FINE,
        gated=False,
        shared_experts=1,
        shared_width=f.whole("moe_shared_expert_intermediate_size"),
        shared_bias=bias,
        latent_width=f.whole("moe_latent_size", default=None),
    )


def _mixed(kinds: list[str], full: Any, linear: Any) -> list[Any]:
    return chosen((kind == "full" for kind in kinds), full, linear)


HYBRID = {
    "granitemoehybrid": granitemoehybrid,
    "jamba": jamba,
    "minimax": minimax,
    "nemotron_h": nemotron_h,
    "qwen3_5_moe_text": qwen3_next,
    "qwen3_next": qwen3_next,
}
