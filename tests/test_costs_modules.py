"""What is counted of every model type from its config is what transformers' modules have."""

import contextlib
import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from moeviz.costs import Architecture, active_parameters, parameters
from moeviz.costs.cost.compute import decode_flops_per_token
from moeviz.costs.read_hf.fields import STRUCTURAL
from moeviz.costs.read_hf.read import MODEL_TYPES

transformers = pytest.importorskip("transformers", minversion="5.20")

SMALL = dict(num_hidden_layers=2)
# What some types need besides, or in place of, two layers, so that each part is in a case.
OWN = [
    ("llama", dict(SMALL, attention_bias=True, mlp_bias=True, num_key_value_heads=8)),
    ("qwen3", dict(SMALL, attention_bias=True, tie_word_embeddings=True)),
    ("olmo3", dict(num_hidden_layers=4)),
    ("gemma3_text", dict(num_hidden_layers=7)),
    ("cohere", dict(SMALL, use_qk_norm=True)),
    ("gpt2", dict(n_layer=2, n_inner=100)),
    ("smollm3", dict(SMALL, mlp_bias=True)),
    ("phimoe", dict(SMALL, attention_bias=True, lm_head_bias=True)),
    ("gpt_oss", dict(SMALL, attention_bias=False)),
    ("granitemoeshared", dict(SMALL, shared_intermediate_size=512)),
    ("qwen2_moe", dict(SMALL, mlp_only_layers=[0])),
    ("qwen2_moe", dict(num_hidden_layers=4, decoder_sparse_step=2)),
    ("qwen3_moe", dict(SMALL, mlp_only_layers=[1], head_dim=128)),
    ("ernie4_5_moe", dict(num_hidden_layers=4, use_bias=True)),
    ("glm4_moe", dict(num_hidden_layers=3, attention_bias=True, use_qk_norm=True, head_dim=128)),
    ("dots1", dict(SMALL, moe_intermediate_size=128, n_routed_experts=4, n_shared_experts=1,
                   first_k_dense_replace=1, num_experts_per_tok=2)),
    ("deepseek_v2", dict(num_hidden_layers=3, first_k_dense_replace=1, mlp_bias=True,
                         attention_bias=True, num_experts_per_tok=6)),
    ("deepseek_v2", dict(SMALL, q_lora_rank=None, first_k_dense_replace=1, num_experts_per_tok=6)),
    ("deepseek_v3", dict(num_hidden_layers=4, attention_bias=True)),
    ("deepseek_v32", dict(num_hidden_layers=4)),
    ("exaone_moe", dict(num_hidden_layers=5, sliding_window_pattern=2, head_dim=64)),
    ("glm4_moe_lite", dict(num_hidden_layers=3, mlp_layer_types=["sparse", "dense", "sparse"])),
    ("hunyuan_v1_moe", dict(SMALL, num_experts=4, moe_topk=2, head_dim=64, attention_bias=True)),
    ("mellum", dict(SMALL, mlp_layer_types=["sparse", "dense"])),
    ("glm_moe_dsa", dict(num_hidden_layers=5, index_topk_freq=2)),
    ("deepseek_v4", dict(num_hidden_layers=4, compress_ratios=[0, 4, 128, 4])),
    ("llama4_text", dict(num_hidden_layers=4, interleave_moe_layer_step=2)),
    ("qwen3_next", dict(num_hidden_layers=4)),
    ("qwen3_5_moe_text", dict(num_hidden_layers=4)),
    ("jamba", dict(num_hidden_layers=6)),
    ("granitemoehybrid", dict(num_hidden_layers=3, layer_types=["mamba", "attention", "mamba"])),
    ("granitemoehybrid", dict(SMALL, layer_types=["mamba", "attention"], num_local_experts=0)),
    ("minimax", dict(num_hidden_layers=4)),
    ("nemotron_h", dict(hybrid_override_pattern="MEM*E-", moe_latent_size=1024)),
    *[
        ("nemotron_h", dict(hybrid_override_pattern="ME*-", **options))
        for options in (
            dict(n_shared_experts=2), dict(attention_bias=True), dict(tie_word_embeddings=True),
            dict(mlp_bias=True), dict(mlp_bias=True, moe_latent_size=1024), dict(use_bias=True),
        )
    ],
    ("dbrx", dict(n_layers=2, attn_config=dict(kv_n_heads=8, rope_theta=1e4, clip_qkv=8.0),
                  ffn_config=dict(ffn_hidden_size=3584, moe_num_experts=16, moe_top_k=4,
                                  hidden_size=2048))),
]  # fmt: skip
# These do not build with two layers of everything else.
UNLIKE = {"dots1", "deepseek_v2", "granitemoehybrid", "nemotron_h", "dbrx", "gpt2", "deepseek_v4",
          "glm4_moe", "hunyuan_v1_moe"}  # fmt: skip
