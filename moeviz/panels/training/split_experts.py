"""Experts split and shared at equal width: the layer, its counts, and the recorded losses."""

from __future__ import annotations

from moeviz.experiments.recorded import recorded_figures
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, slider
from moeviz.pictures import Picture
from moeviz.pictures.training.split_experts import MOST_SHARED, SPLITS, split_experts


class SplitExperts(Panel):
    """Sixteen experts, of which a token visits two, split m times. Total and active width stay."""

    presets = {
        "Whole experts": {"split": 1, "shared": 0},
        "As DeepSeekMoE: m = 4, 1 shared": {"split": 4, "shared": 1},
        "As OLMoE: m = 4, none shared": {"split": 4, "shared": 0},
        "As fine as recorded": {"split": 8, "shared": 0},
    }
    told_in_picture = True

    def __init__(self, split: int = 1, shared: int = 0) -> None:
        self.recorded = recorded_figures("fine_grained")
        counts = range(MOST_SHARED + 1)
        super().__init__(
            {
                "split": slider("Split m", [(f"{m}", m) for m in SPLITS], split),
                "shared": choice("Shared", [(f"{n}", n) for n in counts], shared, "44px"),
                "steps": choice("Steps", [("300", 300), ("1,200", 1200)], 1200, "60px"),
            }
        )

    def draw(self) -> Picture | None:
        return self.shown(split_experts(self.recorded, **self.values))
