"""Sparse decoders by model_type: what the modeling file of each in transformers builds."""

from __future__ import annotations

from typing import Any

from moeviz.costs.read_hf.fields import Fields
from moeviz.costs.read_hf.parts import (
    FINE,
    SAID,
    attentions,
    biased,
    chosen,
    decoder,
    deepseek_experts,
    deepseek_layers,
    dense,
    experts,
    full_every,
    gated_shared_experts,
    latent,
    qwen_layers,
    reader,
    same,
    softmax,
    window_everywhere,
    windows_by_type,
    windows_on_request,
)
from moeviz.costs.shape.compressed import CompressedAttention
from moeviz.costs.shape.feedforward import FFN, MoE
from moeviz.costs.shape.mixers import Indexer, LatentAttention

INDEXED = {"indexed_attention": "indexed"}
COMPRESSED = {
    "sliding_attention": "window",
    "compressed_sparse_attention": "sparse",
    "heavily_compressed_attention": "heavy",
}
SLIDES = "sliding"
RATIOS = {0: "window", 4: "sparse", 128: "heavy"}


def phimoe(f: Fields) -> dict[str, Any]:
    moe = experts(f)
    mixers = attentions(f, window_everywhere(f), needs_kv_heads=True, **biased(f))
    head_bias = f.flag("lm_head_bias", default=False)
    return decoder(f, mixers, moe, norm_vectors=2, head_bias=head_bias)


def granite_experts(f: Fields) -> MoE:
    """With shared experts (granitemoeshared) where shared_intermediate_size is above 0."""
    shared = f.whole("shared_intermediate_size", low=0, default=0)
    return experts(f, shared_experts=int(bool(shared)), shared_width=shared)


def dbrx(f: Fields) -> dict[str, Any]:
    """Sizes in nested objects; LayerNorms without bias."""
    attention, ffn = f.nested("attn_config"), f.nested("ffn_config")
    moe = experts(ffn, "ffn_hidden_size")
    kv_heads = attention.whole("kv_n_heads")
    f.config = {**f.config, "num_key_value_heads": kv_heads}
    for part in (attention, ffn):
        part.finish()
    return decoder(f, attentions(f), moe)


def ernie4_5_moe(f: Fields) -> dict[str, Any]:
    """use_bias: of everything but the routed experts, the head included."""
    bias = f.flag("use_bias", default=False)
    shared = f.whole("moe_num_shared_experts", low=0)
    moe = experts(
        f,
        FINE,
        shared_experts=shared,
        shared_width=shared * f.whole(FINE),
        score_bias=True,
        shared_bias=bias and shared > 0,
    )
    first, step = f.whole("moe_layer_start_index", low=0), f.whole("moe_layer_interval", default=1)
    last = f.whole("moe_layer_end_index", low=-1, default=-1)
    last = f.num_layers - 1 if last == -1 else last
    sparse = [first <= i <= last and (i + 1) % step == 0 for i in range(f.num_layers)]
    mixers = attentions(f, qkv_bias=bias, out_bias=bias)
    ffns = chosen(sparse, moe, dense(f, bias=bias))
    return decoder(f, mixers, ffns, tied=True, head_bias=bias)


def glm4_norms(f: Fields) -> dict[str, Any]:
    norm = "head" if f.flag("use_qk_norm", default=False) else "none"
    return dict(qkv_bias=f.flag("attention_bias", default=False), qk_norm=norm)


def dots1_windows(f: Fields) -> list[Any]:
    window = f.whole("sliding_window", default=None)
    first = f.whole("max_window_layers", low=0, default=f.num_layers)
    return windows_by_type(f, lambda i: "sliding" if window and i >= first else "full")


def indexed(f: Fields) -> list[LatentAttention]:
    f.words("layer_types", INDEXED)
    return latent(f, sparse=same(True, f))


def indexed_by_turns(f: Fields) -> list[LatentAttention]:
    """Layers of indexer type "shared" take over the choice of the last "full" one."""
    own = f.words("indexer_types", {"full": "full", "shared": "shared"})
    every = f.whole("index_topk_freq", default=1)
    offset = f.whole("index_skip_topk_offset", low=0, default=2)
    if own is None:
        own = ["shared" if max(i - offset + 1, 0) % every else "full" for i in range(f.num_layers)]
    f.words("layer_types", INDEXED)
    return latent(f, sparse=[word == "full" for word in own])


def deepseek_v4(f: Fields) -> dict[str, Any]:
    """A window of recent tokens in every layer; by layer_types, or by compress_ratios (0, 4 or 128
    tokens an entry, a further one being the MTP layer's), a compressed past besides."""
    moe = deepseek_experts(f)
    f.ignore("num_key_value_heads", "qk_rope_head_dim", "qk_nope_head_dim")
    f.words("mlp_layer_types", {"moe": "moe", "hash_moe": "moe"})
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
    typed = f.words("layer_types", COMPRESSED)
    ratios = f.words("compress_ratios", RATIOS, lengths=(f.num_layers, f.num_layers + 1))
    ratios = ratios and ratios[: f.num_layers]
    if typed and ratios and typed != ratios:
        raise ValueError(f"{f.where}: layer_types and compress_ratios contradict each other.")
    words = typed or ratios
    if words is None:
        raise ValueError(f"{f.where}: layer_types or compress_ratios is missing.")
    return decoder(f, [kinds[word] for word in words], moe, streams=f.whole("hc_mult"))


