"""Dense decoders by model_type: what the modeling file of each in transformers builds."""

from __future__ import annotations

from typing import Any

from moeviz.costs.read_hf.fields import Fields
from moeviz.costs.read_hf.parts import (
    attentions,
    biased,
    decoder,
    dense,
    same,
    window_everywhere,
    windows_by_type,
    windows_on_request,
)
from moeviz.costs.shape.feedforward import FFN


def llama(f: Fields) -> dict[str, Any]:
    ffn = dense(f, bias=f.flag("mlp_bias", default=False))
    return decoder(f, list(attentions(f, **biased(f))), same(ffn, f))


def smollm3(f: Fields) -> dict[str, Any]:
    ffn = dense(f, bias=f.flag("mlp_bias", default=False))
    mixers = attentions(f, windows_on_request(f), **biased(f))
    return decoder(f, list(mixers), same(ffn, f), tied=True)


def mistral(f: Fields) -> dict[str, Any]:
    mixers = attentions(f, window_everywhere(f), needs_kv_heads=True)
    return decoder(f, list(mixers), same(dense(f), f))


def phi3(f: Fields) -> dict[str, Any]:
    return decoder(f, list(attentions(f, window_everywhere(f))), same(dense(f), f))


def qwen2(f: Fields) -> dict[str, Any]:
    mixers = attentions(f, windows_on_request(f), qkv_bias=True, needs_kv_heads=True)
    return decoder(f, list(mixers), same(dense(f), f))


def qwen3(f: Fields) -> dict[str, Any]:
    mixers = attentions(
        f,
        windows_on_request(f),
        qk_norm="head",
        needs_kv_heads=True,
        needs_head_dim=True,
        **biased(f),
    )
    return decoder(f, list(mixers), same(dense(f), f))


def seed_oss(f: Fields) -> dict[str, Any]:
    mixers = attentions(
        f,
        qkv_bias=f.flag("attention_bias", default=True),
        out_bias=f.flag("attention_out_bias", default=False),
        needs_kv_heads=True,
        needs_head_dim=True,
    )
    ffn = dense(f, bias=f.flag("mlp_bias", default=False))
    return decoder(f, list(mixers), same(ffn, f))


def olmo(f: Fields) -> dict[str, Any]:
    """Norms without parameters."""
    return decoder(f, list(attentions(f, **biased(f))), same(dense(f), f), norm_vectors=0)


def olmo2(f: Fields) -> dict[str, Any]:
    return decoder(f, list(attentions(f, qk_norm="width", **biased(f))), same(dense(f), f))


def olmo3(f: Fields) -> dict[str, Any]:
    windows = windows_by_type(f, lambda i: "sliding" if (i + 1) % 4 else "full")
    mixers = attentions(f, windows, qk_norm="width", **biased(f))
    return decoder(f, list(mixers), same(dense(f), f))


def gemma(f: Fields) -> dict[str, Any]:
    mixers = attentions(f, needs_kv_heads=True, needs_head_dim=True, **biased(f))
    return decoder(f, list(mixers), same(dense(f), f), tied=True)


def gemma2(f: Fields) -> dict[str, Any]:
    windows = windows_by_type(f, lambda i: "full" if i % 2 else "sliding")
    mixers = attentions(f, windows, needs_kv_heads=True, needs_head_dim=True, **biased(f))
    return decoder(f, list(mixers), same(dense(f), f), tied=True, norms=4)


# Google's uploads of Gemma 3 leave these out and mean the class's own.
GEMMA3 = dict(vocab_size=262_208, num_attention_heads=8, num_key_value_heads=4, head_dim=256)


def gemma3(f: Fields) -> dict[str, Any]:
    given = {name: value for name, value in f.config.items() if value is not None}
    f.config = {**GEMMA3, **given}
    pattern = f.whole("sliding_window_pattern", "_sliding_window_pattern", default=6)
    windows = windows_by_type(f, lambda i: "sliding" if (i + 1) % pattern else "full")
    mixers = attentions(f, windows, qk_norm="head", **biased(f))
    return decoder(f, list(mixers), same(dense(f), f), tied=True, norms=4)


def cohere(f: Fields) -> dict[str, Any]:
    """Attention and FFN side by side behind one norm."""
    norm = "width" if f.flag("use_qk_norm", default=False) else "none"
    mixers = attentions(f, qk_norm=norm, **biased(f))  # type: ignore[arg-type]
    return decoder(f, list(mixers), same(dense(f), f), tied=True, norms=1)


def cohere2(f: Fields) -> dict[str, Any]:
    pattern = f.whole("sliding_window_pattern", "_sliding_window_pattern", default=4)
    windows = windows_by_type(f, lambda i: "sliding" if (i + 1) % pattern else "full")
    mixers = attentions(f, windows, **biased(f))
    return decoder(f, list(mixers), same(dense(f), f), tied=True, norms=1)


def starcoder2(f: Fields) -> dict[str, Any]:
    bias = f.flag("use_bias", default=True)
    mixers = attentions(f, window_everywhere(f), qkv_bias=bias, out_bias=bias, needs_kv_heads=True)
    ffn = dense(f, gated=False, bias=bias)
    return decoder(f, list(mixers), same(ffn, f), tied=True, norm_vectors=2)


def gpt2(f: Fields) -> dict[str, Any]:
    """GPT-2's shape; positions are learned."""
    ffn = FFN(f.whole("n_inner", default=4 * f.d_model), False, True)
    mixers = attentions(f, qkv_bias=True, out_bias=True)
    rows = f.whole("n_positions")
    return decoder(f, list(mixers), same(ffn, f), tied=True, norm_vectors=2, positions=rows)


def gpt_neox(f: Fields) -> dict[str, Any]:
    ffn = dense(f, gated=False, bias=True)
    return decoder(f, list(attentions(f, **biased(f, True))), same(ffn, f), norm_vectors=2)


DENSE = {
    "cohere": cohere,
    "cohere2": cohere2,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "granite": llama,
    "llama": llama,
    "mistral": mistral,
    "olmo": olmo,
    "olmo2": olmo2,
    "olmo3": olmo3,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "seed_oss": seed_oss,
    "smollm3": smollm3,
    "starcoder2": starcoder2,
}
