"""What a step keeps, allocates and launches, whether it repeats its bits, what the host takes for
it, how its time changes in a long run, and which kernels ran."""

from __future__ import annotations

import gc
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType

from moeviz.watch.timing import LEAST, Ceilings, Step, by_events, host_ms, single

TABLE_STEPS = 5
HOST_S = 0.2
LONG_RUN_PARTS, PART_S = 4, 0.5  # of steps without a pause, in which a chip's clock may fall
SYNC_WARNING = "called a synchronizing CUDA operation"


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


def host_times(
    output: Callable[[], Tensor], gradients: Callable[[Tensor], object]
) -> dict[str, float]:
    """Milliseconds that the host needs to queue a forward and a backward pass."""
    held: list[Tensor] = []
    parts = [lambda: held.append(output()), lambda: gradients(held.pop())]
    forward, backward = host_ms(parts, HOST_S)
    return {"forward": forward, "backward": backward}


def long_run(step: Step) -> list[dict[str, Any]]:
    """Milliseconds of a step in each part of a run that never pauses, and when it was."""
    once = sum(by_events(step, LEAST)[-1]) / 1e3
    parts = []
    for _ in range(LONG_RUN_PARTS):
        began = time.monotonic()
        times = by_events(step, max(LEAST, int(PART_S / once)))
        ms = statistics.median(sum(marks) for marks in times)
        parts.append({"ms": ms, "timed": [(began, time.monotonic())]})
    return parts


def device_events(run: Callable[[], object], times: int = 1) -> list[Any]:
    """What the profiler saw on the GPU: kernels, copies and fills, one event each."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(times):
            run()
        torch.cuda.synchronize()
    events = [
        event
        for event in profiler.events()
        # Not the host's events, nor the ranges that they are drawn as on the GPU.
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    if not events:
        raise RuntimeError("the profiler saw nothing on the GPU")
    return events


def launches(forward: Callable[[], object], both: Callable[[], object]) -> dict[str, int]:
    """How many kernels, copies and fills each of two runs starts."""
    return {"forward": len(device_events(forward)), "both": len(device_events(both))}


def kernel_table(
    run: Callable[[], object], work: dict[str, tuple[float, str]], ceilings: Ceilings
) -> list[dict[str, Any]]:
    """One row a kernel, the longest first: calls and milliseconds a step, and the share of the
    ceiling that its work reaches. work: by kernel, FLOPs ("matmul") or bytes ("copy") a step; a
    kernel that is not in it has no share."""
    events = device_events(run, TABLE_STEPS)
    times: dict[str, list[float]] = {}
    for event in events:
        name = event.name.replace("(anonymous namespace)::", "").removeprefix("void ")
        # A kernel's paths share its work.
        name = re.split(r"[<(]", name)[0].strip().replace("_tma_kernel", "_kernel")
        times.setdefault(name, []).append(event.time_range.elapsed_us())
    peaks = {"matmul": 1e12 * ceilings.matmul_tflops, "copy": 1e9 * ceilings.copy_gb_per_s}
    rows = []
    for name, us in times.items():
        calls, ms = len(us) / TABLE_STEPS, 1e-3 * sum(us) / TABLE_STEPS
        amount, of = work.get(name, (None, None))
        share = amount / peaks[of] / (ms / 1e3) if amount and of else None
        rows.append({"name": name, "calls": calls, "ms": ms, "share": share, "of": of})
    return sorted(rows, key=lambda row: -row["ms"])
