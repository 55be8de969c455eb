"""Will it fit: a model and its cache against the memory of a device, or of many."""

from __future__ import annotations

from moeviz.panels.base import Panel
from moeviz.panels.controls import steps
from moeviz.panels.hardware_choice import (
    BATCHES,
    DENSE,
    SPARSE,
    device_choice,
    model_choice,
    plan_choice,
)
from moeviz.pictures.costs.memory_fit import CONTEXTS, COUNTS, memory_fit


class MemoryFit(Panel):
    """Weights, cache and free memory as bars, one for each way to store the weights."""

    told_in_picture = True
    draws = memory_fit
    presets = {
        "gpt-oss-120b on one H100": {
            "model_name": "gpt-oss-120b", "device_name": "H100 SXM", "plan": "mxfp4_experts",
            "devices": 1, "context": 32768, "batch": 8,
        },
        "Mixtral on a gaming card": {
            "model_name": "Mixtral 8x7B", "device_name": "RTX 4090", "plan": "int4", "devices": 1,
            "context": 4096, "batch": 1,
        },
        "DeepSeek-V3 on eight H200s": {
            "model_name": "DeepSeek-V3 / R1", "device_name": "H200 SXM", "plan": "fp8_block",
            "devices": 8, "context": 32768, "batch": 8,
        },
        "Many long contexts": {"context": 131072, "batch": 32},
    }  # fmt: skip

    def __init__(self) -> None:
        # It opens on a dense model: what experts need is asked before.
        super().__init__(
            {"model_name": model_choice((*DENSE, *SPARSE), "Llama 3.1 8B")},
            {"device_name": device_choice("RTX 4090")},
            {
                "context": steps("Context", CONTEXTS, 32768),
                "batch": steps("Batch", BATCHES[:11], 1),
            },
            # Each way to store the weights has a bar, which is pressed.
            more=[{"devices": steps("How many", COUNTS, 1)}, {"plan": plan_choice("bf16")}],
        )
