"""A routing rule step by step: the very matrices that a cell has computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moeviz.panels.base import Panel
from moeviz.panels.controls import whole_slider
from moeviz.panels.player import Player
from moeviz.pictures import Picture
from moeviz.pictures.routing.rule_steps import Step, rule_steps

WORDS = ("The", "cat", "sat", "on", "mats")  # of the example


class RuleSteps(Panel):
    """One matrix [T, N] after another, with the sums of tokens (rows) and experts (columns).

    steps: what each step is called, and its matrix, a tensor or an array; by default experts and
    tokens of a small table in turns. tokens: names of the T rows, by default their numbers.
    ValueError where a step is no matrix of finite numbers, or has another number of rows.
    """

    presets = {
        "The table": {"step": 1},
        "Experts even": {"step": 2},
        "Tokens even": {"step": 3},
        "Both nearly even": {"step": 7},
    }

    def __init__(
        self, steps: Mapping[str, Any] | None = None, tokens: Sequence[str] | None = None
    ) -> None:
        self.steps = [_checked(title, matrix) for title, matrix in (steps or example()).items()]
        named = tokens if steps else WORDS
        rows = len(self.steps[0][1])
        self.tokens = [str(t) for t in range(rows)] if named is None else [*named]
        for title, matrix_TN in self.steps:
            if len(matrix_TN) != len(self.tokens):
                raise ValueError(
                    f"Every step needs a row for each of the {len(self.tokens)} tokens; "
                    f"'{title}' has {len(matrix_TN)}."
                )
        if steps:
            first, last = self.steps[0][0], self.steps[-1][0]
            self.presets = {first: {"step": 1}, last: {"step": len(self.steps)}}
        slider = whole_slider("Step", 1, len(self.steps), 1, width="420px")
        self.player = Player(self, slider)
        super().__init__(self.player.bar)

    def draw(self) -> Picture | None:
        return self.shown(self._picture(self.controls["step"].value))

    def _picture(self, step: int) -> Picture:
        return rule_steps(self.steps, step - 1, tokens=self.tokens)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """Where no kernel runs, the last step says more than the first."""
        drawn, self.drawn = self.drawn, self._picture(len(self.steps)).at(self.state)
        try:
            return super()._repr_mimebundle_(**options)
        finally:
            self.drawn = drawn


def _checked(title: str, matrix: Any) -> Step:
    """ValueError where a step cannot be shown."""
    matrix_TN = np.asarray(matrix.detach() if hasattr(matrix, "detach") else matrix, np.float64)
    if matrix_TN.ndim != 2 or not matrix_TN.size:
        raise ValueError(f"Step '{title}' must be a matrix [T, N], got {[*matrix_TN.shape]}.")
    if not np.isfinite(matrix_TN).all():
        raise ValueError(f"Step '{title}' must hold finite numbers: leave out what is masked.")
    return title, matrix_TN


def example() -> dict[str, np.ndarray]:
    """Experts and tokens of a small table divided by their sums, in turns."""
    table = np.array([[6, 2, 1, 1], [5, 1, 3, 1], [4, 4, 1, 1], [7, 1, 1, 2], [3, 1, 1, 6]], float)
    steps = {"a table": table}
    for turn in (1, 2, 3):
        steps[f"experts, round {turn}"] = table = table / table.sum(0)
        steps[f"tokens, round {turn}"] = table = table / table.sum(1, keepdims=True)
    return steps
