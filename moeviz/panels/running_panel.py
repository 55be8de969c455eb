"""What panels share that compute on demand: Run, Stop, and how far it is."""

from __future__ import annotations

import threading
from collections.abc import Callable

import ipywidgets as widgets

from moeviz.leaving import Stopped
from moeviz.panels.base import Panel
from moeviz.panels.controls import button
from moeviz.pictures import Picture


class RunningPanel(Panel):
    """A panel with one piece of work at a time, on a thread. A subclass has `run_buttons` in a row,
    made before the rest, and says what the work is by `measure`.

    note: what is said after the picture's own sentence. loading, stopped: at the beginning, and
    after Stop.
    """

    note = ""
    loading = "Loading PyTorch: some seconds, once…"
    stopped = "Stopped: nothing was changed."
    _running = False  # its progress is told then, and nothing else

    def run_buttons(self, label: str, tip: str) -> list[widgets.Widget]:
        """Run, under this label, and Stop."""
        self._stop = threading.Event()
        return [
            button(label, "moeviz-run", tip, self._press),
            button("■ Stop", "moeviz-stop", "Keep what was there before", self._press_stop),
        ]

    def begin(self) -> None:
        self.worker.stop = self._stop.set
        super().begin()

    def end(self) -> None:
        self._stop.set()

    def measure(self) -> Callable[[], None]:
        """What the thread is to do for the controls as they are now; it may raise Stopped."""
        raise NotImplementedError

    def _press(self) -> None:
        if self._running:
            return
        with self.guarded():
            work = self.measure()
            self._running = True
            self._stop.clear()
            self.say(self.loading)
            self.worker.ask(lambda: self._work(work))

    def _press_stop(self) -> None:
        self._stop.set()

    def _work(self, work: Callable[[], None]) -> None:
        stopped = False
        try:
            work()
        except Stopped:
            stopped = True
        finally:
            self._running = False
        if stopped:
            self.told_stopped()
        else:
            self.refresh()

    def told_stopped(self) -> None:
        """Show what there is after Stop, and say so."""
        with self.sentence_last():
            self.refresh()
            self.say(self.stopped)

    def shown(self, picture: Picture) -> Picture:
        """A picture and what it says, unless the work is telling how far it is."""
        if not self._running:
            told = self.told_in_picture and not self.note
            self.say(picture.summary + self.note, seen=not told)
        return picture

    def going_on(self, what: str) -> Callable[[int, int], bool]:
        """Tells the learner how far it is, and the work whether to go on."""

        def on_turn(done: int, total: int) -> bool:
            self.say(f"{what}: {100 * done // total} % done…")
            return not self._stop.is_set()

        return on_turn
