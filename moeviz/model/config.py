"""What a model is made of: its sizes, which blocks have experts, and what a token costs in it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from moeviz.checks import brief, check_number, check_whole
from moeviz.model.layer import MoEConfig

MOST_LAYERS = 10_000  # they are built one by one


@dataclass(frozen=True)
class ModelConfig:
    """A model. d_ff: width of a dense FFN; moe: the experts of the MoE blocks (None: all dense);
    dense_layers: blocks that stay dense all the same. Raises ValueError on impossible sizes.

    ffn_scale: None trains every FFN as its paper writes it. A number multiplies every FFN, dense or
    MoE, by a fixed factor, so that its output starts with ffn_scale**2 times the variance of a
    plain dense FFN's. 1.0 is the fair scale: the models of a comparison then differ by their rules,
    and not by how loud they start.
    """

    vocab_size: int = 2048
    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 4
    d_ff: int = 256
    moe: MoEConfig | None = None
    dense_layers: tuple[int, ...] = ()
    rope_base: float = 10_000.0
    ffn_scale: float | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "num_heads", "d_ff"):
            check_whole(name, getattr(self, name))
        check_whole("num_layers", self.num_layers, high=MOST_LAYERS)
        if self.ffn_scale is not None:
            check_number("ffn_scale", self.ffn_scale, open_low=True)
        if self.d_model % self.num_heads:
            raise ValueError(
                f"d_model must be a multiple of num_heads, got {self.d_model} and {self.num_heads}."
            )
        if self.d_model // self.num_heads % 2:
            raise ValueError(
                "Rotary positions need an even head width, got d_model / num_heads = "
                f"{self.d_model // self.num_heads}."
            )
        if any(not 0 <= layer < self.num_layers for layer in self.dense_layers):
            raise ValueError(
                f"dense_layers must lie in 0..{self.num_layers - 1}, got "
                f"{brief(self.dense_layers)}."
            )

    def is_moe(self, layer: int) -> bool:
        return self.moe is not None and layer not in self.dense_layers

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """The blocks that have experts."""
        return tuple(layer for layer in range(self.num_layers) if self.is_moe(layer))

    def dense_twin(self) -> ModelConfig:
        """The dense model of equal active FFN parameters: d_ff = (top_k + num_shared) * d_expert.
        ValueError for a dense model, and where dense blocks of another width would change."""
        if self.moe is None:
            raise ValueError("A dense model has no dense twin; give a config with experts.")
        width = (self.moe.top_k + self.moe.num_shared) * self.moe.d_expert
        if self.dense_layers and self.d_ff != width:
            raise ValueError(
                f"The dense blocks have d_ff {self.d_ff}, the experts an active width of {width}; "
                "a twin exists only where the two are equal."
            )
        return dataclasses.replace(self, moe=None, d_ff=width)

    def num_weights(self) -> float:
        """Entries of its large matrices, without building it: of the tables, attention and FFNs."""
        total = 2.0 * self.vocab_size * self.d_model
        for layer in range(self.num_layers):
            total += 4 * self.d_model**2
            width = self.d_ff
            if self.is_moe(layer):
                assert self.moe is not None
                width = self.moe.d_expert * (self.moe.num_experts + self.moe.num_shared)
            total += 3 * self.d_model * width
        return total

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ModelConfig:
        values = dict(values)
        if values.get("moe") is not None:
            values["moe"] = MoEConfig.from_dict(values["moe"])
        values["dense_layers"] = tuple(values.get("dense_layers", ()))
        return ModelConfig(**values)

    def flops_per_token(self, seq_len: int) -> float:
        """Forward FLOPs of one token: 2 per multiply-add of every matrix it meets, attention over
        the causal mean of (seq_len + 1) / 2 keys. Training costs three times this.

        Norms, softmax, rotary and activation functions are left out (below 2 % here).
        """
        attention = 8 * self.d_model**2 + 4 * self.d_model * (seq_len + 1) / 2
        total = 2.0 * self.vocab_size * self.d_model
        for layer in range(self.num_layers):
            total += attention
            if self.is_moe(layer):
                assert self.moe is not None
                total += self.moe.flops_per_token(self.d_model, seq_len)
            else:
                total += 6 * self.d_model * self.d_ff
        return total