def llama4(f: Fields) -> dict[str, Any]:
    """A shared expert of the routed ones' width; every fourth layer sees everything."""
    moe = experts(f, shared_experts=1, shared_width=f.whole("intermediate_size"))
    step = f.whole("interleave_moe_layer_step", default=1)
    sparse = f.layers("moe_layers", default=range(step - 1, f.num_layers, step))
    other = FFN(f.whole("intermediate_size_mlp")) if len(sparse) < f.num_layers else moe
    ffns = chosen((i in sparse for i in range(f.num_layers)), moe, other)
    f.ignore("intermediate_size_mlp", "use_qk_norm")  # its QK norm has no parameters
    every = f.whole("no_rope_layer_interval", default=4)
    windows = windows_by_type(f, lambda i: "chunked" if (i + 1) % every else "full")
    mixers = attentions(f, windows, **SAID, **biased(f))
    return decoder(f, mixers, ffns)


def hunyuan_v1_moe(f: Fields) -> dict[str, Any]:
    """A shared FFN as wide as a routed expert. A config says some sizes layer by layer; they must
    be one for all."""
    for name in ("moe_topk", "moe_intermediate_size"):
        each = f.config.get(name)
        if isinstance(each, list) and each and all(size == each[0] for size in each):
            f.config = {**f.config, name: each[0]}
    width = f.whole("intermediate_size")
    f.expect("moe_intermediate_size", width)
    moe = experts(f, shared_experts=1, shared_width=width)
    return decoder(f, attentions(f, qk_norm="head", **biased(f)), moe)


def exaone_windows(f: Fields) -> list[Any]:
    """By layer_types, or by a pattern: each so many-th layer sees everything, or letters, of which
    G does."""
    pattern = f.get("sliding_window_pattern", default=4)
    if isinstance(pattern, str) and pattern:
        return windows_by_type(f, lambda i: "full" if pattern[i % len(pattern)] == "G" else SLIDES)
    every = f.whole("sliding_window_pattern", low=0, default=4)
    return windows_by_type(f, lambda i: SLIDES if every and (i + 1) % every else "full")


def mellum(f: Fields) -> dict[str, Any]:
    kinds = f.words("mlp_layer_types", {"dense": "dense", "sparse": "moe"})
    moe = experts(f, FINE)
    ffns = chosen((kind == "moe" for kind in kinds), moe, dense(f)) if kinds else moe
    windows = windows_by_type(f, lambda i: "full")
    return decoder(f, attentions(f, windows, qk_norm="head", **SAID, **biased(f)), ffns)


# Also Kimi K2. The bias that balances the experts is a buffer, not a parameter.
DEEPSEEK_V3 = reader(deepseek_layers, latent)
GRANITE = reader(granite_experts, softmax(biased))
OLMOE = reader(experts, softmax(biased, qk_norm="width"))
SPARSE = {
    "dbrx": dbrx,
    "deepseek_v2": reader(lambda f: deepseek_layers(f, f.flag("mlp_bias", default=False)), latent),
    "deepseek_v3": DEEPSEEK_V3,
    "deepseek_v32": reader(deepseek_layers, indexed),
    "deepseek_v4": deepseek_v4,
    "dots1": reader(deepseek_layers, softmax(biased, dots1_windows, qk_norm="head")),
    "ernie4_5_moe": ernie4_5_moe,
    "exaone_moe": reader(
        lambda f: deepseek_layers(f, shared_name="num_shared_experts"),
        softmax(windows=exaone_windows, qk_norm="head", needs_kv_heads=True),
    ),
    "flex_olmo": OLMOE,
    "glm4_moe": reader(deepseek_layers, softmax(glm4_norms, needs_kv_heads=True)),
    "glm4_moe_lite": DEEPSEEK_V3,
    "glm_moe_dsa": reader(deepseek_layers, indexed_by_turns),
    "gpt_oss": reader(
        lambda f: experts(f, router_bias=True, expert_bias=True),
        softmax(lambda f: biased(f, True), full_every(2), sinks=True, **SAID),
    ),
    "granitemoe": GRANITE,
    "granitemoeshared": GRANITE,
    "hunyuan_v1_moe": hunyuan_v1_moe,
    "kimi_k2": DEEPSEEK_V3,
    "llama4_text": llama4,
    "mellum": mellum,
    "minimax_m2": reader(
        experts,
        softmax(qk_norm="width", **SAID),
        expected=dict(use_qk_norm=True, shared_intermediate_size=0),
    ),
    "mixtral": reader(experts, softmax(windows=window_everywhere, needs_kv_heads=True)),
    "olmoe": OLMOE,
    "phimoe": phimoe,
    "qwen2_moe": reader(
        lambda f: qwen_layers(f, gated_shared_experts(f)),
        softmax(lambda f: dict(qkv_bias=f.flag("qkv_bias", default=True)), windows_on_request),
    ),
    "qwen3_moe": reader(
        lambda f: qwen_layers(f, experts(f, FINE)),
        softmax(biased, windows_on_request, qk_norm="head", needs_kv_heads=True),
        expected=dict(use_qk_norm=True, qkv_bias=False, shared_expert_intermediate_size=0),
    ),
    "qwen3_vl_moe_text": reader(
        lambda f: qwen_layers(f, experts(f, FINE)),
        softmax(biased, qk_norm="head", needs_kv_heads=True),
    ),
    "solar_open": reader(
        deepseek_experts,
        softmax(lambda f: dict(qkv_bias=f.flag("attention_bias", default=False)), **SAID),
    ),
}
