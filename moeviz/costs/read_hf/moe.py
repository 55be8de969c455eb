"""Sparse decoders by model_type: what the modeling file of each in transformers builds."""

from __future__ import annotations

from typing import Any

from moeviz.costs.read_hf.fields import Fields
from moeviz.costs.read_hf.parts import (
    SAID,
    after_first,
    attentions,
    biased,
    counts,
    decoder,
    deepseek_experts,
    dense,
    experts,
    full_every,
    gated_shared_experts,
    latent,
    qwen_layers,
    same,
    uniform,
    window_everywhere,
    windows_by_type,
    windows_on_request,
)
from moeviz.costs.shape.compressed import CompressedAttention
from moeviz.costs.shape.feedforward import FFN, MoE
from moeviz.costs.shape.mixers import Indexer

INDEXED = {"indexed_attention": "indexed"}
COMPRESSED = {
    "sliding_attention": "window",
    "compressed_sparse_attention": "sparse",
    "heavily_compressed_attention": "heavy",
}


def gpt_oss(f: Fields) -> dict[str, Any]:
    mixers = attentions(f, full_every(2)(f), sinks=True, **SAID, **biased(f, True))
    return decoder(f, mixers, experts(f, router_bias=True, expert_bias=True))


def phimoe(f: Fields) -> dict[str, Any]:
    moe = experts(f)
    mixers = attentions(f, window_everywhere(f), needs_kv_heads=True, **biased(f))
    head_bias = f.flag("lm_head_bias", default=False)
    return decoder(f, mixers, moe, norm_vectors=2, head_bias=head_bias)


def granitemoe(f: Fields) -> dict[str, Any]:
    """With shared experts (granitemoeshared) where shared_intermediate_size is above 0."""
    shared = f.whole("shared_intermediate_size", low=0, default=0)
    moe = MoE(
        *counts(f),
        f.whole("intermediate_size"),
        shared_experts=int(bool(shared)),
        shared_width=shared,
    )
    return decoder(f, attentions(f, **biased(f)), moe)


def dbrx(f: Fields) -> dict[str, Any]:
    """Sizes in nested objects; LayerNorms without bias."""
    attention, ffn = f.nested("attn_config"), f.nested("ffn_config")
    moe = MoE(*counts(ffn), ffn.whole("ffn_hidden_size"))
    kv_heads = attention.whole("kv_n_heads")
    f.config = {**f.config, "num_key_value_heads": kv_heads}
    for part in (attention, ffn):
        part.finish()
    return decoder(f, attentions(f), moe)


def qwen2_moe(f: Fields) -> dict[str, Any]:
    moe = gated_shared_experts(f)
    mixers = attentions(f, windows_on_request(f), qkv_bias=f.flag("qkv_bias", default=True))
    return decoder(f, mixers, qwen_layers(f, moe))


def qwen3_moe(f: Fields) -> dict[str, Any]:
    f.expect("use_qk_norm", True)
    f.expect("qkv_bias", False)
    f.expect("shared_expert_intermediate_size", 0)
    moe = MoE(*counts(f), f.whole("moe_intermediate_size"))
    mixers = attentions(f, windows_on_request(f), qk_norm="head", needs_kv_heads=True, **biased(f))
    return decoder(f, mixers, qwen_layers(f, moe))


def minimax_m2(f: Fields) -> dict[str, Any]:
    f.expect("use_qk_norm", True)
    f.expect("shared_intermediate_size", 0)
    moe = experts(f)
    mixers = attentions(f, qk_norm="width", **SAID)
    return decoder(f, mixers, moe)


def ernie4_5_moe(f: Fields) -> dict[str, Any]:
    """use_bias: of everything but the routed experts, the head included."""
    bias = f.flag("use_bias", default=False)
    width = f.whole("moe_intermediate_size")
    shared = f.whole("moe_num_shared_experts", low=0)
    moe = MoE(
        *counts(f),
        width,
        shared_experts=shared,
        shared_width=shared * width,
        score_bias=True,
        shared_bias=bias and shared > 0,
    )
    first, step = f.whole("moe_layer_start_index", low=0), f.whole("moe_layer_interval", default=1)
    last = f.whole("moe_layer_end_index", low=-1, default=-1)
    last = f.num_layers - 1 if last == -1 else last
    sparse = [first <= i <= last and (i + 1) % step == 0 for i in range(f.num_layers)]
    ffn = dense(f, bias=bias)
    mixers = attentions(f, qkv_bias=bias, out_bias=bias)
    ffns = [moe if flag else ffn for flag in sparse]
    return decoder(f, mixers, ffns, tied=True, head_bias=bias)


def glm4_moe(f: Fields) -> dict[str, Any]:
    moe = deepseek_experts(f)
    mixers = attentions(
        f,
        qkv_bias=f.flag("attention_bias", default=False),
        qk_norm="head" if f.flag("use_qk_norm", default=False) else "none",
        needs_kv_heads=True,
    )
    return decoder(f, mixers, after_first(f, moe))


def dots1(f: Fields) -> dict[str, Any]:
    moe = deepseek_experts(f)
    window = f.whole("sliding_window", default=None)
    first = f.whole("max_window_layers", low=0, default=f.num_layers)
    windows = windows_by_type(f, lambda i: "sliding" if window and i >= first else "full")
    mixers = attentions(f, windows, qk_norm="head", **biased(f))
    return decoder(f, mixers, after_first(f, moe))


def deepseek_v2(f: Fields) -> dict[str, Any]:
    """mlp_bias: of the dense and the shared FFN, not of the routed experts."""
    bias = f.flag("mlp_bias", default=False)
    moe = deepseek_experts(f, shared_bias=bias)
    return decoder(f, latent(f), after_first(f, moe, dense(f, bias=bias)))


