"""Dense decoders by model_type: what the modeling file of each in transformers builds."""

from __future__ import annotations

from typing import Any

from moeviz.costs.read_hf.fields import Fields
from moeviz.costs.read_hf.parts import (
    SAID,
    attentions,
    biased,
    decoder,
    dense,
    full_every,
    uniform,
    window_everywhere,
    windows_on_request,
)
from moeviz.costs.shape.feedforward import FFN

PATTERN = ("sliding_window_pattern", "_sliding_window_pattern")
KV_SAID = dict(needs_kv_heads=True)


def dense_biased(f: Fields) -> FFN:
    return dense(f, bias=f.flag("mlp_bias", default=False))


def seed_oss(f: Fields) -> dict[str, Any]:
    mixers = attentions(
        f,
        qkv_bias=f.flag("attention_bias", default=True),
        out_bias=f.flag("attention_out_bias", default=False),
        **SAID,
    )
    return decoder(f, mixers, dense_biased(f))


# Google's uploads of Gemma 3 leave these out and mean the class's own.
GEMMA3 = dict(vocab_size=262_208, num_attention_heads=8, num_key_value_heads=4, head_dim=256)


def gemma3(f: Fields) -> dict[str, Any]:
    given = {name: value for name, value in f.config.items() if value is not None}
    f.config = {**GEMMA3, **given}
    mixers = attentions(f, full_every(6, *PATTERN)(f), qk_norm="head", **biased(f))
    return decoder(f, mixers, dense(f), tied=True, norms=4)


def cohere(f: Fields) -> dict[str, Any]:
    """Attention and FFN side by side behind one norm."""
    norm = "width" if f.flag("use_qk_norm", default=False) else "none"
    mixers = attentions(f, qk_norm=norm, **biased(f))  # type: ignore[arg-type]
    return decoder(f, mixers, dense(f), tied=True, norms=1)


def starcoder2(f: Fields) -> dict[str, Any]:
    biases = biased(f, True, "use_bias")
    mixers = attentions(f, window_everywhere(f), needs_kv_heads=True, **biases)
    ffn = dense(f, gated=False, bias=biases["out_bias"])
    return decoder(f, mixers, ffn, tied=True, norm_vectors=2)


def gpt2(f: Fields) -> dict[str, Any]:
    """GPT-2's shape; positions are learned."""
    ffn = FFN(f.whole("n_inner", default=4 * f.d_model), False, True)
    rows = f.whole("n_positions")
    return decoder(
        f,
        attentions(f, qkv_bias=True, out_bias=True),
        ffn,
        tied=True,
        norm_vectors=2,
        positions=rows,
    )


def gpt_neox(f: Fields) -> dict[str, Any]:
    ffn = dense(f, gated=False, bias=True)
    return decoder(f, attentions(f, **biased(f, True)), ffn, norm_vectors=2)


LLAMA = uniform(dense_biased, biased)
DENSE = {
    "cohere": cohere,
    "cohere2": uniform(dense, biased, full_every(4, *PATTERN), tied=True, norms=1),
    "gemma": uniform(dense, biased, attention=SAID, tied=True),
    "gemma2": uniform(dense, biased, full_every(2), attention=SAID, tied=True, norms=4),
    "gemma3_text": gemma3,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "granite": LLAMA,
    "llama": LLAMA,
    "mistral": uniform(dense, windows=window_everywhere, attention=KV_SAID),
    "olmo": uniform(dense, biased, norm_vectors=0),
    "olmo2": uniform(dense, biased, attention=dict(qk_norm="width")),
    "olmo3": uniform(dense, biased, full_every(4), attention=dict(qk_norm="width")),
    "phi3": uniform(dense, windows=window_everywhere),
    "qwen2": uniform(dense, windows=windows_on_request, attention=dict(KV_SAID, qkv_bias=True)),
    "qwen3": uniform(dense, biased, windows_on_request, attention=dict(SAID, qk_norm="head")),
    "seed_oss": seed_oss,
    "smollm3": uniform(dense_biased, biased, windows_on_request, tied=True),
    "starcoder2": starcoder2,
}
