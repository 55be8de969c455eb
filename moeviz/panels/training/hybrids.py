"""Dense layers and layers with experts in one model."""

from __future__ import annotations

from moeviz.host import read_figures
from moeviz.panels.base import Panel
from moeviz.panels.controls import switch
from moeviz.pictures import Picture
from moeviz.pictures.training.hybrids import hybrids


class Hybrids(Panel):
    """Give experts to layers, and take them away: all eight models are recorded."""

    told_in_picture = True
    presets = {
        "All layers": {},
        "First layer dense": {"layer_0": False},
        "The last alone": {"layer_0": False, "layer_1": False},
        "No experts": {"layer_0": False, "layer_1": False, "layer_2": False},
    }

    def __init__(self) -> None:
        self._figures = read_figures("hybrids")
        layers = range(self._figures["layers"])
        switches = {f"layer_{n}": switch(f"experts in layer {n}") for n in layers}
        for each in switches.values():
            each.layout.width = "160px"
        super().__init__(switches)

    def begin(self) -> None:
        self.set_controls(dict.fromkeys(self.controls, True))
        super().begin()

    def draw(self) -> Picture:
        chosen = tuple(n for n, has in enumerate(self.values.values()) if has)
        return self.shown(hybrids(self._figures, chosen))
