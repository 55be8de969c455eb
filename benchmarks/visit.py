"""What a short visit to a GPU needs: phases with deadlines, and results that nothing can lose.

A phase is a list of items. Each has its result as soon as it is through, in a file that is whole at
any moment; one that fails is named with its reason and the rest goes on; one whose time has not
come by the phase's deadline is named too. A phase runs in a process of its own, for a GPU that
has met an illegal address is lost to the process that met it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import report

Clock = Callable[[], float]


@dataclass
class Phase:
    """One part of a visit, kept in OUT/<name>.json. deadline: by the clock, in seconds."""

    name: str
    out: Path
    deadline: float
    clock: Clock = time.monotonic
    items: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.save(done=False)

    @property
    def path(self) -> Path:
        return self.out / f"{self.name}.json"

    def left(self) -> float:
        """Seconds to the deadline."""
        return self.deadline - self.clock()

    def item(self, key: str, measure: Callable[[], Any]) -> Any:
        """The result of an item; None where it failed or came too late to begin."""
        if self.left() <= 0:
            self.late.append(key)
            self.save(done=False)
            return None
        try:
            self.items[key] = measure()
        except Exception as error:
            self.strike(key, report.reason(error))
            return None
        self.save(done=False)
        return self.items[key]

    def strike(self, key: str, why: str) -> None:
        """Name an item that failed."""
        self.failed[key] = why
        print(f"{self.name}: {key} is struck out: {why}", flush=True)
        self.save(done=False)

    def sentence(self) -> str:
        """What became of the phase, in one line."""
        parts = [f"{len(self.items)} done"]
        parts += [f"{len(self.failed)} struck out"] if self.failed else []
        parts += [f"{len(self.late)} not begun, for want of time"] if self.late else []
        return f"{self.name}: {', '.join(parts)} in {self.clock() - self.began:.0f} s"

    def save(self, *, done: bool = True) -> None:
        words = {"done": done, "sentence": self.sentence(), **self.facts}
        results = {"items": self.items, "failed": self.failed, "late": self.late}
        report.save(words | results, self.path)


def load(out: Path, name: str) -> dict[str, Any]:
    """What a phase left; a phase that left nothing did nothing."""
    try:
        return dict(json.loads((out / f"{name}.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {"done": False, "items": {}, "failed": {}, "late": []}


class Task(Protocol):
    """Work of several parts that one process does in order."""

    parts: tuple[Any, ...]

    def key(self, part: Any) -> str: ...

    def limit(self, part: Any) -> float:
        """Seconds, after which a part is given up."""

    def begin(self) -> Any:
        """What all parts need, made in the process."""

    def measure(self, state: Any, part: Any) -> Any:
        """The result of one part, in JSON's types."""


@dataclass
class _Worker:
    """A process at its task. since: when its current part began, by the phase's clock; None before
    the first."""

    task: Task
    process: Any
    answers: Any
    started: float
    since: float | None = None

    def late(self, phase: Phase) -> str | None:
        """Why it is to be stopped, if so."""
        if not (rest := _unanswered(phase, self.task)):
            return None
        limit = START_S if self.since is None else self.task.limit(rest[0])
        since = self.started if self.since is None else self.since
        return f"took longer than {limit:g} s" if phase.clock() - since > limit else None


def in_processes(phase: Phase, tasks: Iterable[Task], workers: int) -> None:
    """Each task in a process of its own, so many at a time; results come part by part.

    A part that raises is struck out, and one that takes longer than its limit. A process that dies
    strikes out the part that it was at, and the rest of its task gets another process. What has no
    result by the deadline is late.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(tasks)
    running: list[_Worker] = []
    while (waiting or running) and phase.left() > 0:
        while waiting and len(running) < workers:
            task, answers = waiting.pop(0), context.SimpleQueue()
            process = context.Process(target=_answer, args=(task, answers), daemon=True)
            process.start()
            running.append(_Worker(task, process, answers, phase.clock()))
        ended = [worker for worker in running if not worker.process.is_alive()]
        for worker in running:
            _collect(phase, worker)
        for worker in running:
            why = None
            if worker not in ended and (why := worker.late(phase)):
                worker.process.kill()
                worker.process.join(STOP_S)
                ended.append(worker)
            if worker in ended and (rest := _unanswered(phase, worker.task)):
                if why or worker.process.exitcode != _GPU_LOST:
                    why = why or f"its process ended with exit code {worker.process.exitcode}"
                    phase.strike(worker.task.key(rest.pop(0)), why)
                again = replace(worker.task, parts=tuple(rest))  # type: ignore[type-var]
                waiting += [again] * bool(rest)
        running = [worker for worker in running if worker not in ended]
        time.sleep(0.02)
    for worker in running:
        worker.process.kill()
        worker.process.join(STOP_S)  # what follows has the GPU for itself
    for task in waiting + [worker.task for worker in running]:
        phase.late += [task.key(part) for part in _unanswered(phase, task)]
    phase.save(done=False)


START_S = 120.0  # for a process to be ready for its first part
STOP_S = 10.0  # for one that was killed to be gone; a driver may hold it
_GPU_LOST = 3  # exit code of a process whose GPU context an error has broken


def _answer(task: Task, answers: Any) -> None:
    state = task.begin()
    answers.put(None)
    for part in task.parts:
        try:
            answers.put((task.key(part), None, task.measure(state, part)))
        except Exception as error:
            answers.put((task.key(part), report.reason(error), None))
            if "CUDA error" in str(error):
                os._exit(_GPU_LOST)


def _unanswered(phase: Phase, task: Task) -> list[Any]:
    return [p for p in task.parts if task.key(p) not in phase.items | phase.failed]


def _collect(phase: Phase, worker: _Worker) -> None:
    """Keep what a process has answered so far."""
    before = len(phase.items)
    while not worker.answers.empty():
        answer = worker.answers.get()
        worker.since = phase.clock()
        if answer is None:
            continue
        key, why, result = answer
        if why:
            phase.strike(key, why)
        else:
            phase.items[key] = result
    if len(phase.items) > before:
        phase.save(done=False)
