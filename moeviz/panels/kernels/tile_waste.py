"""Padding of the tiles, against the skew of the routing and the height of a tile."""

from __future__ import annotations

import ipywidgets as widgets

from moeviz.panels.base import Panel, choice
from moeviz.pictures import Picture
from moeviz.pictures.kernels.tile_waste import BLOCKS, tile_waste

TOKENS = (1, 8, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
EXPERTS = (8, 16, 64, 128, 256)
TOP_K = (1, 2, 4, 8)


class TileWaste(Panel):
    """Nothing is measured here: tiles are counted, for loads drawn from Zipf's law."""

    kind = "tile_waste"

    def __init__(self) -> None:
        skew = widgets.FloatSlider(
            0.0, min=0, max=2, step=0.1, description="Skew", readout_format=".1f"
        )
        tokens = widgets.SelectionSlider(options=TOKENS, value=1024, description="Tokens")
        seed = widgets.BoundedIntText(
            0, min=0, max=9999, description="Seed", layout=widgets.Layout(width="150px")
        )
        controls: dict[str, widgets.Widget] = {
            "skew": skew,
            "tokens": tokens,
            "experts": choice("Experts", EXPERTS, 64, "48px"),
            "top_k": choice("K", TOP_K, 8, "48px"),
            "block": choice("BLOCK_M", BLOCKS, 64, "48px"),
            "seed": seed,
        }
        c = controls
        super().__init__(
            controls, [[c["skew"], c["tokens"], c["seed"]], [c["block"], c["experts"], c["top_k"]]]
        )
        self.refresh()

    def draw(self) -> Picture | None:
        return self.drawn_by(tile_waste)
