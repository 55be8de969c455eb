"""Open models up to the end of 2024, and the dense ones that they are measured against."""

from __future__ import annotations

from moeviz.costs.known.catalogue import CONFIG, Figure, Model, entry
from moeviz.costs.shape.architecture import Architecture
from moeviz.costs.shape.feedforward import MoE
from moeviz.costs.shape.layers import Layer
from moeviz.costs.shape.mixers import Attention

LLAMA3_CARD = "meta-llama/llama-models, Llama 3.1 MODEL_CARD.md"
V2_REPORT = "DeepSeek-V2, 2405.04434"
MISTRAL_NEWS = "Mistral AI's announcement"
OLMOE_REPORT = "OLMoE, 2409.02060"
V3_REPORT = "DeepSeek-V3, 2412.19437"


def _llama(
    layers: int, width: int, heads: int, ffn: int, vocab: int = 128256, context: int = 131072
) -> dict:
    return dict(
        model_type="llama", vocab_size=vocab, hidden_size=width, intermediate_size=ffn,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=8,
        max_position_embeddings=context, tie_word_embeddings=False,
    )  # fmt: skip


def _mixtral(layers: int, width: int, heads: int, ffn: int, context: int) -> dict:
    return dict(
        model_type="mixtral", vocab_size=32000, hidden_size=width, intermediate_size=ffn,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=8,
        num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=context,
    )  # fmt: skip


