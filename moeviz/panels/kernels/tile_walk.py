"""The order in which programs take the tiles of a batch."""

from __future__ import annotations

from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice
from moeviz.pictures import Picture
from moeviz.pictures.kernels.tile_walk import WALKS, tile_walk
from moeviz.records.dispatch import DispatchTrace

PROGRAMS = (2, 4, 8)
GROUPS = (1, 2, 4, 8)


class TileWalk(Panel):
    """Nothing is timed here: tiles, starts and bytes of the recorded batch are counted."""

    presets = {
        "Tile by tile": {"group": 1},
        "Two tiles together": {"group": 2},
        "Persistent programs": {"walk": "persistent"},
    }

    def __init__(self) -> None:
        self.trace = recorded_trace(DispatchTrace, "dispatch")
        super().__init__(
            {
                "walk": choice("Walk", WALKS, "one", "172px"),
                "programs": choice("At a time", PROGRAMS, 4, "44px"),
                "group": choice("GROUP", GROUPS, 8, "44px"),
            },
        )

    def draw(self) -> Picture:
        return self.shown(tile_walk(self.trace, **self.values))
