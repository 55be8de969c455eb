"""Qwen3-MoE's checkpoints: queries and keys are normed head by head, which takes wider heads (see
widened)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moeviz.model.export.decision import Decision
from moeviz.model.export.parts import Format, tensors_of
from moeviz.model.export.widened import widened_attention
from moeviz.model.transformer import LanguageModel


def _config(model: LanguageModel, decision: Decision) -> dict[str, Any]:
    """The base is squared: then frequency i of a head that is twice as wide is our frequency i."""
    config, moe = model.config, model.config.moe
    assert moe is not None
    return dict(
        head_dim=2 * config.d_model // config.num_heads,
        attention_bias=True,
        rope_parameters=dict(rope_type="default", rope_theta=config.rope_base**2),
        num_experts=moe.num_experts,
        moe_intermediate_size=moe.d_expert,
        norm_topk_prob=decision.weighting == "renormalise",
        intermediate_size=config.d_ff,
        mlp_only_layers=list(config.dense_layers),
        decoder_sparse_step=1,
    )


def _tensors(model: LanguageModel) -> dict[str, Tensor]:
    return tensors_of(model, widened_attention)


QWEN3_MOE = Format(
    architecture="Qwen3MoeForCausalLM",
    score="softmax",
    weightings=("renormalise", "raw"),
    config=_config,
    tensors=_tensors,
    dense="any",
)
