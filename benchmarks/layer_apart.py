"""What the layer benchmark leaves to other processes on a GPU: peers that compile for long, take
long, or are not known to run there.

1. Whatever compiles for long is called once, all side by side; nothing is timed meanwhile.
2. Then one process measures them, one after the other, each in turns with ours.

What takes longer than its limit is stopped, and what breaks its process is named; the others go on
in a new one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from layer_contenders import (
    DENSE_COMPILED,
    EAGER,
    GROUPED_COMPILED,
    LIGER,
    OURS,
    NotRun,
    apart_builders,
)
from layer_shapes import HOT, NARROW, SHAPES
from layer_study import Run
from moeviz.watch.timing import Ceilings
from visit import Phase, in_processes

LIMITS = {LIGER: 25.0, GROUPED_COMPILED: 25.0, DENSE_COMPILED: 25.0, EAGER: 15.0}  # s to measure
COMPILE_LIMIT = 60.0
COMPILED_AT = HOT + NARROW  # elsewhere they would take the time of what is not known yet
# Where a step of transformers' loop over the experts took up to 0.3 s and its figures 10.
MANY_EXPERTS = ("Qwen3-32768", "Qwen3-8192", "7B-fine", "DSv3-8192")
WORKERS = 14  # that compile side by side; each holds a layer on the GPU


class Item(NamedTuple):
    """One peer at one case."""

    name: str
    routing: str
    peer: str

    def key(self) -> str:
        return f"{self.name}, {self.routing}: {self.peer}"


def compiling(cases: list[tuple[str, str]]) -> list[Item]:
    """What compiles for long at these cases, in order: Liger, and where the routing is even what
    torch.compile makes."""
    return [Item(*case, LIGER) for case in cases] + [
        Item(*case, peer)
        for case in cases
        if case[0] in COMPILED_AT and case[1] == "uniform"
        for peer in (DENSE_COMPILED, GROUPED_COMPILED)
    ]


def slow(cases: list[tuple[str, str]]) -> list[Item]:
    """Transformers' loop over the experts, the least work first."""
    few = [case for case in cases if case[0] not in MANY_EXPERTS and case[1] == "uniform"]
    by_work = sorted(few, key=lambda case: SHAPES[case[0]].forward_flops)
    return [Item(*case, EAGER) for case in by_work]


def kernels_of(item: Item) -> tuple[Any, ...]:
    """Items that share this share what is compiled: Liger's kernels take any number of tokens."""
    shape = SHAPES[item.name]
    return (item.peer, shape._replace(tokens=0) if item.peer == LIGER else shape)


@dataclass(frozen=True)
class Apart:
    """Items that one process goes through. only_call: the peer is called once, nothing measured."""

    parts: tuple[Item, ...]
    device: str
    dtype: torch.dtype
    speeds: tuple[Ceilings, float]
    only_call: bool = False

    def key(self, part: Item) -> str:
        return part.key()

    def limit(self, part: Item) -> float:
        return COMPILE_LIMIT if self.only_call else LIMITS[part.peer]

    def begin(self) -> Run:
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # the processes are many
        return Run(torch.device(self.device), self.dtype, 1, 0.0, self.speeds)

    def measure(self, run: Run, part: Item) -> Any:
        if self.only_call:
            problem = run.problem(part.name, part.routing)
            contender = apart_builders(run.ceilings.copy_gb_per_s)[part.peer](problem)
            contender.run()
            contender.inference_step(lambda: None)
            return {}
        return run.beside(*part)


@dataclass
class Into(Phase):
    """A phase whose items go into a report. kept: called with an item's key and result."""

    kept: Callable[[str, Any], None] = lambda key, result: None
    store: Callable[[], None] = lambda: None
    seen: set[str] = field(default_factory=set)

    def save(self, *, done: bool = True) -> None:
        for key in self.items.keys() - self.seen:
            self.seen.add(key)
            self.kept(key, self.items[key])
        self.store()


def compile_all(run: Run, items: list[Item]) -> dict[tuple[Any, ...], str]:
    """Call once what compiles for long, at the fewest tokens that share its kernels. Returns why
    some kernels are not to be tried again."""
    chosen: dict[tuple[Any, ...], Item] = {}
    for item in sorted(items, key=lambda item: SHAPES[item.name].tokens):
        chosen.setdefault(kernels_of(item), item)
    wanted = [item for item in items if item in chosen.values()]
    phase = Into("compiled", Path(), run.start + run.budget, clock=run.clock)
    tasks = [
        Apart((item,), run.device.type, run.dtype, run.speeds, only_call=True) for item in wanted
    ]
    in_processes(phase, tasks, min(WORKERS, max(1, (os.cpu_count() or 2) - 2)))
    print(phase.sentence(), flush=True)
    return {
        kernels_of(item): why
        for item in wanted
        # Alone on the GPU it may have the memory.
        if (why := phase.failed.get(item.key())) and not why.startswith("OutOfMemoryError")
    }


def measure_all(
    run: Run,
    items: list[Item],
    cases: list[dict[str, Any]],
    store: Callable[[], None],
    refused: dict[tuple[Any, ...], str],
) -> None:
    """Measure the items, and put each into its case; what has no figure says why. refused: by the
    kernels."""
    by_key = {item.key(): item for item in items}
    of_case = {(case["shape"]["name"], case["routing"]): case for case in cases}

    def kept(key: str, answer: dict[str, Any]) -> None:
        item = by_key[key]
        contenders = of_case[item.name, item.routing]["contenders"]
        contenders[item.peer] = answer["result"]
        run.failures += answer["failures"]
        if answer["of_ours"] and "of_peers" in contenders[OURS]:
            contenders[OURS]["of_peers"][item.peer] = answer["of_ours"]

    phase = Into("apart", Path(), run.start + run.budget, clock=run.clock, kept=kept, store=store)
    ready = tuple(item for item in items if kernels_of(item) not in refused)
    tasks = [Apart(ready, run.device.type, run.dtype, run.speeds)] if ready else []
    in_processes(phase, tasks, 1)
    for key, item in by_key.items():
        if key not in phase.items:
            words = phase.failed.get(key) or refused.get(kernels_of(item)) or run.used_up()
            words = words.removeprefix(f"{NotRun.__name__}: ")
            of_case[item.name, item.routing]["contenders"][item.peer] = {"not_run": words}
    print(phase.sentence(), flush=True)
    store()
