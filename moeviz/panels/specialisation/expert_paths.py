"""Which experts the tokens of one expert visit in the other layers, and which meet in its own."""

from __future__ import annotations

from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, whole_slider
from moeviz.pictures import Picture
from moeviz.pictures.specialisation.expert_paths import expert_paths
from moeviz.records.expert_paths import paths_of
from moeviz.records.routes import DomainTrace

TOKENS = 1024  # of each domain
OPENING = 1  # the place of the layer that is shown first


class ExpertPaths(Panel):
    """Press an expert, and see where its tokens come from and go to. It needs no torch."""

    presets = {"First layer": {"layer": 0}}

    def __init__(self) -> None:
        self.trace = recorded_trace(DomainTrace, "domains").sample(TOKENS)
        opening = paths_of(self.trace, OPENING)
        self._paths = {OPENING: opening}
        self.presets = {"A strong path": {"expert": opening.strongest}, **self.presets}
        if opening.closest is not None:
            self.presets = {"A pair that meets": {"expert": opening.closest}, **self.presets}
        layers = [(f"{layer}", place) for place, layer in enumerate(self.trace.layers)]
        expert = whole_slider("Expert", 0, self.trace.num_experts - 1, 5)
        super().__init__([{"layer": choice("Layer", layers, OPENING, "44px")}, {"expert": expert}])

    def draw(self) -> Picture | None:
        layer, expert = self.values["layer"], self.values["expert"]
        if layer not in self._paths:
            self._paths[layer] = paths_of(self.trace, layer)
        return self.shown(expert_paths(self._paths[layer], expert))
