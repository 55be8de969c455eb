"""The order in which programs take the tiles of a batch."""

from __future__ import annotations

from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, slider, whole_slider
from moeviz.panels.player import Player
from moeviz.pictures import Picture
from moeviz.pictures.kernels.tile_pieces import column_blocks, lanes
from moeviz.pictures.kernels.tile_walk import GROUPS, VIEWS, WALKS, tile_walk
from moeviz.records.dispatch import DispatchTrace

PROGRAMS = (2, 4, 6, 8)
OPENING = 5  # the moment: some pieces are done, some to come


class TileWalk(Panel):
    """Nothing is timed here: tiles, starts and bytes of the recorded batch are counted. Played, the
    programs go from piece to piece."""

    told_in_picture = True
    presets = {
        "Tile by tile": {"group": 1},
        "All tiles together": {"group": 8},
        "Persistent programs": {
            "view": "programs", "walk": "persistent", "programs": 6, "follow": "program 0",
        },
    }  # fmt: skip

    player: Player

    def __init__(self) -> None:
        self.trace = recorded_trace(DispatchTrace, "dispatch")
        tiles = int((self.trace.tile_expert >= 0).sum())
        self._most = self._count(min(PROGRAMS), 1)  # moments, with the fewest programs
        names = ["nothing", *(f"tile {g}" for g in range(tiles))]
        names += [f"program {p}" for p in range(max(PROGRAMS))]
        self.player = Player(self, whole_slider("Moment", 1, self._most, OPENING))
        super().__init__(
            {"group": choice("GROUP", GROUPS, 2, "44px")},
            self.player.bar,
            more=[
                {"view": choice("Show", VIEWS, "orders", "172px")},
                {"walk": choice("Walk", WALKS, "one", "172px")},
                {"programs": choice("At a time", PROGRAMS, 4, "44px")},
                {"follow": slider("Follow", names, "nothing")},
            ],
        )

    def check_state(self, given: dict[str, str]) -> None:
        """With fewer programs any moment may be meant."""
        if "step" in given:
            self.player.any_step()

    def _count(self, programs: int, group: int) -> int:
        return max(map(len, lanes(self.trace, column_blocks(self.trace), group, programs)))

    def draw(self) -> Picture:
        values = self.values
        # How a program goes on is no matter of the order.
        self.controls["walk"].disabled = values["view"] == "orders"
        self.player.step_of(self._count(values["programs"], values["group"]))
        return self.shown(tile_walk(self.trace, **self.values))
