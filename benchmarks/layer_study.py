"""One case of the layer benchmark: each contender checked, then measured.

On a GPU what compiles for long, takes long or might break runs in another process
(layer_apart.py), and the profiler comes last.
"""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import report
from layer_contenders import (
    DENSE,
    DENSE_COMPILED,
    OURS,
    TOLERANCE,
    Builder,
    Contender,
    NotRun,
    Problem,
    apart_builders,
    builders,
    load,
    relative_errors,
)
from layer_shapes import LONG, SHAPES, as_dense, kernel_work, limit_ms
from moeviz.watch.timing import (
    FLUSH_BYTES,
    Ceilings,
    by_turns,
    ceilings,
    matmul_tflops,
    on_gpu,
    seconds,
    spread,
)
from profiling import (
    captured,
    count_syncs,
    free_memory,
    host_times,
    kernel_table,
    launches,
    long_run,
    peak_bytes,
    repeatable,
    saved_bytes,
)

CHECK_SECONDS = 1.0  # of float64 products for each contender: what takes longer gets fewer tokens
RUNS = 20  # that are compared bit by bit
FEW_TOKENS = 1024  # up to here, all that a layer reads might lie in the L2 cache
COMPARED = ("forward", "inference", "both")
Times = dict[str, list[float]]  # milliseconds of each part, one for each repetition


def reason(error: Exception) -> str:
    """Why a contender has no figure; what is left out on purpose says so by itself."""
    words = report.reason(error)
    return words.partition(": ")[2] if isinstance(error, NotRun) else words


def milliseconds(training: list[list[float]], inference: list[list[float]]) -> Times:
    """By part, one for each repetition of a training and of an inference step."""
    return {
        "forward": [forward for forward, _ in training],
        "backward": [backward for _, backward in training],
        "both": [sum(parts) for parts in training],
        "inference": [sum(parts) for parts in inference],
    }


def is_compared(name: str, peer: str) -> bool:
    """Everyone's times are divided by the dense FFN's, ours by those of all peers."""
    return peer == DENSE or (name.startswith("moeviz") and not peer.startswith("moeviz"))


def label(case: dict[str, Any]) -> str:
    return f"{case['shape']['name']}, {case['routing']} routing"


def optional(result: dict[str, Any], key: str, measure: Callable[..., Any], *given: Any) -> None:
    """A figure beside the times, which are worth having without it."""
    try:
        result[key] = measure(*given)
    except Exception as error:
        result.setdefault(key, None)
        result.setdefault("notes", {})[key] = reason(error)


