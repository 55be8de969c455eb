"""What became of a model that was made smaller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Compressed:
    """One model after one recipe.

    domains: D names; rise: float64 [D], how much the loss of each rises, nats per token of held-out
    text; share: the experts' bytes that are left, of those at 16 bits a weight; whole, bytes: of
    the weights of the whole model before and after; prompt: what both were given to go on from, and
    wrote_before, wrote_after what they wrote; empty where nobody asked.
    """

    domains: tuple[str, ...]
    rise: np.ndarray
    share: float = 1.0
    whole: float = 0.0
    bytes: float = 0.0
    prompt: str = ""
    wrote_before: str = ""
    wrote_after: str = ""

    @property
    def cost(self) -> float:
        """The rise of the loss, domains weighing the same."""
        return float(self.rise.mean())
