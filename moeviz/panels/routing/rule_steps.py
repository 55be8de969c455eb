"""A routing rule step by step: the very matrices that a cell has computed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np

from moeviz.panels.base import Panel
from moeviz.panels.controls import whole_slider
from moeviz.panels.player import Player
from moeviz.pictures import Picture
from moeviz.pictures.axes import Scale
from moeviz.pictures.routing.rule_steps import Change, Step, rule_steps

WORDS = ("The", "cat", "sat", "on", "mats")  # of the example
TABLE = np.array([[6, 2, 1, 1], [5, 1, 3, 1], [4, 4, 1, 1], [7, 1, 1, 2], [3, 1, 1, 6]], float)
STOPS = 24  # of the score that is dragged

Steps = Mapping[str, Any]
Scores = dict[tuple[int, int], float]  # those that were changed: value by row and column


def example(table_TN: Any) -> dict[str, Any]:
    """Experts and tokens of a table divided by their sums, in turns."""
    steps = {"a table": table_TN}
    for turn in (1, 2, 3):
        steps[f"experts, round {turn}"] = table_TN = table_TN / table_TN.sum(0)
        steps[f"tokens, round {turn}"] = table_TN = table_TN / table_TN.sum(1, keepdims=True)
    return steps


def tries(table_TN: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What to try with a table of scores: the presets of a rule of these steps."""
    best, loved = table_TN[0].max(), int(table_TN.sum(0).argmax())
    # Of an exact tie a short rule may take all.
    tie = {(0, n): best - 0.01 * n for n in range(table_TN.shape[1])}
    love = {(t, loved): table_TN.max() for t in range(len(table_TN))}
    last = {"step": len(names)}
    return {
        names[0]: {"step": 1, "scores": ""},
        names[-1]: last | {"scores": ""},
        "Nearly a tie": last | {"scores": spelled(tie)},
        "All like one expert": last | {"scores": spelled(love)},
    }


def spelled(scores: Scores) -> str:
    """ "0,3: 1.5; 2,1: 4": what `_scores` reads."""
    return "; ".join(f"{t},{n}: {value:.4g}" for (t, n), value in scores.items())


class RuleSteps(Panel):
    """One matrix [T, N] after another, with the sums of tokens (rows) and experts (columns).

    steps: what each step is called, and its matrix, a tensor or an array. Or, with `of`, a rule: a
    function that makes such steps of a table like `of`, the first of them; then each score of the
    table can be dragged, and the steps are made again. By default experts and tokens of a small
    table in turns. tokens: names of the T rows, by default their numbers.
    ValueError where a step is no matrix of finite numbers, or has another number of rows.
    """

    presets = tries(TABLE, [*example(TABLE)])

    def __init__(
        self, steps: Steps | Callable[[Any], Steps] | None = None,
        tokens: Sequence[str] | None = None, *, of: Any = None,
    ) -> None:  # fmt: skip
        if steps is None:
            steps, of, tokens = example, TABLE, WORDS
        self._rule = steps if callable(steps) else None
        self._table = of
        made = steps(of) if callable(steps) else steps
        self.steps = [_checked(title, matrix) for title, matrix in made.items()]
        rows, names = len(self.steps[0][1]), [title for title, _ in self.steps]
        self.tokens = [str(t) for t in range(rows)] if tokens is None else [*tokens]
        for title, matrix_TN in self.steps:
            if len(matrix_TN) != len(self.tokens):
                raise ValueError(
                    f"Every step needs a row for each of the {len(self.tokens)} tokens; "
                    f"'{title}' has {len(matrix_TN)}."
                )
        slider = whole_slider("Step", 1, len(names), 1, width="420px")
        self.player = Player(self, slider)
        if not self._rule:
            self.presets = {names[0]: {"step": 1}, names[-1]: {"step": len(names)}}
            super().__init__(self.player.bar)
            return
        self._given = self.steps[0][1]
        self.presets = tries(self._given, names)
        layout = widgets.Layout(width="420px", max_width="100%")
        box = widgets.Text(description="Scores", placeholder="row,column: score; …", layout=layout)
        super().__init__(self.player.bar, more=[{"scores": box}])

    def draw(self) -> Picture | None:
        return self.shown(self._picture(self.controls["step"].value))

    def _picture(self, step: int) -> Picture:
        if not self._rule:
            return rule_steps(self.steps, step - 1, tokens=self.tokens)
        scores = self._scores(self.controls["scores"].value)
        best = int(self._given[0].argmax())
        cell = next(reversed(scores), (0, best))
        low, high = min(float(self._given.min()), 0.0), float(self._given.max())
        values = Scale(low, high + (high - low) / 3, 0, 1).ticks(STOPS)

        def press(t: int, n: int, value: float) -> dict[str, object]:
            others = {of: v for of, v in scores.items() if of != (t, n)}
            return {"scores": spelled(others | {(t, n): value})}

        change = Change(cell, values, press)
        return rule_steps(self._made_of(scores), step - 1, tokens=self.tokens, change=change)

    def _scores(self, text: str) -> Scores:
        """The scores that were changed, the last one last; ValueError where it is no such text."""
        scores: Scores = {}
        for part in filter(None, map(str.strip, text.split(";"))):
            spelt = re.fullmatch(r"(\d+), ?(\d+): ?(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)", part)
            rows, columns = self._given.shape
            if not spelt or int(spelt[1]) >= rows or int(spelt[2]) >= columns:
                raise ValueError(
                    f"Scores are of the form 'row,column: score', as '0,{columns - 1}: 1.5', with "
                    f"rows to {rows - 1} and columns to {columns - 1}; got '{part}'."
                )
            scores[int(spelt[1]), int(spelt[2])] = float(spelt[3])
        return scores

    def _made_of(self, scores: Scores) -> list[Step]:
        """The steps of the table with these scores; ValueError where the rule fails on it."""
        if not scores or not self._rule:
            return self.steps
        table = self._table.copy() if isinstance(self._table, np.ndarray) else self._table.clone()
        for cell, value in scores.items():
            table[cell] = value
        try:
            return [_checked(title, matrix) for title, matrix in self._rule(table).items()]
        except Exception as error:
            raise ValueError(f"The rule fails on these scores: {error}") from error

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
