"""What "99.3 % of a dense model's quality" may mean, for the models of the frontier."""

from __future__ import annotations

from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, slider
from moeviz.pictures import Picture
from moeviz.pictures.training.frontier_read import DENSE, of_kind
from moeviz.pictures.training.shares_of_quality import shares_of_quality
from moeviz.predictions.prediction import recorded_run
from moeviz.words import percent

LEAST, WIDEST = "learned, 256 experts", "dense, width 2048"
CLAIMS = (0.95, 0.98, 0.99, 0.993, 0.995, 1.0, 1.02)


class SharesOfQuality(Panel):
    """Four ways to say a share of quality, side by side."""

    told_in_picture = True
    presets = {
        "Beside the widest dense model": {"beside": WIDEST},
        "Beside the dense twin": {"beside": "dense, width 256"},
        "By hash": {"arm": "hash, 256 experts"},
    }

    def __init__(self) -> None:
        """ValueError where nothing is recorded."""
        self._recorded = recorded_run("frontier")
        dense = of_kind(self._recorded, DENSE)
        widths = [(f"{arm['width']:,}", name) for name, arm in dense.items()]
        sparse = [name for name in self._recorded["arms"] if name not in dense]
        # Each sparse model is a row of the picture, which is pressed.
        super().__init__(
            {
                "beside": choice("Beside", widths, WIDEST, "64px"),
                "claimed": slider("Claimed", [(percent(v, 1), v) for v in CLAIMS], 0.993),
            },
            more=[{"arm": slider("Model", sparse, LEAST, "420px")}],
        )

    def draw(self) -> Picture | None:
        return self.shown(shares_of_quality(self._recorded, **self.values))
