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


class Player:
    """Back, Next and Play over a slider of whole numbers, the panel's control "step".

    `bar` is the row to show. While it plays, a thread moves the slider on: the panel whose `player`
    it is is busy, and pauses it when it is closed.
    """

    def __init__(self, panel: Played, step: widgets.IntSlider) -> None:
        self._panel, self._step = panel, step
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._toggle = widgets.ToggleButton(description=PLAY, tooltip="Step by step, to the end")
        self._toggle.layout.width = "90px"  # of both words
        self._toggle.add_class("moeviz-play").observe(lambda _: self._toggled(), "value")
        self.bar: list[Any] = [
            button("◀ Back", "moeviz-back", "The step before", lambda: self._turn(-1)),
            button("Next ▶", "moeviz-next", "The next step", lambda: self._turn(1)),
            self._toggle,
            {"step": step},
        ]

    @property
    def plays(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def pause(self) -> None:
        self._toggle.value = False

    def _turn(self, by: int) -> None:
        """Who steps by hand wants to look."""
        self.pause()
        step = self._step
        step.value = min(max(step.value + by, step.min), step.max)

    def _toggled(self) -> None:
        self._stop.set()
        self._toggle.description = PAUSE if self._toggle.value else PLAY
        if self._toggle.value:
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
