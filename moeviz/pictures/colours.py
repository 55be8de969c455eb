"""The colours of experts and of heat, and the inks that read on them."""

from __future__ import annotations

import functools
import math

import numpy as np

# Okabe and Ito's colours for all kinds of colour vision; grey stands for their black, which a dark
# theme would swallow. A lighter grey and the pink are one colour to a deuteranope.
OKABE_ITO = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#6e6e6e",
)  # fmt: skip
# Neighbours differ most in lightness in this order: a print without colours keeps them apart.
EXPERTS = tuple(OKABE_ITO[i] for i in (2, 3, 5, 1, 7, 0, 4, 6))
CIVIDIS = (
    "#00224e", "#083370", "#35456c", "#4f576c", "#666970", "#7d7c78",
    "#948e77", "#aea371", "#c8b866", "#e5cf52", "#fee838",
)  # fmt: skip


def expert_colour(expert: int) -> str:
    """Expert 0 to 7 by EXPERTS, then again: beyond eight the number tells."""
    return EXPERTS[expert % len(EXPERTS)]


def heat_colour(share: float) -> str:
    """cividis for 0..1, clipped; NaN is mid grey."""
    if math.isnan(share):
        return "#888888"
    position = min(max(share, 0.0), 1.0) * (len(CIVIDIS) - 1)
    low = min(int(position), len(CIVIDIS) - 2)
    a, b = rgb(CIVIDIS[low]), rgb(CIVIDIS[low + 1])
    mixed = (round(p + (q - p) * (position - low)) for p, q in zip(a, b, strict=True))
    return "#" + "".join(f"{v:02x}" for v in mixed)


@functools.cache  # an image is drawn many times a second
def heat_table() -> np.ndarray:
    """heat_colour of 256 even steps, uint8 [256, 3]."""
    return np.array([rgb(heat_colour(i / 255)) for i in range(256)], dtype=np.uint8)


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on a colour (WCAG relative luminance)."""
    linear = [
        (v / 255 / 12.92 if v < 11 else ((v / 255 + 0.055) / 1.055) ** 2.4) for v in rgb(colour)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def hatch_on(colour: str) -> str:
    """The fill of marks that are hatched over a colour, in the ink that reads on it."""
    return hatch_of(ink_on(colour))


def hatch_of(ink: str) -> str:
    """The fill of marks that are hatched in an ink, which every picture defines."""
    return f"url(#mv-hatch{ink[1]})"


def rgb(colour: str) -> tuple[int, int, int]:
    """ "#rrggbb" as three numbers of 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
