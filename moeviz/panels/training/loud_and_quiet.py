"""How loud an MoE starts, as a slider: beside its dense twin, recorded at every scale, and live."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from moeviz.experiments.recorded import recorded_runs
from moeviz.host import read_figures
from moeviz.panels.controls import seed_box, slider
from moeviz.panels.live_panel import LivePanel
from moeviz.pictures import Picture
from moeviz.pictures.training.loud_and_quiet import Ending, loud_and_quiet
from moeviz.records.compare import reach_of_luck
from moeviz.records.metrics import gap
from moeviz.records.runs import Snapshot

if TYPE_CHECKING:
    from moeviz.training.live import Frame
    from moeviz.training.trainer import Trainer

# From quiet to loud: the MoE as written, which has no scale, starts 0.11 times as loud as dense.
SCALES = (
    ("1/16", 0.0625), ("as written", 0.0), ("1/8", 0.125), ("1/4", 0.25), ("1/2", 0.5),
    ("1: fair", 1.0), ("2", 2.0), ("4", 4.0),
)  # fmt: skip
NAMES = {scale: name for name, scale in SCALES}

Configuration = tuple[float, int]  # scale, seed


class LoudAndQuiet(LivePanel):
    """A top-2 MoE with raw weights and its dense twin; the slider says how loud the MoE starts.

    Moving it shows the recorded run of that scale; Play trains both here.
    """

    called, trained, series_label = "run", "both models", "then train the next seed"
    labels = ("dense", "MoE")
    presets = {
        "As written": {"scale": 0.0},
        "A 16th as loud": {"scale": 0.0625},
        "Fair": {"scale": 1.0},
        "4 times as loud": {"scale": 4.0},
    }
    # The results of this process: how far the MoE is ahead.
    _scores: ClassVar[dict[Configuration, float]] = {}

    def __init__(self) -> None:
        (dense, *runs), self._provenance = recorded_runs("loud_and_quiet")
        self._start = read_figures("loud_and_quiet")
        of_seeds = {start["scale"]: start["ahead"]["values"] for start in self._start["MoE"]}
        self._luck = {of: reach_of_luck(values) for of, values in of_seeds.items()}
        self._source = f"this difference at this scale over {len(of_seeds[0.0])} seeds"
        self._recorded = {
            # As the recording has them: as written first.
            (scale, 0): [dense, moe]
            for scale, moe in zip(sorted(NAMES), runs, strict=True)
        }
        scale = slider("MoE scale", SCALES, 0.0, "420px")
        super().__init__({"scale": scale}, last={}, more=[{"seed": seed_box()}])

    def _picture(self, learners: list[Snapshot], note: str) -> Picture:
        """How loud a model starts is told of seed 0, for it hardly depends on the seed."""
        scale = self._shown_scale()
        return loud_and_quiet(
            learners, self._start, scale, NAMES[scale], note=note, settings=self._settings()
        )

    def _shown_scale(self) -> float:
        """That of the run in the picture: the live one may still be of the setting before."""
        return self._configured(self.live[-1].meta)[0] if self.live else self._chosen[0]

    def _settings(self) -> list[Ending]:
        """Every recorded scale, which a press shows."""
        settings = []
        for name, scale in SCALES:
            dense, moe = self._recorded[scale, 0]
            ahead, row = gap(dense.curve, moe.curve, "step"), f"scale {name}" if scale else name
            press, chosen = {"scale": scale, "seed": 0}, self._chosen == (scale, 0)
            settings.append(Ending(row, ahead, self._luck[scale], self._source, press, chosen))
        return settings

    def _learners(self) -> tuple[list[Snapshot], str]:
        if self.live:
            return [*self.live], f"live: scale {NAMES[self._shown_scale()]}{self._aside}"
        (scale, _), made = self._chosen, self._provenance
        if self._chosen not in self._recorded:
            waiting = [run.at("step", 0) for run in self._recorded[scale, 0]]
            return waiting, "not recorded: Play trains it here"
        named = f"scale {NAMES[scale]}, seed 0"
        note = f"recorded, not live: {named} · {made['device']} · {made['date']}"
        return self._recorded[self._chosen], note

    # The run.

    def _configuration(self) -> Configuration:
        return self.controls["scale"].value, self.controls["seed"].value

    def _set_controls_to(self, configuration: Any) -> None:
        self.set_controls(dict(zip(("scale", "seed"), configuration, strict=True)))

    def _configured(self, meta: dict[str, Any]) -> Configuration:
        return meta["model"]["ffn_scale"] or 0.0, meta["train"]["seed"]

    def _build(self, configuration: Any, folder: Path | None) -> dict[str, Trainer]:
        from moeviz.experiments.loud_and_quiet import build, resume

        return build(*configuration) if folder is None else resume(folder, *configuration)

    # Who is ahead.

    def _keep_score(self, frame: Frame) -> None:
        dense, moe = frame.learners
        self._scores.setdefault(self._configured(moe.meta), gap(dense.curve, moe.curve, "step"))

    def _score_lines(self) -> list[str]:
        """Every finished run of this process."""
        lines = []
        for (of, seed), ahead in sorted(self._scores.items()):
            word, luck = "ahead" if ahead > 0 else "behind", self._luck[of]
            beyond = "beyond" if abs(ahead) > luck else "within"
            lines.append(
                f"Trained here, scale {NAMES[of]}, seed {seed}: MoE {word} by {abs(ahead):.3f} "
                f"nats, {beyond} the ± {luck:.3f} of luck alone."
            )
        return lines
