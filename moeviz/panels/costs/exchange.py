"""The all-to-all of expert parallelism as a heat map of bytes."""

from __future__ import annotations

from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, seed_box, skew_slider, steps, switch, whole_slider
from moeviz.panels.hardware_choice import BATCHES, model_choice
from moeviz.panels.player import Player
from moeviz.pictures import Picture
from moeviz.pictures.costs.exchange import exchange
from moeviz.pictures.costs.one_token import STEPS

# Their experts divide over every number of devices on offer.
MODELS = ("gpt-oss-120b", "Qwen3-30B-A3B", "Qwen3-235B-A22B", "DeepSeek-V3 / R1", "Kimi K2")
DEVICES = 64  # at the most
COPIES = (("each expert", "expert"), ("each device", "device"), ("each node", "node"))
LIMITS = (("none", 0), ("2", 2), ("4", 4))


class Exchange(Panel):
    """The way of one token and its copies, and who sends how many bytes to whom in one MoE layer,
    inside nodes and between them. Played, the copies travel leg by leg."""

    told_in_picture = True
    draws = exchange
    presets = {
        "Even routing": {"skew": 0.0},
        "A copy for each node": {"skew": 0.0, "copies": "node"},
        "8 nodes of 8": {"skew": 0.0, "nodes": 8, "devices_per_node": 8},
        "As DeepSeek-V3 was trained": {
            "skew": 0.0, "nodes": 8, "devices_per_node": 8, "copies": "node", "node_limit": 4,
            "fp8": True,
        },
    }  # fmt: skip

    def __init__(self) -> None:
        self.player = Player(self, whole_slider("Step", 0, len(STEPS) - 1, 1))
        # It opens on the plainest way: what the others save is asked before. Popular experts show
        # at once whose links are busy.
        super().__init__(
            {"copies": choice("A copy for", COPIES, "expert", "104px")},
            {
                "nodes": choice("Nodes", (1, 2, 4, 8), 4, "44px"),
                "devices_per_node": choice("Devices", (4, 8), 4, "44px"),
                "skew": skew_slider(1.0),
            },
            self.player.bar,
            more=[
                {"table": switch("Who sends how much to whom"), "fp8": switch("FP8 dispatch")},
                {"model_name": model_choice(MODELS, "DeepSeek-V3 / R1")},
                {
                    "node_limit": choice("Node limit", LIMITS, 0, "56px"),
                    "tokens": steps("Tokens", BATCHES, 128),
                },
                {"seed": seed_box(), "source": whole_slider("Token of", 0, DEVICES - 1, 1)},
            ],
        )

    def check_state(self, given: dict[str, str]) -> None:
        """Of a larger machine any device may be meant."""
        self.controls["source"].max = DEVICES - 1

    def draw(self) -> Picture | None:
        source, machine = self.controls["source"], self.values
        last = machine["nodes"] * machine["devices_per_node"] - 1
        with self.quietly():
            source.value = min(source.value, last)
            source.max = last
        # Of a skewed router only the visits to single experts are known.
        self.controls["node_limit"].disabled = self.controls["skew"].value > 0
        return super().draw()