def deepseek_v3(f: Fields) -> dict[str, Any]:
    """Also Kimi K2. The bias that balances the experts is a buffer, not a parameter."""
    moe = deepseek_experts(f)
    return decoder(f, latent(f), after_first(f, moe))


def deepseek_v32(f: Fields) -> dict[str, Any]:
    moe = deepseek_experts(f)
    f.words("layer_types", f.num_layers, INDEXED)
    mixers = latent(f, sparse=same(True, f))
    return decoder(f, mixers, after_first(f, moe))


def glm_moe_dsa(f: Fields) -> dict[str, Any]:
    """Layers of indexer type "shared" take over the choice of the last "full" one."""
    own = f.words("indexer_types", f.num_layers, {"full": "full", "shared": "shared"})
    every = f.whole("index_topk_freq", default=1)
    offset = f.whole("index_skip_topk_offset", low=0, default=2)
    if own is None:
        own = ["shared" if max(i - offset + 1, 0) % every else "full" for i in range(f.num_layers)]
    f.words("layer_types", f.num_layers, INDEXED)
    moe = deepseek_experts(f)
    mixers = latent(f, sparse=[word == "full" for word in own])
    return decoder(f, mixers, after_first(f, moe))


def deepseek_v4(f: Fields) -> dict[str, Any]:
    """A window of recent tokens in every layer; by layer_types, or by compress_ratios (0, 4 or 128
    tokens an entry, a further one being the MTP layer's), a compressed past besides."""
    moe = deepseek_experts(f)
    f.ignore("num_key_value_heads", "qk_rope_head_dim", "qk_nope_head_dim")
    f.words("mlp_layer_types", f.num_layers, {"moe": "moe", "hash_moe": "moe"})
    sizes = dict(
        heads=f.heads,
        head_dim=f.whole("head_dim"),
        q_rank=f.whole("q_lora_rank"),
        out_groups=f.whole("o_groups"),
        out_rank=f.whole("o_lora_rank"),
        window=f.whole("sliding_window"),
    )
    indexer = Indexer(f.whole("index_n_heads"), f.whole("index_head_dim"))
    top_k = f.whole("index_topk")
    kinds = {
        "window": CompressedAttention(**sizes),
        "sparse": CompressedAttention(**sizes, every=4, top_k=top_k, indexer=indexer),
        "heavy": CompressedAttention(**sizes, every=128),
    }
    f.expect("compress_rates", dict(zip(list(COMPRESSED)[1:], (4, 128), strict=True)))
    typed, ratios = f.words("layer_types", f.num_layers, COMPRESSED), _by_ratio(f)
    if typed and ratios and typed != ratios:
        raise ValueError(f"{f.where}: layer_types and compress_ratios contradict each other.")
    words = typed or ratios
    if words is None:
        raise ValueError(f"{f.where}: layer_types or compress_ratios is missing.")
    return decoder(f, [kinds[word] for word in words], moe, streams=f.whole("hc_mult"))


def _by_ratio(f: Fields) -> list[str] | None:
    names = {0: "window", 4: "sparse", 128: "heavy"}
    ratios = f.get("compress_ratios", default=None)
    if ratios is None:
        return None
    if not isinstance(ratios, list | tuple) or len(ratios) - f.num_layers not in (0, 1):
        raise ValueError(
            f"{f.where}: compress_ratios must have one entry for each of {f.num_layers} layers."
        )
    if unknown := set(ratios) - set(names):
        raise ValueError(f"{f.where}: compress_ratios must hold 0, 4 or 128, got {unknown.pop()}.")
    return [names[ratio] for ratio in ratios[: f.num_layers]]


def llama4(f: Fields) -> dict[str, Any]:
    """A shared expert of the routed ones' width; every fourth layer sees everything."""
    width = f.whole("intermediate_size")
    moe = MoE(*counts(f), width, shared_experts=1, shared_width=width)
    step = f.whole("interleave_moe_layer_step", default=1)
    named = f.get("moe_layers", default=None)
    if named is not None and any(i not in range(f.num_layers) for i in named):
        raise ValueError(f"{f.where}: moe_layers must lie in 0..{f.num_layers - 1}, got {named!r}.")
    chosen = set(range(step - 1, f.num_layers, step) if named is None else named)
    ffns: Any = moe
    if len(chosen) < f.num_layers:
        other = FFN(f.whole("intermediate_size_mlp"))
        ffns = [moe if i in chosen else other for i in range(f.num_layers)]
    f.ignore("intermediate_size_mlp", "use_qk_norm")  # its QK norm has no parameters
    every = f.whole("no_rope_layer_interval", default=4)
    windows = windows_by_type(f, lambda i: "chunked" if (i + 1) % every else "full")
    mixers = attentions(f, windows, **SAID, **biased(f))
    return decoder(f, mixers, ffns)


SPARSE = {
    "dbrx": dbrx,
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "deepseek_v32": deepseek_v32,
    "deepseek_v4": deepseek_v4,
    "dots1": dots1,
    "ernie4_5_moe": ernie4_5_moe,
    "glm4_moe": glm4_moe,
    "glm_moe_dsa": glm_moe_dsa,
    "gpt_oss": gpt_oss,
    "granitemoe": granitemoe,
    "granitemoeshared": granitemoe,
    "kimi_k2": deepseek_v3,
    "llama4_text": llama4,
    "minimax_m2": minimax_m2,
    "mixtral": uniform(experts, windows=window_everywhere, attention=dict(needs_kv_heads=True)),
    "olmoe": uniform(experts, biased, attention=dict(qk_norm="width")),
    "phimoe": phimoe,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
}
