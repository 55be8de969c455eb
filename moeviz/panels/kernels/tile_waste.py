"""Padding of the tiles, against the skew of the routing and the height of a tile."""

from __future__ import annotations

import ipywidgets as widgets

from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, seed_box, skew_slider
from moeviz.pictures import Picture
from moeviz.pictures.kernels.tile_waste import BLOCKS, tile_waste

TOKENS = (1, 8, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
EXPERTS = (8, 16, 64, 128, 256)
TOP_K = (1, 2, 4, 8)


class TileWaste(Panel):
    """Nothing is measured here: tiles are counted, for loads drawn from Zipf's law."""

    kind = "tile_waste"

    def __init__(self) -> None:
        tokens = widgets.SelectionSlider(options=TOKENS, value=1024, description="Tokens")
        controls: dict[str, widgets.Widget] = {
            "skew": skew_slider(),
            "tokens": tokens,
            "experts": choice("Experts", EXPERTS, 64, "48px"),
            "top_k": choice("K", TOP_K, 8, "48px"),
            "block": choice("BLOCK_M", BLOCKS, 64, "48px"),
            "seed": seed_box(),
        }
        super().__init__(controls, [["skew", "tokens", "seed"], ["block", "experts", "top_k"]])
        self.refresh()

    def draw(self) -> Picture | None:
        return self.drawn_by(tile_waste)
