"""Work of a panel that takes longer than a redraw: on a thread, the latest request first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moeviz.panels.base import Panel


class Worker:
    """One daemon thread at most. Of requests that come while it works only the latest is served;
    what goes wrong becomes the panel's sentence."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._next: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        return self._thread is not None

    def ask(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._next = work
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name=f"moeviz-{self._panel.kind}", daemon=True
                )
                self._thread.start()

    def wait(self, timeout: float) -> bool:
        """Whether it has come to rest within so many seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return not self.busy

    def _serve(self) -> None:
        while True:
            with self._lock:
                work, self._next = self._next, None
                if work is None:
                    self._thread = None
                    return
            with self._panel.guarded():
                try:
                    work()
                except ImportError as error:
                    self._panel.say(f"This needs a package that does not import: {error}.")
