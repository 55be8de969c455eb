"""Who gets a slot: experts with a capacity, on tokens of known skew or on one's own text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeviz.checks import check_choice
from moeviz.experiments.recorded import recorded_trace
from moeviz.experiments.slots_at_once import UNLIMITED, decision_at_once, never_looks_ahead
from moeviz.panels.controls import choice, seed_box, skew_slider, slider, text_box, whole_slider
from moeviz.panels.player import Player
from moeviz.panels.reading_panel import ReadingPanel, Values
from moeviz.pictures import Picture
from moeviz.pictures.routing.names import CLUSTERS
from moeviz.pictures.routing.slots import slots
from moeviz.records.routes import Decision

if TYPE_CHECKING:
    from moeviz.panels.shipped_model import Loaded

SOURCES = (("synthetic tokens", "synthetic"), ("your text", "text"))
POOLS = (("whole batch", "batch"), ("each sequence", "sequence"))
OFFERED = (*(round(0.05 * i, 2) for i in range(5, 41)), *(2 + 0.25 * i for i in range(1, 9)))
FACTORS = (*OFFERED, UNLIMITED)
PRIORITIES = ("position", "choice", "probability", "batch")
LAYERS = (0, 1, 2)  # of the shipped model
MOST_STEPS = 4 * 512  # that a state may name before its own batch is known
FILES = {"synthetic": "slots_zipf", "text": "slots"}


class Slots(ReadingPanel):
    """Each expert's buffer with its slots, the tokens that got none, and the price of the factor.

    It opens on a recorded decision, without torch: of synthetic tokens, or of a text. Any other
    rule or tokens load torch and the small model. All assignments have come; played, they come one
    after the other.
    """

    player: Player
    hangs_on = ("source", "factor", "top_k", "priority", "overflow", "pool")
    of_source = {"synthetic": ("skew", "tokens", "seed"), "text": ("text", "layer")}
    presets = {
        "Some are wanted more": {"source": "synthetic", "skew": 1.0, "factor": 1.25, "top_k": 1},
        "Most want one expert": {"source": "synthetic", "skew": 2.0, "factor": 1.25, "top_k": 1},
        "No limit": {"factor": UNLIMITED, "overflow": "drop"},
        "Each sequence for itself": {"source": "synthetic", "factor": 1.25, "pool": "sequence"},
    }

    def __init__(self, source: str = "synthetic") -> None:
        check_choice("source", source, FILES)
        self.recorded = {name: recorded_trace(Decision, file) for name, file in FILES.items()}
        recorded = {name: trace.meta["controls"] for name, trace in self.recorded.items()}
        opening = recorded["text"] | recorded["synthetic"] | recorded[source]
        arrived = whole_slider("Arrived", 0, MOST_STEPS, MOST_STEPS, width="420px")
        self.player = Player(self, arrived)
        text = {"text": text_box(opening["text"], "560px", "72px")}
        skew = {"skew": skew_slider(opening["skew"])}
        first, later = (text, skew) if source == "text" else (skew, text)
        super().__init__(
            [(recorded[name], trace) for name, trace in self.recorded.items()],
            first,
            {
                "factor": slider("Factor", FACTORS, opening["factor"]),
                "top_k": choice("K", (1, 2, 4), opening["top_k"], "44px"),
            },
            self.player.bar,
            more=[
                {
                    "overflow": choice("Overflow", ("drop", "pad"), opening["overflow"], "60px"),
                    "pool": choice("Slots for", POOLS, opening["pool"], "132px"),
                },
                {"priority": choice("First come", PRIORITIES, opening["priority"], "92px")},
                {
                    "source": choice("Tokens", SOURCES, opening["source"], "150px"),
                    "layer": choice("Layer", LAYERS, opening["layer"], "44px"),
                },
                later,
                {
                    "tokens": whole_slider("Tokens", 16, 128, opening["tokens"], step=8),
                    "seed": seed_box(opening["seed"]),
                },
            ],
        )

    def check_state(self, given: dict[str, str]) -> None:
        """Until its batch is known any step may be meant."""
        if "step" in given:
            self.player.any_step()

    def picture_of(self, decision: Decision) -> Picture:
        step = self.player.step_of(int(decision.demand.sum()))
        note = CLUSTERS if self.values["source"] == "synthetic" else ""
        return self.shown(slots(decision, step=step, offered=OFFERED, note=note))

    def make(self, wanted: Values) -> Decision | None:
        """A synthetic batch at once, where no order has to be caught looking ahead."""
        if wanted["source"] == "synthetic" and never_looks_ahead(wanted):
            return self.keep(wanted, decision_at_once(wanted))
        return super().make(wanted)

    def compute(self, wanted: Values, loaded: Loaded) -> Decision:
        from moeviz.experiments.slots import decision_of, tokens_of

        return decision_of(wanted, tokens_of(wanted, loaded))
