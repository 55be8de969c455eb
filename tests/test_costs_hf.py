"""A released config.json is read, and what is not understood is refused by name."""

import pytest

from moeviz.costs import Architecture, parameters
from moeviz.costs.known.models import shape_of
from moeviz.costs.known.models_2024 import DBRX, OLMOE, V2, V3
from moeviz.costs.known.models_2025 import (
    GLM52,
    MAVERICK,
    MINIMAX_01,
    MINIMAX_M2,
    QWEN3_NEXT,
    QWEN35,
    ULTRA,
    V4_FLASH,
    _gpt_oss,
)  # fmt: skip
from moeviz.costs.read_hf.dense import GEMMA3
from moeviz.costs.read_hf.fields import STRUCTURAL

transformers = pytest.importorskip("transformers")

MIXERS = {"M": "mamba", "E": "moe", "*": "attention"}
# Configs as their makers released them, cut down to what is read and what might mislead.
RELEASED = {
    "Qwen3.5-397B-A17B": {
        "model_type": "qwen3_5_moe", "tie_word_embeddings": False, "vision_config": {"depth": 27},
        "text_config": {
            **QWEN35, "attention_bias": False, "attn_output_gate": True, "mlp_only_layers": [],
            "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 15,
            "mtp_num_hidden_layers": 1,
        },
    },
    "gpt-oss-120b": {
        **_gpt_oss(36, 128), "experts_per_token": 4, "initial_context_length": 4096,
        "layer_types": ["sliding_attention", "full_attention"] * 18, "swiglu_limit": 7.0,
        "quantization_config": {"quant_method": "mxfp4"}, "tie_word_embeddings": False,
    },
    "MiniMax-M2": {
        **MINIMAX_M2, "qk_norm_type": "per_layer", "use_routing_bias": True, "use_mtp": True,
        "num_mtp_modules": 3, "shared_intermediate_size": 0, "tie_word_embeddings": False,
    },
    "DeepSeek-V4-Flash": {
        **V4_FLASH, "first_k_dense_replace": None, "kv_lora_rank": None, "qk_nope_head_dim": 448,
        "qk_rope_head_dim": 64, "v_head_dim": None, "n_group": None, "num_hash_layers": 3,
        "compress_ratios": [0, 0] + [4, 128] * 20 + [4, 0],
    },
    "GLM-5.2": {
        **GLM52, "index_topk_freq": None, "head_dim": 192, "moe_layer_freq": 1,
        "indexer_types": ["full"] * 3 + (["shared"] * 3 + ["full"]) * 18 + ["shared"] * 3,
        "mlp_layer_types": ["dense"] * 3 + ["sparse"] * 75, "num_key_value_heads": 64,
        "qk_head_dim": 256,
    },
    "Nemotron 3 Ultra": {
        **ULTRA, "hybrid_override_pattern": None, "n_group": 1, "topk_group": 1, "expand": 2,
        "layers_block_type": [MIXERS[letter] for letter in ULTRA["hybrid_override_pattern"]],
    },
}  # fmt: skip
GPT_OSS, MINIMAX_M25 = RELEASED["gpt-oss-120b"], RELEASED["MiniMax-M2"]
GEMMA3_4B = {
    "model_type": "gemma3", "vision_config": {"hidden_size": 1152},
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0}, "sliding_window": 1024,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_config_is_read_as_our_shorter_one(name):
    assert Architecture.from_hf(RELEASED[name], name) == shape_of(name)


def windows(config):
    return [layer.mixer.window for layer in Architecture.from_hf(config).layers]


