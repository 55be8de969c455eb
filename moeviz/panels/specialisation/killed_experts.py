"""What each expert is worth: left out in turn, recorded at first and then on this machine."""

from __future__ import annotations

from collections.abc import Callable

from moeviz.experiments.recorded import recorded_records
from moeviz.panels import shipped_model
from moeviz.panels.controls import choice
from moeviz.panels.running_panel import RunningPanel
from moeviz.pictures import Picture
from moeviz.pictures.specialisation.killed_experts import FRAMED, killed_experts
from moeviz.records.killed import Killed

RECORDED, HERE = "recorded", "this machine"


class KilledExperts(RunningPanel):
    """The loss of each domain with every expert of the shipped model left out in turn. Run does so
    here, in some ten seconds, and Stop ends it."""

    loading = "Loading PyTorch and the small model, once: some seconds…"
    presets = {"First layer": {"layer": 0}, "Last layer": {"layer": 2}}

    def __init__(self) -> None:
        self.recorded = recorded_records(Killed, "killed")["healthy"]
        self.live: Killed | None = None
        layers = [(f"{layer}", place) for place, layer in enumerate(self.recorded.layers)]
        super().__init__(
            self.run_buttons("▶ Run", "Leave out every expert in turn, in the background"),
            [
                {"layer": choice("Layer", layers, 1, "44px")},
                {"figures": choice("Figures", (RECORDED, HERE), RECORDED, "")},
            ],
        )

    def draw(self) -> Picture | None:
        layer, here = self.values["layer"], self.values["figures"] == HERE
        killed = (self.live or self.recorded) if here else self.recorded
        note = f"{FRAMED} · recorded"
        if here:
            note = f"{FRAMED} · computed here"
            if self.live is None:
                note = "recorded: press Run to compute it here"
        return self.shown(killed_experts(killed, layer, note=note, pressable=True))

    def measure(self) -> Callable[[], None]:
        def work() -> None:
            from moeviz.experiments.killed_experts import kill_each
            from moeviz.text.corpus import load_corpus

            model, _ = shipped_model.READER.get()
            self.live = kill_each(model, load_corpus(), self._going_on)
            with self.quietly():
                self.controls["figures"].value = HERE

        return work

    def _going_on(self, done: int, total: int) -> bool:
        self.say(f"Expert {done + 1} of {total} is left out…")
        return not self._stop.is_set()
