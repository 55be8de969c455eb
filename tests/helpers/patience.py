"""Waiting in tests: for what is to come, and as long as a machine may take that has much to do."""

import time

from lab_browser import PATIENCE


def wait(condition, what):
    """Until the condition holds. what: to be told where it never does, or what makes that text."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for: {what() if callable(what) else what}"
        time.sleep(0.005)
