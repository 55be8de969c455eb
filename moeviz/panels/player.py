"""A panel that is looked at step by step: Back, Next, and Play until it is paused."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Any, Protocol

import ipywidgets as widgets

from moeviz.panels.controls import button
from moeviz.panels.pulse import OURS, Pulse

STEP_SECONDS = 0.8  # a step is on the page, at the most
PLAY_SECONDS = 40.0  # all steps together, at the most
PLAY, PAUSE = "▶ Play", "▮▮ Pause"


class Played(Protocol):
    """What a player needs of its panel."""

    kind: str
    pulse: Pulse

    def guarded(self) -> AbstractContextManager[None]: ...
    def quietly(self) -> AbstractContextManager[None]: ...


class Player:
    """Back, Next and Play over a slider of whole numbers, the panel's control of this name.

    `bar` is the row to show. While it plays, a thread moves the slider on: the panel whose `player`
    it is is busy, and pauses it when it is closed.
    """

    def __init__(self, panel: Played, step: widgets.IntSlider, name: str = "step") -> None:
        self._panel, self._step = panel, step
        self._most = self._total = step.max  # that a state may name, and that there are
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.toggle = widgets.ToggleButton(description=PLAY, tooltip="Step by step, to the end")
        self.toggle.layout.width = "90px"  # of both words
        self.toggle.add_class("moeviz-play").observe(lambda _: self._toggled(), "value")
        self._back = button("◀ Back", "moeviz-back", "The step before", lambda: self._turn(-1))
        self._next = button("Next ▶", "moeviz-next", "The next step", lambda: self._turn(1))
        self.bar: list[Any] = [self._back, self._next, self.toggle, {name: step}]
        step.observe(lambda _: self._at_ends(), ["value", "min", "max"])
        self._at_ends()

    @property
    def plays(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def any_step(self) -> None:
        """Until its course is known, any step may be meant."""
        self._step.max = self._total = self._most

    def step_of(self, total: int) -> int:
        """The step in a course of so many: at its end, where it was at the end of the last."""
        step = self._step
        place: int = total if step.value >= self._total else min(step.value, total)
        with self._panel.quietly():
            step.value = min(place, step.max)
            step.max = self._total = total
            step.value = place
        return place

    def pause(self) -> None:
        self.toggle.value = False

    def _at_ends(self) -> None:
        """What would lead nowhere cannot be pressed."""
        self._back.disabled = self._step.value <= self._step.min
        self._next.disabled = self._step.value >= self._step.max

    def _turn(self, by: int) -> None:
        """Who steps by hand wants to look."""
        self.pause()
        step = self._step
        step.value = min(max(step.value + by, step.min), step.max)

    def _toggled(self) -> None:
        self._stop.set()
        self.toggle.description = PAUSE if self.toggle.value else PLAY
        if self.toggle.value:
            self._begin()

    def _begin(self) -> None:
        step, stop = self._step, threading.Event()
        if step.value == step.max:
            step.value = step.min

        def run() -> None:
            with self._panel.guarded():
                while step.value < step.max and not stop.wait(seconds_of(step)):
                    step.value += 1
            if not stop.is_set():  # the end, not a pause: nobody else says so
                self.pause()

        self._stop = stop
        self._panel.pulse.begin()
        name = f"{OURS}{self._panel.kind}-play"
        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()


def seconds_of(step: widgets.IntSlider) -> float:
    """How long a step is shown: many small ones go by faster."""
    return min(STEP_SECONDS, PLAY_SECONDS / (step.max - step.min))
