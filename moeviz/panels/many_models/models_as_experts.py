"""Three models that learned apart, put together: recorded in a table, and live on any text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from moeviz.panels.controls import choice, seed_box, text_box
from moeviz.panels.running_panel import RunningPanel
from moeviz.pictures import Picture
from moeviz.pictures.many_models.models_as_experts import models_as_experts
from moeviz.pictures.many_models.models_on_a_text import WAYS
from moeviz.predictions.prediction import recorded_run
from moeviz.records.models_as_experts import SEEN, TEXTS, UNSEEN, MixedText

if TYPE_CHECKING:
    from moeviz.experiments.trained_apart import Apart

LABELS = {"router": "router", "prompt": "prompt's loss", "even": "evenly", "picked": "one picked"}
PLACES = {"seen": "learned", "unseen": "not learned"} | {name: name for name in (*SEEN, *UNSEEN)}


class ModelsAsExperts(RunningPanel):
    """Who of three models should read a text, and what it costs to use them together.

    It opens on recorded texts of seed 0. Train makes three small models here, in about half a
    minute, which then read any text; Stop ends it.
    """

    presets = {name: {"text": text} for name, text in TEXTS.items()}
    told_in_picture = True
    stopped = "Stopped: no models were made."
    # The models of this process, by seed: another panel of it need not train them again.
    _apart: ClassVar[dict[int, Apart]] = {}

    def __init__(self) -> None:
        """ValueError where nothing is recorded."""
        self._recorded = recorded_run("models_as_experts")
        self._texts = {of["text"]: MixedText.of_json(of) for of in self._recorded["texts"].values()}
        self._live: dict[tuple[int, str], MixedText] = {}
        ways = [(LABELS[way], way) for way in WAYS]
        places = [(words, place) for place, words in PLACES.items()]
        super().__init__(
            {"text": text_box(next(iter(TEXTS.values())), "560px", "96px")},
            [
                {"way": choice("Weighed by", ways, "router", "auto")},
                *self.run_buttons("▶ Train three models", "In the background, about half a minute"),
            ],
            more=[
                {"where": choice("Losses of", places, "seen", "auto")},
                {"seed": seed_box()},
            ],
        )

    def draw(self) -> Picture | None:
        text, where, way, seed = (self.values[name] for name in ("text", "where", "way", "seed"))
        read, note = self._read(text, seed)
        return self.shown(models_as_experts(self._recorded, read, where=where, way=way, note=note))

    def _read(self, text: str, seed: int) -> tuple[MixedText | None, str]:
        """What the models of a seed make of a text, None where there are none that could read it,
        and whose figures these are. It is kept: another way to weigh needs no second reading."""
        apart = self._apart.get(seed)
        if apart is None:
            made = self._recorded["provenance"]
            if seed or text not in self._texts:
                return None, f"no models of seed {seed} are here yet: Train makes three"
            note = f"recorded, not live: seed 0 · {made['device']} · {made['date']}"
            return self._texts[text], note
        if (seed, text) not in self._live:
            from moeviz.experiments.trained_apart import read_text
            from moeviz.text.tokenizer import Tokenizer

            self._live = {(seed, text): read_text(apart, Tokenizer.default(), text)}
        return self._live[seed, text], f"live: models trained here, seed {seed}"

    def measure(self) -> Callable[[], None]:
        seed, rate = self.values["seed"], self._recorded["rates"]["apart"]["chosen"]

        def work() -> None:
            from moeviz.experiments.trained_apart import LIVE, train_apart
            from moeviz.training.config import leave_a_core_free

            leave_a_core_free()
            going_on = self.going_on("Three models learn apart")
            self._apart[seed] = train_apart(rate, seed, LIVE, going_on)

        return work