# The sizes of latent attention that DeepSeek has kept since V2.
MLA = dict(kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
V2 = dict(
    model_type="deepseek_v2", vocab_size=102400, hidden_size=5120, intermediate_size=12288,
    num_hidden_layers=60, num_attention_heads=128, q_lora_rank=1536, n_routed_experts=160,
    num_experts_per_tok=6, moe_intermediate_size=1536, n_shared_experts=2,
    first_k_dense_replace=1, n_group=8, topk_group=3, max_position_embeddings=163840, **MLA,
)  # fmt: skip
V2_LITE = {
    **V2, "hidden_size": 2048, "intermediate_size": 10944, "num_hidden_layers": 27,
    "num_attention_heads": 16, "q_lora_rank": None, "n_routed_experts": 64,
    "moe_intermediate_size": 1408, "n_group": 1, "topk_group": 1,
}  # fmt: skip
V3 = dict(
    model_type="deepseek_v3", vocab_size=129280, hidden_size=7168, intermediate_size=18432,
    num_hidden_layers=61, num_attention_heads=128, q_lora_rank=1536, n_routed_experts=256,
    num_experts_per_tok=8, moe_intermediate_size=2048, n_shared_experts=1,
    first_k_dense_replace=3, n_group=8, topk_group=4, max_position_embeddings=163840,
    tie_word_embeddings=False, **MLA,
)  # fmt: skip
QWEN2_57B = dict(
    model_type="qwen2_moe", vocab_size=151936, hidden_size=3584, intermediate_size=18944,
    num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, num_experts=64,
    num_experts_per_tok=8, moe_intermediate_size=2560, shared_expert_intermediate_size=20480,
    max_position_embeddings=131072,
)  # fmt: skip
QWEN15 = dict(
    model_type="qwen2_moe", vocab_size=151936, hidden_size=2048, intermediate_size=5632,
    num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=16, num_experts=60,
    num_experts_per_tok=4, moe_intermediate_size=1408, shared_expert_intermediate_size=5632,
    max_position_embeddings=8192,
)  # fmt: skip
OLMOE = dict(
    model_type="olmoe", vocab_size=50304, hidden_size=2048, intermediate_size=1024,
    num_hidden_layers=16, num_attention_heads=16, num_key_value_heads=16, num_experts=64,
    num_experts_per_tok=8, max_position_embeddings=4096, tie_word_embeddings=False,
)  # fmt: skip
DBRX = dict(
    model_type="dbrx", vocab_size=100352, d_model=6144, n_layers=40, n_heads=48,
    max_seq_len=32768, attn_config=dict(kv_n_heads=8),
    ffn_config=dict(ffn_hidden_size=10752, moe_num_experts=16, moe_top_k=4),
)  # fmt: skip
PHI35 = dict(
    model_type="phimoe", vocab_size=32064, hidden_size=4096, intermediate_size=6400,
    num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, num_local_experts=16,
    num_experts_per_tok=2, attention_bias=True, lm_head_bias=True,
    max_position_embeddings=131072,
)  # fmt: skip
MISTRAL = dict(
    model_type="mistral", vocab_size=32000, hidden_size=4096, intermediate_size=14336,
    num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, sliding_window=4096,
    max_position_embeddings=32768,
)  # fmt: skip

# run.py of xai-org/grok-1; the FFN is 8 × width × 2/3 and gated; four norms a layer.
GROK = Architecture(
    "Grok-1",
    d_model=6144,
    vocab=131_072,
    layers=(Layer(Attention(48, 8, 128), MoE(8, 2, 32768), 4),) * 64,
    tied=True,
    context_tokens=8192,
)


UP_TO_2024 = (
    entry(
        "Llama 3.1 405B", 2024, "Meta", _llama(126, 16384, 128, 53248), 405e9, 405e9, LLAMA3_CARD,
        tokens=Figure(15.6e12, "The Llama 3 herd, 2407.21783", note="the card says about 15T"),
        device_hours=Figure(30.84e6, LLAMA3_CARD),
        device="H100 SXM",
        note="8,930 t of CO2 by the card",
    ),
    entry("Llama 3.1 70B", 2024, "Meta", _llama(80, 8192, 64, 28672), 70.6e9, 70.6e9, LLAMA3_CARD,
          device_hours=Figure(7.0e6, LLAMA3_CARD), device="H100 SXM"),
    entry("Llama 3.1 8B", 2024, "Meta", _llama(32, 4096, 32, 14336), 8.03e9, 8.03e9, LLAMA3_CARD,
          device_hours=Figure(1.46e6, LLAMA3_CARD), device="H100 SXM"),
    entry("Mistral 7B", 2023, "Mistral AI", MISTRAL, 7.24e9, 7.24e9,
          "Mistral 7B, 2310.06825, model card"),
    entry("DeepSeek 67B", 2023, "DeepSeek", _llama(95, 8192, 64, 22016, 102400, 4096), 67.4e9,
          67.4e9, "DeepSeek LLM, 2401.02954", tokens=Figure(2e12, "DeepSeek LLM, 2401.02954")),
    entry("Mixtral 8x7B", 2023, "Mistral AI", _mixtral(32, 4096, 32, 14336, 32768), 46.7e9, 12.9e9,
          MISTRAL_NEWS),
    entry("Mixtral 8x22B", 2024, "Mistral AI", _mixtral(56, 6144, 48, 16384, 65536), 141e9, 39e9,
          MISTRAL_NEWS),
    Model(
        "Grok-1", 2024, "xAI", "moe", GROK, "run.py and model.py of xai-org/grok-1",
        total_parameters=Figure(314e9, "README of xai-org/grok-1"),
        context_tokens=Figure(8192, "run.py of xai-org/grok-1"),
        reason="the code's own sizes give 315.7B; no count behind the README's 314B is given",
    ),
    entry("DBRX", 2024, "Databricks", DBRX, 132e9, 36e9, "databricks/dbrx README",
          tokens=Figure(12e12, "databricks/dbrx README")),
    entry("Phi-3.5-MoE", 2024, "Microsoft", PHI35, 41.9e9, 6.6e9, "model card",
          tokens=Figure(4.9e12, "model card")),
    entry("Qwen1.5-MoE-A2.7B", 2024, "Alibaba", QWEN15, 14.3e9, 2.7e9, "model card"),
    entry("Qwen2-57B-A14B", 2024, "Alibaba", QWEN2_57B, 57.4e9, 14.2e9, "Qwen2, 2407.10671",
          context_tokens=Figure(65536, "Qwen2, 2407.10671")),
    entry("OLMoE-1B-7B", 2024, "Ai2", OLMOE, 6.9e9, 1.3e9, OLMOE_REPORT, sizes=OLMOE_REPORT,
          tokens=Figure(5.13e12, OLMOE_REPORT), device="H100 SXM",
          context_tokens=Figure(4096, OLMOE_REPORT)),
    entry("DeepSeek-V2-Lite", 2024, "DeepSeek", V2_LITE, 15.7e9, 2.4e9, V2_REPORT,
          sizes=f"{V2_REPORT}, appendix B", convention="ex_input_embedding",
          tokens=Figure(5.7e12, V2_REPORT, "estimate", "not read again"), device="H800 SXM",
          context_tokens=Figure(32768, "model card"),
          reason="2.45B without the input table is printed as 2.4B"),
    entry("DeepSeek-V2", 2024, "DeepSeek", V2, 236e9, 21e9, V2_REPORT, sizes=V2_REPORT,
          convention="ex_input_embedding", tokens=Figure(8.1e12, V2_REPORT),
          device_hours=Figure(1.4e6, f"{V2_REPORT}: 172.8 thousand hours a trillion tokens"),
          device="H800 SXM", context_tokens=Figure(131072, V2_REPORT)),
    entry(
        "DeepSeek-V3 / R1", 2024, "DeepSeek", V3, 671e9, 37e9, V3_REPORT, sizes=V3_REPORT,
        convention="ex_input_embedding",
        active_parameters=Figure(37e9, V3_REPORT,
                                 note="README_WEIGHTS: 36.7B with both tables, not reproducible"),
        tokens=Figure(14.8e12, V3_REPORT),
        device_hours=Figure(2.788e6, V3_REPORT, note="2.664M of them for pre-training alone"),
        device="H800 SXM",
        usd=Figure(5.576e6, f"{V3_REPORT}: at an assumed $2 an hour, the final run alone"),
        context_tokens=Figure(163840, CONFIG, note="served with 128K"),
        note="the layer that predicts a second token has 11.6B more",
    ),
)  # fmt: skip