# Kimi K2 is DeepSeek-V3 by another name.
CASES = [(name, SMALL) for name in sorted(set(MODEL_TYPES) - UNLIKE - {"kimi_k2"})] + OWN
ROUTED = (".experts.", "block_sparse_moe.input_linear", "block_sparse_moe.output_linear")
TINY = dict(
    vocab_size=64, hidden_size=32, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4
)
FLOPS = {
    "llama": dict(num_key_value_heads=2),
    "mixtral": dict(num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2),
    "gpt_oss": dict(
        num_key_value_heads=2, head_dim=8, num_local_experts=4, num_experts_per_tok=2
    ),
    "qwen2_moe": dict(
        num_key_value_heads=2, moe_intermediate_size=16, shared_expert_intermediate_size=20,
        num_experts=4, num_experts_per_tok=2,
    ),
    "deepseek_v3": dict(
        moe_intermediate_size=16, num_key_value_heads=4, n_routed_experts=8,
        num_experts_per_tok=2, n_group=2, topk_group=1, first_k_dense_replace=1, kv_lora_rank=8,
        q_lora_rank=12, qk_rope_head_dim=4, qk_nope_head_dim=6, v_head_dim=6,
    ),
}  # fmt: skip


def both(model_type, options, device, **how):
    """A model of transformers, and its architecture as read from its config, in which no flag
    is said that is what the type means."""
    config = transformers.AutoConfig.for_model(model_type, **copy.deepcopy(options))
    with torch.device(device):
        if model_type == "qwen3_vl_moe_text":  # a tower of a model that sees too
            outer = transformers.Qwen3VLMoeConfig(text_config=config.to_dict())
            whole = transformers.Qwen3VLMoeForConditionalGeneration(outer)
            parts = {"model": whole.model.language_model, "lm_head": whole.lm_head}
            module = torch.nn.ModuleDict(parts)
        else:
            module = transformers.AutoModelForCausalLM.from_config(config, **how)
            module.tie_weights()
    said = {k: v for k, v in config.to_dict().items() if k in options or not isinstance(v, bool)}
    return module, Architecture.from_hf(said)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model_type", "options"), CASES)
def test_parameters_are_those_of_transformers_modules(model_type, options):
    """Counted on torch's meta device: shapes without memory. A token meets top_k of the experts."""
    module, architecture = both(model_type, options, "meta")
    sizes = {name: value.numel() for name, value in module.named_parameters()}
    assert parameters(architecture).total == sum(sizes.values())
    routed = sum(n for name, n in sizes.items() if any(word in name for word in ROUTED))
    if architecture.is_moe:
        moe = architecture.moe
        waits = routed * (moe.num_experts - moe.top_k) // moe.num_experts
        assert active_parameters(architecture).total == sum(sizes.values()) - waits
    else:
        assert not routed


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", FLOPS)
def test_flops_are_those_of_transformers_modules(model_type):
    """Eager attention multiplies every query with every key, masked or not: S tokens that each see
    S keys."""
    torch.manual_seed(0)
    eager = dict(attn_implementation="eager", experts_implementation="eager")
    module, architecture = both(model_type, TINY | FLOPS[model_type], "cpu", **eager)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.randint(0, 64, (1, 10)), use_cache=False)
    each = decode_flops_per_token(architecture, 10, absorbed=False).total
    assert counter.get_total_flops() == 10 * each


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", sorted(set(MODEL_TYPES) - {"kimi_k2"}))
def test_whatever_a_field_holds_nothing_but_a_sentence_is_raised(model_type):
    options = next(options for name, options in CASES if name == model_type)
    config = transformers.AutoConfig.for_model(model_type, **copy.deepcopy(options)).to_dict()
    layers = len(Architecture.from_hf(config).layers)
    for name in {*STRUCTURAL, *config}:
        for value in (-1, True, 1.5, "x", [], [[]] * layers, {"a": 1}):
            with contextlib.suppress(ValueError):
                Architecture.from_hf({**config, name: value})
