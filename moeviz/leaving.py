"""Threads that compute end before Python does: torch aborts the process where it does not wait."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable

# A step, a save or an import of torch ends by then; Jupyter itself kills a kernel after 5 s.
PATIENCE = 10.0
_begun: list[tuple[threading.Thread, Callable[[], None]]] = []
# An import that the end breaks off is no fault; the main thread has ended before any exit handler.
logging.getLogger("moeviz").addFilter(lambda _: threading.main_thread().is_alive())


class Stopped(Exception):
    """The learner pressed Stop."""


def begin(name: str, work: Callable[[], None], stop: Callable[[], None]) -> threading.Thread:
    """Start work() on a daemon thread called `name`. As Python ends, stop() asks it to come to its
    end, which is waited for."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    _begun[:] = [(other, end) for other, end in _begun if other.is_alive()]
    thread.start()
    _begun.append((thread, stop))
    return thread


@atexit.register
def _leave() -> None:
    for _, stop in _begun:
        stop()
    until = time.monotonic() + PATIENCE
    for thread, _ in _begun:
        thread.join(max(0.0, until - time.monotonic()))