def test_layers_lie_where_the_config_puts_them():
    read = Architecture.from_hf
    assert read(V3).moe_layers == tuple(range(3, 61))
    assert read({**V3, "moe_layer_freq": [0, 0, 0] + [1] * 58}).moe_layers == read(V3).moe_layers
    assert read({**V3, "moe_layer_freq": 2}).moe_layers == tuple(range(4, 61, 2))
    assert read(MAVERICK).moe_layers == tuple(range(1, 48, 2))
    assert windows(GPT_OSS) == [128, None] * 18
    assert windows(MAVERICK) == [8192, 8192, 8192, None] * 12
    assert windows(GEMMA3_4B)[:7] == [1024] * 5 + [None, 1024]
    kinds = [layer.mixer.kind for layer in read(MINIMAX_01).layers[:8]]
    assert kinds == ["lightning attention"] * 7 + ["GQA"]
    kinds = [layer.mixer.kind for layer in read(QWEN3_NEXT).layers[:4]]
    assert kinds == ["Gated DeltaNet"] * 3 + ["GQA"]
    assert read(V2).moe.top_groups == 3


def test_windows_on_request_only():
    sizes = dict(num_hidden_layers=4, sliding_window=64, max_window_layers=2)
    qwen = default("qwen2") | sizes | dict(layer_types=None)
    assert windows(qwen) == [None] * 4
    assert windows({**qwen, "use_sliding_window": True}) == [None, None, 64, 64]


def test_the_name_and_the_context_are_kept():
    read = Architecture.from_hf(OLMOE, "mine")
    assert (read.name, read.context_tokens) == ("mine", 4096)
    assert Architecture.from_hf(OLMOE).name == "olmoe"
    assert Architecture.from_hf({**OLMOE, "_name_or_path": "allenai/OLMoE"}).name == "allenai/OLMoE"


def test_tables_are_tied_as_the_type_means_where_nothing_is_said():
    gemma = Architecture.from_hf(GEMMA3_4B)
    assert gemma.tied and {name: default("gemma3_text")[name] for name in GEMMA3} == GEMMA3
    assert not Architecture.from_hf(MAVERICK).tied
    assert not Architecture.from_hf({**GEMMA3_4B, "tie_word_embeddings": False}).tied


def default(model_type, **options):
    return transformers.AutoConfig.for_model(model_type, **options).to_dict()


