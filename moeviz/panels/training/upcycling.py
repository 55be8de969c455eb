"""A sparse model grown from a dense one, beside the dense one that goes on and a fresh start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from moeviz.experiments.recorded import recorded_figures, recorded_runs
from moeviz.panels.controls import choice, seed_box
from moeviz.panels.named_runs import Configuration, NamedRuns
from moeviz.pictures import Picture
from moeviz.pictures.training.upcycling import upcycling
from moeviz.records.growth import (
    COPIES,
    DENSE,
    DROP,
    GROWN,
    LEARNERS,
    SCRATCH,
    WAY,
    WAYS,
    mean_cosines,
)
from moeviz.records.metrics import validation_at
from moeviz.records.runs import Snapshot

if TYPE_CHECKING:
    from moeviz.training.live import Frame
    from moeviz.training.trainer import Trainer

RECORDING = "upcycling"
TOLD_EVERY = 20  # steps of the parent between two sentences
AXIS_OPTIONS = (("steps", "step"), ("compute", "flops"))


class Upcycling(NamedRuns):
    """A dense model goes on, grows into a sparse one, and the sparse one begins from scratch.

    The recorded ways show seed 0; Play trains the dense parent first, and then the three here.
    """

    named, noted, steps = "grow", WAY, 300
    called, trained, series_label = "run", "the three models", "then train the next seed"
    labels = LEARNERS
    presets = {
        "Copies": {"grow": COPIES},
        "Half drawn anew": {"grow": DROP},
        "All drawn anew": {"grow": "all drawn anew"},
        "By compute": {"grow": COPIES, "axis": "flops"},
    }
    # The results of this process: the last validation loss of each learner, and the cosine.
    _scores: ClassVar[dict[Configuration, dict[str, float]]] = {}

    def __init__(self) -> None:
        self._figures = recorded_figures(RECORDING)
        self._recorded = {}
        if self._figures is not None:
            runs, self._made = recorded_runs(RECORDING)
            by_arm = {run.label: run for run in runs}
            self._recorded = {
                (way, 0): [by_arm[DENSE], by_arm[SCRATCH], _as_grown(by_arm[way])] for way in GROWN
            }
        super().__init__(
            {"grow": choice("Grow by", [*WAYS], COPIES, "auto")},
            last={"axis": choice("x-axis", AXIS_OPTIONS, "step", "80px")},
            more=[{"seed": seed_box()}],
        )

    def _picture(self, learners: list[Snapshot], note: str) -> Picture:
        """The way is that of the runs in the picture: the live one may be of the way before."""
        way, axis = self._shown()[0], self.controls["axis"].value
        return upcycling(self._figures, way, learners, axis, note=note)

    # The run.

    def _build(self, configuration: Any, folder: Path | None) -> dict[str, Trainer]:
        from moeviz.experiments.grown_models import build, resume

        way, seed = configuration
        if folder is not None:
            return {**resume(folder, way, seed)}
        return {**build(way, seed, self._tell_parent)}

    def _tell_parent(self, step: int, steps: int) -> None:
        if step % TOLD_EVERY == 0:
            self.say(f"Training the dense parent first: step {step} of {steps}…")

    # What it came to.

    def _keep_score(self, frame: Frame) -> None:
        ends = {
            learner.label: validation_at(learner.curve, "step", learner.step)
            for learner in frame.learners
        }
        ends["cosine"] = mean_cosines(frame.learners[-1])[-1][1]
        self._scores.setdefault(self._configured(frame.learners[-1].meta), ends)

    def _score_lines(self) -> list[str]:
        """Every finished run of this process."""
        return [
            f"Grown here by {way}, seed {seed}: validation loss "
            + ", ".join(f"{label} {ends[label]:.3f}" for label in LEARNERS[::-1])
            + f"; mean cosine of experts {ends['cosine']:.2f}."
            for (way, seed), ends in sorted(self._scores.items())
        ]


def _as_grown(run: Snapshot) -> Snapshot:
    return replace(run, label=LEARNERS[-1])
