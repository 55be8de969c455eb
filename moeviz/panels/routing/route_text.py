"""Which expert takes each token: a recorded text at once, the learner's own with the model."""

from __future__ import annotations

import ipywidgets as widgets

from moeviz.host import data_path
from moeviz.panels.base import BESIDE_LABEL, Panel
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
        self.recorded = Trace.load_file(data_path("traces", "start_here.safetensors"))
        self._trace = self.recorded
        text = widgets.Textarea(
            self.recorded.meta["text"],
            description="Your text",
            layout=widgets.Layout(width="660px", max_width="100%", height="84px"),
        ).add_class("moeviz-text")
        layers = [(f"{i}", n) for n, i in enumerate(self.recorded.layers)]
        layer = widgets.SelectionSlider(
            options=layers, value=len(layers) // 2, description="Layer"
        ).add_class("moeviz-layer")
        view = widgets.ToggleButtons(options=VIEWS, description="Show")
        view.add_class("moeviz-view").add_class(BESIDE_LABEL)
        super().__init__({"text": text, "layer": layer, "view": view}, [[text], [layer, view]])
        self.refresh()

    def draw(self) -> Picture | None:
        trace = self._current_trace()
        if trace is None:
            return None
        layer, view = self.controls["layer"].value, self.controls["view"].value
        if view == "text":
            picture = token_strip(trace, layer, state=self.state)
        elif view == "probabilities":
            picture = routing_matrix(trace, layer, state=self.state)
        else:
            picture = load_bars(trace.load(), trace.layers, state=self.state)
        self.say(picture.summary)
        return picture

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
