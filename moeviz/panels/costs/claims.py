"""The ledger of claims, live: change what is assumed and watch the verdict."""

from __future__ import annotations

from urllib.parse import parse_qsl

import ipywidgets as widgets

from moeviz.costs import CLAIMS
from moeviz.panels.base import Panel, button
from moeviz.pictures import Picture
from moeviz.pictures.costs.claims import amount, claims, ladder

SLIDERS = ("first", "second", "third")  # no claim assumes more


class Claims(Panel):
    """A claim, where it stands, the sum that tests it, and the verdict under what is assumed. The
    sliders are those of the chosen claim."""

    kind = "claims"

    def __init__(self, claim: str = "mla_57") -> None:
        if claim not in CLAIMS:
            raise ValueError(f"claim must be one of {', '.join(CLAIMS)}, got {claim!r}.")
        numbered = [(f"{i + 1} · {name}", name) for i, name in enumerate(CLAIMS)]
        wide = widgets.Layout(width="460px")
        controls: dict[str, widgets.Widget] = {
            "claim": widgets.SelectionSlider(
                options=numbered, value=claim, description="Claim", layout=wide
            )
        }
        for name in SLIDERS:
            controls[name] = widgets.SelectionSlider(
                options=[("", 0.0)],
                style={"description_width": "150px"},
                layout=widgets.Layout(width="560px"),
            )
        reset = button("Its own assumptions", "moeviz-reset", "Undo what you changed", self._reset)
        rows = [[controls["claim"], reset], *([controls[name]] for name in SLIDERS)]
        super().__init__(controls, rows)
        self._offer()
        self.refresh()

    def changed(self) -> None:
        if not self._quiet:
            if self._offered != self.controls["claim"].value:
                self._offer()
            self.refresh()

    def draw(self) -> Picture | None:
        claim = CLAIMS[self.controls["claim"].value]
        names = [a.name for a in claim.assumptions]
        assumed = {n: self.controls[s].value for s, n in zip(SLIDERS, names, strict=False)}
        picture = claims(claim.id, assumed, state=self.state)
        self.say(picture.summary)
        return picture

    def _offer(self) -> None:
        """Give the sliders the assumptions of the chosen claim; the rest go out of sight."""
        self._offered = self.controls["claim"].value
        assumptions = CLAIMS[self._offered].assumptions
        self._quiet = True
        try:
            for i, name in enumerate(SLIDERS):
                slider = self.controls[name]
                there = i < len(assumptions)
                slider.layout.display = "" if there else "none"
                if there:
                    a = assumptions[i]
                    slider.options = [(amount(v, a.unit), v) for v in ladder(a)]
                    slider.value, slider.description = a.value, a.name.replace("_", " ")
                else:
                    slider.options = [("", 0.0)]
        finally:
            self._quiet = False

    def _reset(self) -> None:
        self._offer()
        self.refresh()

    @property
    def state(self) -> str:
        """As every panel's; a pasted one first brings its claim, whose sliders it then sets."""
        return Panel.state.fget(self)  # type: ignore[attr-defined]

    @state.setter
    def state(self, text: str) -> None:
        before = {name: control.value for name, control in self.controls.items()}
        given = dict(parse_qsl(text.partition("?")[2])).get("claim")
        self._quiet = True
        try:
            if given in CLAIMS:
                self.controls["claim"].value = given
                self._offer()
            Panel.state.fset(self, text)  # type: ignore[attr-defined]
        except ValueError:
            self.set_controls({"claim": before["claim"]})
            self._offer()
            self.set_controls(before)
            raise
        finally:
            self._quiet = False
        self.refresh()
