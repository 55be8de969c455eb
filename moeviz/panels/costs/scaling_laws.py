"""What published scaling laws say of a sparse model, as fewer of its parameters meet a token."""

from __future__ import annotations

from moeviz.costs.laws.law import size
from moeviz.panels.base import Panel
from moeviz.panels.controls import slider
from moeviz.pictures.costs.scaling_laws import CHOICES, scaling_laws

# The lab's model of 256 experts without its tables, as laws count parameters, and its training.
OURS = {"total": 12.6e6, "share": 0.013, "tokens": 1.23e6, "granularity": 1}
TOTALS = (OURS["total"], 1e8, 1e9, 3e9, 1e10, 3e10, 1e11, 2.4e11, 6.7e11, 1.6e12, 1e13)
TOKENS = (OURS["tokens"], 1e9, 1e10, 6e10, 1.3e11, 3e11, 1e12, 5e12, 15e12, 36e12)
PIECES = (1, 2, 4, 8, 12, 16, 32)


class ScalingLaws(Panel):
    """Five laws, one question; each is thick where its own runs reach."""

    told_in_picture = True
    draws = scaling_laws
    presets = {
        "1.6T at 1 %": {"total": 1.6e12, "share": 0.01, "tokens": 3e11},
        "100 times fewer FLOPs, at 3B": {"total": 3e9, "tokens": 1.3e11},
        "Where laws were fitted": {"total": 3e9, "share": 0.1, "tokens": 6e10},
        "Our small model": OURS,
    }

    def __init__(self) -> None:
        super().__init__(
            {
                "total": slider("Parameters", [(size(v), v) for v in TOTALS], 1.6e12),
                "tokens": slider("Tokens", [(size(v), v) for v in TOKENS], 3e11),
            },
            # The share is dragged in the picture.
            more=[
                {
                    "share": slider("Met", [(f"{100 * v:g} %", v) for v in CHOICES], 0.01),
                    "granularity": slider("Granularity", [(f"{v}", v) for v in PIECES], 8),
                }
            ],
        )
