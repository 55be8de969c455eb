"""Open models since 2025."""

from __future__ import annotations

from moeviz.costs.known.catalogue import Figure, entry
from moeviz.costs.known.models_2024 import MLA, V3

QWEN3_CARD = "Qwen3, 2505.09388, and model card"
OSS_CARD = "gpt-oss model card, 2508.10925"
LLAMA4_CARD = "meta-llama/llama-models, Llama 4 MODEL_CARD.md"
V4_NEWS = "release notes of April 2026, as copied"

V32 = {
    **V3, "model_type": "deepseek_v32", "index_n_heads": 64, "index_head_dim": 128,
    "index_topk": 2048,
}  # fmt: skip


def _v4(layers: int, width: int, heads: int, experts: int, ratios: list[int], **more) -> dict:
    return dict(
        model_type="deepseek_v4", vocab_size=129280, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=1, head_dim=512, n_routed_experts=experts,
        n_shared_experts=1, num_experts_per_tok=6, o_lora_rank=1024, sliding_window=128,
        index_n_heads=64, index_head_dim=128, hc_mult=4, compress_ratios=ratios,
        max_position_embeddings=1_048_576, **more,
    )  # fmt: skip


V4_FLASH = _v4(43, 4096, 64, 256, [0, 0] + [4, 128] * 20 + [4], moe_intermediate_size=2048,
               q_lora_rank=1024, o_groups=8, index_topk=512)  # fmt: skip
V4_PRO = _v4(61, 7168, 128, 384, [128, 128] + [4, 128] * 29 + [4], moe_intermediate_size=3072,
             q_lora_rank=1536, o_groups=16, index_topk=1024)  # fmt: skip
K2 = {
    **V3, "model_type": "kimi_k2", "vocab_size": 163840, "num_attention_heads": 64,
    "n_routed_experts": 384, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    "max_position_embeddings": 131072,
}  # fmt: skip


def _qwen(layers: int, width: int, heads: int, kv: int, experts: int, ffn: int, ctx: int) -> dict:
    return dict(
        model_type="qwen3_moe", vocab_size=151936, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, head_dim=128, num_experts=experts,
        num_experts_per_tok=8, moe_intermediate_size=ffn, max_position_embeddings=ctx,
    )  # fmt: skip


QWEN3_NEXT = dict(
    model_type="qwen3_next", vocab_size=151936, hidden_size=2048, num_hidden_layers=48,
    num_attention_heads=16, num_key_value_heads=2, head_dim=256, num_experts=512,
    num_experts_per_tok=10, moe_intermediate_size=512, shared_expert_intermediate_size=512,
    linear_num_key_heads=16, linear_num_value_heads=32, linear_key_head_dim=128,
    linear_value_head_dim=128, linear_conv_kernel_dim=4, full_attention_interval=4,
    max_position_embeddings=262144,
)  # fmt: skip
QWEN35 = {
    **QWEN3_NEXT, "model_type": "qwen3_5_moe_text", "vocab_size": 248320, "hidden_size": 4096,
    "num_hidden_layers": 60, "num_attention_heads": 32, "moe_intermediate_size": 1024,
    "shared_expert_intermediate_size": 1024, "linear_num_value_heads": 64,
}  # fmt: skip


def _gpt_oss(layers: int, experts: int) -> dict:
    return dict(
        model_type="gpt_oss", vocab_size=201088, hidden_size=2880, intermediate_size=2880,
        num_hidden_layers=layers, num_attention_heads=64, num_key_value_heads=8, head_dim=64,
        num_local_experts=experts, num_experts_per_tok=4, sliding_window=128,
        attention_bias=True, max_position_embeddings=131072,
    )  # fmt: skip


MAVERICK = dict(
    model_type="llama4",
    text_config=dict(
        model_type="llama4_text", vocab_size=202048, hidden_size=5120, intermediate_size=8192,
        intermediate_size_mlp=16384, num_hidden_layers=48, num_attention_heads=40,
        num_key_value_heads=8, head_dim=128, num_local_experts=128, num_experts_per_tok=1,
        interleave_moe_layer_step=2, attention_chunk_size=8192,
        max_position_embeddings=1_048_576,
    ),
)  # fmt: skip


