"""One case of the layer benchmark: each contender checked, then measured.

On a GPU two things wait until all cases are through: contenders that compile for long, and the
profiler, which slows down what is launched after it.
"""

from __future__ import annotations

import math
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import torch

from layer_contenders import (
    DENSE,
    DENSE_COMPILED,
    OURS,
    TOLERANCE,
    Contender,
    NotRun,
    Problem,
    builders,
    compiling_builders,
    load,
    relative_errors,
)
from layer_shapes import SHAPES, Shape, kernel_work, limit_ms
from moeviz.watch.timing import (
    FLUSH_BYTES,
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
    device_events,
    free_memory,
    kernel_table,
    old_objects_set_aside,
    peak_bytes,
    repeatable,
    saved_bytes,
)

CHECK_SECONDS = 1.0  # of float64 products for each contender: what takes longer gets fewer tokens
PROFILER_SHARE = 0.2  # of the budget, kept from contenders that compile for long
YIELDED_SHARE = 0.1  # of the budget, that each of these leaves to those before it, in later cases
RUNS = 20  # that are compared bit by bit
FEW_TOKENS = 1024  # up to here, all that a layer reads might lie in the L2 cache
COMPARED = ("forward", "inference", "both")


def reason(error: Exception) -> str:
    """In one line, without this machine's folders."""
    line = (str(error).strip().splitlines() or [""])[0]
    line = re.sub(r"(?:/[\w.+-]+)+/", "", line)[:200]
    return line if isinstance(error, NotRun) else f"{type(error).__name__}: {line}"


def launches(contender: Contender) -> dict[str, int]:
    forward, both = (len(device_events(f)) for f in (contender.output, contender.run))
    return {"forward": forward, "both": both}


def peers_of(name: str, contenders: Iterable[str]) -> list[str]:
    """Whom a contender's times are divided by: the dense FFN's, and ours by those of all peers."""
    ours = name.startswith("moeviz")
    return [
        peer for peer in contenders if peer == DENSE or (ours and not peer.startswith("moeviz"))
    ]


