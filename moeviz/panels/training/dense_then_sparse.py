"""A mixture that was trained with all of its experts answers with fewer: DS-MoE."""

from __future__ import annotations

from functools import partial

from moeviz.host import read_figures
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice
from moeviz.pictures import Picture
from moeviz.pictures.training.dense_then_sparse import dense_then_sparse

MODELS = (
    ("no information loss", "narrow, 0"), ("× 0.01", "narrow, 0.01"), ("× 0.1", "narrow, 0.1"),
    ("wide, × 0.1", "wide, 0.1"), ("sparse", "sparse"),
)  # fmt: skip
CUTS = (1, 2, 4, 8, 16)


class DenseThenSparse(Panel):
    """Choose a recorded model, and drag how many of its experts answer."""

    told_in_picture = True
    presets = {
        "A quarter answers": {"model": "narrow, 0.1", "top_k": 4},
        "Without the loss": {"model": "narrow, 0", "top_k": 4},
        "As many as the sparse model": {"model": "wide, 0.1", "top_k": 2},
        "The sparse model with more": {"model": "sparse", "top_k": 8},
    }

    def __init__(self) -> None:
        self._drawn_of = partial(dense_then_sparse, read_figures("dense_training"))
        super().__init__(
            {
                "model": choice("Model", MODELS, "narrow, 0.1", "auto"),
                "top_k": choice("Experts K", CUTS, 4, "44px"),
            },
            {"rule": choice("Weights", ("raw", "renormalised"), "raw", "auto")},
        )

    def draw(self) -> Picture:
        return self.shown(self._drawn_of(**self.values))
