"""Who gets a slot: experts with a capacity, on tokens of known skew or on one's own text."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from moeviz.checks import check_choice
from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, seed_box, skew_slider, text_box
from moeviz.panels.shipped_model import READER
from moeviz.pictures import Picture
from moeviz.pictures.routing.slots import slots
from moeviz.records.routes import Decision

SOURCES = (("synthetic tokens", "synthetic"), ("your text", "text"))
NO_LIMIT = "no limit"
FACTORS = (
    *(round(0.05 * i, 2) for i in range(5, 41)),
    *(2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0),
    NO_LIMIT,
)
PRIORITIES = ("position", "choice", "probability", "batch")
LAYERS = (0, 1, 2)  # of the shipped model
# What the decision hangs on besides the rule.
OF_SOURCE = {"synthetic": ("skew", "tokens", "seed"), "text": ("text", "layer")}
RULE = ("source", "factor", "top_k", "priority", "overflow", "pool")
FILES = {"synthetic": "slots_zipf", "text": "slots"}


class Slots(Panel):
    """Each expert's buffer with its slots, the tokens that got none, and the price of the factor.

    It opens on a recorded decision, without torch: of synthetic tokens, or of a text. Any other
    rule or tokens load torch and the small model.
    """

    kind = "slots"

    def __init__(self, source: str = "synthetic") -> None:
        check_choice("source", source, FILES)
        self.recorded = {name: recorded_trace(Decision, file) for name, file in FILES.items()}
        self._shown: tuple[dict[str, Any], Decision] | None = None
        self._tokens: tuple[dict[str, Any], Any] | None = None
        opening = {**self._opening("text"), **self._opening("synthetic"), **self._opening(source)}
        rows = [
            ["factor", "top_k", "overflow"],
            ["priority", "pool"],
            ["source", "layer", "text"],
            ["skew", "tokens", "seed"],
        ]
        super().__init__(_controls(opening), rows)
        self.refresh()

    def _opening(self, source: str) -> dict[str, Any]:
        controls: dict[str, Any] = self.recorded[source].meta["controls"]
        return controls

    def draw(self) -> Picture | None:
        source = self.controls["source"].value
        for of, names in OF_SOURCE.items():
            for name in names:
                self.controls[name].disabled = of != source
        decision = self._current()
        if decision is None:
            return None
        return self.shown(slots(decision))

    def _current(self) -> Decision | None:
        values = self.values
        source = values["source"]
        wanted = {name: values[name] for name in (*RULE, *OF_SOURCE[source])}
        if wanted == self._opening(source):
            return self.recorded[source]
        if self._shown is not None and self._shown[0] == wanted:
            return self._shown[1]
        loaded = READER.ask(self)
        if loaded is None:
            return None
        from moeviz.experiments.slots import decision_of, tokens_of

        of_tokens = {name: wanted[name] for name in ("source", *OF_SOURCE[source])}
        if self._tokens is None or self._tokens[0] != of_tokens:
            self._tokens = of_tokens, tokens_of(wanted, loaded)
        self._shown = wanted, decision_of(wanted, self._tokens[1])
        return self._shown[1]


def _controls(opening: dict[str, Any]) -> dict[str, widgets.Widget]:
    """The controls, by their names in a state string."""
    return {
        "factor": widgets.SelectionSlider(
            options=FACTORS, value=opening["factor"], description="Factor"
        ),
        "top_k": choice("K", (1, 2, 4), opening["top_k"], "44px"),
        "overflow": choice("Overflow", ("drop", "pad"), opening["overflow"], "60px"),
        "priority": choice("First come", PRIORITIES, opening["priority"], "92px"),
        "pool": choice(
            "Slots for", (("whole batch", "batch"), ("each sequence", "sequence")),
            opening["pool"], "132px",
        ),
        "source": choice("Tokens", SOURCES, opening["source"], "150px"),
        "layer": choice("Layer", LAYERS, opening["layer"], "44px"),
        "text": text_box(opening["text"], "820px", "72px"),
        "skew": skew_slider(opening["skew"]),
        "tokens": widgets.IntSlider(
            opening["tokens"], min=16, max=128, step=8, description="Tokens"
        ),
        "seed": seed_box(opening["seed"]),
    }  # fmt: skip