def _glm45(
    layers: int, width: int, dense: int, first: int, experts: int, ffn: int, norm: bool
) -> dict:
    return dict(
        model_type="glm4_moe", vocab_size=151552, hidden_size=width, intermediate_size=dense,
        num_hidden_layers=layers, num_attention_heads=96, num_key_value_heads=8, head_dim=128,
        n_routed_experts=experts, num_experts_per_tok=8, moe_intermediate_size=ffn,
        n_shared_experts=1, first_k_dense_replace=first, attention_bias=True, use_qk_norm=norm,
        max_position_embeddings=131072,
    )  # fmt: skip


GLM52 = dict(
    model_type="glm_moe_dsa", vocab_size=154880, hidden_size=6144, intermediate_size=12288,
    num_hidden_layers=78, num_attention_heads=64, q_lora_rank=2048, n_routed_experts=256,
    num_experts_per_tok=8, moe_intermediate_size=2048, n_shared_experts=1,
    first_k_dense_replace=3, index_n_heads=32, index_head_dim=128, index_topk=2048,
    index_topk_freq=4, index_skip_topk_offset=3, max_position_embeddings=1_048_576,
    **{**MLA, "qk_nope_head_dim": 192, "v_head_dim": 256},
)  # fmt: skip
MINIMAX_M2 = dict(
    model_type="minimax_m2", vocab_size=200064, hidden_size=3072, intermediate_size=1536,
    num_hidden_layers=62, num_attention_heads=48, num_key_value_heads=8, head_dim=128,
    num_local_experts=256, num_experts_per_tok=8, use_qk_norm=True,
    max_position_embeddings=204800,
)  # fmt: skip
MINIMAX_01 = dict(
    model_type="minimax", vocab_size=200064, hidden_size=6144, intermediate_size=9216,
    num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, head_dim=128,
    num_local_experts=32, num_experts_per_tok=2, max_position_embeddings=1_000_000,
    layer_types=(["linear_attention"] * 7 + ["full_attention"]) * 10,
)  # fmt: skip
# One letter a layer: M Mamba-2, E experts, * attention.
_ULTRA = "MEMEMEM*EMEMEM*" + "EMEMEMEM*EMEMEMEM*EMEMEM*" * 3 + "EMEMEMEM*EMEMEMEME"
ULTRA = dict(
    model_type="nemotron_h", vocab_size=131072, hidden_size=8192, intermediate_size=5120,
    hybrid_override_pattern=_ULTRA, num_attention_heads=64, num_key_value_heads=2, head_dim=128,
    mamba_num_heads=256, mamba_head_dim=64, ssm_state_size=128, n_groups=8, conv_kernel=4,
    n_routed_experts=512, num_experts_per_tok=22, n_shared_experts=1,
    moe_intermediate_size=5120, moe_shared_expert_intermediate_size=10240,
    moe_latent_size=2048, max_position_embeddings=262144,
)  # fmt: skip


