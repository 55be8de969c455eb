"""A phone book to remember or products to work out: an MoE and two dense models learn them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from moeviz.experiments.recorded import recorded_figures, recorded_runs
from moeviz.panels.controls import choice, seed_box
from moeviz.panels.named_runs import Configuration, NamedRuns
from moeviz.pictures import Picture
from moeviz.pictures.training.memory_or_thinking import memory_or_thinking, points_of
from moeviz.records.answers import MODELS
from moeviz.records.runs import Snapshot
from moeviz.text.tasks import BOOK, PRODUCTS, SIZES, task_name
from moeviz.words import percent

if TYPE_CHECKING:
    from moeviz.training.live import Frame
    from moeviz.training.trainer import Trainer

RECORDING = "memory_or_thinking"
NAMES = [task_name(task, size) for task, sizes in SIZES.items() for size in sizes]
LABELS = {
    BOOK: [f"{size:,} numbers" for size in SIZES[BOOK]],
    PRODUCTS: [f"{size} digits × 1" for size in SIZES[PRODUCTS]],
}
OPTIONS = [*zip([*LABELS[BOOK], *LABELS[PRODUCTS]], NAMES, strict=True)]
_, MIDDLE_BOOK, LARGE_BOOK = (task_name(BOOK, size) for size in SIZES[BOOK])


class MemoryOrThinking(NamedRuns):
    """An MoE, the dense model of its active and that of all its parameters learn one task.

    A press on a task shows how seed 0 learned it; Play trains the three here.
    """

    named, noted, steps = "learn", "task", 600
    called, trained, series_label = "run", "the three models", "then train the next seed"
    labels = MODELS
    presets = {
        "A phone book": {"learn": MIDDLE_BOOK},
        "A larger one": {"learn": LARGE_BOOK},
        "Short products": {"learn": task_name(PRODUCTS, SIZES[PRODUCTS][0])},
        "Long products": {"learn": task_name(PRODUCTS, SIZES[PRODUCTS][-1])},
    }
    # The results of this process: the last share of right answers of each model.
    _scores: ClassVar[dict[Configuration, dict[str, float]]] = {}

    def __init__(self) -> None:
        self._figures = recorded_figures(RECORDING)
        self._recorded = {}
        if self._figures is not None:
            runs, self._made = recorded_runs(RECORDING)
            self._recorded = {
                (name, 0): runs[3 * place : 3 * place + 3] for place, name in enumerate(NAMES)
            }
        learn = choice("Learn", OPTIONS, MIDDLE_BOOK, "auto")
        super().__init__({"learn": learn}, last={}, more=[{"seed": seed_box()}])

    def _picture(self, learners: list[Snapshot], note: str) -> Picture:
        """The task is that of the runs in the picture: the live one may be of the task before."""
        return memory_or_thinking(self._figures, self._shown()[0], learners, note=note)

    # The run.

    def _build(self, configuration: Any, folder: Path | None) -> dict[str, Trainer]:
        from moeviz.experiments.memory_or_thinking import build, resume

        return {**(build(*configuration) if folder is None else resume(folder, *configuration))}

    # What was learned.

    def _keep_score(self, frame: Frame) -> None:
        shares = {s.label: points_of(s)[-1][1] for s in frame.learners if points_of(s)}
        self._scores.setdefault(self._configured(frame.learners[-1].meta), shares)

    def _score_lines(self) -> list[str]:
        """Every finished run of this process."""
        return [
            f"Trained here, {name}, seed {seed}: right answers of "
            + ", ".join(f"{model} {percent(share)}" for model, share in shares.items())
            + "."
            for (name, seed), shares in sorted(self._scores.items())
        ]
