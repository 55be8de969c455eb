"""The efficiency frontier: sparse and dense models of this lab on one axis."""

from __future__ import annotations

from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, slider
from moeviz.pictures import Picture
from moeviz.pictures.training.frontier import frontier
from moeviz.pictures.training.frontier_read import settled
from moeviz.predictions.prediction import recorded_run

LEAST = "learned, 256 experts"
SHORT = {
    "Share met": "share", "Parameters": "parameters", "Bytes a token": "bytes", "FLOPs": "flops",
    "Seconds": "seconds",
}  # fmt: skip


class Frontier(Panel):
    """Recorded trainings of two lengths; the axis says what they are set against, and a press which
    one is told of."""

    told_in_picture = True
    presets = {
        "Less and less of the model": {"axis": "share", "arm": LEAST, "steps": 1200},
        "A quarter of the training": {"axis": "share", "arm": "hash, 64 experts", "steps": 300},
        "At equal memory": {"axis": "parameters", "arm": "learned, 16 experts"},
        "On the clock": {"axis": "seconds"},
    }

    def __init__(self) -> None:
        """ValueError where nothing is recorded."""
        long, short = (recorded_run(name) for name in ("frontier", "frontier_short"))
        self._recorded = {run["steps"]: run for run in (short, settled(long, short))}
        arms = [arm for arm in long["arms"] if arm in short["arms"]]
        lengths = [(f"{steps:,}", steps) for steps in self._recorded]
        # Each arm is a mark of the picture, which is pressed.
        super().__init__(
            {
                "axis": choice("Against", [*SHORT.items()], "share", "auto"),
                "steps": choice("Steps", lengths, long["steps"], "64px"),
            },
            more=[{"arm": slider("Model", arms, LEAST, "420px")}],
        )

    def draw(self) -> Picture | None:
        axis, steps, arm = (self.values[name] for name in ("axis", "steps", "arm"))
        return self.shown(frontier(self._recorded[steps], axis=axis, arm=arm))
