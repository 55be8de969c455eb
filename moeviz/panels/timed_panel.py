"""What panels that measure share: the recorded machines, this one, Run and Stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from moeviz.panels.base import Panel, Row
from moeviz.panels.controls import button, choice
from moeviz.pictures import Picture

HERE = "this machine"
NO_GPU = "No GPU run has been recorded yet."


class TimedPanel(Panel):
    """A panel with one measurement at a time, on a thread; machine: which one's figures are shown.

    A subclass has the control "machine" and calls `measure`.
    """

    def __init__(
        self, recorded: dict[str, dict[str, Any]], controls: dict[str, widgets.Widget], label: str,
        more: Sequence[Row] = (),
    ) -> None:  # fmt: skip
        self.recorded = recorded
        gpus = [run for run in recorded.values() if run["device"].get("kind") == "cuda"]
        self._note = "" if gpus else f" {NO_GPU}"
        self._stop = threading.Event()
        self._running = False  # its progress is told then, and nothing else
        options = [*recorded, HERE]
        machine = choice("Machine", options, options[0], "auto")
        run = button(label, "moeviz-run", "On this machine, in the background", self._press)
        stop = button("■ Stop", "moeviz-stop", "Keep what was there before", self._stop.set)
        super().__init__({"machine": machine}, [run, stop, controls], more=more)
        self.worker.stop = self._stop.set

    @property
    def here(self) -> bool:
        return bool(self.controls["machine"].value == HERE)

    def end(self) -> None:
        self._stop.set()

    def measure(self) -> Callable[[], None]:
        """What the thread is to do for the controls as they are now; it may raise Stopped."""
        raise NotImplementedError

    def _press(self) -> None:
        if self._running:
            return
        with self.guarded():
            self._running = True
            self._stop.clear()
            self.controls["machine"].value = HERE
            work = self.measure()
            self.say("Loading PyTorch: some seconds, once…")
            self.worker.ask(lambda: self._work(work))

    def _work(self, work: Callable[[], None]) -> None:
        from moeviz.experiments.backends_timed import Stopped

        stopped = False
        try:
            work()
        except Stopped:
            stopped = True
        finally:
            self._running = False
        if stopped:
            self.say("Stopped: nothing was changed.")
        else:
            self.refresh()

    def shown(self, picture: Picture) -> Picture:
        """A picture and what it says, unless a measurement is telling how far it is."""
        if not self._running:
            told = self.told_in_picture and not self._note
            self.say(picture.summary + self._note, seen=not told)
        return picture

    def going_on(self, what: str) -> Callable[[int, int], bool]:
        """Tells the learner how far it is, and the measurement whether to go on."""

        def on_turn(done: int, total: int) -> bool:
            self.say(f"{what}: {100 * done // total} % done…")
            return not self._stop.is_set()

        return on_turn
