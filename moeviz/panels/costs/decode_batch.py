"""Decoding as the batch grows: what bounds it, and where experts cost more than a dense model."""

from __future__ import annotations

from moeviz.panels.base import Panel
from moeviz.panels.controls import steps
from moeviz.panels.hardware_choice import (
    BATCHES,
    SPARSE,
    device_choice,
    model_choice,
    plan_choice,
)
from moeviz.pictures.costs.decode_batch import decode_batch
from moeviz.pictures.costs.memory_fit import COUNTS

CONTEXTS = tuple(2**i for i in range(7, 18))


class DecodeBatch(Panel):
    """Time of a step, tokens a second and experts touched by batch, beside the dense twin."""

    draws = decode_batch
    presets = {
        "Eight experts: Mixtral": {
            "model_name": "Mixtral 8x7B", "plan": "bf16", "devices": 1, "context": 4096,
        },
        "384 experts: Kimi K2": {
            "model_name": "Kimi K2", "plan": "fp8_block", "devices": 32, "context": 4096,
        },
        "A long context": {"context": 131072, "devices": 32},
        "A single H100": {"model_name": "gpt-oss-120b", "device_name": "H100 SXM", "devices": 1,
                          "plan": "mxfp4_experts", "context": 4096, "batch": 1},
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__(
            {"model_name": model_choice(SPARSE, "DeepSeek-V3 / R1")},
            {"device_name": device_choice("H200 SXM")},
            {
                "batch": steps("Batch", BATCHES, 64),
                "devices": steps("How many", COUNTS, 32),
                "context": steps("Context", CONTEXTS, 4096),
            },
            more=[{"plan": plan_choice("fp8_block")}],
        )
