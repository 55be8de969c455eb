"""Padding of the tiles, against the skew of the routing and the height of a tile."""

from __future__ import annotations

from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, seed_box, skew_slider, steps
from moeviz.pictures.kernels.tile_waste import BLOCKS, tile_waste

TOKENS = (1, 8, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
EXPERTS = (8, 16, 64, 128, 256)
TOP_K = (1, 2, 4, 8)


class TileWaste(Panel):
    """Nothing is measured here: tiles are counted, for loads drawn from Zipf's law."""

    draws = tile_waste
    presets = {
        "Decoding 64 tokens": {"tokens": 64, "block": 64},
        "64 tokens in low tiles": {"tokens": 64, "block": 16},
        "A prefill of 32,768": {"tokens": 32768, "block": 64},
        "A few experts get most": {"tokens": 1024, "skew": 2.0},
    }

    def __init__(self) -> None:
        super().__init__(
            {"skew": skew_slider(), "tokens": steps("Tokens", TOKENS, 1024)},
            {"block": choice("BLOCK_M", BLOCKS, 64, "48px")},
            more=[
                {
                    "experts": choice("Experts", EXPERTS, 64, "48px"),
                    "top_k": choice("K", TOP_K, 8, "48px"),
                },
                {"seed": seed_box()},
            ],
        )
