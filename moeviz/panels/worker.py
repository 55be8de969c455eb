"""Work of a panel that takes longer than a redraw: on a thread, the latest request first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from moeviz.panels.pulse import Pulse


class Worker:
    """One daemon thread at most, called `name`. Of requests that come while it works only the
    latest is served; each inside `guarded()`, which hears of what goes wrong. What it says comes
    to the page by the pulse."""

    def __init__(
        self, name: str, guarded: Callable[[], AbstractContextManager[None]], pulse: Pulse
    ) -> None:
        self._name, self._guarded, self._pulse = name, guarded, pulse
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
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        while True:
            with self._lock:
                work, self._next = self._next, None
                if work is None:
                    self._thread = None
                    return
            with self._guarded():
                work()
