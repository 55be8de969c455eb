"""Work of a panel that takes longer than a redraw: on a thread, the latest request first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from moeviz.leaving import begin
from moeviz.panels.pulse import Pulse


class Worker:
    """One daemon thread at most, called `name`. Of requests that come while it works only the
    latest is served; each inside `guarded()`, which hears of what goes wrong. What it says comes
    to the page by the pulse."""

    def __init__(
        self, name: str, guarded: Callable[[], AbstractContextManager[None]], pulse: Pulse
    ) -> None:
        self._name, self._guarded, self._pulse = name, guarded, pulse
        self.stop: Callable[[], None] = lambda: None  # for work that can be asked to end
        self._next: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        return self._thread is not None

    def ask(self, work: Callable[[], None]) -> None:
        self._pulse.begin()
        with self._lock:
            self._next = work
            if self._thread is None:
                self._thread = begin(self._name, self._serve, self._leave)

    def _leave(self) -> None:
        """Python ends: nothing more is begun."""
        with self._lock:
            self._next = None
        self.stop()

    def _serve(self) -> None:
        while True:
            with self._lock:
                work, self._next = self._next, None
                if work is None:
                    self._thread = None
                    return
            with self._guarded():
                work()
