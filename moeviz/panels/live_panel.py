"""What panels that train share: play, pause, step, reset, a timeline, a series of seeds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets as widgets
from traitlets import TraitError

from moeviz.panels.autosave import Autosave
from moeviz.panels.base import Panel, Row
from moeviz.panels.controls import button, switch, whole_slider
from moeviz.pictures import Picture

if TYPE_CHECKING:
    from moeviz.records.runs import Snapshot
    from moeviz.training.live import Frame, LiveRun
    from moeviz.training.trainer import Trainer


KEPT_SECONDS = 8.0  # how long a sentence of our own stays beside those of frames


class LivePanel(Panel):
    """A panel with a live run. It imports torch at the first press of a button. Running its cell
    again finds the same run going on; after a restart of the kernel, Play goes on from the last
    autosave.

    called, trained, series_label: what sentences call the run, its learners, and the next seed.
    kept: what becomes of a run that another setting ends, after "ended at step 9 of 300".
    labels: the learners' names; the last one's configuration is the run's.
    _recorded: what is shown of each configuration that was recorded.
    """

    called: ClassVar[str]
    trained: ClassVar[str]
    series_label: ClassVar[str]
    kept: ClassVar[str] = ""
    labels: ClassVar[tuple[str, ...]]
    _recorded: Mapping[Any, Any]
    # The process's one run and what was asked of it: a panel made anew goes on with it.
    run: ClassVar[LiveRun | None] = None
    _asked: ClassVar[Any] = None
    _beginning: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self, *rows: Row, last: dict[str, widgets.Widget], more: Sequence[Row] = ()
    ) -> None:
        self._frame: Frame | None = None
        self._stays = ("", 0.0)  # a sentence, and until when it is said again
        self.timeline = whole_slider("Timeline %", 0, 100, 100, width="420px")
        self.timeline.add_class("moeviz-timeline")
        self.series = switch(self.series_label).add_class("moeviz-series")
        self.score = widgets.HTML().add_class("moeviz-score")
        self._kept = Autosave(self.kind, self.labels)
        self._offered = False  # whether an interrupted run was offered to go on with
        self._aside = ""
        play, one = f"Train {self.trained}", f"One step of {self.trained}"
        buttons = [
            button("▶ Play", "moeviz-play", play, lambda: self._command("play")),
            button(
                "▮▮ Pause", "moeviz-pause", "Stop after this step", lambda: self._command("pause")
            ),
            button("▶▮ Step", "moeviz-step", one, lambda: self._command("step")),
            button("⟲ Reset", "moeviz-reset", "Back to step 0", self._press_reset),
        ]
        super().__init__([*buttons, self.series], *rows, [last, self.timeline], more=more)

    # A subclass says these.

    def _configuration(self) -> Any:
        """What the controls ask for; another value is another run."""
        raise NotImplementedError

    def _set_controls_to(self, configuration: Any) -> None:
        raise NotImplementedError

    def _configured(self, meta: dict[str, Any]) -> Any:
        """The configuration of a learner, from its snapshot's meta or its checkpoint."""
        raise NotImplementedError

    def _build(self, configuration: Any, folder: Path | None) -> dict[str, Trainer]:
        """Learners of this configuration, on the run's thread: new ones, or those that an autosave
        in the folder kept, none where it has none of this configuration."""
        raise NotImplementedError

    def _learners(self) -> tuple[list[Snapshot], str]:
        """The learners to show, and where they come from."""
        raise NotImplementedError

    def _picture(self, learners: list[Snapshot], note: str) -> Picture:
        """Of the learners as far back as the timeline is pulled."""
        raise NotImplementedError

    def _keep_score(self, frame: Frame) -> None:
        """A run has come to its end."""

    def _score_lines(self) -> list[str]:
        """The finished runs of this process, in words; none before the first."""
        raise NotImplementedError

    def _sentence(self, frame: Frame) -> str:
        """What a frame says to the learner."""
        sentence, until = self._stays
        stays = time.monotonic() < until and sentence not in frame.message
        return f"{sentence} {frame.message}" if stays else frame.message

    # What a subclass uses.

    @property
    def live(self) -> tuple[Snapshot, ...]:
        """The learners of the live run; none before its first step."""
        learners = self._frame.learners if self._frame is not None else ()
        return learners if learners and learners[-1].step else ()

    def _insist(self, sentence: str) -> None:
        """Say it, and again with the frames of the next seconds, which would wipe it away."""
        self._stays = (sentence, time.monotonic() + KEPT_SECONDS)
        self.say(sentence)

    # The rest.

    def begin(self) -> None:
        """Show the run that goes on, offer the interrupted one, or say what is recorded."""
        self.children = (*self.children, self.score)  # type: ignore[has-type]
        self._show_score()
        self.timeline.observe(lambda _: self.refresh(), "value")
        self._chosen = self._configuration()
        run = type(self).run
        if run is not None:
            self._take_over(run)
        elif not self._find_interrupted():
            self.say(
                f"Recorded {self.called}. Press Play to train {self.trained} here, on this machine."
            )
        self.refresh()

    def draw(self) -> Picture | None:
        learners, note = self._learners()
        if self.timeline.value < 100:
            axis = self.values.get("axis", "step")
            ends = [float(getattr(run.curve, axis)[-1]) for run in learners if len(run.curve)]
            place = self.timeline.value / 100 * max(ends, default=0.0)
            learners = [run.at(axis, place) for run in learners]
            note += f" · timeline at {self.timeline.value} %"
        state = f"{self.state}&timeline={self.timeline.value}&step={learners[-1].step}"
        return self._picture(learners, note).at(state)

    def changed(self) -> None:
        if self._quiet:
            return
        if self._configuration() != self._chosen:
            with self._lock:  # what the thread answers is said after this
                ended = self._ended()
                self._reset()
                if ended:
                    self._insist(ended)
                elif type(self).run is None:
                    words = (
                        "A recorded run of this setting"
                        if self._chosen in self._recorded
                        else "This setting is not recorded"
                    )
                    self.say(f"{words}. Press Play to train it here.")
        self.refresh()

    def _ended(self) -> str:
        """That another setting ends the run in hand; nothing where none is."""
        run = self.live[-1] if self.live else None
        if run is None or run.step == run.total_steps:
            return ""
        steps = f"step {run.step:,} of {run.total_steps:,}"
        return f"Another setting begins anew: the {self.called} before ended at {steps}{self.kept}."

    def _on_frame(self, frame: Frame) -> None:
        """Called on the live run's thread."""
        with self.sentence_last():
            self._frame = frame  # a picture is of one frame: none comes while it is drawn
            self.say(self._sentence(frame), unexpected=frame.unexpected)
            if frame.status == "finished":
                self._finish(frame)
            self.refresh()

    def _command(self, name: str) -> None:
        with self.guarded():
            if name == "pause" and type(self).run is None:
                self.say(f"Nothing trains yet. Press Play to train {self.trained} here.")
            else:
                getattr(self._live(), name)()

    def _press_reset(self) -> None:
        with self._lock:
            self._reset()
            self.refresh()

    def _reset(self) -> None:
        with self.guarded():
            self._chosen = self._configuration()
            self.timeline.value = 100
            self._aside, self._offered = "", False
            self._stays = ("", 0.0)  # it was said of the run before
            self._forget_autosave()
            if type(self).run is not None:
                self._live().reset(self._builder(anew=True))
            else:
                self._frame = None
                self.say(f"Ready. Press Play to train {self.trained} here, on this machine.")

    @property
    def _autosave(self) -> Path | None:
        """Where the run is kept; None while another kernel keeps its own there, and where one did
        as this kernel's run began: what lies there is the other's then, even after its end."""
        run = type(self).run
        return None if run is not None and run.autosave is None else self._kept.free

    @property
    def busy(self) -> bool:
        run = type(self).run
        return super().busy or (run is not None and run.busy)

    def _live(self) -> LiveRun:
        """The run's thread, begun at the first command, to be given one."""
        kind = type(self)
        if kind.run is None:
            self.say("Loading PyTorch: some seconds, once…")
            from moeviz.training.live import LiveRun

            with self._beginning:  # two presses at once begin one run
                if kind.run is None:
                    autosave = self._kept.take()
                    if autosave is None:
                        self._aside = f" · not kept: another kernel keeps its own {self.called}"
                    kind.run = LiveRun(self._builder(), self._on_frame, autosave=autosave)
        self.pulse.begin()
        return kind.run

    def _take_over(self, run: LiveRun) -> None:
        """This panel was made while a run exists: show that one."""
        self.pulse.begin()
        with self._lock:
            run.publish = self._on_frame
            self._frame = run.frame
        self._choose(type(self)._asked)
        self.say(f"This {self.called} was going on already. {run.frame.message}")

    def _find_interrupted(self) -> bool:
        """Whether an autosave is there; then this panel is set to its run."""
        before = self._chosen
        if self._autosave is None:
            return False
        try:
            headers = self._kept.headers()
            self._choose(self._configured(headers[-1]))
        except (OSError, ValueError, LookupError, TypeError, TraitError):
            self._choose(before)
            return False  # none, damaged, or of another version: it is not gone on from
        self._offered = True
        self.say(
            f"A {self.called} interrupted at step {headers[-1]['step']} was kept: Play goes on "
            "from it, Reset begins anew."
        )
        return True

    def _choose(self, configuration: Any) -> None:
        self._set_controls_to(configuration)
        self._chosen = self._configuration()

    def _builder(self, *, anew: bool = False) -> Callable[[], dict[str, Trainer]]:
        """What makes the learners, on the run's thread: from the autosave where there is one of
        this run, unless they are to begin anew."""
        configuration = type(self)._asked = self._chosen

        def build() -> dict[str, Trainer]:
            if anew:  # here too: a save in hand may have ended after the reset
                self._forget_autosave()
                return self._build(configuration, None)
            folder = self._autosave
            kept = self._build(configuration, folder) if folder else {}
            if not kept and self._offered:
                self._aside = (
                    f" · the interrupted {self.called} is of another text or version: begun anew"
                )
            return kept or self._build(configuration, None)

        return build

    def _finish(self, frame: Frame) -> None:
        self._keep_score(frame)
        self._show_score()
        self._forget_autosave()
        seed = self.controls["seed"]
        if self.series.value and seed.value < seed.max:
            seed.value += 1
            self._command("play")

    def _show_score(self) -> None:
        if lines := self._score_lines():
            body = "<br>".join(map(escape, lines))
            self.score.value = (
                f'<div role="status" aria-live="polite" style="line-height:1.6">{body}</div>'
            )

    def _forget_autosave(self) -> None:
        """The interrupted run is finished or thrown away."""
        if self._autosave:
            self._kept.forget()
