"""One MoE layer, stage by stage, on the learner's own text."""

from __future__ import annotations

import ipywidgets as widgets

from moeviz.host import data_path
from moeviz.panels.base import BESIDE_LABEL, Panel, button
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
        self.recorded = Anatomy.load_file(data_path("traces", "inside_layer.safetensors"))
        self._anatomy = self.recorded
        text = widgets.Text(
            self.recorded.text,
            description="Your text",
            layout=widgets.Layout(width="660px", max_width="100%"),
        ).add_class("moeviz-text")
        stage = widgets.SelectionSlider(
            options=STAGES, value=STAGES[0], description="Stage"
        ).add_class("moeviz-stage")
        layer = widgets.ToggleButtons(
            options=self.recorded.model_layers,
            value=self.recorded.layer,
            description="Layer",
        ).add_class("moeviz-layer")
        weighting = widgets.ToggleButtons(
            options=WEIGHTINGS,
            value=self.recorded.weighting,
            description="Weights",
        ).add_class("moeviz-weighting")
        for toggle, width in ((layer, "60px"), (weighting, "200px")):
            toggle.style.button_width = width
            toggle.add_class(BESIDE_LABEL)
        previous = button("◀ Back", "moeviz-back", "The stage before", lambda: self._turn(-1))
        following = button("Next ▶", "moeviz-next", "The next stage", lambda: self._turn(1))
        super().__init__(
            {"text": text, "stage": stage, "layer": layer, "weighting": weighting},
            [[text], [stage, previous, following], [layer, weighting]],
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
        picture = anatomy(layer, self.controls["stage"].value, state=self.state)
        self.say(picture.summary)
        return picture

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
