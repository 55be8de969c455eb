"""Will it fit: a model and its cache against the memory of a device, or of many."""

from __future__ import annotations

import ipywidgets as widgets

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
from moeviz.pictures import Picture
from moeviz.pictures.costs.memory_fit import memory_fit

DEVICES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = tuple(2**i for i in range(9, 18))


class MemoryFit(Panel):
    """Weights, cache and free memory as bars, one for each way to store the weights."""

    kind = "memory_fit"

    def __init__(self) -> None:
        controls: dict[str, widgets.Widget] = {
            "model_name": model_choice((*DENSE, *SPARSE), "gpt-oss-120b"),
            "device_name": device_choice("H100 SXM"),
            "devices": steps("How many", DEVICES, 1),
            "plan": plan_choice("mxfp4_experts"),
            "context": steps("Context", CONTEXTS, 32768),
            "batch": steps("Batch", BATCHES[:11], 8),
        }
        super().__init__(
            controls,
            [
                ["model_name"],
                ["device_name", "plan"],
                ["devices", "context", "batch"],
            ],
        )
        self.refresh()

    def draw(self) -> Picture | None:
        return self.drawn_by(memory_fit)
