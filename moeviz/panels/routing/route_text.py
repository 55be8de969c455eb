"""Which expert takes each token: a recorded text at once, the learner's own with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.controls import choice, slider, text_box
from moeviz.panels.reading_panel import ReadingPanel, Values, check_source
from moeviz.pictures import Picture
from moeviz.pictures.routing.names import read_by
from moeviz.pictures.routing.tokens import load_bars, routing_matrix, token_strip
from moeviz.records.routes import Trace

if TYPE_CHECKING:
    from moeviz.panels.shipped_model import Loaded
    from moeviz.watch.pretrained import Pretrained

VIEWS = ("text", "probabilities", "load")
PROSE = "The cat sat on the mat and the dog lay by the door."
TEXTS = {
    "Prose": PROSE,
    "Code": "for i in range(10):\n    total = total + values[i]\nreturn total",
    "Sums": "12 + 7 = 19, 8 + 8 = 16, 30 - 4 = 26, 5 * 6 = 30",
}


class RouteText(ReadingPanel):
    """The routing of a text. It opens on a recorded trace, without torch; the first text of the
    learner's own loads torch and the small model in the background. of: see ReadingPanel.
    """

    hangs_on = ("text",)
    presets = {name: {"text": text} for name, text in TEXTS.items()}

    def __init__(self, of: Pretrained | Trace | None = None) -> None:
        check_source(of, trace=True)
        self.of, recorded = of, list[tuple[Values, Trace]]()
        if of is None or isinstance(of, Trace):
            trace = of or recorded_trace(Trace, "start_here")
            text = "".join(trace.tokens) if of else trace.meta["text"]
            numbers, recorded = trace.layers, [({"text": text}, trace)]
            self.presets = {} if of else self.presets
        else:
            from moeviz.watch.pretrained import layers_of

            text, numbers = PROSE, layers_of(of)
        layers = [(f"{i}", n) for n, i in enumerate(numbers)]
        box = text_box(text, "560px", "84px")
        box.disabled = isinstance(of, Trace)
        super().__init__(
            recorded,
            {"text": box},
            {
                "layer": slider("Layer", layers, len(layers) // 2),
                "view": choice("Show", VIEWS, VIEWS[0], ""),
            },
        )

    def picture_of(self, trace: Trace) -> Picture:
        layer, view = self.controls["layer"].value, self.controls["view"].value
        if view == "text":
            picture = token_strip(trace, layer)
        elif view == "probabilities":
            picture = routing_matrix(trace, layer)
        else:
            picture = load_bars(trace.load(), trace.layers, read_by(trace.meta))
        errors = trace.meta.get("errors")
        return self.shown(picture, errors and errors[layer])

    def read(self, real: Pretrained, wanted: Values) -> Trace:
        from moeviz.watch import pretrained

        return pretrained.trace(real, wanted["text"])

    def compute(self, wanted: Values, loaded: Loaded) -> Trace:
        from moeviz.watch.text import trace_text

        return trace_text(*loaded, wanted["text"], meta=wanted)
