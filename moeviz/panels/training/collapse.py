"""A model whose experts collapse, live, with the cures as switches and an expert to kill."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets as widgets

from moeviz.experiments.cures import ARMS, Cures, cures_of, name_of, recorded
from moeviz.experiments.recorded import recorded_runs
from moeviz.host import autosave_folder
from moeviz.panels.controls import button, choice, seed_box, whole_box
from moeviz.panels.cures_choice import chosen_cures, cure_controls
from moeviz.panels.live_panel import LivePanel
from moeviz.panels.predict import ANSWERS
from moeviz.pictures import Picture
from moeviz.pictures.training.balance import standing
from moeviz.pictures.training.collapse import collapse
from moeviz.records.metrics import collapsed
from moeviz.records.runs import Snapshot

if TYPE_CHECKING:
    from moeviz.training.live import Frame
    from moeviz.training.trainer import Trainer

AUTOSAVE = autosave_folder("collapse")
MODEL = "MoE"  # the one learner's name
REFUSAL_SECONDS = 8.0  # how long a refusal is said while frames come in

Configuration = tuple[Cures, int]


class Collapse(LivePanel):
    """Train a top-1 model that collapses; switch cures on, kill an expert, drag the timeline back.

    Moving a switch shows the recorded run of that setting, where there is one, beside the run
    before; Play trains it here.
    """

    kind = "collapse"
    called, trained, series_label = "run", "the model", "then train the next seed"
    labels = (MODEL,)
    # Of this process: whether each finished run collapsed, the run before this one, and who was
    # killed in this one: (step, layer, expert).
    _scores: ClassVar[dict[Configuration, bool]] = {}
    _before: ClassVar[Snapshot | None] = None
    _killed: ClassVar[list[tuple[int, int, int]]] = []

    def __init__(self) -> None:
        runs, self._provenance = recorded_runs("collapse")
        self._recorded = {(ARMS[s.label], s.meta["train"]["seed"]): _labelled(s) for s in runs}
        num_experts = runs[0].curve.load.shape[2]
        controls = {
            **cure_controls(),
            "layer": choice("Layer", (0, 1), 1, "44px"),
            "seed": seed_box(),
        }
        self.victim = whole_box("or expert", num_experts - 1).add_class("moeviz-victim")
        tip = "No token goes to it from now on, in the layer shown"
        kills = [
            button("✕ Kill the busiest", "moeviz-kill-busiest", tip, lambda: self._kill(None)),
            self.victim,
            button("✕ Kill it", "moeviz-kill", tip, lambda: self._kill(self.victim.value)),
        ]
        self._refusal = ("", 0.0)
        self._allowed: dict[str, Any] = {name: control.value for name, control in controls.items()}
        rows: list[list[str | widgets.Widget]] = [
            ["aux", "scope"],
            ["bias", "noise", "z", "shared"],
            ["router", "learning"],
            kills,
            ["layer", "seed"],
        ]
        super().__init__(controls, rows)
        self._open()

    # Switches.

    def _configuration(self) -> Configuration:
        """ValueError where two cures exclude each other."""
        values = self.values
        return chosen_cures(values), int(values["seed"])

    def changed(self) -> None:
        if self._quiet:
            return
        try:
            self._configuration()
        except ValueError as error:
            self.set_controls(self._allowed)
            self._refuse(str(error))
            self._show_state()
            return
        idle_scope = self.controls["scope"].value != self._allowed["scope"]
        idle_scope &= not self.controls["aux"].value
        super().changed()
        self._allowed = self.values
        if type(self).run is None and self._chosen in self._recorded:
            self.say("A recorded run of this setting. Press Play to train it here.")
        elif type(self).run is None:
            self.say("This setting is not recorded. Press Play to train it here.")
        if idle_scope:
            self._refuse("The scope is the balancing loss's, which is off: it changes nothing now.")

    def set_controls(self, values: dict[str, Any]) -> None:
        before = {name: self.controls[name].value for name in values}
        super().set_controls(values)
        try:
            self._configuration()
        except ValueError:
            super().set_controls(before)
            raise
        self._allowed = self.values

    # Drawing.

    def draw(self) -> Picture:
        run, before, note = self._runs()
        if self.timeline.value < 100 and len(run.curve):
            run = run.at("step", self.timeline.value / 100 * float(run.curve.step[-1]))
            note += f" · timeline at {self.timeline.value} %"
        killed = tuple(self._killed) if self._is_live() else ()
        state = f"{self.state}&timeline={self.timeline.value}&step={run.step}"
        layer = self.controls["layer"].value
        return collapse(run, layer, before=before, killed=killed, note=note).at(state)

    def _is_live(self) -> bool:
        return self._frame is not None and bool(self._frame.learners)

    def _runs(self) -> tuple[Snapshot, Snapshot | None, str]:
        """The run, the one to compare it with, and where it comes from."""
        before = self._before
        if self._is_live():
            assert self._frame is not None
            run = _labelled(self._frame.learners[-1])
            wanted, note = self._configured(run.meta), f"live{self._aside}"
        else:
            wanted = self._chosen
            recording = self._recorded.get(wanted)
            made = f"{self._provenance.get('device', '')} · {self._provenance.get('date', '')}"
            note = "not recorded: Play trains it here"
            if recording:
                note = f"recorded, not live · {made}"
            run = recording or self._nothing_yet(wanted)
        plain = (Cures(), wanted[1])
        if before is None and wanted != plain:
            before = self._recorded.get(plain)
        return run, before, note

    def _nothing_yet(self, wanted: Configuration) -> Snapshot:
        """A run of this setting before its first step."""
        any_run = next(iter(self._recorded.values()))
        label = f"{name_of(wanted[0])}, seed {wanted[1]}"
        return replace(any_run.at("step", 0), label=label)

    # The run.

    def _set_controls_to(self, configuration: Any) -> None:
        cures, seed = configuration
        values = {name: v for name, v in asdict(cures).items() if name in self.controls}
        self.set_controls(values | {"z": bool(cures.z), "seed": seed})

    def _configured(self, meta: dict[str, Any]) -> Configuration:
        return cures_of(meta["model"], meta["train"]), meta["train"]["seed"]

    def _autosave(self) -> Path:
        return AUTOSAVE

    def _reset(self) -> None:
        if self._is_live():
            assert self._frame is not None
            run = self._frame.learners[-1]
            if run.step:
                dead = "".join(f", expert {e} killed" for _, _, e in self._killed)
                run = _labelled(run)
                type(self)._before = replace(run, label=run.label + dead)
        super()._reset()

    def _build(self, configuration: Any) -> dict[str, Trainer]:
        from moeviz.experiments.collapse import build_collapse

        type(self)._killed = []
        return {MODEL: build_collapse(*configuration)}

    def _resume(self, configuration: Any) -> dict[str, Trainer] | None:
        from moeviz.experiments.collapse import resume_collapse

        trainer = resume_collapse(AUTOSAVE / f"{MODEL}.safetensors", *configuration)
        if trainer is None:
            return None
        type(self)._killed = _deaths(trainer)
        return {MODEL: trainer}

    # Killing.

    def _kill(self, expert: int | None) -> None:
        """Take an expert of the layer shown (None: the busiest) away, between two steps."""
        with self.guarded():
            if type(self).run is None:
                self.say("Nothing trains yet: press Play or Step, then kill.")
                return
            layer = self.controls["layer"].value

            def action(learners: dict[str, Trainer]) -> str:
                try:
                    return self._take_away(learners[MODEL], layer, expert)
                except ValueError as error:
                    self._refuse(str(error))
                    raise

            self._live().tell(action)

    @classmethod
    def _take_away(cls, trainer: Trainer, layer: int, expert: int | None) -> str:
        """On the run's thread."""
        if trainer.step >= trainer.config.steps:
            raise ValueError("This run is finished: Reset begins anew, and then an expert can die.")
        if expert is None:
            now = standing(trainer.snapshot(MODEL), layer)
            if now is None:
                raise ValueError("No expert is the busiest before the first step.")
            expert = now.busiest
        block = trainer.moe_layers[layer]
        if (block, expert) in trainer.killed:
            raise ValueError(f"Expert {expert} of layer {layer} is dead already.")
        trainer.kill(block, expert)
        cls._killed = [*cls._killed, (trainer.step, layer, expert)]
        return f"Expert {expert} of layer {layer} gets no token from step {trainer.step + 1} on."

    def _refuse(self, sentence: str) -> None:
        """Say why not, and again with the frames of the next seconds, which would wipe it away."""
        self._refusal = (sentence, time.monotonic() + REFUSAL_SECONDS)
        self.say(sentence)

    def _sentence(self, frame: Frame) -> str:
        parts = [frame.message]
        refusal, until = self._refusal
        if time.monotonic() < until and refusal not in frame.message:
            parts.insert(0, refusal)
        if frame.learners and self._killed and not frame.message.startswith("Expert"):
            deaths = ", ".join(f"expert {e} (layer {n}, step {s})" for s, n, e in self._killed)
            parts.append(f"Killed: {deaths}.")
        return " ".join(parts)

    # The score over seeds.

    def _keep_score(self, frame: Frame) -> None:
        run = frame.learners[-1]
        if not self._killed:
            self._scores.setdefault(self._configured(run.meta), collapsed(run.curve))

    def _score_lines(self) -> list[str]:
        """Per setting: how many of the runs here collapsed, and of the recorded ones."""
        lines = []
        for cures in dict.fromkeys(cures for cures, _ in self._scores):
            ends = [fell for key, fell in self._scores.items() if key[0] == cures]
            line = f"{name_of(cures)}: collapsed in {sum(ends)} of {len(ends)} runs here"
            arm = recorded()["arms"].get(name_of(cures))
            if arm:
                line += f", in {arm['collapsed']} of {arm['runs']} recorded ones"
            lines.append(f"{line}.")
        if lines and "collapse.survivors" in ANSWERS:
            lines.append(f"You predicted, without a cure: {ANSWERS['collapse.survivors']}.")
        return lines


def _labelled(run: Snapshot) -> Snapshot:
    """The run under the name of its cures and its seed."""
    cures = cures_of(run.meta["model"], run.meta["train"])
    return replace(run, label=f"{name_of(cures)}, seed {run.meta['train']['seed']}")


def _deaths(trainer: Trainer) -> list[tuple[int, int, int]]:
    """When the experts of a resumed run were killed: after the last step that had load for them
    (a checkpoint says whom, not when)."""
    curve = trainer.history.curve()
    deaths = []
    for block, expert in trainer.killed:
        layer = trainer.moe_layers.index(block)
        served = curve.step[curve.load[:, layer, expert] > 0]
        deaths.append((int(served[-1]) if len(served) else 0, layer, expert))
    return deaths
