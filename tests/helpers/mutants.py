"""Things as a slip of the keyboard or a bad disk leaves them, drawn from a seeded generator."""

from __future__ import annotations

import contextlib
import random
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Of every kind that JSON has, the sizes at which something overflows or fills the memory, and what
# is no key of a dict.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, 7, -1, -7, 255, 10**4, 10**4 + 1, 10**6, 10**9, 2**31, 2**63,
    10**18, 10**400, 0.5, 1.0, 2.5, 1e308, float("nan"), float("inf"), -float("inf"),
    "", "auto", "full_attention", "linear_attention", "M", "ME*-" * 30, "x" * 50_000, "a\ud83d",
    [], [0], [1, 0], [9999.0] * 3000, [1] * 48, [None], [[1], {}], ["full_attention"] * 48,
    ["x"] * 20_000, [[[[[[[]]]]]]], {}, {"a": {"b": {"c": []}}}, {"model_type": "llama"},
)  # fmt: skip


def mutated(config: dict[str, Any], others: list[str], rng: random.Random) -> dict[str, Any]:
    """A copy of the config with one to four fields changed, dropped, or added from `others`."""
    out = dict(config)
    for _ in range(rng.randint(1, 4)):
        name = rng.choice(list(out) or others)
        change = rng.random()
        if change < 0.1:
            out.pop(name, None)
        elif change < 0.25:
            out[rng.choice(others)] = rng.choice(VALUES)
        elif change < 0.35:
            out[name] = out.get(rng.choice(others))
        elif isinstance(value := out.get(name), dict) and change < 0.95:
            out[name] = mutated(value, others, rng)
        elif isinstance(value, list) and value and change < 0.8:
            changed = list(value)
            changed[rng.randrange(len(changed))] = rng.choice(VALUES)
            out[name] = changed * rng.choice((1, 1, 1, 2, 100))
        elif isinstance(value, int) and change < 0.6:
            out[name] = rng.choice((value + 1, value - 1, -value, value * 10, value * 10**9))
        else:
            out[name] = rng.choice(VALUES)
    return out


@contextlib.contextmanager
def bounded(seconds: int, gigabytes: float) -> Iterator[None]:
    """TimeoutError in place of a hang, MemoryError in place of a machine that dies (on Linux). The
    seconds are of this process alone: a busy machine is no hang."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"This took over {seconds} s.")

    before = resource.getrlimit(resource.RLIMIT_AS)
    if (statm := Path("/proc/self/statm")).exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(gigabytes * 2**30), before[1]))
    handler = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def spoilt(data: bytes, rng: random.Random) -> bytes:
    """A file as a bad disk, a full one or a broken copy leaves it."""
    place = rng.choice((rng.randrange(8), rng.randrange(2_000), rng.randrange(len(data))))
    place, length = min(place, len(data) - 1), rng.choice((1, 8, 64, 4096))
    kind = rng.randrange(6)
    if kind == 0:
        return data[:place]
    if kind == 1:  # some bits
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    if kind == 2:  # a block of zeros
        return data[:place] + bytes(len(data[place : place + length])) + data[place + length :]
    if kind == 3:  # a hole
        return data[:place] + data[place + length :]
    if kind == 4:  # twice
        return data[: place + length] + data[place:]
    block = data[place : place + length]
    return data[:place] + rng.randbytes(len(block)) + data[place + length :]


def searches(few: int, many: int) -> pytest.MarkDecorator:
    """A test that draws `count` cases: few in each `make test`, many in `make test-all`."""
    counts = [few, pytest.param(many, marks=pytest.mark.slow)]
    return pytest.mark.parametrize("count", counts, ids="{:,} cases".format)
