"""The ledger of claims, live: change what is assumed and watch the verdict."""

from __future__ import annotations

from moeviz.checks import check_choice
from moeviz.costs import CLAIMS, evaluate
from moeviz.panels.base import Panel
from moeviz.panels.controls import button, slider
from moeviz.pictures import Picture
from moeviz.pictures.costs.claims import SLIDERS, amount, claims, ladder, sentence

NONE_BEYOND_1 = {"second": 0.0, "third": 0.0}


class Claims(Panel):
    """A claim, where it stands, the sum that tests it, and the verdict under what is assumed. The
    sliders are those of the chosen claim."""

    told_in_picture = True
    # Each names all sliders, for its claim has others than the opening's; one that is out of sight
    # stands at 0.
    presets = {
        "Experts of 32 tokens": {"claim": "unselected_not_loaded", "first": 32} | NONE_BEYOND_1,
        "Experts of one token": {"claim": "unselected_not_loaded", "first": 1} | NONE_BEYOND_1,
        "Both at $2 an hour": {
            "claim": "cost_per_trillion", "first": 2, "second": 2, "third": 0.0,
        },
        "Tested in this lab": {"claim": "dropping_degrades", "first": 0.1} | NONE_BEYOND_1,
    }  # fmt: skip

    def __init__(self, claim: str = "unselected_not_loaded") -> None:
        check_choice("claim", claim, CLAIMS)
        numbered = [(str(i + 1), name) for i, name in enumerate(CLAIMS)]
        reset = button("Its own assumptions", "moeviz-reset", "Undo what you changed", self._reset)
        sliders = {name: slider("", [("", 0.0)], 0.0, "560px") for name in SLIDERS}
        for each in sliders.values():
            each.style.description_width = "270px"
        # Each value is also in a strip of the picture, which is dragged.
        super().__init__(
            [{"claim": slider("Claim", numbered, claim, "460px")}, reset], more=[sliders]
        )

    def begin(self) -> None:
        # Each claim has another length of sentence, and the list must not move under the pointer.
        self.keep_room(max(len(sentence(evaluate(name))) for name in CLAIMS))
        self._reset()

    def changed(self) -> None:
        if not self._quiet:
            if self._offered != self.controls["claim"].value:
                self._offer()
            self.refresh()

    def draw(self) -> Picture | None:
        claim = CLAIMS[self.controls["claim"].value]
        names = [a.name for a in claim.assumptions]
        assumed = {n: self.controls[s].value for s, n in zip(SLIDERS, names, strict=False)}
        return self.shown(claims(claim.id, assumed))

    def _offer(self) -> None:
        """Give the sliders the assumptions of the chosen claim; the rest go out of sight, and
        their room stays, so that the picture does."""
        self._offered = self.controls["claim"].value
        assumptions = CLAIMS[self._offered].assumptions
        with self.quietly():
            for i, name in enumerate(SLIDERS):
                slider = self.controls[name]
                offered = i < len(assumptions)
                slider.layout.visibility = "visible" if offered else "hidden"
                if offered:
                    a = assumptions[i]
                    slider.options = [(amount(v, a.unit), v) for v in ladder(a)]
                    slider.value, slider.description = a.value, a.meaning
                else:
                    slider.options = [("", 0.0)]

    def _reset(self) -> None:
        self._offer()
        self.refresh()

    def check_state(self, given: dict[str, str]) -> None:
        """A state first brings its claim, whose sliders it then sets."""
        if (claim := given.get("claim")) in CLAIMS:
            self.set_controls({"claim": claim})
            self._offer()
