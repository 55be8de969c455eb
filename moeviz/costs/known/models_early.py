"""Models of the years before Mixtral, and those of which only a rumour or an article speaks."""

from __future__ import annotations

from moeviz.costs.known.catalogue import Figure, Model, entry
from moeviz.costs.shape.architecture import Architecture
from moeviz.costs.shape.feedforward import FFN, MoE
from moeviz.costs.shape.layers import Layer
from moeviz.costs.shape.mixers import Attention

GPT3_CONFIG = dict(
    model_type="gpt2", n_embd=12288, n_layer=96, n_head=96, n_positions=2048, vocab_size=50257
)


def t5(
    name: str, d_model: int, heads: int, layers: int, ffns: tuple[FFN | MoE, ...], tied: bool
) -> Architecture:
    """An encoder and a decoder of `layers` layers each, whose FFNs take turns."""
    attention = Attention(heads, heads, 64)
    each = [ffns[i % len(ffns)] for i in range(layers)]
    return Architecture(
        name,
        d_model,
        vocab=32128,
        layers=tuple(Layer(attention, ffn, 3, attention) for ffn in each),
        tied=tied,
        encoder=tuple(Layer(attention, ffn) for ffn in each),
        relative_buckets=32,
        context_tokens=512,
    )


SWITCH_C = t5("Switch-C", 2080, 32, 15, (MoE(2048, 1, 6144, gated=False),), tied=True)
SWITCH_XXL = t5("Switch-XXL", 4096, 64, 24, (FFN(10240), MoE(128, 1, 10240)), tied=False)

_glam = Attention(128, 128, 128)
GLAM = Architecture(
    "GLaM 64B/64E",
    d_model=8192,
    vocab=256_000,
    layers=(Layer(_glam, FFN(32768)), Layer(_glam, MoE(64, 2, 32768, gated=False))) * 32,
    tied=True,
    context_tokens=1024,
)

GPT3_PAPER = "GPT-3 paper, 2005.14165"
SWITCH_PAPER = "Switch Transformers, 2101.03961, table 9"
GLAM_PAPER = "GLaM, 2112.06905"
LEAK = "SemiAnalysis, July 2023, as copied; OpenAI never confirmed it"
ARTICLE = '"The 1% FLOPs Revolution", an article that no paper can be found for'

EARLY = (
    entry(
        "GPT-3 175B", 2020, "OpenAI", GPT3_CONFIG, 175e9, 175e9, GPT3_PAPER, sizes=GPT3_PAPER,
        tokens=Figure(300e9, GPT3_PAPER),
        device="V100",
        usd=Figure(4.6e6, "Lambda Labs, 2020, at list price", "estimate",
                   "other estimates run from 1.9 to 12 million"),
        context_tokens=Figure(2048, GPT3_PAPER),
    ),
    Model(
        "Switch-C 1.6T", 2021, "Google", "moe", SWITCH_C,
        f"{SWITCH_PAPER}; the released switch_c.gin has 30 heads",
        total_parameters=Figure(1571e9, SWITCH_PAPER),
        tokens=Figure(576e9, "Epoch AI's notes", "estimate"),
        device="TPU v3",
        context_tokens=Figure(512, "T5's length", "estimate"),
        note="15 encoder and 15 decoder layers, every FFN sparse: 0.11 % active",
    ),
    Model(
        "Switch-XXL 395B", 2021, "Google", "moe", SWITCH_XXL, "released switch_xxl.gin",
        total_parameters=Figure(395e9, SWITCH_PAPER),
        context_tokens=Figure(512, "T5's length", "estimate"),
        note="the paper's table says 64 experts, which gives 201B; only 128 give 395B",
    ),
    Model(
        "GLaM 64B/64E", 2021, "Google", "moe", GLAM, GLAM_PAPER,
        total_parameters=Figure(1.2e12, GLAM_PAPER),
        active_parameters=Figure(96.6e9, GLAM_PAPER),
        tokens=Figure(600e9, GLAM_PAPER),
        device="TPU v4",
        context_tokens=Figure(1024, GLAM_PAPER),
        reason="1.162T is printed as 1.2T; the active count agrees to 0.004 %",
        note="213 MWh and 574 h on 1,024 chips for the first 280B tokens, 456 MWh for 600B",
    ),
    Model(
        "M6-T 1T", 2021, "Alibaba", "moe",
        total_parameters=Figure(1e12, "M6-T, 2105.15082: over 1T on 480 V100"),
        device="V100",
        note="24 layers, width 1024, 960 experts of 21,248, from memory: their experts alone have "
        "1.0026T; the attention sizes are not public",
    ),
    Model(
        "DS-MoE-6B", 2024, "MIT and IBM", "moe",
        total_parameters=Figure(6e9, "Dense Training, Sparse Inference, 2404.05567"),
        note="on par with a dense model of equal size at 30 to 40 % active, 1.86 times as fast as "
        "Mistral 7B",
    ),
    Model(
        "GPT-4 (rumour)", 2023, "OpenAI", "undisclosed",
        total_parameters=Figure(1.8e12, LEAK, "rumour", "16 experts of 111B, 55B shared"),
        active_parameters=Figure(280e9, LEAK, "rumour", "top-2"),
        tokens=Figure(13e12, LEAK, "rumour"),
        device="A100-80G SXM",
        usd=Figure(63e6, LEAK, "rumour"),
        context_tokens=Figure(8192, "OpenAI's API", "official"),
    ),
    Model(
        "Gemini 1.5 Pro", 2024, "Google", "moe",
        context_tokens=Figure(1e6, "Gemini 1.5 report, 2403.05530"),
        note="the report says sparse MoE and no size; 10 million tokens were tested in research",
    ),
    Model(
        "Qwen2.5-Max", 2025, "Alibaba", "moe",
        total_parameters=Figure(236e9, "survey article, no primary source", "unverifiable",
                                "236B is DeepSeek-V2's total"),
        active_parameters=Figure(57e9, "survey article, no primary source", "unverifiable",
                                 "57B, 64 experts and top-8 are Qwen2-57B-A14B's, 57B its total"),
        tokens=Figure(20e12, "Qwen's announcement: over 20T"),
        usd=Figure(12e6, "survey article, no primary source", "unverifiable"),
        note="another paper prints 325B and 22B",
    ),
    Model(
        "MoE-Transformer 1.6T (article)", 2026, "undisclosed", "moe",
        total_parameters=Figure(1.6e12, ARTICLE, "unverifiable"),
        active_parameters=Figure(16e9, ARTICLE, "unverifiable", "about 1 % of 1.6T"),
        note="its arXiv number is of May 2025, its date May 2026",
    ),
    Model(
        "Inferrix-72B (article)", 2026, "undisclosed", "dense",
        total_parameters=Figure(72e9, ARTICLE, "unverifiable"),
        usd=Figure(4.2e6, ARTICLE, "unverifiable"),
    ),
)  # fmt: skip
