"""Mixtral's checkpoints: our own attention, and experts in every block."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moeviz.model.attention import Attention
from moeviz.model.export.decision import Decision
from moeviz.model.export.parts import Format, heads_of, tensors_of
from moeviz.model.transformer import LanguageModel


def _config(model: LanguageModel, decision: Decision) -> dict[str, Any]:
    moe = model.config.moe
    assert moe is not None
    return dict(num_local_experts=moe.num_experts, intermediate_size=moe.d_expert)


def _tensors(model: LanguageModel) -> dict[str, Tensor]:
    return tensors_of(model, _attention, ("block_sparse_moe", "w1", "w3", "w2"))


def _attention(attention: Attention) -> dict[str, Tensor]:
    named = zip("qkv", heads_of(attention), strict=True)
    tensors = {f"{name}_proj.weight": heads_HdD.flatten(0, 1) for name, heads_HdD in named}
    return {**tensors, "o_proj.weight": attention.out.weight}


MIXTRAL = Format(
    architecture="MixtralForCausalLM",
    score="softmax",
    weightings=("renormalise",),
    config=_config,
    tensors=_tensors,
)
