"""How long a step takes, and what the device can reach: the one way in which moeviz measures time.

A step is a function that calls `mark` when it begins, between its parts and when it ends. On a CPU
a mark reads the clock, and steps take turns (A B C A B C ...), so that a disturbance on a shared
machine hits all of them. On a GPU a mark is an event in the stream: nothing waits between two
repetitions, so a step whose launches take the host longer than the GPU shows the host's time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

CPU = torch.device("cpu")
Mark = Callable[[], None]
Step = Callable[[Mark], object]

REPEATS, LEAST = 50, 3  # repetitions of a step on a GPU
CEILING_REPEATS = 12  # of a copy or a product; the best one counts, for what disturbs slows down
FLUSH_BYTES = 2**28  # several times any GPU's L2 cache


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return {"median": values[0], "q1": values[0], "q3": values[0]}
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one run by the wall clock, to the end of what it leaves on the GPU."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def turn(step: Step, repeats: int, device: torch.device) -> list[float]:
    """Milliseconds between a step's marks, the mean of its repetitions."""
    repetitions: list[list[float]] = []
    for _ in range(repeats):
        marks: list[float] = []

        def mark(marks: list[float] = marks) -> None:
            synchronize(device)
            marks.append(time.perf_counter())

        step(mark)
        repetitions.append([b - a for a, b in pairwise(marks)])
    return [1e3 * statistics.mean(parts) for parts in zip(*repetitions, strict=True)]


def by_turns(
    steps: dict[str, Step],
    rounds: int,
    *,
    device: torch.device = CPU,
    turn_seconds: float = 0.2,
    step_seconds: float = 12.0,
    on_turn: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[list[float]]]:
    """Each round every step has one turn; the same place in two lists is the same round.

    turn_seconds: a turn repeats a quick step for about so long. step_seconds: a slow step gets
    fewer turns, but 2, once they took so long. on_turn hears of each turn; it may raise to stop.
    """
    turns: dict[str, list[list[float]]] = {name: [] for name in steps}
    once: dict[str, float] = {}
    done, total = 0, len(steps) * (rounds + 2)
    # A first run starts threads and asks the system for memory, a second one tells the time.
    for number in range(-2, rounds):
        for name, step in steps.items():
            if number < 0:
                once[name] = sum(turn(step, 1, device)) / 1e3
            elif number < 2 or number * once[name] < step_seconds:
                repeats = max(1, round(turn_seconds / once[name]))
                turns[name].append(turn(step, repeats, device))
            done += 1
            on_turn(done, total)
    return turns


def by_events(step: Step, repeats: int, flush: Tensor | None = None) -> list[list[float]]:
    """Milliseconds between the marks of each repetition on a GPU. flush: a buffer to overwrite
    before each, outside the time, so that nothing is found in the L2 cache."""
    repetitions = []
    for _ in range(repeats):
        if flush is not None:
            flush.zero_()
        events: list[torch.cuda.Event] = []

        def mark(events: list[torch.cuda.Event] = events) -> None:
            events.append(torch.cuda.Event(enable_timing=True))
            events[-1].record()

        step(mark)
        repetitions.append(events)
    torch.cuda.synchronize()
    return [[a.elapsed_time(b) for a, b in pairwise(events)] for events in repetitions]


def on_gpu(step: Step, budget: float, flush: Tensor | None = None) -> list[list[float]]:
    """by_events after a warm-up: 50 repetitions, or as many as fit `budget` seconds, but 3. Only a
    quick step is warmed up for long."""
    once = sum(by_events(step, 2, flush)[-1]) / 1e3
    if once < budget / 5:
        once = sum(by_events(step, 3, flush)[-1]) / 1e3
    return by_events(step, max(LEAST, min(REPEATS, int(budget / once))), flush)


def host_ms(parts: list[Callable[[], object]], budget: float) -> list[float]:
    """Milliseconds that the host needs to queue each part of a step on the GPU, which is idle when
    the first begins: nothing of its own work is in them, unless a part waits for it. Medians of 20
    repetitions, or as many as fit `budget` seconds, but 3."""
    rows: list[list[float]] = []
    begun = time.perf_counter()
    while len(rows) < LEAST or (len(rows) < 20 and time.perf_counter() - begun < budget):
        torch.cuda.synchronize()
        marks = [time.perf_counter()]
        for part in parts:
            part()
            marks.append(time.perf_counter())
        rows.append([1e3 * (b - a) for a, b in pairwise(marks)])
    torch.cuda.synchronize()
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def single(run: Callable[[], object]) -> Step:
    """A step of one part."""

    def step(mark: Mark) -> None:
        mark()
        run()
        mark()

    return step


@dataclass(frozen=True)
class Ceilings:
    """What this device reaches, measured now: a large matrix product on random data, and a large
    copy, counting the bytes read and those written."""

    matmul_tflops: float
    copy_gb_per_s: float


def ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    return Ceilings(matmul_tflops(device, dtype), copy_gb_per_s(device))


def copy_gb_per_s(device: torch.device) -> float:
    """Of a buffer several times any cache."""
    num_bytes = 2**31 if device.type == "cuda" else 2**28
    source = torch.zeros(num_bytes, device=device, dtype=torch.uint8)
    target = torch.ones_like(source)
    return 2e-9 * num_bytes / _best_seconds(lambda: target.copy_(source), device)


def matmul_tflops(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    size = size or (8192 if device.type == "cuda" else 1536)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2e-12 * size**3 / _best_seconds(lambda: torch.mm(a, b), device)


def _best_seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        return min(sum(parts) for parts in on_gpu(single(run), 1.0)) / 1e3
    return min(seconds(run, device) for _ in range(CEILING_REPEATS))
