"""Which cuts of the grouped GEMMs are right on this device, and which are fast.

`check` compiles every candidate in parallel and holds its results to float64, in five runs of equal
bits, at few tokens: a kernel is not compiled anew for more. `sweep` times those that passed at the
sizes that count, in turns, and chooses the height of a layer's tiles and the cut of each product.
"""

from __future__ import annotations

import math
import os
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

import report
from layer_shapes import SHAPES, Shape
from moeviz.watch.timing import by_events, seconds, single
from moeviz_kernels import configs
from moeviz_kernels.configs import KERNEL_OF, ROLES, Gemm, Role
from moeviz_kernels.tune import Products, candidates
from profiling import free_memory
from visit import Phase, in_processes

RUNS = 5  # that must give the same bits
FEW_TOKENS = 1031  # several tiles for every expert, the last one ragged
TOLERANCE = {"float16": 3e-3, "bfloat16": 2e-2}
BOTH_HEIGHTS = (96, 768)  # rows of an expert between which tiles of 64 rows may win
FINALISTS = 4
BUSY_CYCLES = 400_000  # of a GPU's clock, some 0.2 ms
CUTS_OF_A_PROCESS = 5  # that it compiles one after the other
QUICK_ROUNDS, FINAL_ROUNDS = 3, 15
# A visit's rehearsal: the interpreter, and cuts of which the last cannot work.
TOY = Shape(24, 32, 16, 4, 2)
TOY_CUTS = (Gemm(16, 32, 16, 4, 2), Gemm(16, 16, 16, 4, 2), Gemm(16, 24, 16, 4, 2))


def describe(cut: Gemm) -> str:
    words = f"{cut.block_m}x{cut.block_n}x{cut.block_k} w{cut.num_warps} s{cut.num_stages}"
    words += f" g{cut.group}"
    words += f" r{cut.maxnreg}" if cut.maxnreg else ""
    words += f" e{cut.epilogue}" if cut.epilogue != Gemm.epilogue else ""
    return words + (f" {cut.path}" if cut.path != "pointer" else "")


def heights(role: Role, shape: Shape) -> tuple[int, ...]:
    """The heights of tiles that are tried."""
    if KERNEL_OF[role] == "grad_weight":
        return (128,)
    rows_per_expert, (low, high) = shape.tokens * shape.top_k / shape.num_experts, BOTH_HEIGHTS
    return (128, 64) if low < rows_per_expert <= high else (configs.tile_height(rows_per_expert),)


@dataclass(frozen=True)
class Device:
    """Where cuts are tried, and in which numbers."""

    kind: str
    dtype: str
    workers: int

    @staticmethod
    def here(rehearse: bool) -> Device:
        if rehearse:
            return Device("cpu", "float16", 2)
        return Device("cuda", "bfloat16", max(1, (os.cpu_count() or 2) - 2))

    def products(self, shape: Shape) -> Products:
        return Products(tuple(shape), getattr(torch, self.dtype), self.kind)

    def cuts(self, role: Role, height: int) -> tuple[Gemm, ...]:
        if self.kind == "cpu":
            return TOY_CUTS
        return tuple(candidates(KERNEL_OF[role], height))

    def clock(self, run: Callable[[], object]) -> float:
        """Milliseconds of one run."""
        if self.kind == "cpu":
            return 1e3 * seconds(run, torch.device("cpu"))
        # The launch is queued while the GPU is busy: what it costs the host is not in the time.
        torch.cuda._sleep(BUSY_CYCLES)
        return sum(by_events(single(run), 1)[0])


@dataclass(frozen=True)
class Candidates:
    """Cuts of some products of one layer, each with its product's name."""

    layer: str
    shape: Shape
    device: Device
    parts: tuple[tuple[Role, Gemm], ...]

    def key(self, part: tuple[Role, Gemm]) -> str:
        return f"{self.layer} {part[0]} {describe(part[1])}"

    def limit(self, part: tuple[Role, Gemm]) -> float:
        return math.inf  # many compile side by side, and the phase has a deadline

    def begin(self) -> Products:
        return self.device.products(self.shape)

    def measure(self, state: Products, part: tuple[Role, Gemm]) -> dict[str, Any]:
        first = state.call(*part)
        errors = state.errors(part[0], first)
        for error in errors:  # one that is no number is no less than any other
            if not error < TOLERANCE[self.device.dtype]:
                raise ValueError(f"is {error:.1e} from float64")
        for _ in range(RUNS - 1):
            again = state.call(*part)
            if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
                raise ValueError("two runs on the same numbers differ")
        return {"errors": errors}


def layer_of(name: str) -> str:
    """OLMoE of OLMoE-32768: sizes that differ in the number of tokens share their kernels."""
    return name.partition("-")[0]


