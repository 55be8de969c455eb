"""Toggle buttons of all routers, of which two to four are down."""

from __future__ import annotations

import ipywidgets as widgets
import traitlets

from moeviz.experiments.routers_on_a_text import Named

FEWEST, MOST = 2, 4


class RouterChoice(widgets.HBox):
    """Toggle buttons, of which two to four are down. value: their names, separated by commas, in
    the order in which they were pressed. refused: called with a sentence where a press is undone.
    """

    value = traitlets.Unicode()

    def __init__(self, names: dict[str, Named], chosen: tuple[str, ...]) -> None:
        self.names, self.refused = tuple(names), lambda sentence: None
        self.buttons = {name: self._button(named) for name, named in names.items()}
        super().__init__([*self.buttons.values()], layout=widgets.Layout(flex_flow="row wrap"))
        self.add_class("moeviz-routers")
        self._quiet = False
        self.observe(lambda _: self._show(), "value")
        self.value = ",".join(chosen)
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

    def check(self, value: str) -> None:
        """ValueError, one sentence, where a value is none that this can have."""
        names = value.split(",") if value else []
        if unknown := [name for name in names if name not in self.names]:
            raise ValueError(
                f"There is no router '{unknown[0]}' here; there is {', '.join(self.names)}."
            )
        if len(set(names)) != len(names):
            raise ValueError("A router can stand there only once.")
        if len(names) < FEWEST:
            raise ValueError(f"At least {FEWEST} routers are compared; choose another one first.")
        if len(names) > MOST:
            raise ValueError(f"At most {MOST} routers fit side by side; take one out first.")

    def _pressed(self, name: str) -> None:
        if self._quiet:
            return
        rest = [other for other in self.chosen if other != name]
        value = ",".join([*rest, name] if self.buttons[name].value else rest)
        try:
            self.check(value)
        except ValueError as error:
            self._show()
            self.refused(str(error))
        else:
            self.value = value

    def _show(self) -> None:
        """Put the buttons where the value says."""
        self._quiet = True
        try:
            for name, button in self.buttons.items():
                button.value = name in self.chosen
        finally:
            self._quiet = False
