"""A dense and an MoE model of equal active parameters, training side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from moeviz.experiments.recorded import recorded_runs
from moeviz.panels.controls import choice, seed_box
from moeviz.panels.live_panel import LivePanel
from moeviz.panels.predict import ANSWERS
from moeviz.pictures import Picture
from moeviz.pictures.plot import mean_sd
from moeviz.pictures.training.race import race
from moeviz.records.metrics import gap, over_seeds
from moeviz.records.runs import Snapshot

if TYPE_CHECKING:
    from moeviz.training.live import Frame
    from moeviz.training.trainer import Trainer

AXIS_OPTIONS = (("steps", "step"), ("FLOPs", "flops"), ("seconds", "seconds"))
EXPERTS = (4, 8, 16, 32)
CHOICES = (1, 2, 4)


class Race(LivePanel):
    """Play, pause, step and reset a race; switch its x-axis; drag its timeline back."""

    called = "race"
    trained = "both models"
    series_label = "then race the next seed"
    labels = ("dense", "MoE")
    # The results of this process: a panel made anew goes on with them.
    _scores: ClassVar[dict[tuple[int, int, int], dict[str, float]]] = {}

    def __init__(self) -> None:
        recorded, self._provenance = recorded_runs("race")
        self._recorded = recorded[:2]
        super().__init__(
            {
                "experts": choice("Experts E", EXPERTS, 16, "44px"),
                "top_k": choice("Choices K", CHOICES, 2, "44px"),
                "seed": seed_box(),
            },
            last={"axis": choice("x-axis", AXIS_OPTIONS, "step", "80px")},
        )

    # Drawing.

    def _picture(self, learners: list[Snapshot], note: str) -> Picture:
        return race(learners, self.controls["axis"].value, note=note)

    def _learners(self) -> tuple[list[Snapshot], str]:
        if self.live:
            experts, top_k, seed = self._configured(self.live[-1].meta)
            return [*self.live], f"live: E = {experts}, K = {top_k}, seed {seed}{self._aside}"
        recorded = self._provenance
        return self._recorded, (
            f"recorded, not live: E = 16, K = 2, seed 0 · {recorded['device']} · {recorded['date']}"
        )

    # The run.

    def _configuration(self) -> tuple[int, int, int]:
        values = self.values
        return values["experts"], values["top_k"], values["seed"]

    def _set_controls_to(self, configuration: Any) -> None:
        keys = ("experts", "top_k", "seed")
        self.set_controls(dict(zip(keys, configuration, strict=True)))

    def _configured(self, meta: dict[str, Any]) -> tuple[int, int, int]:
        experts = meta["model"]["moe"]
        return experts["num_experts"], experts["top_k"], meta["train"]["seed"]

    def _build(self, configuration: Any, folder: Path | None) -> dict[str, Trainer]:
        from moeviz.experiments.race import build_race, resume_race

        if folder is None:
            return build_race(*configuration)
        return resume_race(folder, *configuration) or {}

    # The score over seeds.

    def _keep_score(self, frame: Frame) -> None:
        dense, moe = frame.learners
        gaps = {axis: gap(dense.curve, moe.curve, axis) for axis in ("step", "seconds")}
        self._scores.setdefault(self._configured(moe.meta), gaps)

    def _score_lines(self) -> list[str]:
        """Every finished race, and how the learner's prediction did."""
        lines = []
        for experts, top_k in sorted({key[:2] for key in self._scores}):
            gaps = [g for key, g in self._scores.items() if key[:2] == (experts, top_k)]
            ends = []
            for axis, words in (("step", "at equal steps"), ("seconds", "at equal seconds")):
                values = [gap[axis] for gap in gaps]
                ahead = f"MoE ahead in {sum(v > 0 for v in values)} of {len(values)}"
                ends.append(f"{words} {ahead}, by {mean_sd(over_seeds(values), 3, '+')} nats")
            lines.append(f"Races here: E = {experts}, K = {top_k}: {'; '.join(ends)}.")
        for axis in ("step", "seconds") if lines else ():
            if f"race.{axis}" in ANSWERS:
                per = "step" if axis == "step" else "second"
                lines.append(f"You predicted, per {per}: {ANSWERS['race.' + axis]}.")
        return lines
