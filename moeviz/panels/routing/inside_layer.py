"""One MoE layer, stage by stage, on the learner's own text."""

from __future__ import annotations

import ipywidgets as widgets

from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.base import Panel
from moeviz.panels.controls import button, choice, text_box
from moeviz.panels.shipped_model import READER
from moeviz.pictures import Picture
from moeviz.pictures.routing.inside_layer import STAGES, anatomy
from moeviz.records.routes import Anatomy

WEIGHTINGS = (
    ("renormalise after top-k", "renormalise"),
    ("raw: softmax before top-k", "raw"),
)


class InsideLayer(Panel):
    """logits → softmax → top-k → dispatch → experts → combine, every matrix real.

    It opens on a recorded layer, without torch; another text, layer or weighting loads the model.
    """

    kind = "inside_layer"

    def __init__(self) -> None:
        self.recorded = recorded_trace(Anatomy, "inside_layer")
        self._anatomy = self.recorded
        opening = self.recorded
        controls: dict[str, widgets.Widget] = {
            "text": text_box(opening.text, "660px"),
            "stage": widgets.SelectionSlider(options=STAGES, value=STAGES[0], description="Stage"),
            "layer": choice("Layer", opening.model_layers, opening.layer, "60px"),
            "weighting": choice("Weights", WEIGHTINGS, opening.weighting, "200px"),
        }
        previous = button("◀ Back", "moeviz-back", "The stage before", lambda: self._turn(-1))
        following = button("Next ▶", "moeviz-next", "The next stage", lambda: self._turn(1))
        super().__init__(
            controls, [["text"], ["stage", previous, following], ["layer", "weighting"]]
        )
        self.refresh()

    def _turn(self, by: int) -> None:
        stage = self.controls["stage"]
        place = STAGES.index(stage.value) + by
        if 0 <= place < len(STAGES):
            stage.value = STAGES[place]

    def draw(self) -> Picture | None:
        layer = self._current()
        if layer is None:
            return None
        return self.shown(anatomy(layer, self.controls["stage"].value))

    def _current(self) -> Anatomy | None:
        wanted = tuple(self.controls[name].value for name in ("text", "layer", "weighting"))
        for known in (self.recorded, self._anatomy):
            if wanted == (known.text, known.layer, known.weighting):
                return known
        loaded = READER.ask(self)
        if loaded is None:
            return None
        from moeviz.watch.text import dissect

        text, layer, weighting = wanted
        self._anatomy = dissect(*loaded, text, layer=layer, weighting=weighting)
        return self._anatomy
