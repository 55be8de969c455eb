"""DeepSeek-V3's checkpoints: latent attention (MLA), shared experts, biased sigmoid routers.

Latent attention is made to compute ours, at the price of width:
1. Its latent vector is normed. It holds the values of all heads, and further places beside them
   make the norm a constant (see widened): 2D numbers.
2. Its rotated key is shared by all heads. So it holds the keys of all heads side by side, D
   numbers, and the query of a head is zero outside its own.
3. The first halves of all heads stand before all second halves, since numbers that are half of the
   width apart are turned together. Each head repeats the frequencies of one head, which longrope's
   factors can say.
4. Keys without rotation must have a width: as many zeros as a head has numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moeviz.model.attention import Attention
from moeviz.model.export.decision import Decision, decision_of
from moeviz.model.export.parts import (
    POSITIONS,
    USUAL,
    Format,
    heads_of,
    swiglu_tensors,
    tensors_of,
)
from moeviz.model.export.widened import PAD
from moeviz.model.transformer import LanguageModel


def _config(model: LanguageModel, decision: Decision) -> dict[str, Any]:
    config, moe = model.config, model.config.moe
    assert moe is not None
    width = config.d_model // config.num_heads
    # One over each frequency, of a base of 1.
    factors = [config.rope_base ** (i / width) for i in range(0, width, 2)] * config.num_heads
    return dict(
        q_lora_rank=None,
        kv_lora_rank=2 * config.d_model,
        qk_rope_head_dim=config.d_model,
        qk_nope_head_dim=width,
        v_head_dim=width,
        attention_bias=True,
        rope_interleave=False,
        rope_parameters=dict(
            rope_type="longrope",
            rope_theta=1.0,
            short_factor=factors,
            long_factor=factors,
            factor=1.0,
            attention_factor=1.0,
            original_max_position_embeddings=POSITIONS,
        ),
        n_routed_experts=moe.num_experts,
        moe_intermediate_size=moe.d_expert,
        n_shared_experts=moe.num_shared,
        norm_topk_prob=decision.weighting == "renormalise",
        routed_scaling_factor=decision.scale,
        n_group=decision.num_groups,
        topk_group=decision.top_groups,
        intermediate_size=config.d_ff,
        first_k_dense_replace=len(config.dense_layers),
        num_nextn_predict_layers=0,
    )


def _tensors(model: LanguageModel) -> dict[str, Tensor]:
    """With what every MoE layer of the format has: a bias for the choice, and shared experts, of no
    width where there are none."""
    moe, d_model = model.config.moe, model.config.d_model
    assert moe is not None
    tensors = tensors_of(model, _attention)
    for layer, router in model.routers().items():
        bias_E = decision_of(router).bias_E
        if bias_E is None:
            bias_E = torch.zeros(moe.num_experts)
        added = {"gate.e_score_correction_bias": bias_E}
        if not moe.num_shared:
            nothing = swiglu_tensors(torch.zeros(0, d_model), torch.zeros(d_model, 0), USUAL[1:])
            added |= {f"shared_experts.{name}": value for name, value in nothing.items()}
        tensors |= {f"model.layers.{layer}.mlp.{name}": value for name, value in added.items()}
    return tensors


def _attention(attention: Attention) -> dict[str, Tensor]:
    query_HdD, key_HdD, value_HdD = heads_of(attention)
    heads, width, d_model = query_HdD.shape
    place = torch.zeros(heads, 2, heads, width // 2, d_model)
    for head in range(heads):
        place[head, :, head] = query_HdD[head].unflatten(0, (2, -1))
    # The format divides scores by the root of d + D, and ours by that of d.
    rotated_HDD = place.flatten(1, 3) * (1 + heads) ** 0.5
    query = torch.cat((torch.zeros(heads, width, d_model), rotated_HDD), dim=1)
    key_DD = key_HdD.unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 2)
    latent = torch.cat((value_HdD.flatten(0, 1), torch.zeros(d_model, d_model), key_DD))
    bias = torch.zeros(3 * d_model)
    bias[d_model : d_model + d_model // 2] = PAD
    weight = torch.zeros(2 * d_model)
    weight[:d_model] = PAD / 2
    # Of a head: its key without rotation, and its value, which is taken from the latent vector.
    up = torch.zeros(heads, 2, width, 2 * d_model)
    up[:, 1] = torch.eye(d_model, 2 * d_model).unflatten(0, (heads, width))
    return {
        "q_proj.weight": query.flatten(0, 1),
        "kv_a_proj_with_mqa.weight": latent,
        "kv_a_proj_with_mqa.bias": bias,
        "kv_a_layernorm.weight": weight,
        "kv_b_proj.weight": up.flatten(0, 2),
        "o_proj.weight": attention.out.weight,
        "o_proj.bias": torch.zeros(d_model),
    }


DEEPSEEK_V3 = Format(
    architecture="DeepseekV3ForCausalLM",
    score="sigmoid",
    weightings=("renormalise", "raw"),
    config=_config,
    tensors=_tensors,
    steered=True,
    dense="first",
    shared=True,
)
