"""Who gets a slot: experts with a capacity, on tokens of known skew or on one's own text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeviz.checks import check_choice
from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.controls import choice, seed_box, skew_slider, slider, text_box, whole_slider
from moeviz.panels.reading_panel import ReadingPanel, Values
from moeviz.pictures import Picture
from moeviz.pictures.routing.slots import slots
from moeviz.records.routes import Decision

if TYPE_CHECKING:
    from moeviz.panels.shipped_model import Loaded

SOURCES = (("synthetic tokens", "synthetic"), ("your text", "text"))
POOLS = (("whole batch", "batch"), ("each sequence", "sequence"))
NO_LIMIT = "no limit"
FACTORS = (
    *(round(0.05 * i, 2) for i in range(5, 41)),
    *(2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0),
    NO_LIMIT,
)
PRIORITIES = ("position", "choice", "probability", "batch")
LAYERS = (0, 1, 2)  # of the shipped model
FILES = {"synthetic": "slots_zipf", "text": "slots"}


class Slots(ReadingPanel):
    """Each expert's buffer with its slots, the tokens that got none, and the price of the factor.

    It opens on a recorded decision, without torch: of synthetic tokens, or of a text. Any other
    rule or tokens load torch and the small model.
    """

    hangs_on = ("source", "factor", "top_k", "priority", "overflow", "pool")
    of_source = {"synthetic": ("skew", "tokens", "seed"), "text": ("text", "layer")}

    def __init__(self, source: str = "synthetic") -> None:
        check_choice("source", source, FILES)
        self.recorded = {name: recorded_trace(Decision, file) for name, file in FILES.items()}
        recorded = {name: trace.meta["controls"] for name, trace in self.recorded.items()}
        opening = recorded["text"] | recorded["synthetic"] | recorded[source]
        super().__init__(
            [(recorded[name], trace) for name, trace in self.recorded.items()],
            {
                "factor": slider("Factor", FACTORS, opening["factor"]),
                "top_k": choice("K", (1, 2, 4), opening["top_k"], "44px"),
                "overflow": choice("Overflow", ("drop", "pad"), opening["overflow"], "60px"),
            },
            {
                "priority": choice("First come", PRIORITIES, opening["priority"], "92px"),
                "pool": choice("Slots for", POOLS, opening["pool"], "132px"),
            },
            {
                "source": choice("Tokens", SOURCES, opening["source"], "150px"),
                "layer": choice("Layer", LAYERS, opening["layer"], "44px"),
                "text": text_box(opening["text"], "820px", "72px"),
            },
            {
                "skew": skew_slider(opening["skew"]),
                "tokens": whole_slider("Tokens", 16, 128, opening["tokens"], step=8),
                "seed": seed_box(opening["seed"]),
            },
        )

    def draw(self) -> Picture | None:
        decision = self.record()
        return None if decision is None else self.shown(slots(decision))

    def compute(self, wanted: Values, loaded: Loaded) -> Decision:
        from moeviz.experiments.slots import decision_of, tokens_of

        return decision_of(wanted, tokens_of(wanted, loaded))
