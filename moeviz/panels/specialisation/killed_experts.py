"""What each expert is worth: left out in turn, recorded at first and then on this machine."""

from __future__ import annotations

import threading

from moeviz.experiments.recorded import recorded_records
from moeviz.panels import shipped_model
from moeviz.panels.base import Panel
from moeviz.panels.controls import button, choice
from moeviz.pictures import Picture
from moeviz.pictures.specialisation.killed_experts import FRAMED, killed_experts
from moeviz.records.killed import Killed

RECORDED, HERE = "recorded", "this machine"


class KilledExperts(Panel):
    """The loss of each domain with every expert of the shipped model left out in turn. Run does so
    here, in some ten seconds, and Stop ends it."""

    presets = {"First layer": {"layer": 0}, "Last layer": {"layer": 2}}

    def __init__(self) -> None:
        self.recorded = recorded_records(Killed, "killed")["healthy"]
        self.live: Killed | None = None
        self._stop = threading.Event()
        self._running = False  # its progress is told then, and nothing else
        layers = [(f"{layer}", place) for place, layer in enumerate(self.recorded.layers)]
        tip = "Leave out every expert in turn, in the background"
        super().__init__(
            [
                button("▶ Run", "moeviz-run", tip, self._press),
                button("■ Stop", "moeviz-stop", "Keep what was there before", self._stop.set),
            ],
            [
                {"layer": choice("Layer", layers, 1, "44px")},
                {"figures": choice("Figures", (RECORDED, HERE), RECORDED, "")},
            ],
        )
        self.worker.stop = self._stop.set

    def draw(self) -> Picture | None:
        layer, here = self.values["layer"], self.values["figures"] == HERE
        killed = (self.live or self.recorded) if here else self.recorded
        note = f"{FRAMED} · recorded"
        if here:
            note = f"{FRAMED} · computed here"
            if self.live is None:
                note = "recorded: press Run to compute it here"
        return self.shown(killed_experts(killed, layer, note=note, pressable=True))

    def shown(self, picture: Picture) -> Picture:
        """A picture and what it says, unless a measurement is telling how far it is."""
        if not self._running:
            self.say(picture.summary)
        return picture

    def end(self) -> None:
        self._stop.set()

    def _press(self) -> None:
        if self._running:
            return
        self._running = True
        self._stop.clear()
        self.say("Loading PyTorch and the small model, once: some seconds…")
        self.worker.ask(self._work)

    def _work(self) -> None:
        from moeviz.experiments.backends_timed import Stopped
        from moeviz.experiments.killed_experts import kill_each
        from moeviz.text.corpus import load_corpus

        stopped = False
        try:
            model, _ = shipped_model.READER.get()
            self.live = kill_each(model, load_corpus(), self._going_on)
        except Stopped:
            stopped = True
        finally:
            self._running = False
        if stopped:
            self.say("Stopped: nothing was changed.")
            return
        with self.quietly():
            self.controls["figures"].value = HERE
        self.refresh()

    def _going_on(self, done: int, total: int) -> bool:
        self.say(f"Expert {done + 1} of {total} is left out…")
        return not self._stop.is_set()
