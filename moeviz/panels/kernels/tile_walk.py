"""The order in which programs take the tiles of a batch."""

from __future__ import annotations

from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, slider, whole_slider
from moeviz.panels.player import Player
from moeviz.pictures import Picture
from moeviz.pictures.kernels.tile_pieces import column_blocks, lanes
from moeviz.pictures.kernels.tile_walk import WALKS, tile_walk
from moeviz.records.dispatch import DispatchTrace

PROGRAMS = (2, 4, 6, 8)
GROUPS = (1, 2, 4, 8)
OPENING = 3  # the moment: some pieces are done, some to come


class TileWalk(Panel):
    """Nothing is timed here: tiles, starts and bytes of the recorded batch are counted. Played, the
    programs go from piece to piece."""

    presets = {
        "Tile by tile": {"group": 1},
        "Two tiles together": {"group": 2},
        "Persistent programs": {"walk": "persistent", "follow": "program 0"},
    }

    player: Player

    def __init__(self) -> None:
        self.trace = recorded_trace(DispatchTrace, "dispatch")
        tiles = int((self.trace.tile_expert >= 0).sum())
        self._most = self._count(min(PROGRAMS), 1)  # moments, with the fewest programs
        names = ["nothing", *(f"tile {g}" for g in range(tiles))]
        names += [f"program {p}" for p in range(max(PROGRAMS))]
        self.player = Player(self, whole_slider("Moment", 1, self._most, OPENING))
        super().__init__(
            {"walk": choice("Walk", WALKS, "one", "172px")},
            {
                "programs": choice("At a time", PROGRAMS, 6, "44px"),
                "group": choice("GROUP", GROUPS, 8, "44px"),
            },
            self.player.bar,
            more=[{"follow": slider("Follow", names, "tile 4")}],
        )

    def check_state(self, given: dict[str, str]) -> None:
        """With fewer programs any moment may be meant."""
        if "step" in given:
            self.player.any_step()

    def _count(self, programs: int, group: int) -> int:
        return max(map(len, lanes(self.trace, column_blocks(self.trace), group, programs)))

    def draw(self) -> Picture:
        self.player.step_of(self._count(self.values["programs"], self.values["group"]))
        return self.shown(tile_walk(self.trace, **self.values))
