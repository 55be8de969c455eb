"""Seconds of a training step of every router, in turns (2 minutes; let nothing else run).

Adds them, and the multipliers of the clock, to runs/routers.json.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.recording import write_json
from moeviz.experiments.router_arms import Setting, arms
from moeviz.experiments.routers_compared import with_multipliers
from moeviz.text.corpus import load_corpus
from moeviz.training.config import leave_a_core_free

WARM_STEPS, TIMED_STEPS = 2, 20
SETTLED = 150  # untimed steps of the family whose routers first settle on how many experts work


def time_steps(names: list[str], on_step: Progress) -> dict[str, float]:
    """Median seconds of a training step of each arm, in turns of one step, so that other load on
    the machine meets all alike. ReMoE's first hundred steps, when more experts work, are not in
    it."""
    leave_a_core_free()
    corpus, every = load_corpus(), arms()
    turns = WARM_STEPS + TIMED_STEPS
    setting = Setting(SETTLED + turns)
    trainers = {name: every[name].trainer(corpus, setting, 4e-3, 0) for name in names}
    for name, trainer in trainers.items():
        if every[name].family == "variable number":
            for _ in itertools.islice(trainer, SETTLED):
                pass
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        for name, trainer in trainers.items():
            start = time.perf_counter()
            next(trainer)
            if turn >= WARM_STEPS:  # the first ones warm caches
                seconds[name].append(time.perf_counter() - start)
        on_step(turn + 1, turns)
    return {name: float(np.median(taken)) for name, taken in seconds.items()}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Time every recorded arm; write runs/routers.json under `out` again."""
    path = out / "runs" / "routers.json"
    figures = json.loads(path.read_text(encoding="utf-8"))
    seconds = time_steps(list(figures["arms"]), on_step)
    rounded = {name: float(f"{taken:.4g}") for name, taken in seconds.items()}
    provenance = figures.pop("provenance")
    timing = {"provenance": meta, "seconds": rounded}
    write_json(path, provenance, with_multipliers(figures, timing))
    return rounded
