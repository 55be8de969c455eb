"""How long a step takes, what it keeps, allocates and launches: the measuring of the benchmarks.

A step is a function that calls `mark` when it begins, between its parts and when it ends. On a CPU
a mark reads the clocks, and steps take turns (A B C A B C ...), so that a disturbance on a shared
machine hits all of them. On a GPU a mark is an event in the stream: nothing waits between two
repetitions, so a step whose launches take the host longer than the GPU shows the host's time.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType

Mark = Callable[[], None]
Step = Callable[[Mark], object]

REPEATS = 50  # of a step on a GPU, fewer (but 7) where they take longer than asked for
SECONDS_PER_TURN = 0.2  # on a CPU a turn repeats a quick step for about this long
SECONDS_PER_STEP = 12.0  # and a slow step gets fewer turns (but 2) once they took this long
FLUSH_BYTES = 2**28  # several times any GPU's L2 cache
SYNC_WARNING = "called a synchronizing CUDA operation"


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


def turn(step: Step, repeats: int) -> tuple[list[float], list[float]]:
    """Wall and process CPU milliseconds between a step's marks, the mean of its repetitions."""
    clocks: list[list[tuple[float, float]]] = []
    for _ in range(repeats):
        marks: list[tuple[float, float]] = []

        def mark(marks: list[tuple[float, float]] = marks) -> None:
            marks.append((time.perf_counter(), time.process_time()))

        step(mark)
        clocks.append([(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)])
    parts = list(zip(*clocks, strict=True))
    walls, cpus = ([1e3 * statistics.mean(t[i] for t in part) for part in parts] for i in (0, 1))
    return walls, cpus


Turns = list[tuple[list[float], list[float]]]


def by_turns(steps: dict[str, Step], rounds: int) -> dict[str, Turns]:
    """Each round every step has one turn; the same place in two lists is the same round."""
    for step in steps.values():
        turn(step, 1)  # a first run starts threads and asks the system for memory
    once = {name: sum(turn(step, 1)[0]) / 1e3 for name, step in steps.items()}
    turns: dict[str, Turns] = {name: [] for name in steps}
    for i in range(rounds):
        for name, step in steps.items():
            if i < 2 or i * once[name] < SECONDS_PER_STEP:
                turns[name].append(turn(step, max(1, round(SECONDS_PER_TURN / once[name]))))
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
    """by_events after a warm-up: 50 repetitions, or as many as fit `budget` seconds, but 7."""
    once = sum(by_events(step, 5, flush)[-1]) / 1e3
    return by_events(step, max(7, min(REPEATS, int(budget / once))), flush)


def single(run: Callable[[], object]) -> Step:
    """A step of one part."""

    def step(mark: Mark) -> None:
        mark()
        run()
        mark()

    return step


def captured(run: Callable[[], list[Tensor]]) -> tuple[Step, list[Tensor]]:
    """`run` as a CUDA graph: a step that replays it, and the tensors that each replay fills."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is lazy happens before the capture
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return single(graph.replay), results


@dataclass(frozen=True)
class Ceilings:
    """What this device reaches, measured now: a large matrix product on random data, and a large
    copy, counting the bytes read and those written."""

    matmul_tflops: float
    copy_gb_per_s: float


def ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    elements = 2**31 if device.type == "cuda" else 2**27
    source = torch.zeros(elements, device=device, dtype=torch.uint8)
    target = torch.ones_like(source)
    copy_ms = _median_ms(lambda: target.copy_(source), device)
    size = 8192 if device.type == "cuda" else 1024
    return Ceilings(matmul_tflops(device, dtype, size), 2e-6 * elements / copy_ms)


def matmul_tflops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2e-9 * size**3 / _median_ms(lambda: torch.mm(a, b), device)


def _median_ms(run: Callable[[], object], device: torch.device) -> float:
    step = single(run)
    if device.type == "cuda":
        return statistics.median(sum(parts) for parts in on_gpu(step, 1.0))
    return statistics.median(sum(turn(step, 1)[0]) for _ in range(9))


def repeatable(run: Callable[[], list[Tensor]], runs: int, budget: float) -> tuple[bool, int]:
    """Whether so many runs give the same bits as the first, and how many there were: it ends early
    at a difference, or after `budget` seconds and two runs."""
    start, first, done = time.perf_counter(), run(), 1
    while done < runs and (done < 2 or time.perf_counter() - start < budget):
        done += 1
        if not all(map(torch.equal, first, run())):
            return False, done
    return True, done


def saved_bytes(forward: Callable[[], Tensor], weights: Iterable[Tensor]) -> int:
    """What a forward pass keeps for its backward pass: distinct storages, without the weights."""
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = forward()  # alive while others are counted, or storages would be used twice
    total = sum(v.untyped_storage().nbytes() for at, v in kept.items() if at not in own)
    del y
    return total


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that a run allocates on the GPU, above what was there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@contextlib.contextmanager
def old_objects_set_aside() -> Iterator[None]:
    """Within, a search for garbage passes over all that is there already: after the imports of
    torch and transformers that would take it a third of a second."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def count_syncs(run: Callable[[], object]) -> int:
    """How often the host waits for the GPU, as far as torch notices."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(SYNC_WARNING in str(warning.message) for warning in caught)


def device_events(run: Callable[[], object], times: int = 1) -> list[Any]:
    """What the profiler saw on the GPU: kernels, copies and fills, one event each."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(times):
            run()
        torch.cuda.synchronize()
    found = on_device(profiler.events())
    if not found:
        raise RuntimeError("the profiler saw nothing on the GPU")
    return found


def on_device(events: Iterable[Any]) -> list[Any]:
    """Without the host's events, and without the ranges that they are drawn as on the GPU."""
    return [
        event
        for event in events
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]


def kernel_table(
    events: list[Any], steps: int, work: dict[str, tuple[float, str]], ceilings: Ceilings
) -> list[dict[str, Any]]:
    """One row a kernel, the longest first: calls and milliseconds a step, and the share of the
    ceiling that its work reaches. work: by kernel, FLOPs ("matmul") or bytes ("copy") a step; a
    kernel that is not in it has no share."""
    found: dict[str, list[float]] = {}
    for event in events:
        name = event.name.replace("(anonymous namespace)::", "").removeprefix("void ")
        name = name.partition("<")[0].partition("(")[0].strip()
        found.setdefault(name, []).append(event.time_range.elapsed_us())
    peaks = {"matmul": 1e12 * ceilings.matmul_tflops, "copy": 1e9 * ceilings.copy_gb_per_s}
    rows = []
    for name, times in found.items():
        ms = sum(times) / steps / 1e3
        amount, of = work.get(name, (None, None))
        share = None if amount is None or of is None else amount / peaks[of] / (ms / 1e3)
        rows.append({"name": name, "calls": len(times) / steps, "ms": ms, "share": share, "of": of})
    return sorted(rows, key=lambda row: -row["ms"])
