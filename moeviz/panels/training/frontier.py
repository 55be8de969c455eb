"""The efficiency frontier: sparse and dense models of this lab on one axis."""

from __future__ import annotations

from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, slider
from moeviz.pictures import Picture
from moeviz.pictures.training.frontier import END, QUARTER, frontier
from moeviz.predictions.prediction import recorded_run

LEAST = "learned, 256 experts"
SHORT = {
    "Share met": "share", "Parameters": "parameters", "Bytes a token": "bytes", "FLOPs": "flops",
    "Seconds": "seconds",
}  # fmt: skip


class Frontier(Panel):
    """Recorded trainings; the axis says what they are set against, and a press which one is told
    of."""

    told_in_picture = True
    presets = {
        "Less and less of the model": {"axis": "share", "arm": LEAST, "when": END},
        "A quarter of the training": {"axis": "flops", "arm": "hash, 64 experts", "when": QUARTER},
        "At equal memory": {"axis": "parameters", "arm": "learned, 16 experts"},
        "On the clock": {"axis": "seconds"},
    }

    def __init__(self) -> None:
        """ValueError where nothing is recorded."""
        self._recorded = recorded_run("frontier")
        steps = self._recorded["steps"]
        lengths = [(f"{steps:,}", END), (f"{steps // 4:,}", QUARTER)]
        # Each arm is a mark of the picture, which is pressed.
        super().__init__(
            {
                "axis": choice("Against", [*SHORT.items()], "share", "112px"),
                "when": choice("Steps", lengths, END, "64px"),
            },
            more=[{"arm": slider("Model", [*self._recorded["arms"]], LEAST, "420px")}],
        )

    def draw(self) -> Picture | None:
        return self.shown(frontier(self._recorded, **self.values))
