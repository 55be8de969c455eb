"""A clock for a GPU visit, and a task for its processes; they import it, as they cannot a test
module."""

import math
import os
import time
from dataclasses import dataclass


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@dataclass(frozen=True)
class Parts:
    """A task whose parts are named by what becomes of them."""

    name: str
    parts: tuple[str, ...]
    most: float = math.inf

    def key(self, part):
        return f"{self.name} {part}"

    def limit(self, part):
        # What does not hang has no limit: on a busy machine it may take long.
        return self.most if "sleeps" in part else math.inf

    def begin(self):
        return os.getpid()

    def measure(self, state, part):
        if "raises" in part:
            raise ValueError("no such cut")
        if "dies" in part:
            os._exit(9)
        if "loses" in part:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if "sleeps" in part:
            time.sleep(60)
        return state
