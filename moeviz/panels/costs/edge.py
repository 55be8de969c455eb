"""Which models a small device holds, and which of them write fast enough there."""

from __future__ import annotations

from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, steps
from moeviz.pictures.costs.edge import FORMATS, SHARES, SPEEDS, edge
from moeviz.pictures.costs.memory_fit import CONTEXTS
from moeviz.words import percent

# Label -> name in moeviz.costs.DEVICES.
DEVICES = {
    "Pi 5, 8 GB": "Raspberry Pi 5, 8 GB",
    "Pi 5, 16 GB": "Raspberry Pi 5, 16 GB",
    "phone, 12 GB": "Phone, Snapdragon 8 Elite",
    "laptop, 8 GB": "Laptop CPU, DDR4-3200 x2",
    "MacBook Air, 16 GB": "MacBook Air M4",
    "laptop, 32 GB": "Laptop CPU, DDR5-5600 x2",
}


class Edge(Panel):
    """Models of all sizes on a phone, a small board or a laptop: tokens a second at most."""

    draws = edge
    told_in_picture = True
    presets = {
        "A Raspberry Pi": {"device_name": "Raspberry Pi 5, 16 GB", "wanted": 5},
        "All of the phone": {"share": 100},
        "Fewer bits": {"plan": "q2.6_experts"},
        "A book as context": {"context": 131_072},
    }

    def __init__(self) -> None:
        formats = tuple((label, name) for name, label in FORMATS.items())
        shares = tuple((percent(share / 100), share) for share in SHARES)
        super().__init__(
            {"device_name": choice("Device", tuple(DEVICES.items()), "Phone, Snapdragon 8 Elite",
                                   "auto")},
            {"plan": choice("Weights", formats, "q4_k_m", "auto")},
            # The tokens a second that are wanted are dragged in the picture.
            more=[
                {
                    "context": steps("Context", CONTEXTS, 4096),
                    "wanted": steps("Tokens/s", SPEEDS, 10),
                },
                {"share": choice("Of memory", shares, 75, "64px")},
            ],
        )  # fmt: skip
