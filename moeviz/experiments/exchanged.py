"""What processes really send each other when the small model's experts lie in them (4 minutes).

The shipped model runs a training step (forward and backward) in 2 and in 4 processes of this
machine by gloo, in every setting of `grid`. The bytes of every exchange are counted where they are
handed to gloo, and each exchange is timed. The picture holds them against costs.all_to_all.

What could make it unfair, and what is done:
- A time that holds waiting for a slower process: before each exchange they wait for each other, and
  the waiting is told apart.
- A line fitted in another way than it is used: its messages are sent by the same call, with the
  same waiting before, from the same processes.
- A disturbance: each time is the median of PASSES steps, after one that is left out.
Not closed: the processes share the cores of one machine and no network lies between them, so that
4 processes on 2 cores wait for cores too. Bytes are those of any machine.

runs/exchanged.json: lines, by number of processes: start_seconds; load, of the machine's cores over
the last 1, 5 and 15 minutes; alpha (seconds), bandwidth (bytes a second), points (bytes, seconds).
runs, a list: the setting (processes, tokens of each, skew, capacity, limit, copies) and what
records.exchanged writes; times in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from moeviz.experiments import Progress
from moeviz.host import load_average
from moeviz.records.exchanged import (
    CAPACITIES,
    COPIES,
    LIMITS,
    PROCESSES,
    SKEWS,
    TOKENS,
    Exchanged,
    Line,
    line_of,
)
from moeviz.systems.pool import OnWait, Pool

RANK = "moeviz.experiments.exchange_rank"
PASSES = 5
ROWS = (1, 4, 16, 64, 256, 1024, 4096)  # of the messages that the line is fitted to
WIDTH = 64  # of a row: the model's
TURNS = 15

Setting = dict[str, Any]


def grid(processes: int) -> Iterator[Setting]:
    """The recorded settings of so many processes."""
    for values in product(TOKENS, SKEWS, CAPACITIES, LIMITS, COPIES):
        yield dict(zip(("tokens", "skew", "capacity", "limit", "copies"), values, strict=True))


def fit(pool: Pool, on_wait: OnWait = lambda seconds: True) -> Line:
    """The line of messages between these processes."""
    answers = pool.ask("links", on_wait, rows=list(ROWS), repeats=TURNS)
    return line_of(answers, ROWS, WIDTH)


def step(
    pool: Pool, setting: Setting, passes: int, on_wait: OnWait = lambda seconds: True
) -> Exchanged:
    """One setting, measured."""
    answers = pool.ask("batch", on_wait, passes=passes, **setting)
    return Exchanged.merged(answers, setting["tokens"], setting["copies"])


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Measure every setting; write runs/exchanged.json under `out`."""
    from moeviz.experiments.recording import write_json

    lines: dict[str, Any] = {}
    runs: list[dict[str, Any]] = []
    total = sum(1 for size in PROCESSES for _ in grid(size))
    for size in PROCESSES:
        pool = Pool(RANK, size)
        try:
            pool.start()
            line = fit(pool)
            start = {"start_seconds": round(pool.seconds, 2), "load": load_average()}
            lines[str(size)] = start | line.written()
            for setting in grid(size):
                found = step(pool, setting, PASSES)
                runs.append({"processes": size, **setting, **found.written()})
                on_step(len(runs), total)
        finally:
            pool.end()
    write_json(out / "runs" / "exchanged.json", meta, {"lines": lines, "runs": runs})
    return {"lines": lines}
