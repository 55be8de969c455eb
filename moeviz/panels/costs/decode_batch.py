"""Decoding as the batch grows: what bounds it, and where experts cost more than a dense model."""

from __future__ import annotations

from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, steps, switch
from moeviz.panels.hardware_choice import (
    BATCHES,
    SPARSE,
    device_choice,
    model_choice,
    plan_choice,
)
from moeviz.pictures.costs.decode_batch import SHOWN, decode_batch
from moeviz.pictures.costs.memory_fit import COUNTS

CONTEXTS = tuple(2**i for i in range(7, 18))
V3 = {"model_name": "DeepSeek-V3 / R1", "plan": "fp8_block", "devices": 32, "batch": 64}


class DecodeBatch(Panel):
    """Time of a step, tokens a second and experts touched by batch, beside the dense twin."""

    told_in_picture = True
    draws = decode_batch
    presets = {
        "256 experts: DeepSeek-V3": V3,
        "384 experts: Kimi K2": V3 | {"model_name": "Kimi K2"},
        "DeepSeek-V3 on long contexts": V3 | {"context": 131072},
        "A single H100": {"model_name": "gpt-oss-120b", "device_name": "H100 SXM",
                          "plan": "mxfp4_experts", "batch": 1, "devices": 1},
    }  # fmt: skip

    def __init__(self) -> None:
        # It opens where the curves of a model of few experts meet: what many experts do to larger
        # batches is asked before.
        super().__init__(
            {"model_name": model_choice(SPARSE, "Mixtral 8x7B")},
            {"batch": steps("Batch", BATCHES, 1), "devices": steps("How many", COUNTS, 8)},
            {"plan": plan_choice("bf16")},
            more=[
                {
                    "shown": choice("Show", [(w, n) for n, w in SHOWN.items()], "time", "190px"),
                    "critical": switch("Critical batch"),
                },
                {"device_name": device_choice("H200 SXM")},
                {"context": steps("Context", CONTEXTS, 4096)},
            ],
        )
