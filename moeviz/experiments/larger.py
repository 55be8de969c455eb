"""A larger size of the live race and the live collapse, for a machine with a GPU.

Nothing here needs torch until a model is built: a panel knows before what it may offer.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeviz.model.config import ModelConfig
    from moeviz.training.config import TrainConfig

SMALL, LARGE = "small", "large"
WIDER, HEADS = 4, 8  # times as wide, its experts too; heads of attention
BATCH, SEQ_LEN = 32, 256  # sequences in a step, and their tokens: 8 times the small size's
LEARNING_RATE = 1e-3
# What a parameter takes in float32: itself, its gradient, AdamW's two moments, and a copy of all
# but the gradient to go back to, of which there are two while the new one is made.
BYTES_OF_A_PARAMETER = 4 + 4 + 8 + 2 * 12


def enlarged(model: ModelConfig, train: TrainConfig) -> tuple[ModelConfig, TrainConfig]:
    """A small model and its training at the large size."""
    moe = model.moe and dataclasses.replace(model.moe, d_expert=WIDER * model.moe.d_expert)
    wide = dataclasses.replace(
        model, d_model=WIDER * model.d_model, d_ff=WIDER * model.d_ff, num_heads=HEADS, moe=moe
    )
    return wide, dataclasses.replace(
        train, batch_size=BATCH, seq_len=SEQ_LEN, learning_rate=LEARNING_RATE
    )


def at_size(size: str, model: ModelConfig, train: TrainConfig) -> tuple[ModelConfig, TrainConfig]:
    """A small model and its training at that size. ValueError for the large one without a GPU."""
    if size == SMALL:
        return model, train
    if not _sees_gpu():
        raise ValueError(
            "The large size needs a GPU that PyTorch sees; python -m moeviz doctor says why it "
            "does not."
        )
    return enlarged(model, train)


def _sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def size_of(train: dict[str, Any]) -> str:
    """The size that a snapshot's or a checkpoint's training has."""
    return LARGE if train["seq_len"] == SEQ_LEN else SMALL


def most_parameters(num_experts: int, active_width: int) -> int:
    """Of the large MoE model with top-1 routing over experts of the small model's active width,
    which is the largest that a panel offers."""
    d_model, layers, vocabulary = WIDER * 64, 2, 2048
    experts = num_experts * (3 * d_model * WIDER * active_width + d_model)
    of_a_layer = experts + 4 * d_model**2 + 2 * d_model
    return layers * of_a_layer + 2 * vocabulary * d_model + d_model


def offer(num_experts: int, active_width: int) -> str:
    """What a button says of the large size: how much of the GPU's memory it may take."""
    logits = 3 * 4 * 2048 * BATCH * SEQ_LEN  # in float32: themselves, their softmax, their gradient
    total = BYTES_OF_A_PARAMETER * most_parameters(num_experts, active_width) + logits
    return f"{LARGE}: up to {math.ceil(total / 1e9)} GB of the GPU"
