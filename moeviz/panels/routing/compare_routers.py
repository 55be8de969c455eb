"""Two to four routers on the same tokens: a text's, or synthetic ones of known skew."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from moeviz.experiments.routers_on_a_text import (
    NUM_EXPERTS,
    OWN,
    OWN_NAMED,
    Settings,
    decision,
    every_name,
    gated,
    recorded,
)
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, seed_box, skew_slider, text_box
from moeviz.panels.router_choice import RouterChoice
from moeviz.panels.shipped_model import READER
from moeviz.pictures import Picture
from moeviz.pictures.routing.routers import compare
from moeviz.records.routes import Decision

if TYPE_CHECKING:
    from moeviz.watch.routers import Rule, Tokens

MAX_TOKENS = 40
DEFAULT = ("token_choice", "switch", "expert_choice", "hash")
SOURCES = (("your text", "text"), ("synthetic tokens", "synthetic"))
MODES = (("in training", "training"), ("outside training", "outside"))
NO_LIMIT = "none"
FACTORS = (NO_LIMIT, "0.5", "0.75", "1", "1.25", "1.5", "2")
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0)
KEPT = 200  # decisions: a slider that is moved back finds them again


class CompareRouters(Panel):
    """Who gets which token, under two to four rules that score by the same trained gate.

    It opens on a recording, without torch; anything else loads torch and the model in the
    background. own: a rule weight_TE = own(scores_TE), compared as the router "Yours".
    """

    kind = "compare_routers"

    def __init__(self, *, own: Rule | None = None) -> None:
        self.recorded, self._meta = recorded()
        self.own = own
        self._tokens: tuple[Any, Tokens] | None = None
        self._given = 0  # tokens of the whole text
        self._kept: OrderedDict[Any, Decision] = OrderedDict()
        self.names = every_name() | ({OWN: OWN_NAMED} if own else {})
        self.choice = RouterChoice(self.names, DEFAULT)
        controls = {"routers": self.choice, **_controls(self._meta)}
        rows = [
            ["routers"],
            ["source", "mode", "seed"],
            ["text", "layer"],
            ["skew", "tokens"],
            ["top_k", "capacity"],
            ["temperature", "noise"],
        ]
        super().__init__(controls, rows)
        self.choice.refused = self.say
        controls["source"].observe(lambda _: self._offer(), "value")
        self._offer()
        if own:
            self._open_with_own()
        self.refresh()

    def _offer(self) -> None:
        """Show the controls that the source of the tokens has."""
        text = self.controls["source"].value == "text"
        for name, needed in (
            ("text", text),
            ("layer", text),
            ("skew", not text),
            ("tokens", not text),
        ):
            self.controls[name].layout.display = None if needed else "none"

    def _open_with_own(self) -> None:
        """A rule of tensors was written with torch: it is there, and the model takes no time."""
        done = threading.Event()
        READER.load(done.set)
        done.wait(60)
        self.set_controls({"routers": f"token_choice,{OWN}", "top_k": 2})

    def check_state(self, given: dict[str, str]) -> None:
        if "routers" in given:
            self.choice.check(given["routers"])

    # What is drawn.

    def draw(self) -> Picture | None:
        settings, source = self._settings(), self._source()
        decisions = self._decisions(settings, source)
        if decisions is None:
            return None
        names = self.choice.chosen
        heading, note = self._heading(settings, source), self._note(settings, names)
        rules = [self.names[name].rule for name in names]
        picture = compare(decisions, rules, heading=heading, note=note)
        self.say(f"{picture.summary} {note}".strip())
        return picture

    def _settings(self) -> Settings:
        value = self.values
        capacity = None if value["capacity"] == NO_LIMIT else float(value["capacity"])
        return Settings(
            top_k=value["top_k"],
            temperature=value["temperature"],
            noise=value["noise"],
            capacity=capacity,
            training=value["mode"] == "training",
            seed=value["seed"],
        )

    def _source(self) -> tuple[Any, ...]:
        """What tells the tokens apart from all others."""
        of_text = self.controls["source"].value == "text"
        names = ("text", "layer") if of_text else ("tokens", "skew", "seed")
        return (of_text, *(self.controls[name].value for name in names))

    def _decisions(self, settings: Settings, source: tuple[Any, ...]) -> list[Decision] | None:
        names = self.choice.chosen
        opening = (True, self._meta["text"], self._meta["layer"])
        if source == opening and settings == Settings() and self.recorded.keys() >= {*names}:
            return [self.recorded[name] for name in names]
        tokens = self._current_tokens(source)
        if tokens is None:
            return None
        return [self._decide(tokens, name, settings, source) for name in names]

    def _decide(
        self, tokens: Tokens, name: str, settings: Settings, source: tuple[Any, ...]
    ) -> Decision:
        key = (name, source, *asdict(settings).values())
        if key not in self._kept:
            rule = self.own if name == OWN else None
            self._kept[key] = decision(tokens, name, settings, rule=rule, prove=False)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _current_tokens(self, source: tuple[Any, ...]) -> Tokens | None:
        if self._tokens is not None and self._tokens[0] == source:
            return self._tokens[1]
        # Synthetic tokens need torch alone: they do without a model that could not be loaded.
        without = not source[0] and READER.error and "torch" in sys.modules
        loaded = None if without else READER.ask(self)
        if loaded is None and not without:
            return None
        from moeviz.watch.routers import synthetic_tokens, text_tokens

        if source[0]:
            assert loaded is not None
            whole = text_tokens(*loaded, source[1], layer=source[2])
            tokens, self._given = whole.first(MAX_TOKENS), len(whole.pieces)
        else:
            _, count, skew, seed = source
            tokens = synthetic_tokens(count, NUM_EXPERTS, skew=skew, seed=seed)
        self._tokens = (source, tokens)
        return tokens

    def _heading(self, settings: Settings, source: tuple[Any, ...]) -> str:
        if source[0]:
            whose = f"Your text at layer {source[2]}"
        else:
            whose = f"{source[1]} synthetic tokens of skew {source[2]:g}"
        return f"{whose}, K = {settings.top_k}, {_spoken(settings.training)}"

    def _note(self, settings: Settings, names: tuple[str, ...]) -> str:
        """What a learner would wonder about: settings that do nothing, tokens that are missing."""
        notes = []
        of_text = self.controls["source"].value == "text"
        if not of_text:
            notes.append("c3: a token of cluster 3, which expert 3 suits best.")
        elif self._tokens is not None and self._given > MAX_TOKENS:
            notes.append(f"The first {MAX_TOKENS} of {self._given} tokens.")
        if settings.temperature != 1 or settings.noise:
            ungated = [self.names[name].title for name in names if not gated(name)]
            if ungated:
                notes.append(f"Temperature and noise do not reach {' and '.join(ungated)}.")
        if settings.noise and not settings.training:
            notes.append("Noise is for training.")
        if settings.capacity and not settings.training:
            notes.append("Outside training nothing is dropped.")
        return " ".join(notes)


def _spoken(training: bool) -> str:
    return next(words for words, mode in MODES if (mode == "training") == training)


def _controls(meta: dict[str, Any]) -> dict[str, widgets.Widget]:
    """Everything but the choice of routers, set to what was recorded."""
    made: dict[str, widgets.DOMWidget] = {
        "source": choice("Tokens", SOURCES, SOURCES[0][1], "135px"),
        "mode": choice("Mode", MODES, MODES[0][1], "125px"),
        "text": text_box(meta["text"], "640px"),
        "layer": choice("Layer", meta["layers"], meta["layer"], "50px"),
        "skew": skew_slider(1.0),
        "tokens": widgets.IntSlider(32, min=8, max=MAX_TOKENS, description="Tokens"),
        "top_k": widgets.IntSlider(1, min=1, max=4, description="Choices K"),
        "temperature": widgets.SelectionSlider(
            options=[(f"{t:g}", t) for t in TEMPERATURES], value=1.0, description="Temperature"
        ),
        "capacity": widgets.SelectionSlider(options=FACTORS, description="Capacity"),
        "noise": widgets.FloatSlider(0.0, min=0, max=2, step=0.1, description="Noise"),
        "seed": seed_box(),
    }
    for name in ("top_k", "capacity", "temperature", "noise", "skew", "tokens"):
        made[name].style.description_width = "90px"
    return made
