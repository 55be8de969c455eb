"""Decoding as the batch grows: what bounds it, and where experts cost more than a dense model."""

from __future__ import annotations

import ipywidgets as widgets

from moeviz.panels.base import Panel
from moeviz.panels.controls import steps
from moeviz.panels.hardware_choice import (
    BATCHES,
    SPARSE,
    device_choice,
    model_choice,
    plan_choice,
)
from moeviz.pictures import Picture
from moeviz.pictures.costs.decode_batch import decode_batch

CONTEXTS = tuple(2**i for i in range(7, 18))
DEVICES = (1, 2, 4, 8, 16, 32, 64)


class DecodeBatch(Panel):
    """Time of a step, tokens a second and experts touched by batch, beside the dense twin."""

    kind = "decode_batch"

    def __init__(self) -> None:
        controls: dict[str, widgets.Widget] = {
            "model_name": model_choice(SPARSE, "DeepSeek-V3 / R1"),
            "device_name": device_choice("H200 SXM"),
            "devices": steps("How many", DEVICES, 32),
            "plan": plan_choice("fp8_block"),
            "context": steps("Context", CONTEXTS, 4096),
            "batch": steps("Batch", BATCHES, 64),
        }
        super().__init__(
            controls,
            [
                ["model_name"],
                ["device_name", "plan"],
                ["batch", "devices", "context"],
            ],
        )
        self.refresh()

    def draw(self) -> Picture | None:
        return self.drawn_by(decode_batch)
