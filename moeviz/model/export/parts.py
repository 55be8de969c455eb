"""What all formats share: a format's description, its configuration, and the tensors by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from moeviz.model.attention import Attention
from moeviz.model.export.decision import Decision, decision_of
from moeviz.model.layer import DenseFFN, MoEFFN
from moeviz.model.transformer import LanguageModel
from moeviz.routing.token_choice import Score, Weighting

# Rotary positions have no end; a configuration must name one.
POSITIONS = 32_768
# Where the FFN of a block stands, and its matrices: of the gate, of the values, of the output.
USUAL = ("mlp", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Format:
    """A kind of checkpoint, and which models it can hold.

    architecture: the class that loads it. score, weightings: of its routers. steered: whether they
    have a scale, a bias for the choice, and groups. dense: which blocks may be dense. shared:
    whether there are shared experts. config: what it says beside `common_config`; tensors: all that
    it holds, by name.
    """

    architecture: str
    score: Score
    weightings: tuple[Weighting, ...]
    config: Callable[[LanguageModel, Decision], dict[str, Any]]
    tensors: Callable[[LanguageModel], dict[str, Tensor]]
    steered: bool = False
    dense: Literal["none", "first", "any"] = "none"
    shared: bool = False


def common_config(model: LanguageModel, name: str, architecture: str) -> dict[str, Any]:
    """The part of config.json that all formats have. Our tokenizer has no special tokens: a format
    that leaves them out would stop at one of our words."""
    config, moe = model.config, model.config.moe
    assert moe is not None
    return dict(
        architectures=[architecture],
        model_type=name,
        dtype="float32",
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        num_experts_per_tok=moe.top_k,
        hidden_act="silu",
        rms_norm_eps=model.norm.eps,
        max_position_embeddings=POSITIONS,
        rope_parameters=dict(rope_type="default", rope_theta=config.rope_base),
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def tensors_of(
    model: LanguageModel,
    attention: Callable[[Attention], dict[str, Tensor]],
    names: tuple[str, str, str, str] = USUAL,
) -> dict[str, Tensor]:
    """All tensors by name. attention: gives those of a block's attention by their names in it."""
    tensors = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    for layer, block in enumerate(model.blocks):
        parts = {
            "input_layernorm.weight": block.attention_norm.weight,
            "post_attention_layernorm.weight": block.ffn_norm.weight,
        }
        parts |= {f"self_attn.{n}": v for n, v in attention(block.attention).items()}
        parts |= {f"{names[0]}.{n}": v for n, v in _ffn(block.ffn, names[1:]).items()}
        tensors |= {f"model.layers.{layer}.{name}": value for name, value in parts.items()}
    return tensors


def _ffn(ffn: DenseFFN | MoEFFN, names: tuple[str, ...]) -> dict[str, Tensor]:
    """A fixed output scale becomes a part of the last matrix."""
    if isinstance(ffn, DenseFFN):
        return swiglu_tensors(ffn.w13_2FD, ffn.w2_DF, names, ffn.scale)
    factors: Sequence[float | None] = (None, None)
    if ffn.factor_P is not None:
        factors = ffn.factor_P.tolist()
    tensors = {"gate.weight": decision_of(ffn.router).gate_ED}
    for e, (w13_2FD, w2_DF) in enumerate(zip(ffn.w13_E2FD, ffn.w2_EDF, strict=True)):
        matrices = swiglu_tensors(w13_2FD, w2_DF, names, factors[0])
        tensors |= {f"experts.{e}.{name}": value for name, value in matrices.items()}
    if ffn.shared is not None:
        matrices = swiglu_tensors(ffn.shared.w13_2FD, ffn.shared.w2_DF, names, factors[1])
        tensors |= {f"shared_experts.{name}": value for name, value in matrices.items()}
    return tensors


def swiglu_tensors(
    w13_2FD: Tensor, w2_DF: Tensor, names: tuple[str, ...], scale: float | None = None
) -> dict[str, Tensor]:
    """Its three matrices by name, the last times the scale."""
    matrices = (*w13_2FD.chunk(2), w2_DF if scale is None else w2_DF * scale)
    return {f"{name}.weight": matrix for name, matrix in zip(names, matrices, strict=True)}


def heads_of(attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """The matrices of queries, keys and values by head, each [H, D/H, D]."""
    query, key, value = attention.qkv.weight.unflatten(0, (3, attention.num_heads, -1))
    return query, key, value
