"""Two to four routers on the same tokens: a text's, or synthetic ones of known skew."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from moeviz.checks import check_choice
from moeviz.experiments.routers_on_a_text import (
    NUM_EXPERTS,
    OWN,
    OWN_NAMED,
    RECORDED,
    Settings,
    decision,
    every_name,
    gated,
    recorded,
)
from moeviz.panels import shipped_model
from moeviz.panels.controls import (
    choice,
    layer_choice,
    seed_box,
    skew_slider,
    slider,
    text_box,
    whole_slider,
)
from moeviz.panels.reading_panel import ReadingPanel, Values, check_source
from moeviz.panels.router_choice import BASELINE, FEWEST, RouterChoice
from moeviz.pictures import Picture
from moeviz.pictures.routing.names import CLUSTERS
from moeviz.pictures.routing.routers import compare
from moeviz.records.routes import Decision

if TYPE_CHECKING:
    from moeviz.panels.shipped_model import Loaded
    from moeviz.watch.pretrained import Pretrained
    from moeviz.watch.routers import Rule, Tokens

MAX_TOKENS = 40
SOURCES = (("your text", "text"), ("synthetic tokens", "synthetic"))
MODES = (("in training", "training"), ("outside training", "outside"))
NO_LIMIT = "none"
FACTORS = (NO_LIMIT, "0.5", "0.75", "1", "1.25", "1.5", "2")
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0)
ROWS = (("those that tell most", "few"), ("all", "all"))
FULL = {
    "routers": "token_choice,switch", "source": "synthetic", "skew": 2.0, "top_k": 1,
    "capacity": "none", "mode": "training",
}  # fmt: skip
# What to try with the family that 03 teaches; whose tokens choose for themselves.
CHOOSING = ("token choice", OWN_NAMED.family)
OF_CHOICE: dict[str, dict[str, Any]] = {
    "Switch runs full": FULL,
    "Half the slots": {"routers": "token_choice,switch", "capacity": "0.5", "source": "text"},
    "Scores nearly alike": {"temperature": 4.0, "top_k": 2, "source": "text"},
}


class CompareRouters(ReadingPanel):
    """Who gets which token, under two to four rules that score by the same trained gate.

    It opens on a recording, without torch; anything else loads torch and the model in the
    background. family: whose routers stand beside top-K at first. own: a rule
    weight_TE = own(scores_TE), compared as the router "Yours". of: a real checkpoint (see
    watch.pretrained.load), whose own scores the rules are put on; it opens on its own K.
    """

    hangs_on = ("routers", "source", "mode", "seed", "top_k", "capacity", "temperature", "noise")
    of_source = {"text": ("text", "layer"), "synthetic": ("skew", "tokens")}
    presets = {
        "Switch runs full": FULL,
        "Expert choice sees the future": {
            "routers": "token_choice,expert_choice", "source": "text", "top_k": 1,
            "capacity": "none", "mode": "training",
        },
        "A hash reads no meaning": {
            "routers": "token_choice,hash", "source": "text", "top_k": 1, "capacity": "none",
            "mode": "training",
        },
        "Soft MoE mixes all tokens": {
            "routers": "token_choice,soft_moe", "source": "text", "top_k": 1, "capacity": "none",
            "mode": "training",
        },
    }  # fmt: skip

    def __init__(
        self,
        family: str = "experts choose",
        *,
        own: Rule | None = None,
        of: Pretrained | None = None,
    ) -> None:
        check_source(of)
        (_, meta), *_ = made = [recorded(top_k) for top_k in RECORDED]
        self.recorded = {k: of_k for k, (of_k, _) in zip(RECORDED, made, strict=True)}
        self.own, self.of = own, of
        self._real, chosen = of, 1
        if of is not None:
            from moeviz.watch.pretrained import layers_of, top_k_of

            chosen = top_k_of(of) or chosen
            layers = layers_of(of)
            self.recorded = {}
            meta = meta | {"layers": layers, "layer": layers[len(layers) // 2]}
        self._opening = (meta["text"], meta["layer"])
        self.names = every_name() | ({OWN: OWN_NAMED} if own else {})
        check_choice("family", family, dict.fromkeys(n.family for n in self.names.values()))
        self.choice = RouterChoice(self.names, family)
        self.choice.refused = self.say
        self.presets = self._with_the_opening(OF_CHOICE if family in CHOOSING else self.presets)
        temperatures = [(f"{t:g}", t) for t in TEMPERATURES]
        noise = widgets.FloatSlider(0.0, min=0, max=2, step=0.1, description="Noise")
        top_k = {"top_k": whole_slider("Choices K", 1, max(4, chosen), chosen)}
        sliders = [
            {
                "capacity": slider("Capacity", FACTORS, NO_LIMIT),
                "temperature": slider("Temperature", temperatures, 1.0),
            },
            {"noise": noise},
            {"skew": skew_slider(1.0), "tokens": whole_slider("Tokens", 8, MAX_TOKENS, 32)},
        ]
        for made in (made for row in (top_k, *sliders) for made in row.values()):
            made.style.description_width = "90px"
        families = [[self.choice.family]]
        first = families if family not in CHOOSING else []  # 03 has no other family yet
        super().__init__(
            [],
            *first,
            {"routers": self.choice},
            {"text": text_box(meta["text"], "560px"), **top_k},
            more=[
                *(families if not first else []),
                {"rows": choice("Rows", ROWS, ROWS[0][1], "150px")},
                {
                    "mode": choice("Mode", MODES, MODES[0][1], "125px"),
                    "layer": layer_choice(meta["layers"], meta["layer"]),
                },
                {
                    "source": choice("Tokens", SOURCES, SOURCES[0][1], "135px"),
                    "seed": seed_box(),
                },
                *sliders,
            ],
        )

    def begin(self) -> None:
        if self.own:
            # A rule of tensors was written with torch: it is there, and the model takes no time.
            with self.guarded():
                shipped_model.READER.get()
            self.set_controls({"routers": f"token_choice,{OWN}", "top_k": 2})
        super().begin()

    def check_state(self, given: dict[str, str]) -> None:
        if "routers" in given:
            self.choice.check(given["routers"])

    # What is drawn: the decisions, and how many tokens the whole text has.

    def picture_of(self, record: tuple[list[Decision], int]) -> Picture:
        decisions, given = record
        rules = [self.names[name].rule for name in self.choice.chosen]
        heading, note = self._heading(), self._note(given)
        press, hint = self._other_sizes()
        picture = compare(
            decisions, rules, heading=heading, note=note, press=press, hint=hint,
            rows=self.controls["rows"].value, pressed=True,
        )  # fmt: skip
        self.say(f"{picture.summary} {note}".strip())
        return picture

    def _with_the_opening(self, presets: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The presets; first the one that leads back to the routers that the panel opens on."""
        names, value = self.choice.chosen, self.choice.value
        first = {w: sets for w, sets in presets.items() if sets.get("routers") == value}
        *titles, last = (self.names[name].title for name in names)
        return (first or {f"{', '.join(titles)} and {last}": {"routers": value}}) | presets

    def _other_sizes(self) -> tuple[dict[str, dict[str, str]], str]:
        """What a press on a router's name shows, and how that is told: it beside top-K alone, where
        its weights have room; there, its family again."""
        names = self.choice.chosen
        others = [name for name in names if name != BASELINE]
        alone = {name: f"{BASELINE},{name}" for name in others}
        if len(names) > FEWEST:
            shown, hint = alone, "press to see it larger"
        else:
            wider = {name: self.choice.whole_family(name) for name in others}
            shown = {name: value for name, value in wider.items() if value != alone[name]}
            hint = "press to see its family"
        return {self.names[name].title: {"routers": shown[name]} for name in shown}, hint

    def make(self, wanted: Values) -> tuple[list[Decision], int] | None:
        """As recorded, where only the choice of routers and K are others. Synthetic tokens need
        torch alone: they do without a model that could not be loaded."""
        names, of_text = self.choice.chosen, wanted["source"] == "text"
        opening = of_text and (wanted["text"], wanted["layer"]) == self._opening
        decisions = self.recorded.get(wanted["top_k"], {})
        as_recorded = _settings(wanted) == Settings(top_k=wanted["top_k"])
        if opening and as_recorded and decisions.keys() >= {*names}:
            return [decisions[name] for name in names], 0
        without_model = self._real is not None or shipped_model.READER.failed
        if not of_text and without_model and "torch" in sys.modules:
            return self.keep(wanted, self.compute(wanted, None))
        return super().make(wanted)

    def compute(self, wanted: Values, loaded: Loaded | None) -> tuple[list[Decision], int]:
        from moeviz.watch.routers import synthetic_tokens, text_tokens

        if loaded and wanted["source"] == "text":
            tokens = text_tokens(*loaded, wanted["text"], layer=wanted["layer"])
            given = len(loaded[1].encode(wanted["text"]))
        else:
            skew, seed = wanted["skew"], wanted["seed"]
            tokens = synthetic_tokens(wanted["tokens"], NUM_EXPERTS, skew=skew, seed=seed)
            given = wanted["tokens"]
        return self._decided(tokens, given, wanted)

    def read(self, real: Pretrained, wanted: Values) -> tuple[list[Decision], int]:
        from moeviz.watch.pretrained import router_tokens

        tokens, given = router_tokens(real, wanted["text"], layer=wanted["layer"])
        return self._decided(tokens, given, wanted)

    def _decided(self, tokens: Tokens, given: int, wanted: Values) -> tuple[list[Decision], int]:
        first, settings = tokens.first(MAX_TOKENS), _settings(wanted)
        decisions = [
            decision(first, name, settings, rule=self.own if name == OWN else None, prove=False)
            for name in self.choice.chosen
        ]
        return decisions, given

    def _heading(self) -> str:
        value = self.values
        if value["source"] == "text":
            text = "The text" if value["text"] == self._opening[0] else "Your text"
            whose = f"{text} at layer {value['layer']}"
        else:
            whose = f"{value['tokens']} synthetic tokens of skew {value['skew']:g}"
        spoken = next(words for words, mode in MODES if mode == value["mode"])
        return f"{whose}, K = {value['top_k']}, {spoken}"

    def _note(self, given: int) -> str:
        """What a learner would wonder about: settings that do nothing, tokens that are missing."""
        value, notes = self.values, []
        if self._real is not None and value["source"] == "text":
            notes.append(
                f"These are rules on the scores of {self._real.name}: who would go where. What it "
                "would then say is not told, for its experts were trained under its own rule."
            )
        outside = value["mode"] == "outside"
        if value["source"] == "synthetic":
            notes.append(CLUSTERS)
        elif given > MAX_TOKENS:
            notes.append(f"The first {MAX_TOKENS} of {given:,} tokens.")
        if value["temperature"] != 1 or value["noise"]:
            ungated = [self.names[name].title for name in self.choice.chosen if not gated(name)]
            if ungated:
                notes.append(f"Temperature and noise do not reach {' and '.join(ungated)}.")
        if value["noise"] and outside:
            notes.append("Noise is for training.")
        if value["capacity"] != NO_LIMIT and outside:
            notes.append("Outside training nothing is dropped.")
        return " ".join(notes)


def _settings(wanted: Values) -> Settings:
    capacity = wanted["capacity"]
    return Settings(
        top_k=wanted["top_k"],
        temperature=wanted["temperature"],
        noise=wanted["noise"],
        capacity=None if capacity == NO_LIMIT else float(capacity),
        training=wanted["mode"] == "training",
        seed=wanted["seed"],
    )
