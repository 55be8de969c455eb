"""Dense decoders by model_type: what the modeling file of each in transformers builds."""

from __future__ import annotations

from typing import Any

from moeviz.costs.read_hf.fields import Fields
from moeviz.costs.read_hf.parts import (
    SAID,
    biased,
    decoder,
    dense,
    full_every,
    reader,
    softmax,
    window_everywhere,
    windows_on_request,
)
from moeviz.costs.shape.feedforward import FFN

PATTERN = ("sliding_window_pattern", "_sliding_window_pattern")
# Google's uploads of Gemma 3 leave these out and mean the class's own.
GEMMA3 = dict(vocab_size=262_208, num_attention_heads=8, num_key_value_heads=4, head_dim=256)


def dense_biased(f: Fields) -> FFN:
    return dense(f, bias=f.flag("mlp_bias", default=False))


def seed_oss_biases(f: Fields) -> dict[str, Any]:
    out = f.flag("attention_out_bias", default=False)
    return dict(qkv_bias=f.flag("attention_bias", default=True), out_bias=out)


def gemma3(f: Fields) -> dict[str, Any]:
    given = {name: value for name, value in f.config.items() if value is not None}
    f.config = {**GEMMA3, **given}
    mixers = softmax(biased, full_every(6, *PATTERN), qk_norm="head")
    return decoder(f, mixers(f), dense(f), tied=True, norms=4)


def cohere_norms(f: Fields) -> dict[str, Any]:
    """Attention and FFN lie side by side behind one norm."""
    norm = "width" if f.flag("use_qk_norm", default=False) else "none"
    return dict(qk_norm=norm, **biased(f))


def use_bias(f: Fields) -> dict[str, Any]:
    return biased(f, True, "use_bias")


def gpt2(f: Fields) -> dict[str, Any]:
    """GPT-2's shape; positions are learned."""
    ffn = FFN(f.whole("n_inner", default=4 * f.d_model), False, True)
    mixers, rows = softmax(qkv_bias=True, out_bias=True), f.whole("n_positions")
    return decoder(f, mixers(f), ffn, tied=True, norm_vectors=2, positions=rows)


LLAMA = reader(dense_biased, softmax(biased))
DENSE = {
    "cohere": reader(dense, softmax(cohere_norms), tied=True, norms=1),
    "cohere2": reader(dense, softmax(biased, full_every(4, *PATTERN)), tied=True, norms=1),
    "gemma": reader(dense, softmax(biased, **SAID), tied=True),
    "gemma2": reader(dense, softmax(biased, full_every(2), **SAID), tied=True, norms=4),
    "gemma3_text": gemma3,
    "gpt2": gpt2,
    "gpt_neox": reader(
        lambda f: dense(f, gated=False, bias=True),
        softmax(lambda f: biased(f, True)),
        norm_vectors=2,
    ),
    "granite": LLAMA,
    "llama": LLAMA,
    "mistral": reader(dense, softmax(windows=window_everywhere, needs_kv_heads=True)),
    "olmo": reader(dense, softmax(biased), norm_vectors=0),
    "olmo2": reader(dense, softmax(biased, qk_norm="width")),
    "olmo3": reader(dense, softmax(biased, full_every(4), qk_norm="width")),
    "phi3": reader(dense, softmax(windows=window_everywhere)),
    "qwen2": reader(dense, softmax(windows=windows_on_request, needs_kv_heads=True, qkv_bias=True)),
    "qwen3": reader(dense, softmax(biased, windows_on_request, qk_norm="head", **SAID)),
    "seed_oss": reader(dense_biased, softmax(seed_oss_biases, **SAID)),
    "smollm3": reader(dense_biased, softmax(biased, windows_on_request), tied=True),
    "starcoder2": reader(
        lambda f: dense(f, gated=False, bias=use_bias(f)["out_bias"]),
        softmax(use_bias, window_everywhere, needs_kv_heads=True),
        tied=True,
        norm_vectors=2,
    ),
}
