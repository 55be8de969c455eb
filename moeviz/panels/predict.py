"""A prediction, stored before anything is shown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import ipywidgets as widgets

from moeviz.panels.base import view_bundle
from moeviz.panels.controls import button
from moeviz.pictures.static import stills_wanted
from moeviz.pictures.svg import PAGE_INK

# What the learner said, by question: other panels read it when the answer is in.
ANSWERS: dict[str, str] = {}


class Predict(widgets.VBox):
    """One question with a few answers. "Lock in" stores the choice in ANSWERS[key] and then, not
    before, shows `reveal`."""

    def __init__(self, key: str, question: str, options: Sequence[str], *, reveal: str) -> None:
        self.key, self.reveal = key, reveal
        ANSWERS.pop(key, None)
        # Not radio buttons: JupyterLab takes the arrow keys from them, and Tab reaches only one.
        self.choice = widgets.ToggleButtons(options=[*options]).add_class("moeviz-choice")
        self.choice.style.button_width = "auto"
        self.lock = button("Lock in", "moeviz-lock", "Store your prediction", self._lock_in)
        self.lock.layout.align_self = "flex-start"  # a VBox would stretch it over the whole page
        self.answer = widgets.HTML()
        self._question = question
        asked = widgets.HTML(f'<b style="color:{PAGE_INK}">Predict: {escape(question)}</b>')
        super().__init__([asked, self.choice, self.lock, self.answer])
        self.add_class("moeviz-predict")

    def _lock_in(self) -> None:
        if self.key in ANSWERS:
            return
        ANSWERS[self.key] = self.choice.value
        self.choice.disabled = self.lock.disabled = True
        self.answer.value = (
            f'<div role="status" aria-live="polite" style="line-height:1.5;color:{PAGE_INK}">'
            f"You said: {escape(self.choice.value)}. {escape(self.reveal)}</div>"
        )

    _ipython_display_ = None

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        options = " / ".join(self.choice.options)
        still = f"Predict: {self._question} ({options}; run the notebook to answer.)"
        bundle = view_bundle(self, still)
        if stills_wanted():  # elsewhere a page might show this instead of the widget
            bundle["text/html"] = f"<p>{escape(still)}</p>"
        return bundle
