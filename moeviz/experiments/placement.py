"""Where a real model's experts should lie on eight devices, from a public trace (half a minute).

One question: is it the plan that evens out the devices, or the loads that it was made from? Each
task's loads are placed by EPLB (records.placement), and by others' plans. The trace does not ship
(see public_traces); only these figures do.

runs/placement.json: source; devices; replicas (of all experts together, a list). imbalance is the
busiest device's load over the mean, the mean over layers, "worst" the worst layer:
    tasks       by task: contiguous; own, by replicas: with the plan made from the task's own loads;
                halves: the plan of the first half of its tokens, and what it does in the second
    stale       by the task that a plan (without replicas) was made from, by the task that it meets;
                "pooled": a plan made from all tasks together
    wasted      by replicas: share of the further replicas that lie beside a twin
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.public_traces import (
    DEEPSEEK,
    NUM_EXPERTS,
    POOLED,
    SOURCES,
    plain,
    read_tasks,
    traces_folder,
)
from moeviz.experiments.recording import write_json
from moeviz.records.imports import joined
from moeviz.records.placement import Placement, balanced, contiguous

DEVICES = 8
REPLICAS = (NUM_EXPERTS, 72, 128)

Plans = list[Placement]


def loads(expert_TLK: np.ndarray) -> np.ndarray:
    """How often each layer's experts are chosen, int64 [L, E]."""
    return np.stack(
        [np.bincount(e.ravel(), minlength=NUM_EXPERTS) for e in expert_TLK.swapaxes(0, 1)]
    )


def plans(load_LE: np.ndarray, replicas: int = NUM_EXPERTS) -> Plans:
    """Of each layer the plan made from its loads."""
    return [balanced(load_E, devices=DEVICES, replicas=replicas) for load_E in load_LE]


def judged_on(load_LE: np.ndarray, made: Plans) -> dict[str, float]:
    """How uneven the devices are with these plans under these loads."""
    values = [p.imbalance(load_E) for p, load_E in zip(made, load_LE, strict=True)]
    return {"mean": float(np.mean(values)), "worst": max(values)}


def figures_of(expert: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of tasks by name, each int [T, L, K]."""
    load = {task: loads(chosen) for task, chosen in expert.items()}
    naive = [contiguous(NUM_EXPERTS, DEVICES)] * len(next(iter(load.values())))
    own = {task: [plans(each, n) for n in REPLICAS] for task, each in load.items()}
    tasks = {}
    for task, chosen in expert.items():
        first, second = map(loads, np.array_split(chosen, 2))
        tasks[task] = {
            "contiguous": judged_on(load[task], naive),
            "own": [judged_on(load[task], made) for made in own[task]],
            "halves": judged_on(second, plans(first)),
        }
    makers = {task: made[0] for task, made in own.items()} | {
        POOLED: plans(np.sum(list(load.values()), axis=0))
    }
    further = {n: (n - NUM_EXPERTS) * len(naive) * len(load) for n in REPLICAS[1:]}
    return {
        "devices": DEVICES,
        "replicas": list(REPLICAS),
        "tasks": tasks,
        "stale": {
            maker: {task: judged_on(load[task], made) for task in load if task != maker}
            for maker, made in makers.items()
        },
        "wasted": {
            str(n): sum(p.wasted for made in own.values() for p in made[i]) / further[n]
            for i, n in enumerate(REPLICAS) if i
        },
    }  # fmt: skip


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Compute the figures; write runs/placement.json under `out`."""
    traces = read_tasks(traces_folder() / DEEPSEEK)
    figures = figures_of({task: joined(traces[task])[0] for task in traces})
    on_step(1, 1)
    source = {"source": SOURCES["deepseek_v2_lite"]}
    write_json(out / "runs" / "placement.json", meta, source | plain(figures))
    return plain(figures)
