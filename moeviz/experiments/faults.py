"""What is wrong with each sabotaged copy of the shipped model; see sabotaged_model."""

from __future__ import annotations

from typing import NamedTuple

NEGATED, REVERSED, SWAPPED = "negated output", "reversed router row", "swapped experts"


class Fault(NamedTuple):
    """What is wrong, in which layer, and with which experts."""

    name: str
    layer: int
    experts: tuple[int, ...]


# A is the notebook's worked case, the others are its last exercise.
CASES = {
    "A": Fault(NEGATED, 1, (5,)),
    "B": Fault(REVERSED, 2, (3,)),
    "C": Fault(SWAPPED, 0, (2, 5)),
}
