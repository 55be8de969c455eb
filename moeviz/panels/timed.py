"""What panels of speed share: the machines that were recorded, this one, and a stop button."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from moeviz.host import data_path
from moeviz.panels.base import Panel, button, choice
from moeviz.panels.worker import Worker

HERE = "this machine"
PATTERNS = ("layer_*.json", "kernels.json")
NO_GPU = "No GPU run has been recorded yet."


def recorded_machines() -> dict[str, dict[str, Any]]:
    """Recorded benchmarks of the experts by device, GPUs first; of one device the layer benchmark
    wins over the small contest. A damaged file is none, nor is a run that finished no case."""
    found: dict[str, dict[str, Any]] = {}
    for pattern in PATTERNS:
        for path in sorted(data_path("runs").glob(pattern)):
            try:
                run = json.loads(path.read_text(encoding="utf-8"))
                name = f"{run['device']['name']}, {run['provenance']['date']}"
                if run["cases"]:
                    found.setdefault(name, {"device": run["device"], "cases": run["cases"], **run})
            except (ValueError, LookupError, TypeError):
                continue
    return dict(sorted(found.items(), key=lambda item: item[1]["device"].get("kind") != "cuda"))


class Timed(Panel):
    """A panel with one measurement at a time, on a thread; machine: which one's figures are shown.

    A subclass has the control "machine" and calls `measure`.
    """

    def __init__(
        self, recorded: dict[str, dict[str, Any]], controls: dict[str, widgets.Widget], label: str
    ) -> None:
        self.recorded = recorded
        self._worker = Worker(self)
        self._stop = threading.Event()
        self._running = False  # its progress is told then, and nothing else
        options = [*recorded, HERE]
        machine = choice("Machine", options, options[0], "auto")
        run = button(label, "moeviz-run", "On this machine, in the background", self._press)
        stop = button("■ Stop", "moeviz-stop", "Keep what was there before", self._stop.set)
        super().__init__(
            {"machine": machine, **controls}, [[machine], [run, stop, *controls.values()]]
        )

    @property
    def here(self) -> bool:
        return bool(self.controls["machine"].value == HERE)

    @property
    def has_gpu_run(self) -> bool:
        return any(run["device"].get("kind") == "cuda" for run in self.recorded.values())

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
            self._worker.ask(lambda: self._work(work))

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

    def tell(self, sentence: str) -> None:
        """Say it, unless a measurement is telling how far it is."""
        if not self._running:
            self.say(sentence)

    def going_on(self, what: str) -> Callable[[int, int], bool]:
        """Tells the learner how far it is, and the measurement whether to go on."""

        def on_turn(done: int, total: int) -> bool:
            self.say(f"{what}: {100 * done // total} % done…")
            return not self._stop.is_set()

        return on_turn
