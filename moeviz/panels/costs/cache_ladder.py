"""The cache of a long context, under each kind of attention."""

from __future__ import annotations

from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, steps
from moeviz.pictures.costs.cache_ladder import CONTEXTS, OTHERS, cache_ladder

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class CacheLadder(Panel):
    """From multi-head to latent attention, and what is compared when a factor is claimed."""

    told_in_picture = True
    draws = cache_ladder
    presets = {
        "A long text": {"context": 131_072, "batch": 1},
        "A short chat": {"context": 1024, "batch": 1},
        "64 readers at once": {"context": 131_072, "batch": 64},
        "Where 57 comes from": {"other": "full heads"},
    }

    def __init__(self) -> None:
        formats = (("bf16", 16), ("8 bits", 8), ("4 bits", 4))
        super().__init__(
            {
                "batch": steps("Sequences", BATCHES, 1),
                "bits": choice("Cache in", formats, 16, "64px"),
            },
            # The context is dragged in the picture, and each row is pressed.
            more=[
                {"context": steps("Context", CONTEXTS, 131_072)},
                {"other": choice("MLA against", tuple(OTHERS), "8 groups", "auto")},
            ],
        )
