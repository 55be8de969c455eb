"""The all-to-all of expert parallelism as a heat map of bytes."""

from __future__ import annotations

from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, seed_box, skew_slider, steps, switch
from moeviz.panels.hardware_choice import BATCHES, model_choice
from moeviz.pictures import Picture
from moeviz.pictures.costs.exchange import exchange

# Their experts divide over every number of devices on offer.
MODELS = ("gpt-oss-120b", "Qwen3-30B-A3B", "Qwen3-235B-A22B", "DeepSeek-V3 / R1", "Kimi K2")
COPIES = (("each expert", "expert"), ("each device", "device"), ("each node", "node"))
LIMITS = (("none", 0), ("2", 2), ("4", 4))


class Exchange(Panel):
    """Who sends how many bytes to whom in one MoE layer, inside nodes and between them."""

    draws = exchange
    presets = {
        "Two nodes of four": {"nodes": 2, "devices_per_node": 4},
        "A few experts get most": {"skew": 1.5, "node_limit": 0},
        "A copy for each expert": {"copies": "expert", "node_limit": 0, "fp8": False, "skew": 0.0},
        "As DeepSeek-V3 was trained": {
            "model_name": "DeepSeek-V3 / R1", "nodes": 8, "devices_per_node": 8,
            "copies": "node", "node_limit": 4, "fp8": True, "skew": 0.0,
        },
    }  # fmt: skip

    def __init__(self) -> None:
        # It opens where the cells differ: copies for each expert go evenly to all devices.
        super().__init__(
            {"model_name": model_choice(MODELS, "DeepSeek-V3 / R1")},
            {
                "copies": choice("A copy for", COPIES, "node", "104px"),
                "node_limit": choice("Node limit", LIMITS, 0, "56px"),
            },
            {
                "nodes": choice("Nodes", (1, 2, 4, 8), 4, "44px"),
                "devices_per_node": choice("Devices", (4, 8), 4, "44px"),
                "tokens": steps("Tokens", BATCHES, 128),
            },
            {"skew": skew_slider(), "seed": seed_box(), "fp8": switch("FP8 dispatch")},
        )

    def draw(self) -> Picture | None:
        # Of a skewed router only the visits to single experts are known, and the seed deals them.
        skewed = self.controls["skew"].value > 0
        self.controls["node_limit"].disabled = skewed
        self.controls["seed"].disabled = not skewed
        return super().draw()
