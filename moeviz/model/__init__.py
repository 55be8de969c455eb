"""The model that is shown and trained: experts, the MoE layer, the transformer."""

from moeviz.model.architecture import architecture_of
from moeviz.model.config import ModelConfig
from moeviz.model.experts import apply_experts
from moeviz.model.layer import DenseFFN, MoEConfig, MoEFFN
from moeviz.model.transformer import LanguageModel

__all__ = [
    "DenseFFN",
    "LanguageModel",
    "MoEConfig",
    "MoEFFN",
    "ModelConfig",
    "apply_experts",
    "architecture_of",
]
