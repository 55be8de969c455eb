"""Which expert takes each token: a recorded text at once, the learner's own with the model."""

from __future__ import annotations

import ipywidgets as widgets

from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, text_box
from moeviz.panels.shipped_model import READER
from moeviz.pictures import Picture
from moeviz.pictures.routing.tokens import load_bars, routing_matrix, token_strip
from moeviz.records.routes import Trace

VIEWS = ("text", "probabilities", "load")


class RouteText(Panel):
    """The routing of a text. It opens on a recorded trace, without torch; the first text of the
    learner's own loads torch and the small model in the background."""

    kind = "route_text"

    def __init__(self) -> None:
        self.recorded = recorded_trace(Trace, "start_here")
        self._trace = self.recorded
        layers = [(f"{i}", n) for n, i in enumerate(self.recorded.layers)]
        controls: dict[str, widgets.Widget] = {
            "text": text_box(self.recorded.meta["text"], "660px", "84px"),
            "layer": widgets.SelectionSlider(
                options=layers, value=len(layers) // 2, description="Layer"
            ),
            "view": choice("Show", VIEWS, VIEWS[0], ""),
        }
        super().__init__(controls, [["text"], ["layer", "view"]])
        self.refresh()

    def draw(self) -> Picture | None:
        trace = self._current_trace()
        if trace is None:
            return None
        layer, view = self.controls["layer"].value, self.controls["view"].value
        if view == "text":
            return self.shown(token_strip(trace, layer))
        if view == "probabilities":
            return self.shown(routing_matrix(trace, layer))
        return self.shown(load_bars(trace.load(), trace.layers))

    def _current_trace(self) -> Trace | None:
        text = self.controls["text"].value
        if text == self.recorded.meta["text"]:
            return self.recorded
        if text != self._trace.meta["text"]:
            loaded = READER.ask(self)
            if loaded is None:
                return None
            from moeviz.watch.text import trace_text

            self._trace = trace_text(*loaded, text, meta={"text": text})
        return self._trace
