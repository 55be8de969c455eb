"""The small model made smaller, live, beside what recipes cost recorded models."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.experiments.recorded import recorded_figures
from moeviz.panels import shipped_model
from moeviz.panels.controls import choice, text_box
from moeviz.panels.reading_panel import ReadingPanel, Values
from moeviz.pictures import Picture
from moeviz.pictures.compression.names import (
    ABLATION,
    AMOUNTS,
    BITS,
    CHANCE,
    FITTED_RANK,
    HC,
    KEYS,
    LOAD,
    M_SMOE,
    MERGES,
    NAEE,
    RANK,
    REAP,
    REGIMES,
    SHORT,
)
from moeviz.pictures.compression.smaller import smaller
from moeviz.pictures.training.standings import DOMAINS
from moeviz.records.compressed import Compressed

PROMPT = "def area(width, height):\n    return"
# How weights may be stored: label -> the name in a state, and the recipe with its amount.
WHOLE = "16 bits"
STORED = {
    WHOLE: ("", ""),
    "INT8": (BITS, "int8"),
    "INT4": (BITS, "int4"),
    "INT3": (BITS, "int3"),
    "INT2": (BITS, "int2"),
    "rank, half": (RANK, "half"),
    "rank, quarter": (RANK, "quarter"),
    "calibrated, half": (FITTED_RANK, "half"),
    "calibrated, quarter": (FITTED_RANK, "quarter"),
}
WHO = (LOAD, ABLATION, REAP, NAEE, CHANCE, HC, M_SMOE)
KEPT = (8, 6, 4, 2)
PARTS = ("experts", "attention", "output head", "all three")


def presses() -> dict[tuple[str, str], dict[str, Any]]:
    """By recipe and amount, what a press on its mark sets the controls to."""
    alone = {"kept": KEPT[0], "stored": WHOLE, "part": PARTS[0]}
    stored = {place: alone | {"stored": label} for label, place in STORED.items() if place[0]}
    gone = {(who, str(k)): alone | {"kept": k, "who": who} for who in WHO for k in KEPT[1:]}
    return stored | gone


class Compression(ReadingPanel):
    """Experts that go or merge, and weights in fewer bits or of lower rank, in any combination:
    the loss by domain, the bytes, and what the model writes then. It opens on recorded curves."""

    hangs_on = ("kept", "who", "stored", "part", "prompt")
    presets = {
        "INT4": {"stored": "INT4"},
        "Half the experts, by REAP": {"kept": 4, "who": REAP},
        "Merged in pairs": {"kept": 4, "who": HC},
        "6 experts in INT4": {"kept": 6, "who": REAP, "stored": "INT4"},
    }

    def __init__(self) -> None:
        self.figures = recorded_figures("compression")
        opening = {
            "kept": KEPT[0], "who": LOAD, "stored": WHOLE, "part": PARTS[0], "prompt": PROMPT
        }  # fmt: skip
        who = tuple((SHORT[name], name) for name in WHO)
        regimes = tuple((words, name) for name, words in REGIMES.items())
        super().__init__(
            [(opening, Compressed(DOMAINS, np.zeros(len(DOMAINS))))],
            {"stored": choice("Weights", tuple(STORED), WHOLE, "auto")},
            {"kept": choice("Experts", KEPT, KEPT[0], "44px")},
            {"who": choice("Others", who, LOAD, "auto")},
            more=[
                {"part": choice("Bits of", PARTS, PARTS[0], "auto")},
                {"regime": choice("Curves", regimes, "batch", "auto")},
                {"prompt": text_box(PROMPT, "560px", "58px", "Prompt")},
            ],
        )

    def draw(self) -> Picture | None:
        # Whom others follow, and of what the bits are, is asked only where some go, or bits do.
        self.controls["who"].disabled = self.values["kept"] == KEPT[0]
        self.controls["part"].disabled = STORED[self.values["stored"]][0] != BITS
        return super().draw()

    def picture_of(self, found: Compressed) -> Picture:
        regime = self.values["regime"]
        picture = smaller(self.figures, found, self._words(), regime=regime, presses=presses())
        return self.shown(picture)

    def _words(self) -> str:
        """What was done to the model, in words; empty for nothing."""
        values, done = self.values, []
        if values["kept"] < KEPT[0]:
            joined = "merged into" if values["who"] in MERGES else "pruned to"
            done.append(f"experts {joined} {values['kept']} ({SHORT[values['who']]})")
        recipe, amount = STORED[values["stored"]]
        if recipe == BITS:
            done.append(f"{values['part']} in {AMOUNTS[amount]}")
        elif recipe:
            done.append(f"experts of {KEYS[recipe].name} at {AMOUNTS[amount]}")
        return " and ".join(done)

    def make(self, wanted: Values) -> Any | None:
        """It takes a second or two, on a thread."""
        self.say("The small model is made smaller and read again…")
        self.worker.ask(lambda: self._compute(wanted))
        return None

    def _compute(self, wanted: Values) -> None:
        from moeviz.experiments.smaller import smaller_of

        shipped = smaller_of(*shipped_model.READER.get())
        values = {name: wanted[name] for name in ("kept", "part", "prompt")}
        stored = STORED[wanted["stored"]]
        found = shipped.compressed(choice=wanted["who"], weights=stored, **values)
        self.keep(wanted, found)
        self.refresh()