class Run:
    """What stays the same from case to case, and what went wrong."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        rounds: int,
        budget: float,
        speeds: tuple[Ceilings, float] | None = None,
    ):
        """speeds: the device's ceilings and float64 FLOP/s; measured here where they are not
        given."""
        self.device, self.dtype, self.rounds, self.budget = device, dtype, rounds, budget
        self.clock = time.monotonic
        self.start = self.clock()
        self.failures: list[str] = []
        self.times: dict[str, dict[str, Times]] = {}  # by case and contender
        self.on_gpu = device.type == "cuda"
        size = 2048 if self.on_gpu else 512
        self.ceilings, self.float64_flops = self.speeds = speeds or (
            ceilings(device, dtype),
            1e12 * matmul_tflops(device, torch.float64, size),
        )

    def used_up(self) -> str:
        return f"the budget of {self.budget:.3g} s was used up"

    def out_of_time(self) -> str | None:
        return self.used_up() if self.clock() - self.start > self.budget else None

    def problem(self, name: str, routing: str) -> Problem:
        """The same numbers each time, for they are drawn from fixed seeds."""
        free_memory()
        gc.freeze()  # what is there already: a search for garbage would take a third of a second
        return Problem.random(SHAPES[name], routing, self.device, self.dtype)

    def empty(self, name: str, problem: Problem, routing: str) -> dict[str, Any]:
        """A case before anything of it has run."""
        shape, load_E = SHAPES[name], load(problem)
        active, size = int((load_E > 0).sum()), problem.x_TD.element_size()
        one_token = 3 * shape.forward_flops / shape.tokens
        return {
            "shape": {"name": name, **shape._asdict()},
            "dtype": str(self.dtype).removeprefix("torch."),
            "routing": routing,
            "max_over_mean_load": float(load_E.max() / load_E.double().mean()),
            "limit_ms": limit_ms(shape, active, size, self.ceilings),
            "checked_tokens": min(
                shape.tokens, max(1, int(CHECK_SECONDS * self.float64_flops / one_token))
            ),
            "contenders": {},
            "kernels": [],
        }

    def case(self, name: str, routing: str) -> dict[str, Any]:
        """One shape and routing with all quick contenders, but for their profile."""
        problem = self.problem(name, routing)
        case = self.empty(name, problem, routing)
        self.study(case, problem, builders(self.device, self.ceilings.copy_gb_per_s))
        if self.on_gpu and name in LONG:
            self.long_runs(case, problem)
        return case

    def long_runs(self, case: dict[str, Any], problem: Problem) -> None:
        """Adds the times of our steps and the dense FFN's without a pause, part by part."""
        for name in (OURS, DENSE):
            result = case["contenders"].get(name, {})
            if "both_ms" in result and not self.out_of_time():
                build = builders(self.device, self.ceilings.copy_gb_per_s)[name]
                optional(result, "long_run", long_run, build(problem).training_step)

    def beside(self, name: str, routing: str, peer: str) -> dict[str, Any]:
        """On a GPU: the figures of one peer, which takes turns with ours, and the ratios of our
        times to its."""
        torch.compiler.reset()  # each case has graphs of its own: no earlier one is needed again
        problem = self.problem(name, routing)
        case = self.empty(name, problem, routing)
        contender = apart_builders(self.ceilings.copy_gb_per_s)[peer](problem)
        case["contenders"] = {peer: self.measure(peer, contender, case)}
        ready = {peer: contender}
        with contextlib.suppress(NotRun):
            ours = builders(self.device, self.ceilings.copy_gb_per_s)[OURS](problem)
            ready, case["contenders"][OURS] = {OURS: ours, peer: contender}, {}
        self.times[label(case)] = self.there_and_back(ready, case)
        self.compare(case)
        result = case["contenders"][peer]
        if "not_run" in result:
            raise NotRun(result["not_run"])
        ratios = case["contenders"].get(OURS, {}).get("of_peers", {}).get(peer)
        failures, self.failures = self.failures, []
        return {"result": result, "of_ours": ratios, "failures": failures}

    def profile(self, cases: list[dict[str, Any]], save: Callable[[], None]) -> None:
        """Adds launches and kernels to these cases. What is launched after a profiler takes the
        host longer: nothing is timed in this process from then on."""
        for case in cases:
            if self.out_of_time():
                return
            try:
                self.profiled(case, self.problem(case["shape"]["name"], case["routing"]))
            except RuntimeError as error:
                case.setdefault("notes", {})["profiled"] = reason(error)
            free_memory()
            save()

    def profiled(self, case: dict[str, Any], problem: Problem) -> None:
        """Adds the launches of each contender, and the kernels of ours with their times."""
        work = kernel_work(SHAPES[case["shape"]["name"]], problem.x_TD.element_size())
        for name, build in builders(self.device, self.ceilings.copy_gb_per_s).items():
            result = case["contenders"][name]
            if "not_run" in result or self.out_of_time():
                continue
            contender = build(problem)
            contender.run()  # what is lazy happens before
            optional(result, "launches", launches, contender.output, contender.run)
            if name == OURS:
                optional(case, "kernels", kernel_table, contender.run, work, self.ceilings)

    def study(
        self,
        case: dict[str, Any],
        problem: Problem,
        contenders: dict[str, Builder],
    ) -> None:
        """Adds all figures of some contenders; what does not run says why."""
        ready: dict[str, Contender] = {}
        for name, build in contenders.items():
            try:
                if late := self.out_of_time():
                    raise NotRun(late)
                contender = build(problem)
                case["contenders"][name] = self.measure(name, contender, case)
                ready[name] = contender
            except Exception as error:
                case["contenders"][name] = {"not_run": reason(error)}
                expected = (NotRun, ImportError, torch.OutOfMemoryError)
                if name.startswith("moeviz") and not isinstance(error, expected):
                    self.failures.append(f"{name} did not run: {reason(error)}, {label(case)}")
                    traceback.print_exc()
            contender = None  # that which did not run, with weights of its own
            free_memory()
        if ready:
            times = self.there_and_back(ready, case) if self.on_gpu else self.in_turns(ready)
            self.times.setdefault(label(case), {}).update(times)
        self.compare(case)

    def measure(self, name: str, contender: Contender, case: dict[str, Any]) -> dict[str, Any]:
        """Whether it is right, and what it takes beside time."""
        began = time.monotonic()
        result: dict[str, Any] = {"first_call_s": seconds(contender.run, self.device)}
        if contender.routed:
            first = contender.problem.first(case["checked_tokens"])
            result["relative_error"] = relative_errors(replace(contender, problem=first))
            self.judge(name, case, result["relative_error"])
        # An overlong test of what nobody promises would cost the others their time.
        budget = math.inf if name == OURS else 1.0
        result["repeatable"], result["repeated_runs"] = repeatable(contender.run, RUNS, budget)
        if name == OURS and not result["repeatable"]:
            self.failures.append(f"{name} is not repeatable bit for bit: {label(case)}")
        optional(result, "saved_bytes", saved_bytes, contender.output, contender.weights)
        result |= {"peak_bytes": None, "launches": {"forward": None, "both": None}, "syncs": None}
        if self.on_gpu:
            optional(result, "peak_bytes", peak_bytes, contender.run)
            optional(result, "syncs", count_syncs, contender.run)
            passes = contender.output, contender.gradients
            optional(result, "host_ms", host_times, *passes)
            if contender.graph:
                steps = {"forward": lambda: [contender.output().detach()], "both": contender.run}
                for part, run in steps.items():
                    optional(result, f"graph_{part}_ms", self.replayed, run, self.flush(contender))
        result["checked_s"] = time.monotonic() - began
        return result

    def judge(self, name: str, case: dict[str, Any], errors: dict[str, float]) -> None:
        for what, error in errors.items():
            if not error < TOLERANCE[self.dtype]:
                self.failures.append(
                    f"{name} computes something else: {what} is {error:.0e} from float64, "
                    f"{label(case)}"
                )
            if not math.isfinite(error):  # JSON has no word for it
                errors[what] = sys.float_info.max

    def flush(self, contender: Contender) -> torch.Tensor | None:
        """What empties the L2 cache between two runs, where all that a layer reads fits into it."""
        few = len(contender.problem.x_TD) <= FEW_TOKENS
        return torch.empty(FLUSH_BYTES, device=self.device, dtype=torch.uint8) if few else None

    def replayed(
        self, run: Callable[[], list[torch.Tensor]], flush: torch.Tensor | None
    ) -> dict[str, float]:
        """Times of a CUDA graph, once its replay is seen to give what the calls give."""
        step, results = captured(run)
        for result in results:
            result.fill_(math.nan)
        times = on_gpu(step, 0.25, flush)
        for a, b in zip(results, run(), strict=True):
            off = torch.linalg.vector_norm(a - b, dtype=torch.float32)
            if not off <= TOLERANCE[self.dtype] * torch.linalg.vector_norm(b, dtype=torch.float32):
                raise ValueError("the replay of the CUDA graph computes something else")
        return spread([sum(parts) for parts in times])

    def there_and_back(
        self, contenders: dict[str, Contender], case: dict[str, Any]
    ) -> dict[str, Times]:
        """On a GPU: down the list, then up again, for a chip that warms up gets slower."""
        times: dict[str, Times] = {}
        for name in [*contenders, *reversed(contenders)]:
            one = contenders[name]
            flush, began = self.flush(one), time.monotonic()
            try:
                training = on_gpu(one.training_step, 0.25, flush)
                inference = on_gpu(one.inference_step, 0.12, flush)
            except RuntimeError as error:
                case["contenders"][name] = {"not_run": reason(error)}
                times.pop(name, None)
                continue
            result = case["contenders"][name]
            result.setdefault("timed", []).append((began, time.monotonic()))
            for part, ms in milliseconds(training, inference).items():
                times.setdefault(name, {}).setdefault(part, []).extend(ms)
        return times

    def in_turns(self, contenders: dict[str, Contender]) -> dict[str, Times]:
        """On a CPU, where the same place in two lists of times is the same round."""
        training = by_turns({n: c.training_step for n, c in contenders.items()}, self.rounds)
        inference = by_turns({n: c.inference_step for n, c in contenders.items()}, self.rounds)
        return {name: milliseconds(training[name], inference[name]) for name in contenders}

    def compare(self, case: dict[str, Any]) -> None:
        """Adds the times, the speed they mean, and their ratios to the limit and to those of the
        peers: within a round, for what slows one down slows both."""
        shape, times = SHAPES[case["shape"]["name"]], self.times.get(label(case), {})
        flops = {"forward": shape.forward_flops, "both": 3 * shape.forward_flops}
        # Dense, there are fewer weights to read.
        dense_limit = limit_ms(as_dense(shape), 1, self.dtype.itemsize, self.ceilings)
        for name, own in times.items():
            result = case["contenders"][name]
            result |= {f"{part}_ms": spread(ms) for part, ms in own.items()}
            ms = {part: result[f"{part}_ms"]["median"] for part in flops}
            limit = dense_limit if name in (DENSE, DENSE_COMPILED) else case["limit_ms"]
            result["tflops"] = {part: 1e-9 * flops[part] / ms[part] for part in flops}
            result["of_limit"] = {part: limit[part] / ms[part] for part in flops}
            result["of_peers"] = {
                peer: {
                    part: spread([a / b for a, b in zip(own[part], others[part], strict=False)])
                    for part in COMPARED
                }
                for peer, others in times.items()
                if is_compared(name, peer)
            }
