"""The routers of one family as toggle buttons, of which two to four are compared."""

from __future__ import annotations

import ipywidgets as widgets
import traitlets

from moeviz.experiments.routers_on_a_text import Named
from moeviz.panels.controls import choice

FEWEST, MOST = 2, 4
BASELINE = "token_choice"  # what every family is compared with
# What families open on whose first routers are near twins, or are more than a first look needs.
FIRST = {"token choice": ("switch", "gshard"), "experts choose": ("expert_choice",)}
EVERY = "all"


class RouterChoice(widgets.VBox):
    """A family, and the buttons of its routers. value: the names of those that are compared,
    separated by commas, in the order in which they were pressed.

    family, a widget that the panel places, puts the first routers of a family beside top-K; EVERY
    shows all buttons, to mix families. Of five routers the oldest goes, top-K last.
    refused: called with a sentence where a press is undone.
    """

    value = traitlets.Unicode()

    def __init__(self, names: dict[str, Named], family: str) -> None:
        self.named, self.refused = names, lambda sentence: None
        self.buttons = {name: self._button(named) for name, named in names.items()}
        families = [*dict.fromkeys(named.family for named in names.values())]
        self.family = choice("Family", (*families, EVERY), family, "auto")
        self.family.add_class("moeviz-family")
        row = widgets.Layout(flex_flow="row wrap")
        super().__init__([widgets.HBox([*self.buttons.values()], layout=row)])
        self.add_class("moeviz-routers")
        self._quiet = False
        self.observe(lambda _: self._show(), "value")
        self.value = self.first_of(family)
        self.family.observe(lambda _: self._enter(), "value")
        for name, button in self.buttons.items():
            button.observe(lambda _, name=name: self._pressed(name), "value")

    @staticmethod
    def _button(named: Named) -> widgets.ToggleButton:
        button = widgets.ToggleButton(description=named.title, tooltip=named.rule)
        button.layout.width, button.layout.padding = "auto", "0 8px"
        return button

    @property
    def chosen(self) -> tuple[str, ...]:
        return tuple(self.value.split(","))

    def first_of(self, family: str) -> str:
        """The value that a family opens with."""
        return self._beside_top_k(*FIRST.get(family, self._members(family)))

    def whole_family(self, name: str) -> str:
        """The value that has a router, and as many others of its family as there is room for."""
        return self._beside_top_k(name, *self._members(self.named[name].family))

    def _members(self, family: str) -> list[str]:
        return [name for name, named in self.named.items() if named.family == family]

    def _beside_top_k(self, *names: str) -> str:
        return ",".join([*dict.fromkeys((BASELINE, *names))][:MOST])

    def check(self, value: str) -> None:
        """ValueError, one sentence, where a value is none that this can have."""
        names = value.split(",") if value else []
        if unknown := [name for name in names if name not in self.named]:
            raise ValueError(
                f"There is no router '{unknown[0]}' here; there is {', '.join(self.named)}."
            )
        if len(set(names)) != len(names):
            raise ValueError("A router can stand there only once.")
        if len(names) < FEWEST:
            raise ValueError(f"At least {FEWEST} routers are compared; choose another one first.")
        if len(names) > MOST:
            raise ValueError(f"At most {MOST} routers fit side by side; take one out first.")

    def _enter(self) -> None:
        """A family was pressed."""
        if not self._quiet and self.family.value != EVERY:
            self.value = self.first_of(self.family.value)
        self._show()

    def _pressed(self, name: str) -> None:
        if self._quiet:
            return
        names = [other for other in self.chosen if other != name]
        if self.buttons[name].value:
            if len(names) == MOST:
                names.remove(next(other for other in names if other != BASELINE))
            names.append(name)
        try:
            self.check(",".join(names))
        except ValueError as error:
            self._show()
            self.refused(str(error))
        else:
            self.value = ",".join(names)

    def _show(self) -> None:
        """Put the buttons where the value says, those of the newest router's family in sight."""
        every, family = self.family.value == EVERY, self.named[self.chosen[-1]].family
        self._quiet = True
        try:
            if not every:
                self.family.value = family
            for name, button in self.buttons.items():
                button.value = name in self.chosen
                in_sight = every or name in self.chosen or self.named[name].family == family
                button.layout.display = "" if in_sight else "none"
        finally:
            self._quiet = False
