"""What labels and marks cover of a plot, so that none is written over another."""

from __future__ import annotations

from typing import NamedTuple


class Box(NamedTuple):
    """Pixels from left to right and from top to bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether they share more than an edge."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )
