"""A kernel keeps what it tells the page for as long as the server between them is behind.

It keeps a thousand messages by itself, and drops what comes after them without a word (ZeroMQ's
high-water mark). A panel opens with some 150. Where a server stood still for six seconds, the last
of forty panels were never seen; and a control one of whose parts is lost is a dead box.
"""

from __future__ import annotations

import functools
from typing import Any

KEPT = 20_000  # messages: three times those that all panels together open with


@functools.cache
def keep_messages() -> None:
    """Let the kernel that runs here keep so many; nothing is done where none does."""
    from IPython import get_ipython

    thread = getattr(getattr(get_ipython(), "kernel", None), "iopub_thread", None)
    if thread is not None:
        thread.schedule(lambda: _widen(thread.socket))  # a socket is for its own thread alone


def _widen(socket: Any) -> None:
    """For those too that it is connected with; 0 is no limit."""
    if 0 < socket.sndhwm < KEPT:
        socket.sndhwm = KEPT