def ratios(a: dict[str, list[float]], b: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Within a round: what slows one down slows both."""
    return {key: spread([x / y for x, y in zip(a[key], b[key], strict=False)]) for key in COMPARED}


def label(case: dict[str, Any]) -> str:
    return f"{case['shape']['name']}, {case['routing']} routing"


class Run:
    """What stays the same from case to case, and what went wrong."""

    def __init__(self, device: torch.device, dtype: torch.dtype, rounds: int, budget: float):
        self.device, self.dtype, self.rounds, self.budget = device, dtype, rounds, budget
        self.start = time.perf_counter()
        self.failures: list[str] = []
        self.on_gpu = device.type == "cuda"
        self.ceilings = ceilings(device, dtype)
        size = 2048 if self.on_gpu else 512
        self.float64_flops = 1e12 * matmul_tflops(device, torch.float64, size)

    def out_of_time(self, share: float = 1.0) -> str | None:
        if time.perf_counter() - self.start > share * self.budget:
            part = "" if share == 1 else f"{share:.0%} of "
            return f"{part}the budget of {self.budget:g} s was used up"
        return None

    @old_objects_set_aside()
    def case(self, name: str, routing: str) -> dict[str, Any]:
        shape = SHAPES[name]
        problem = Problem.random(shape, routing, self.device, self.dtype)
        load_E = load(problem)
        element_size, active = problem.x_TD.element_size(), int((load_E > 0).sum())
        case: dict[str, Any] = {
            "shape": {"name": name, **shape._asdict()},
            "dtype": str(self.dtype).removeprefix("torch."),
            "routing": routing,
            "max_over_mean_load": float(load_E.max() / load_E.double().mean()),
            "limit_ms": limit_ms(shape, active, element_size, self.ceilings),
            "checked_tokens": self.checked_tokens(shape),
            "contenders": {},
            "kernels": [],
        }
        steps: dict[str, Contender] = {}
        for contender, build in builders(self.device, self.ceilings.copy_gb_per_s).items():
            self.study(contender, build, problem, case, steps)
        if steps:
            self.time_by_turns(steps, case["contenders"])
        self.add_ratios(shape, case)
        return case

    def later(self, cases: list[dict[str, Any]], save: Callable[[], None]) -> None:
        """On a GPU, once all cases are through: what would have cost them time, or slowed them."""
        for step in (self.compiled, self.profiled):
            for case in cases:
                try:
                    step(case)
                except RuntimeError as error:
                    case.setdefault("notes", {})[step.__name__] = reason(error)
                free_memory()
                save()

    def again(self, case: dict[str, Any]) -> tuple[Shape, Problem]:
        """What a case was run on: the same numbers, for they are drawn from fixed seeds."""
        shape = SHAPES[case["shape"]["name"]]
        return shape, Problem.random(shape, case["routing"], self.device, self.dtype)

    @old_objects_set_aside()
    def compiled(self, case: dict[str, Any]) -> None:
        """Adds the contenders that compile for long."""
        shape, problem = self.again(case)
        share = 1 - PROFILER_SHARE
        for contender, build in compiling_builders().items():
            self.study(contender, build, problem, case, {}, share=share)
            share -= YIELDED_SHARE
        self.add_ratios(shape, case)

    def profiled(self, case: dict[str, Any]) -> None:
        """Adds the launches of each contender, and the kernels of ours with their times."""
        shape, problem = self.again(case)
        work = kernel_work(shape, problem.x_TD.element_size())
        for name, build in builders(self.device, self.ceilings.copy_gb_per_s).items():
            found = case["contenders"][name]
            if "not_run" in found or self.out_of_time():
                continue
            contender = build(problem)
            contender.run()  # what is lazy happens before
            self.optional(found, "launches", lambda c=contender: launches(c))
            if name == OURS:
                self.optional(
                    case,
                    "kernels",
                    lambda c=contender: kernel_table(
                        device_events(c.run, 5), 5, work, self.ceilings
                    ),
                )

    def checked_tokens(self, shape: Shape) -> int:
        one = 3 * shape.forward_flops / shape.tokens
        return min(shape.tokens, max(1, int(CHECK_SECONDS * self.float64_flops / one)))

    def study(
        self,
        name: str,
        build: Callable[[Problem], Contender],
        problem: Problem,
        case: dict[str, Any],
        steps: dict[str, Contender],
        share: float = 1.0,
    ) -> None:
        """All of one contender but, on a CPU, its times: there it is added to `steps`. What does
        not run says why. share: of the budget, after which it is left out."""
        try:
            if late := self.out_of_time(share):
                raise NotRun(late)
            found = self.measure(name, build(problem), case, steps)
        except Exception as error:
            found = {"not_run": reason(error)}
            expected = (NotRun, ImportError, torch.OutOfMemoryError)
            if name.startswith("moeviz") and not isinstance(error, expected):
                self.failures.append(f"{name} did not run: {reason(error)}, {label(case)}")
                traceback.print_exc()
        case["contenders"][name] = found
        free_memory()

    def measure(
        self, name: str, contender: Contender, case: dict[str, Any], steps: dict[str, Contender]
    ) -> dict[str, Any]:
        found: dict[str, Any] = {"first_call_s": seconds(contender.run, self.device)}
        if contender.routed:
            tokens = case["checked_tokens"]
            fewer = tokens < len(contender.problem.x_TD)
            checked = contender.on(contender.problem.first(tokens)) if fewer else contender
            found["relative_error"] = relative_errors(checked)
            self.judge(name, case, found["relative_error"])
        # An overlong test of what nobody promises would cost the others their time.
        budget = math.inf if name == OURS else 1.0
        found["repeatable"], found["repeated_runs"] = repeatable(contender.run, RUNS, budget)
        if name == OURS and not found["repeatable"]:
            self.failures.append(f"{name} is not repeatable bit for bit: {label(case)}")
        self.optional(
            found, "saved_bytes", lambda: saved_bytes(contender.output, contender.weights)
        )
        found |= {"peak_bytes": None, "launches": {"forward": None, "both": None}, "syncs": None}
        if self.on_gpu:
            self.on_the_gpu(contender, found)
        else:
            steps[name] = contender
        return found

    def judge(self, name: str, case: dict[str, Any], errors: dict[str, float]) -> None:
        for what, error in errors.items():
            if not error < TOLERANCE[self.dtype]:
                self.failures.append(
                    f"{name} computes something else: {what} is {error:.0e} from float64, "
                    f"{label(case)}"
                )
            if not math.isfinite(error):  # JSON has no word for it
                errors[what] = sys.float_info.max

    def optional(self, found: dict[str, Any], key: str, measure: Callable[[], Any]) -> None:
        """A figure beside the times, which are worth having without it."""
        try:
            found[key] = measure()
        except Exception as error:
            found.setdefault(key, None)
            found.setdefault("notes", {})[key] = reason(error)

    def on_the_gpu(self, contender: Contender, found: dict[str, Any]) -> None:
        few = len(contender.problem.x_TD) <= FEW_TOKENS
        flush = torch.empty(FLUSH_BYTES, device=self.device, dtype=torch.uint8) if few else None
        times = on_gpu(contender.training_step, 0.5, flush)
        found["forward_ms"] = spread([forward for forward, _ in times])
        found["backward_ms"] = spread([backward for _, backward in times])
        found["both_ms"] = spread([sum(parts) for parts in times])
        times = on_gpu(contender.inference_step, 0.25, flush)
        found["inference_ms"] = spread([sum(parts) for parts in times])
        self.optional(found, "peak_bytes", lambda: peak_bytes(contender.run))
        self.optional(found, "syncs", lambda: count_syncs(contender.run))
        if contender.graph:
            self.optional(found, "graph_forward_ms", lambda: self.replayed(contender, flush, False))
            self.optional(found, "graph_both_ms", lambda: self.replayed(contender, flush, True))

    def replayed(
        self, contender: Contender, flush: torch.Tensor | None, both: bool
    ) -> dict[str, float]:
        """Times of a CUDA graph, once its replay is seen to give what the calls give."""
        run = contender.run if both else lambda: [contender.output().detach()]
        step, results = captured(run)
        for result in results:
            result.fill_(math.nan)
        times = on_gpu(step, 0.25, flush)
        for a, b in zip(results, run(), strict=True):
            off = torch.linalg.vector_norm(a - b, dtype=torch.float32)
            if not off <= TOLERANCE[self.dtype] * torch.linalg.vector_norm(b, dtype=torch.float32):
                raise ValueError("the replay of the CUDA graph computes something else")
        return spread([sum(parts) for parts in times])

    def time_by_turns(self, contenders: dict[str, Contender], found: dict[str, Any]) -> None:
        training = by_turns({n: c.training_step for n, c in contenders.items()}, self.rounds)
        inference = by_turns({n: c.inference_step for n, c in contenders.items()}, self.rounds)

        def by_round(name: str, clock: int) -> dict[str, list[float]]:
            parts = [turn[clock] for turn in training[name]]
            return {
                "forward": [forward for forward, _ in parts],
                "backward": [backward for _, backward in parts],
                "both": [sum(part) for part in parts],
                "inference": [sum(turn[clock]) for turn in inference[name]],
            }

        wall, cpu = ({name: by_round(name, clock) for name in contenders} for clock in (0, 1))
        for name in contenders:
            result = found[name]
            result |= {f"{key}_ms": spread(ms) for key, ms in wall[name].items()}
            result["cpu_ms"] = {key: spread(ms) for key, ms in cpu[name].items()}
            peers = peers_of(name, contenders)
            result["of_peers"] = {peer: ratios(wall[name], wall[peer]) for peer in peers}
            if DENSE in contenders:
                of_dense = ratios(cpu[name], cpu[DENSE])
                result["of_dense_cpu"] = {k: of_dense[k]["median"] for k in ("forward", "both")}

    def add_ratios(self, shape: Shape, case: dict[str, Any]) -> None:
        flops = {"forward": shape.forward_flops, "both": 3 * shape.forward_flops}
        width = shape.top_k * shape.d_expert
        one = Shape(shape.tokens, shape.d_model, width, num_experts=1, top_k=1)
        size = torch.empty(0, dtype=self.dtype).element_size()
        # Dense, there are fewer weights to read.
        limits = dict.fromkeys((DENSE, DENSE_COMPILED), limit_ms(one, 1, size, self.ceilings))
        timed = {name: r for name, r in case["contenders"].items() if "both_ms" in r}
        for name, result in timed.items():
            ms = {key: result[f"{key}_ms"]["median"] for key in flops}
            limit = limits.get(name, case["limit_ms"])
            result["tflops"] = {key: 1e-9 * flops[key] / ms[key] for key in flops}
            result["of_limit"] = {key: limit[key] / ms[key] for key in flops}
            of_peers = result.setdefault("of_peers", {})
            for peer in peers_of(name, timed):
                if peer not in of_peers:  # on a GPU there are no rounds
                    median = {
                        key: result[f"{key}_ms"]["median"] / timed[peer][f"{key}_ms"]["median"]
                        for key in COMPARED
                    }
                    of_peers[peer] = {key: {"median": ratio} for key, ratio in median.items()}
            if DENSE in of_peers:
                result["of_dense"] = {key: of_peers[DENSE][key]["median"] for key in flops}