MIXTRAL, QWEN3_MOE, JAMBA = default("mixtral"), default("qwen3_moe"), default("jamba")
HYBRID = default("granitemoehybrid", num_hidden_layers=2, layer_types=["mamba", "attention"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("mixtral", r"config must be a JSON object, got str\."),
        ([1], r"config must be a JSON object, got list\."),
        ({}, "model_type is missing"),
        ({**MIXTRAL, "model_type": "rwkv"}, r"'rwkv' is not known; known are \d+ types"),
        ({**MIXTRAL, "model_type": "mixtrl"}, "nearest in name mixtral"),
        ({**MIXTRAL, "hidden_size": None}, "hidden_size or n_embd or d_model is missing"),
        ({**MIXTRAL, "num_local_experts": None}, "num_local_experts or .* is missing"),
        ({**MIXTRAL, "num_key_value_heads": None}, "mixtral: num_key_value_heads is missing"),
        ({**MIXTRAL, "num_experts_per_tok": 9}, "num_experts_per_tok must be at .* = 8"),
        ({**MIXTRAL, "num_experts": 16}, "num_local_experts = 8 and num_experts = 16 contradict"),
        ({**MIXTRAL, "hidden_size": 4100}, "head_dim is missing, and hidden_size 4100 is no mult"),
        ({**MIXTRAL, "num_hidden_layers": 0}, "num_hidden_layers must be a whole number of at le"),
        ({**MIXTRAL, "tie_word_embeddings": "no"}, "tie_word_embeddings must be True or False"),
        ({**MIXTRAL, "n_shared_experts": 1}, "n_shared_experts = 1 is not understood for this"),
        ({**MIXTRAL, "attention_bias": True}, "attention_bias = True is not understood"),
        ({**MIXTRAL, "text_config": {**MIXTRAL, "model_type": "new_text"}}, "'new_text' is not"),
        ({**V3, "first_k_dense_replace": None}, "deepseek_v3: first_k_dense_replace is missing"),
        ({**V3, "kv_lora_rank": None}, "kv_lora_rank is missing"),
        ({**V3, "topk_group": 9}, "top_groups must be at most groups = 8, got 9"),
        ({**V3, "moe_layer_freq": [1, 0]}, "moe_layer_freq must have one entry for each of 61"),
        ({**V3, "moe_layer_freq": [1] * 61}, "moe_layer_freq and first_k_dense_replace contra"),
        ({**V3, "mlp_layer_types": ["sparse"] * 61}, "mlp_layer_types and first_k_dense_rep"),
        ({**V3, "model_type": "deepseek_v32"}, "index_topk is missing"),
        ({**V4_FLASH, "compress_ratios": [0, 4]}, "compress_ratios must have one entry for each"),
        ({**V4_FLASH, "compress_ratios": [0, 8] * 22}, "compress_ratios must hold 0, 4, 128, got"),
        ({**V4_FLASH, "compress_ratios": None}, "layer_types or compress_ratios is missing"),
        ({**V4_FLASH, "layer_types": ["sliding_attention"] * 43}, "contradict each other"),
        ({**GPT_OSS, "layer_types": ["sliding_attention"]}, "layer_types must have one entry for"),
        ({**GPT_OSS, "layer_types": ["linear"] * 36}, "layer_types must hold full_attention, slid"),
        ({**GPT_OSS, "sliding_window": None}, "sliding_window is missing"),
        ({**GPT_OSS, "head_dim": None}, "gpt_oss: head_dim is missing"),
        ({**MINIMAX_M25, "use_qk_norm": False}, "use_qk_norm must be True here, got False"),
        ({**MINIMAX_01, "layer_types": None}, "minimax: layer_types is missing"),
        ({**DBRX, "ffn_config": 3}, "dbrx: ffn_config must be an object, got 3"),
        ({**DBRX, "attn_config": {}}, "dbrx, attn_config: kv_n_heads is missing"),
        ({**HYBRID, "layer_types": None}, "granitemoehybrid: layer_types is missing"),
        ({**HYBRID, "mamba_d_head": 16}, "mamba_n_heads 128 × mamba_d_head 16 and mamba_expand"),
        ({**JAMBA, "mamba_dt_rank": True}, "jamba: mamba_dt_rank must be a whole number"),
        ({**JAMBA, "attn_layer_offset": 8}, "attn_layer_offset must be below attn_layer_period"),
        ({**ULTRA, "hybrid_override_pattern": "MX"}, "hybrid_override_pattern a word of the"),
        ({**ULTRA, "num_hidden_layers": 3}, "num_hidden_layers 3 and 108 layers contradict"),
        ({**MAVERICK["text_config"], "attention_chunk_size": None}, "attention_chunk_size is miss"),
        ({**MAVERICK["text_config"], "moe_layers": [1, 48]}, r"moe_layers must hold layers in 0"),
        ({**QWEN3_MOE, "mlp_only_layers": [99]}, r"mlp_only_layers must hold layers in 0\.\.23"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        Architecture.from_hf(config)


def test_a_count_beyond_any_models_is_refused_before_anything_is_built():
    """A list of 10^9 layers would hang the panel that reads a pasted config."""
    for name, most in (("num_hidden_layers", 10_000), ("num_local_experts", 10**9)):
        with pytest.raises(ValueError, match=f"{name} .* at most {most}, got 1000000001"):
            Architecture.from_hf({**QWEN3_MOE, name: 10**9 + 1})


def test_half_a_surrogate_pair_in_a_name_is_shown_as_a_question_mark():
    assert Architecture.from_hf({**QWEN3_MOE, "_name_or_path": "a\ud83d"}).name == "a?"
    assert Architecture.from_hf(QWEN3_MOE, "\udc00b").name == "?b"


@pytest.mark.parametrize("name", sorted(STRUCTURAL))
def test_no_field_that_changes_the_shape_is_passed_by(name):
    """Set on a dense Llama, each is either read or refused, never silently dropped."""
    llama = {k: v for k, v in default("llama", num_hidden_layers=2).items() if k not in STRUCTURAL}
    plain = parameters(Architecture.from_hf(llama)).total
    value = True if name in ("attention_bias", "mlp_bias") else 7
    try:
        read = Architecture.from_hf({**llama, name: value})
    except ValueError as error:
        assert name in str(error)
    else:
        assert parameters(read).total != plain