def check(phase: Phase, names: list[str], device: Device) -> None:
    """Every candidate of every product of the shapes called `names`."""
    parts: dict[tuple[str, Shape], dict[tuple[Role, int], list[tuple[Role, Gemm]]]] = {}
    for name in names:
        shape = shape_of(name)
        few = shape._replace(tokens=min(shape.tokens, FEW_TOKENS))
        products = parts.setdefault((layer_of(name), few), {})
        for role in ROLES:
            for height in heights(role, shape):
                products[role, height] = [(role, cut) for cut in device.cuts(role, height)]
    tasks = []
    for (name, few), products in parts.items():
        every = [*products.values()] if device.kind == "cuda" else [sum(products.values(), [])]
        # The first layer compiles what the others then find in Triton's cache: there a process has
        # some of a product's cuts only.
        some = CUTS_OF_A_PROCESS if not tasks else max(map(len, every))
        tasks += [
            Candidates(name, few, device, tuple(product[i : i + some]))
            for product in every
            for i in range(0, len(product), some)
        ]
    phase.facts |= {"tokens": FEW_TOKENS, "dtype": device.dtype, "runs": RUNS}
    in_processes(phase, tasks, device.workers)


def shape_of(name: str) -> Shape:
    return TOY if name == "toy" else SHAPES[name]


def sweep(phase: Phase, names: list[str], device: Device, passed: set[str]) -> None:
    """Times of the cuts that `check` has passed, and the table of the best."""
    phase.facts |= {"dtype": device.dtype, "table": {"cuts": [], "heights": []}}
    for name in names:
        if phase.left() <= 0:
            phase.late.append(name)
            continue
        try:
            layer = Prepared(device, name)
        except Exception as error:  # a GPU without the memory for it
            phase.strike(name, report.reason(error))
            continue
        for role in ROLES:
            for height in heights(role, layer.shape):
                cuts = [
                    cut
                    for cut in device.cuts(role, height)
                    if f"{layer_of(name)} {role} {describe(cut)}" in passed
                ]
                phase.item(
                    f"{name} {role} {height}",
                    lambda r=role, c=cuts, one=layer: one.times(r, c, phase.left),
                )
        enter(phase, name, layer)
        del layer
        free_memory()


class Prepared:
    """The products of a shape, ready to be timed."""

    def __init__(self, device: Device, name: str) -> None:
        self.device, self.shape = device, shape_of(name)
        self.products = device.products(self.shape)

    def times(
        self, role: Role, cuts: list[Gemm], left: Callable[[], float]
    ) -> list[dict[str, Any]]:
        """Milliseconds of each cut, fastest first: all in a few rounds, the best in many more."""
        if not cuts:
            raise ValueError("no cut has passed the check")
        times: dict[Gemm, list[float]] = defaultdict(list)
        ready = list(cuts)
        for cut in cuts:
            try:
                self.products.call(role, cut)  # its memory is there from now on
            except Exception as error:
                ready.remove(cut)
                print(f"{role} {describe(cut)} does not run at full size: {error}", flush=True)
        for rounds, number in ((QUICK_ROUNDS, len(ready)), (FINAL_ROUNDS, FINALISTS)):
            ready = sorted(ready, key=lambda cut: statistics.median(times[cut] or [0.0]))[:number]
            for _ in range(rounds):
                for cut in ready:
                    times[cut].append(self.device.clock(lambda c=cut: self.products.call(role, c)))
            if left() <= 0:
                break
        last = set(ready)  # those of the final rounds come first: the others were timed too seldom
        order = sorted(times, key=lambda cut: (cut not in last, statistics.median(times[cut])))
        return [{"cut": asdict(cut), "ms": [round(t, 5) for t in times[cut]]} for cut in order]


def enter(phase: Phase, name: str, prepared: Prepared) -> None:
    """Add the best cuts of a shape to the phase's table."""
    shape, products = prepared.shape, prepared.products
    rows_per_expert = products.num_rows / shape.num_experts
    place = configs.place(products.x_TD, rows_per_expert)
    best = {key: results[0] for key, results in phase.items.items() if key.startswith(f"{name} ")}
    totals = {}
    of_rows = [role for role in ROLES if KERNEL_OF[role] != "grad_weight"]
    for height in heights("up", shape):
        keys = [f"{name} {role} {height}" for role in of_rows]
        if all(key in best for key in keys):
            totals[height] = sum(statistics.median(best[key]["ms"]) for key in keys)
    if not totals:
        return
    height = min(totals, key=lambda h: totals[h])
    table = phase.facts["table"]
    table["heights"].append(
        {"for": [*place, shape.d_model, shape.d_expert], "height": height, "ms": totals}
    )
    for role in ROLES:
        key = f"{name} {role} {height if role in of_rows else 128}"
        if key in best:
            entry = [*place, role, *products.width_and_depth[role]]
            table["cuts"].append({"for": entry, **best[key]})
    phase.save(done=False)
