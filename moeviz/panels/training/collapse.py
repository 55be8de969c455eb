"""A model whose experts collapse, live, with the cures as switches and an expert to kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from moeviz.experiments.cures import ARMS, DENSE, Cures, cures_of, name_of, recorded
from moeviz.experiments.larger import LARGE, SMALL, size_of
from moeviz.experiments.recorded import recorded_runs
from moeviz.panels.controls import button, choice, seed_box, size_choice, whole_box
from moeviz.panels.cures_choice import chosen_cures, cure_controls, switched
from moeviz.panels.sized_panel import SizedPanel
from moeviz.pictures import Picture
from moeviz.pictures.training.balance import standing
from moeviz.pictures.training.collapse import chosen, collapse
from moeviz.pictures.training.race import seconds_left
from moeviz.predictions.prediction import ANSWERS
from moeviz.records.metrics import collapsed
from moeviz.records.runs import Snapshot

if TYPE_CHECKING:
    from moeviz.training.live import Frame
    from moeviz.training.trainer import Trainer

MODEL = "MoE"  # the one learner's name
SEED = 1  # whose recorded run collapses when nothing is done

ACTIVE_WIDTH = 256  # of the model at the small size

Configuration = tuple[Cures, int, str]  # cures, seed, size


class Collapse(SizedPanel):
    """Train a top-1 model that collapses; switch cures on, kill an expert, drag the timeline back.

    Moving a switch shows the recorded run of that setting, where there is one, beside the run
    before; Play trains it here.
    """

    called, trained, series_label = "run", "the model", "then train the next seed"
    kept = " and stays in the picture, dashed"
    labels = (MODEL,)
    presets = {
        "Let it collapse": switched(Cures()) | {"seed": SEED},
        "Cure it": switched(Cures(bias="sign")) | {"seed": SEED},
        "Freeze the router": switched(Cures(learning="frozen")) | {"seed": SEED},
    }
    # Of this process: whether each finished run collapsed, the run before this one, and who was
    # killed in this one: (step, layer, expert).
    _scores: ClassVar[dict[Configuration, bool]] = {}
    _before: ClassVar[Snapshot | None] = None
    _killed: ClassVar[list[tuple[int, int, int]]] = []

    def __init__(self) -> None:
        runs, self._provenance = recorded_runs("collapse")
        self._recorded = {
            (ARMS[s.label], s.meta["train"]["seed"], SMALL): _labelled(s)
            for s in runs
            if s.label in ARMS
        }
        self._twins = {(s.meta["train"]["seed"], SMALL): s for s in runs if s.label == DENSE}
        num_experts = next(iter(self._recorded.values())).curve.load.shape[2]
        tip = "No token goes to it from now on, in the layer shown"
        balancing, *others = cure_controls()
        kill = [
            button("✕ Kill the busiest", "moeviz-kill-busiest", tip, lambda: self._kill(None)),
            button("✕ Kill the selected", "moeviz-kill", tip,
                   lambda: self._kill(self.values["victim"])),
        ]  # fmt: skip
        # The selected one is pressed in the picture.
        rest = {"victim": whole_box("Selected", num_experts - 1), "seed": seed_box(SEED)}
        super().__init__(
            balancing,
            kill,
            last={"layer": choice("Layer", (0, 1), 1, "44px")},
            more=[*others, rest | size_choice(num_experts, ACTIVE_WIDTH)],
        )

    def begin(self) -> None:
        self._allowed = self.values
        self._victim = self.values["victim"]  # the one last told of
        super().begin()

    # Switches.

    def _configuration(self) -> Configuration:
        """ValueError where two cures exclude each other."""
        values = self.values
        return chosen_cures(values), int(values["seed"]), values.get("size", SMALL)

    def changed(self) -> None:
        if self._quiet:
            return
        try:
            self._configuration()
        except ValueError as error:
            self.set_controls(self._allowed)
            self._insist(str(error))
            self._show_state()
            return
        idle_scope = self.controls["scope"].value != self._allowed["scope"]
        idle_scope &= not self.controls["aux"].value
        super().changed()
        self._allowed = self.values
        if self._victim != self.values["victim"]:
            self._victim = self.values["victim"]
            self._insist(chosen(self._victim))
        if idle_scope:
            self._insist("The scope is the balancing loss's, which is off: it changes nothing now.")

    def set_controls(self, values: dict[str, Any]) -> None:
        super().set_controls(values)
        self._configuration()
        self._allowed = self.values

    # Drawing.

    def _picture(self, learners: list[Snapshot], note: str) -> Picture:
        """With the run to compare it with: the live one before, or the recorded one without cures;
        and with the recorded dense twin of its seed and size, where there is one.

        Who was killed is marked."""
        (run,) = learners
        configuration = self._configured(run.meta) if self.live else self._chosen
        before = self._before
        plain = (Cures(), *configuration[1:])
        if before is None and configuration != plain:
            before = self._recorded.get(plain)
        twin = self._twins.get(configuration[1:])
        killed = self._killed if self.live else ()
        layer = self.controls["layer"].value
        victim = self.controls["victim"].value
        return collapse(
            run, layer, before=before, twin=twin, killed=killed, note=note, victim=victim
        )

    def _learners(self) -> tuple[list[Snapshot], str]:
        if self.live:
            left = f"about {seconds_left(self.live):.0f} s left"
            return [_labelled(self.live[-1])], f"live · {left}{self._aside}"
        if recording := self._recorded.get(self._chosen):
            made = self._provenance
            return [recording], f"recorded, not live · {made['device']} · {made['date']}"
        return [self._nothing_yet(self._chosen)], "not recorded: Play trains it here"

    def _nothing_yet(self, wanted: Configuration) -> Snapshot:
        """A run of this setting before its first step."""
        any_run = next(iter(self._recorded.values()))
        return replace(any_run.at("step", 0), label=_name(wanted))

    # The run.

    def _set_controls_to(self, configuration: Any) -> None:
        cures, seed, size = configuration
        self._set_sized(switched(cures) | {"seed": seed, "size": size})

    def _configured(self, meta: dict[str, Any]) -> Configuration:
        return _configured(meta)

    def _reset(self) -> None:
        if self.live:
            run = _labelled(self.live[-1])
            dead = "".join(f", expert {e} killed" for _, _, e in self._killed)
            type(self)._before = replace(run, label=run.label + dead)
        super()._reset()

    def _build(self, configuration: Any, folder: Path | None) -> dict[str, Trainer]:
        from moeviz.experiments.collapse import build_collapse, resume_collapse

        file = folder and folder / f"{MODEL}.safetensors"
        cures, seed, size = configuration
        trainer = (
            resume_collapse(file, cures, seed, size)
            if file
            else build_collapse(cures, seed, size=size)
        )
        if trainer is None:
            return {}
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
                    self._insist(str(error))
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

    def _sentence(self, frame: Frame) -> str:
        parts = [super()._sentence(frame)]
        if frame.learners and self._killed and not frame.message.startswith("Expert"):
            parts += [f"Killed: expert {e} (layer {n}, step {s})." for s, n, e in self._killed]
        return " ".join(parts)

    # The score over seeds.

    def _keep_score(self, frame: Frame) -> None:
        run = frame.learners[-1]
        if not self._killed:
            self._scores.setdefault(self._configured(run.meta), collapsed(run.curve))

    def _score_lines(self) -> list[str]:
        """Per setting: how many of the runs here collapsed, and of the recorded ones."""
        lines = []
        for cures, size in dict.fromkeys((cures, size) for cures, _, size in self._scores):
            ends = [fell for (c, _, s), fell in self._scores.items() if (c, s) == (cures, size)]
            large = f", {LARGE}" * (size == LARGE)
            line = f"{_called(cures)}{large}: collapsed in {sum(ends)} of {len(ends)} runs here."
            arm = recorded()["arms"].get(name_of(cures))
            if arm and size == SMALL:
                line += f" Of the recorded ones {arm['collapsed']} of {arm['runs']} did."
            lines.append(line)
        bare = [fell for (cures, *_), fell in self._scores.items() if cures == Cures()]
        if bare and (said := ANSWERS.get("04.survivors")):
            lines.append(
                f"You said that without a cure “{said}” stay; here {sum(bare)} of {len(bare)} such "
                "runs collapsed."
            )
        return lines


def _labelled(run: Snapshot) -> Snapshot:
    """The run under the name of its cures and its seed."""
    return replace(run, label=_name(_configured(run.meta)))


def _configured(meta: dict[str, Any]) -> Configuration:
    train = meta["train"]
    return cures_of(meta["model"], train), train["seed"], size_of(train)


def _name(configuration: Configuration) -> str:
    cures, seed, size = configuration
    return f"{_called(cures)}, seed {seed}" + f", {LARGE}" * (size == LARGE)


def _called(cures: Cures) -> str:
    return "no balancing" if cures == Cures() else name_of(cures)


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
