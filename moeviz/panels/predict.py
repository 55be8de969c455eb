"""A prediction before something is shown, and what was measured after it."""

from __future__ import annotations

from html import escape
from typing import Any, ClassVar

import ipywidgets as widgets

from moeviz.panels import cell
from moeviz.panels.bundle import view_bundle
from moeviz.panels.controls import button
from moeviz.panels.page import page
from moeviz.pictures.static import stills_wanted
from moeviz.pictures.svg import PAGE_INK, PAGE_MUTED
from moeviz.predictions import ANSWERS, find


class Predict(widgets.VBox):
    """The question of one of PREDICTIONS, and its answers, of which none is chosen.

    "Lock in" stores the choice in ANSWERS and fills the Outcomes of the same key. Made anew, it
    stands as it was answered. ValueError where there is no such prediction.
    """

    def __init__(self, key: str) -> None:
        self.prediction = find(key)
        options = self.prediction.options
        # Not radio buttons: JupyterLab takes the arrow keys from them, and Tab reaches only one.
        self.choice = widgets.ToggleButtons(options=options, value=ANSWERS.get(key))
        self.choice.add_class("moeviz-choice").style.button_width = "auto"
        self.lock = button("Lock in", "moeviz-lock", "Store your prediction", self._lock_in)
        self.lock.button_style = "primary"
        self.lock.layout.align_self = "flex-start"  # a VBox would stretch it over the whole page
        self.answer = widgets.HTML()
        self.choice.observe(lambda _: self._show(), "value")
        question = escape(self.prediction.question)
        asked = widgets.HTML(f'<b style="color:{PAGE_INK}">Predict: {question}</b>')
        super().__init__([page(), asked, self.choice, self.lock, self.answer])
        self.add_class("moeviz-predict")
        cell.replaces(self)
        self._show()

    def _show(self) -> None:
        said = ANSWERS.get(self.prediction.key)
        self.choice.disabled = said is not None
        self.lock.disabled = said is not None or self.choice.value is None
        words = "Choose an answer, then lock it in."
        if said is not None:
            words = f"You said “{said}”. What was measured stands further below."
        self.answer.value = _region(words)

    def _lock_in(self) -> None:
        if self.choice.value is not None:
            ANSWERS.setdefault(self.prediction.key, self.choice.value)
            self._show()
            Outcome.refresh(self.prediction.key)

    def close(self) -> None:
        """Take it off the page, with all that it holds."""
        cell.close_parts(self)
        super().close()

    _ipython_display_ = None

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        options = " / ".join(self.prediction.options)
        still = f"Predict: {self.prediction.question} ({options}; run the notebook to answer.)"
        return _bundle(self, still)


class Outcome(widgets.VBox):
    """What was measured of a prediction, once it is made: "You said …; it is …, because …"."""

    _open: ClassVar[list[Outcome]] = []

    def __init__(self, key: str) -> None:
        self.prediction = find(key)
        self.answer = widgets.HTML()
        super().__init__([page(), self.answer])
        self.add_class("moeviz-outcome")
        cell.replaces(self)
        Outcome._open = [o for o in Outcome._open if o.comm is not None] + [self]
        self._show()

    @classmethod
    def refresh(cls, key: str) -> None:
        """The prediction of that key is made."""
        for outcome in cls._open:
            if outcome.prediction.key == key:
                outcome._show()

    def _show(self) -> None:
        said = ANSWERS.get(self.prediction.key)
        waiting = "Lock in your prediction above: what was measured then stands here."
        self.answer.value = _region(waiting if said is None else self._sentence(said), said is None)

    def close(self) -> None:
        """Take it off the page, with all that it holds."""
        cell.close_parts(self)
        super().close()

    def _sentence(self, said: str | None) -> str:
        try:
            return self.prediction.sentence(said)
        except (ValueError, OSError) as error:  # a recording that is missing or damaged
            return str(error)

    _ipython_display_ = None

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        return _bundle(self, self._sentence(None))


def _region(words: str, muted: bool = False) -> str:
    colour = PAGE_MUTED if muted else PAGE_INK
    return (
        f'<div role="status" aria-live="polite" style="line-height:1.5;color:{colour}">'
        f"{escape(words)}</div>"
    )


def _bundle(widget: widgets.DOMWidget, still: str) -> dict[str, Any]:
    """What displays a widget, and while notebooks are built the words for a reader without one."""
    if not stills_wanted():  # elsewhere a page might show the words instead of the widget
        return view_bundle(widget, "Run the notebook to answer.")
    return view_bundle(widget, still) | {"text/html": f"<p>{escape(still)}</p>"}
