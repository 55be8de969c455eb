"""Random tiny models of the MoE families that transformers knows."""

import torch

# What the families call their sizes; each takes those that its configuration has.
SIZES = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16,
    num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    num_experts=8, num_local_experts=8, n_routed_experts=8, moe_num_experts=8,
    num_experts_per_tok=2, num_experts_per_token=2, moe_topk=2, top_k=2, moe_k=2,
    shared_expert_intermediate_size=16, n_shared_experts=1, first_k_dense_replace=1,
    num_dense_layers=1, moe_layer_start_index=1, n_group=2, topk_group=1,
    kv_lora_rank=16, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8,
)  # fmt: skip
LATENT = dict(q_lora_rank=16, head_dim=None)
SPARSE = dict(
    LATENT, num_key_value_heads=4, index_topk=8, index_n_heads=2, index_head_dim=8, qk_head_dim=8
)
OTHER = {
    "deepseek_v3": LATENT,
    "deepseek_v32": SPARSE,
    "deepseek_v4": LATENT,
    "glm_moe_dsa": SPARSE,
    "longcat_flash": dict(
        q_lora_rank=16, head_dim=4, qk_head_dim=8, num_key_value_heads=4, ffn_hidden_size=48,
        expert_ffn_hidden_size=16, zero_expert_num=4, num_layers=2, num_hidden_layers=None,
    ),
    "glm4_moe_lite": LATENT,
    "axk1": LATENT,
    "kimi_linear": LATENT,
    "lfm2_moe": dict(layer_types=["conv", "full_attention", "full_attention"]),
    "granitemoehybrid": dict(
        mamba_n_heads=8, mamba_d_head=8, mamba_expand=2, shared_intermediate_size=16,
        layer_types=["mamba", "attention", "attention"],
    ),
    "dbrx": dict(
        d_model=32, n_heads=4, n_layers=2, max_seq_len=64,
        attn_config=dict(kv_n_heads=2, clip_qkv=8, rope_theta=1e4),
        ffn_config=dict(
            hidden_size=32, ffn_hidden_size=16, moe_num_experts=8, moe_top_k=2,
            ffn_act_fn=dict(name="silu"),
        ),
    ),
    "gemma4_text": dict(
        enable_moe_block=True, top_k_experts=2, vocab_size_per_layer_input=64,
        hidden_size_per_layer_input=0,
    ),
    "switch_transformers": dict(
        d_model=32, d_kv=8, d_ff=48, num_layers=2, num_sparse_encoder_layers=1, num_heads=4,
        num_decoder_layers=2, num_sparse_decoder_layers=1, expert_capacity=3,
    ),
}  # fmt: skip
# model type -> the rule by which its routers weight, as its paper or its code says it.
SOFTMAX, SIGMOID = "softmax over all experts", "sigmoid of each expert"
AS_THEY_ARE, BY_SUM = ", the chosen as they are", ", the chosen divided by their sum"
FAMILIES = {
    "mixtral": SOFTMAX + BY_SUM,
    "olmoe": SOFTMAX + AS_THEY_ARE,
    "flex_olmo": SOFTMAX + AS_THEY_ARE,
    "qwen2_moe": SOFTMAX + AS_THEY_ARE,
    "qwen3_moe": SOFTMAX + AS_THEY_ARE,
    "qwen3_next": SOFTMAX + BY_SUM,
    "qwen3_5_moe_text": SOFTMAX + BY_SUM,
    "deepseek_v2": SOFTMAX + AS_THEY_ARE,
    "deepseek_v3": SIGMOID + BY_SUM + ", times 2.5",
    "deepseek_v32": SIGMOID + BY_SUM + ", times 2.5",
    "deepseek_v4": None,
    "glm_moe_dsa": SIGMOID + BY_SUM + ", times 2.5",
    "longcat_flash": SOFTMAX + AS_THEY_ARE + ", times 6",
    "gpt_oss": SOFTMAX + BY_SUM,
    "granitemoe": SOFTMAX + BY_SUM,
    "granitemoeshared": SOFTMAX + BY_SUM,
    "granitemoehybrid": SOFTMAX + BY_SUM,
    "phimoe": "a rule of its own",
    "dbrx": SOFTMAX + BY_SUM,
    "jamba": SOFTMAX + AS_THEY_ARE,
    "glm4_moe": SIGMOID + BY_SUM,
    "glm4_moe_lite": SIGMOID + BY_SUM + ", times 1.8",
    "minimax": SOFTMAX + BY_SUM,
    "minimax_m2": SIGMOID + BY_SUM,
    "ernie4_5_moe": SOFTMAX + BY_SUM,
    "lfm2_moe": SIGMOID + BY_SUM,
    "hunyuan_v1_moe": SOFTMAX + BY_SUM,
    "hy_v3": SIGMOID + BY_SUM + ", times 2.83",
    "dots1": SIGMOID + AS_THEY_ARE,
    "exaone_moe": SIGMOID + BY_SUM + ", times 2.5",
    "laguna": SIGMOID + BY_SUM,
    "mimo_v2_flash": SIGMOID + BY_SUM,
    "solar_open": SIGMOID + BY_SUM,
    "afmoe": SIGMOID + BY_SUM,
    "cohere2_moe": SOFTMAX + BY_SUM,
    "nemotron_h": SIGMOID + BY_SUM,
    "kimi_linear": SIGMOID + BY_SUM + ", times 2.45",
    "axk1": SIGMOID + BY_SUM + ", times 2.5",
    "mellum": SOFTMAX + BY_SUM,
    "gemma4_text": "a rule of its own",
    "llama4_text": SIGMOID + AS_THEY_ARE,
    "jetmoe": SOFTMAX + BY_SUM,
    "switch_transformers": SOFTMAX + AS_THEY_ARE,
}


def tiny(model_type):
    """A random model of the family, its biases drawn too: at 0 they would hide what they do."""
    import transformers

    known = transformers.AutoConfig.for_model(model_type).get_text_config()
    names = known.to_dict().keys() | getattr(known, "attribute_map", {}).keys()
    given = {**{n: v for n, v in SIZES.items() if n in names}, **OTHER.get(model_type, {})}
    config = type(known)(**{n: v for n, v in given.items() if v is not None})
    auto = transformers.AutoModelForCausalLM
    if getattr(config, "is_encoder_decoder", False):
        auto = transformers.AutoModelForSeq2SeqLM
    torch.manual_seed(0)
    model = auto.from_config(config).eval()
    for values in model.parameters():
        torch.nn.init.normal_(values, std=0.3 if values.dim() > 1 else 0.1)
    for name, values in model.named_buffers():
        if "bias" in name:
            torch.nn.init.normal_(values, std=0.1)
    return model
