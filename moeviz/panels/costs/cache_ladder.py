"""The cache of a long context, under each kind of attention."""

from __future__ import annotations

import ipywidgets as widgets

from moeviz.panels.base import Panel, choice
from moeviz.pictures import Picture
from moeviz.pictures.costs.cache_ladder import cache_ladder

CONTEXTS = tuple(2**i for i in range(10, 21))
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class CacheLadder(Panel):
    """From multi-head to latent attention, and what is compared when a factor is claimed."""

    kind = "cache_ladder"

    def __init__(self) -> None:
        formats = (("bf16", 16), ("8 bits", 8), ("4 bits", 4))
        controls: dict[str, widgets.Widget] = {
            "context": widgets.SelectionSlider(
                options=[(f"{v:,}", v) for v in CONTEXTS], value=131_072, description="Context"
            ),
            "batch": widgets.SelectionSlider(options=BATCHES, value=1, description="Sequences"),
            "bits": choice("Cache in", formats, 16, "64px"),
        }
        super().__init__(controls, [[*controls.values()]])
        self.refresh()

    def draw(self) -> Picture | None:
        return self.drawn_by(cache_ladder)
