"""The all-to-all of expert parallelism as a heat map of bytes."""

from __future__ import annotations

import ipywidgets as widgets

from moeviz.panels.base import Panel, choice
from moeviz.panels.costs.hardware_choice import BATCHES, model_choice, steps
from moeviz.panels.live_panel import seed_box
from moeviz.pictures import Picture
from moeviz.pictures.costs.exchange import exchange

# Their experts divide over every number of devices on offer.
MODELS = ("gpt-oss-120b", "Qwen3-30B-A3B", "Qwen3-235B-A22B", "DeepSeek-V3 / R1", "Kimi K2")
COPIES = (("each expert", "expert"), ("each device", "device"), ("each node", "node"))
LIMITS = (("none", 0), ("2", 2), ("4", 4))


class Exchange(Panel):
    """Who sends how many bytes to whom in one MoE layer, inside nodes and between them."""

    kind = "exchange"

    def __init__(self) -> None:
        c: dict[str, widgets.Widget] = {
            "model_name": model_choice(MODELS, "DeepSeek-V3 / R1"),
            "nodes": choice("Nodes", (1, 2, 4, 8), 8, "44px"),
            "devices_per_node": choice("Devices", (4, 8), 8, "44px"),
            "tokens": steps("Tokens", BATCHES, 128),
            "copies": choice("A copy for", COPIES, "expert", "104px"),
            "node_limit": choice("Node limit", LIMITS, 0, "56px"),
            "fp8": widgets.Checkbox(False, description="FP8 dispatch", indent=False),
            "skew": widgets.FloatSlider(
                0.0, min=0, max=2, step=0.1, description="Skew", readout_format=".1f"
            ),
            "seed": seed_box(),
        }
        c["fp8"].add_class("moeviz-fp8")
        c["skew"].add_class("moeviz-skew")
        super().__init__(
            c,
            [
                [c["model_name"]],
                [c["copies"], c["node_limit"]],
                [c["nodes"], c["devices_per_node"], c["tokens"]],
                [c["skew"], c["seed"], c["fp8"]],
            ],
        )
        self.refresh()

    def draw(self) -> Picture | None:
        values = {name: control.value for name, control in self.controls.items()}
        # Of a skewed router only the visits to single experts are known, and the seed deals them.
        skewed = values["skew"] > 0
        self.controls["node_limit"].disabled = skewed
        self.controls["seed"].disabled = not skewed
        picture = exchange(**values, state=self.state)
        self.say(picture.summary)
        return picture
