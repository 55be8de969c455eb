"""Which expert takes each token: a recorded text at once, the learner's own with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.controls import choice, slider, text_box
from moeviz.panels.reading_panel import ReadingPanel, Values
from moeviz.pictures import Picture
from moeviz.pictures.routing.tokens import load_bars, routing_matrix, token_strip
from moeviz.records.routes import Trace

if TYPE_CHECKING:
    from moeviz.panels.shipped_model import Loaded

VIEWS = ("text", "probabilities", "load")


class RouteText(ReadingPanel):
    """The routing of a text. It opens on a recorded trace, without torch; the first text of the
    learner's own loads torch and the small model in the background."""

    hangs_on = ("text",)
    presets = {
        "Prose": {"text": "The cat sat on the mat and the dog lay by the door."},
        "Code": {"text": "for i in range(10):\n    total = total + values[i]\nreturn total"},
        "Sums": {"text": "12 + 7 = 19, 8 + 8 = 16, 30 - 4 = 26, 5 * 6 = 30"},
    }

    def __init__(self) -> None:
        self.recorded = recorded_trace(Trace, "start_here")
        layers = [(f"{i}", n) for n, i in enumerate(self.recorded.layers)]
        text = self.recorded.meta["text"]
        super().__init__(
            [({"text": text}, self.recorded)],
            {"text": text_box(text, "560px", "84px")},
            {
                "layer": slider("Layer", layers, len(layers) // 2),
                "view": choice("Show", VIEWS, VIEWS[0], ""),
            },
        )

    def draw(self) -> Picture | None:
        trace = self.record()
        if trace is None:
            return None
        layer, view = self.controls["layer"].value, self.controls["view"].value
        if view == "text":
            return self.shown(token_strip(trace, layer))
        if view == "probabilities":
            return self.shown(routing_matrix(trace, layer))
        return self.shown(load_bars(trace.load(), trace.layers))

    def compute(self, wanted: Values, loaded: Loaded) -> Trace:
        from moeviz.watch.text import trace_text

        return trace_text(*loaded, wanted["text"], meta=wanted)
