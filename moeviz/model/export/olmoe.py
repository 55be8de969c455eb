"""OLMoE's checkpoints: queries and keys are normed over all heads at once, which takes wider heads
(see widened), and a head is always as wide as the model divided by their number. So all of the
model is twice as wide, and the second half of what flows through it is always zero."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from moeviz.model.attention import Attention
from moeviz.model.export.decision import Decision
from moeviz.model.export.parts import Format, tensors_of
from moeviz.model.export.widened import widened_attention
from moeviz.model.transformer import LanguageModel

NORMS = ("input_layernorm", "post_attention_layernorm", "norm")
WRITES = ("o_proj", "down_proj")  # what is added to the residual stream


def _config(model: LanguageModel, decision: Decision) -> dict[str, Any]:
    """The mean square of x beside as many zeros is half as large, and so is what is added to it.
    The rotation's base is squared, as in qwen3_moe."""
    config, moe = model.config, model.config.moe
    assert moe is not None
    return dict(
        hidden_size=2 * config.d_model,
        rms_norm_eps=model.norm.eps / 2,
        attention_bias=True,
        rope_parameters=dict(rope_type="default", rope_theta=config.rope_base**2),
        num_experts=moe.num_experts,
        intermediate_size=moe.d_expert,
        norm_topk_prob=decision.weighting == "renormalise",
    )


def _tensors(model: LanguageModel) -> dict[str, Tensor]:
    tensors = tensors_of(model, _attention)
    return {name: _widened(name, value, model.config.d_model) for name, value in tensors.items()}


def _attention(attention: Attention) -> dict[str, Tensor]:
    """One norm's weights for all heads."""
    tensors = widened_attention(attention)
    norms = {f"{n}_norm.weight": tensors[f"{n}_norm.weight"] for n in "qk"}
    return tensors | {name: head.repeat(attention.num_heads) for name, head in norms.items()}


def _widened(name: str, value: Tensor, d_model: int) -> Tensor:
    """A tensor that reads, norms or writes the residual stream, with zeros for its second half."""
    *_, part, kind = name.split(".")
    if part in NORMS:
        return F.pad(value * 0.5**0.5, (0, d_model))
    if part in WRITES:
        return F.pad(value, (0, d_model) if kind == "bias" else (0, 0, 0, d_model))
    return F.pad(value, (0, d_model)) if value.ndim == 2 else value


OLMOE = Format(
    architecture="OlmoeForCausalLM",
    score="softmax",
    weightings=("renormalise", "raw"),
    config=_config,
    tensors=_tensors,
)