SINCE_2025 = (
    entry("DeepSeek-V3.2", 2025, "DeepSeek", V32, 671e9, 37e9, "model card",
          convention="ex_input_embedding", note="the indexer adds 0.85B to V3"),
    entry("DeepSeek-V4-Flash", 2026, "DeepSeek", V4_FLASH, 284e9, 13e9, V4_NEWS,
          convention="ex_input_embedding",
          tokens=Figure(32e12, V4_NEWS, "estimate", "32 to 33T"),
          reason="13.27B is printed as 13B"),
    entry("DeepSeek-V4-Pro", 2026, "DeepSeek", V4_PRO, 1.6e12, 49e9, V4_NEWS,
          convention="ex_input_embedding",
          tokens=Figure(32e12, V4_NEWS, "estimate", "32 to 33T"),
          reason="1.573T is printed as 1.6T"),
    entry("Kimi K2", 2025, "Moonshot AI", K2, 1.04e12, 32.6e9, "Kimi K2, 2507.20534",
          tokens=Figure(15.5e12, "Kimi K2, 2507.20534"),
          reason="the config's sizes give 1.026T; the report's table prints 1.04T, its abstract "
          "1T"),
    entry("Qwen3-30B-A3B", 2025, "Alibaba", _qwen(48, 2048, 32, 4, 128, 768, 40960), 30.5e9, 3.3e9,
          QWEN3_CARD, tokens=Figure(36e12, QWEN3_CARD)),
    entry("Qwen3-235B-A22B", 2025, "Alibaba", _qwen(94, 4096, 64, 4, 128, 1536, 40960), 235e9, 22e9,
          QWEN3_CARD, tokens=Figure(36e12, QWEN3_CARD)),
    entry("Qwen3-Coder-480B-A35B", 2025, "Alibaba", _qwen(62, 6144, 96, 8, 160, 2560, 262144),
          480e9, 35e9, "model card"),
    entry("Qwen3-Next-80B-A3B", 2025, "Alibaba", QWEN3_NEXT, 80e9, 3e9, "model card",
          convention="ex_embeddings",
          reason="A3B is a label: 3.25B without both tables, 3.88B with them"),
    entry("Qwen3.5-397B-A17B", 2026, "Alibaba", QWEN35, 397e9, 17e9, "checkpoint name",
          reason="17.35B is printed as 17B", note="the text tower of a multimodal model"),
    entry("gpt-oss-120b", 2025, "OpenAI", _gpt_oss(36, 128), 116.8e9, 5.13e9, OSS_CARD,
          convention="ex_input_embedding",
          device_hours=Figure(2.1e6, OSS_CARD), device="H100 SXM"),
    entry("gpt-oss-20b", 2025, "OpenAI", _gpt_oss(24, 32), 20.9e9, 3.61e9, OSS_CARD,
          convention="ex_input_embedding", device="H100 SXM"),
    entry("Llama 4 Maverick", 2025, "Meta", MAVERICK, 400e9, 17e9, LLAMA4_CARD,
          tokens=Figure(22e12, LLAMA4_CARD), device_hours=Figure(2.38e6, LLAMA4_CARD),
          device="H100 SXM", note="the text tower; 36 of 48 layers see 8,192 tokens at most"),
    entry("GLM-4.5", 2025, "Zhipu AI", _glm45(92, 5120, 12288, 3, 160, 1536, True), 355e9, 32e9,
          "GLM-4.5, 2508.06471", convention="ex_embeddings",
          tokens=Figure(23e12, "GLM-4.5, 2508.06471"),
          reason="355.2B without both tables and with the layer that predicts a further token, "
          "about 4.0B, which is not counted here"),
    entry("GLM-4.5-Air", 2025, "Zhipu AI", _glm45(46, 4096, 10944, 1, 128, 1408, False), 106e9,
          12e9, "GLM-4.5, 2508.06471", convention="ex_embeddings",
          tokens=Figure(23e12, "GLM-4.5, 2508.06471"),
          reason="105.6B without both tables, printed as 106B"),
    entry("GLM-5.2", 2026, "Zhipu AI", GLM52, 744e9, 40e9, "GLM-5 report, as copied",
          convention="ex_input_embedding",
          tokens=Figure(28.5e12, "GLM-5 report, as copied", "estimate")),
    entry("MiniMax-01", 2025, "MiniMax", MINIMAX_01, 456e9, 45.9e9, "MiniMax-01, 2501.08313",
          convention="ex_embeddings"),
    entry("MiniMax-M2", 2025, "MiniMax", MINIMAX_M2, 230e9, 10e9, "model card",
          convention="ex_embeddings", reason="228.7B is printed as 230B"),
    entry("Nemotron 3 Ultra", 2026, "NVIDIA", ULTRA, 550e9, 55e9, "checkpoint name",
          convention="ex_input_embedding",
          note="experts work at a latent width of 2,048 between two projections"),
)  # fmt: skip
