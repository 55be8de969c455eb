"""A dense and an MoE model of equal active parameters, training side by side."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets as widgets
import numpy as np
from traitlets import TraitError

from moeviz.files import load_header
from moeviz.metrics import gap
from moeviz.panels.base import BESIDE_LABEL, Panel, button
from moeviz.panels.predict import ANSWERS
from moeviz.paths import autosave_folder, data_path
from moeviz.pictures import Picture
from moeviz.pictures.race import race
from moeviz.snapshot import Snapshot, load_snapshots

if TYPE_CHECKING:
    from moeviz.live import Frame, LiveRun
    from moeviz.trainer import Trainer

AXIS_OPTIONS = (("steps", "step"), ("FLOPs", "flops"), ("seconds", "seconds"))
EXPERTS = (4, 8, 16, 32)
CHOICES = (1, 2, 4)
AUTOSAVE = autosave_folder("race")
LABELS = ("dense", "MoE")


class Race(Panel):
    """Play, pause, step and reset a race; switch its x-axis; drag its timeline back.

    It opens on a recorded race and imports torch at the first press of a button. Running the cell
    again finds the same race going on; after a restart of the kernel, Play goes on from the last
    autosave.
    """

    kind = "race"
    # The process's one race and its results: a panel made anew goes on with them.
    _run: ClassVar[LiveRun | None] = None
    _asked: ClassVar[tuple[int, int, int]]  # what _run races: E, K, seed
    _scores: ClassVar[dict[tuple[int, int, int], dict[str, float]]] = {}

    def __init__(self) -> None:
        recorded, self._provenance = load_snapshots(data_path("runs", "race.safetensors"))
        self._recorded = recorded[:2]
        self._frame: Frame | None = None
        experts = _choice("Experts E", EXPERTS, 16, "moeviz-experts")
        top_k = _choice("Choices K", CHOICES, 2, "moeviz-top-k")
        seed = widgets.BoundedIntText(
            0, min=0, max=9999, description="Seed", layout=widgets.Layout(width="150px")
        ).add_class("moeviz-seed")
        axis = widgets.ToggleButtons(options=AXIS_OPTIONS, description="x-axis")
        axis.add_class("moeviz-axis").add_class(BESIDE_LABEL)
        axis.style.button_width = "80px"
        self.timeline = widgets.IntSlider(
            100, min=0, max=100, description="Timeline %", layout=widgets.Layout(width="420px")
        ).add_class("moeviz-timeline")
        self.series = widgets.Checkbox(
            False, description="then race the next seed", indent=False
        ).add_class("moeviz-series")
        self.score = widgets.HTML().add_class("moeviz-score")
        buttons = [
            button("▶ Play", "moeviz-play", "Train both models", lambda: self._command("play")),
            button(
                "▮▮ Pause", "moeviz-pause", "Stop after this step", lambda: self._command("pause")
            ),
            button(
                "▶▮ Step", "moeviz-step", "One step of each model", lambda: self._command("step")
            ),
            button("⟲ Reset", "moeviz-reset", "Back to step 0", self._reset),
        ]
        self._keys = ("experts", "top_k", "seed")
        controls = {"experts": experts, "top_k": top_k, "seed": seed, "axis": axis}
        super().__init__(
            controls, [[*buttons, self.series], [experts, top_k, seed], [axis, self.timeline]]
        )
        self.children = (*self.children, self.score)  # type: ignore[has-type]
        self.timeline.observe(lambda _: self.refresh(), "value")
        self._raced = self._configuration()
        self._offered = False  # whether an interrupted race was offered to go on with
        self._aside = ""
        run = Race._run
        if run is not None:
            self._take_over(run)
        elif not self._find_interrupted():
            self.say("Recorded race. Press Play to train both models here, on this machine.")
        if self._scores:
            self.score.value = self._score_html()
        self.refresh()

    # Drawing.

    def draw(self) -> Picture:
        axis = self.controls["axis"].value
        learners, note = self._shown()
        share = self.timeline.value / 100
        if share < 1:
            ends = [float(getattr(s.curve, axis)[-1]) for s in learners if len(s.curve)]
            far = max(ends, default=0.0)
            learners = [s.at(axis, share * far) for s in learners]
            note += f" · timeline at {self.timeline.value} %"
        state = f"{self.state}&timeline={self.timeline.value}&step={learners[-1].step}"
        return race(learners, axis, note=note, state=state)

    def _shown(self) -> tuple[list[Snapshot], str]:
        if self._frame is not None and self._frame.learners:
            experts, top_k, seed = _configured(self._frame.learners[-1].meta)
            note = f"live: E = {experts}, K = {top_k}, seed {seed}{self._aside}"
            return list(self._frame.learners), note
        recorded = self._provenance
        return self._recorded, (
            f"recorded, not live: E = 16, K = 2, seed 0 · {recorded['device']} · {recorded['date']}"
        )

    def _on_frame(self, frame: Frame) -> None:
        """Called on the live run's thread."""
        self._frame = frame
        self.say(frame.message, unexpected=frame.unexpected)
        if frame.status == "finished":
            self._finish(frame)
        self.refresh()

    # Commands.

    def changed(self) -> None:
        if self._quiet:
            return
        if self._configuration() != self._raced:
            self._reset()
        self.refresh()

    def _command(self, name: str) -> None:
        with self.guarded():
            if name == "pause" and Race._run is None:
                self.say("Nothing trains yet. Press Play to train both models here.")
            else:
                getattr(self._live(), name)()

    def _reset(self) -> None:
        with self.guarded():
            self._raced = self._configuration()
            self.timeline.value = 100
            self._aside = ""
            _forget_autosave()
            if Race._run is not None:
                Race._run.reset(self._builder(anew=True))
            else:
                self._frame = None
                self.say("Ready. Press Play to train both models here, on this machine.")
                self.refresh()

    def _live(self) -> LiveRun:
        """The race's thread, begun at the first command."""
        if Race._run is None:
            self.say("Loading PyTorch: some seconds, once…")
            from moeviz.live import LiveRun

            Race._run = LiveRun(self._builder(), self._on_frame, autosave=AUTOSAVE)
        return Race._run

    def _take_over(self, run: LiveRun) -> None:
        """This panel was made while a race exists: show that one."""
        run.publish = self._on_frame
        self._frame = run.frame
        self._set_configuration(Race._asked)
        self.say(f"This race was going on already. {run.frame.message}")

    def _find_interrupted(self) -> bool:
        """Whether an autosave is there; then this panel is set to its race."""
        try:
            headers = [
                load_header(AUTOSAVE / f"{name}.safetensors", kind="checkpoint") for name in LABELS
            ]
            header = headers[-1]
            self._set_configuration(_configured(header))
        except (OSError, ValueError, LookupError, TypeError, TraitError):
            self._set_configuration(self._raced)
            return False  # none, damaged, or of another version: it is not gone on from
        self._offered = True
        self.say(
            f"A race interrupted at step {header['step']} was kept: Play goes on from it, Reset "
            "begins anew."
        )
        return True

    def _set_configuration(self, values: tuple[int, int, int]) -> None:
        self.set_controls(dict(zip(self._keys, values, strict=True)))
        self._raced = self._configuration()

    def _configuration(self) -> tuple[int, int, int]:
        experts, top_k, seed = (int(self.controls[key].value) for key in self._keys)
        return experts, top_k, seed

    def _builder(self, *, anew: bool = False) -> Callable[[], dict[str, Trainer]]:
        """What makes the contestants, on the race's thread: from the autosave where there is one
        of this race, unless they are to begin anew."""
        experts, top_k, seed = Race._asked = self._raced

        def build() -> dict[str, Trainer]:
            from moeviz.experiments.race import build_race, resume_race

            if anew:  # here too: a save in hand may have ended after the reset
                _forget_autosave()
                return build_race(experts, top_k, seed)
            kept = resume_race(AUTOSAVE, experts, top_k, seed)
            if kept is None and self._offered:
                self._aside = " · the interrupted race is of another text or version: begun anew"
            return kept or build_race(experts, top_k, seed)

        return build

    # The score over seeds.

    def _finish(self, frame: Frame) -> None:
        dense, moe = frame.learners
        gaps = {axis: gap(dense.curve, moe.curve, axis) for axis in ("step", "seconds")}
        self._scores.setdefault(_configured(moe.meta), gaps)
        _forget_autosave()
        self.score.value = self._score_html()
        seed = self.controls["seed"]
        if self.series.value and seed.value < seed.max:
            seed.value += 1
            self._command("play")

    def _score_html(self) -> str:
        """Every finished race, and how the learner's prediction did."""
        lines = []
        for experts, top_k in sorted({key[:2] for key in self._scores}):
            gaps = [g for key, g in self._scores.items() if key[:2] == (experts, top_k)]
            said = []
            for axis, name in (("step", "at equal steps"), ("seconds", "at equal seconds")):
                values = np.array([gap[axis] for gap in gaps])
                spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
                said.append(
                    f"{name} MoE ahead in {int((values > 0).sum())} of {len(values)}, by "
                    f"{values.mean():+.3f}{spread} nats"
                )
            lines.append(f"E = {experts}, K = {top_k}: " + "; ".join(said) + ".")
        for axis in ("step", "seconds"):
            if f"race.{axis}" in ANSWERS:
                per = "step" if axis == "step" else "second"
                lines.append(f"You predicted, per {per}: {escape(ANSWERS['race.' + axis])}.")
        body = "Races here: " + "<br>".join(lines)
        return f'<div role="status" aria-live="polite" style="line-height:1.6">{body}</div>'


def _choice(label: str, options: tuple[int, ...], value: int, name: str) -> widgets.ToggleButtons:
    """Buttons, because JupyterLab takes the arrow keys from a focused drop-down list."""
    made = widgets.ToggleButtons(options=options, value=value, description=label)
    made.style.button_width = "44px"
    return made.add_class(name).add_class(BESIDE_LABEL)


def _configured(meta: dict[str, Any]) -> tuple[int, int, int]:
    """E, K and seed of a contestant with experts, from its snapshot's meta or its checkpoint."""
    experts = meta["model"]["moe"]
    return experts["num_experts"], experts["top_k"], meta["train"]["seed"]


def _forget_autosave() -> None:
    """The interrupted race is finished or thrown away."""
    for path in AUTOSAVE.glob("*.safetensors"):
        path.unlink(missing_ok=True)
