"""Seconds of a training step of every router, in turns (2 minutes; let nothing else run).

Adds them, and the multipliers of the clock, to runs/routers.json.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.recording import write_json
from moeviz.experiments.router_arms import Arm, Setting, arms
from moeviz.experiments.routers_compared import with_multipliers
from moeviz.text.corpus import load_corpus
from moeviz.training.config import leave_a_core_free

WARM_STEPS, TIMED_STEPS = 2, 20
SETTLED = 150  # untimed steps of the family whose routers first settle on how many experts work


def time_steps(contestants: Mapping[str, Arm], on_step: Progress) -> dict[str, float]:
    """Median seconds of a training step of each arm, to four digits; in turns of one step, so that
    other load on the machine meets all alike. ReMoE's first hundred steps, when more experts work,
    are not in it."""
    leave_a_core_free()
    corpus = load_corpus()
    turns = WARM_STEPS + TIMED_STEPS
    setting = Setting(SETTLED + turns)
    trainers = {name: arm.trainer(corpus, setting, 4e-3, 0) for name, arm in contestants.items()}
    for name, trainer in trainers.items():
        if contestants[name].family == "variable number":
            for _ in itertools.islice(trainer, SETTLED):
                pass
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(turns):
        for name, trainer in trainers.items():
            start = time.perf_counter()
            next(trainer)
            if turn >= WARM_STEPS:  # the first ones warm caches
                seconds[name].append(time.perf_counter() - start)
        on_step(turn + 1, turns)
    return {name: float(f"{np.median(taken):.4g}") for name, taken in seconds.items()}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Time every recorded arm; write runs/routers.json under `out` again. ValueError where it is
    not there."""
    path = out / "runs" / "routers.json"
    if not path.is_file():
        raise ValueError(
            f"There is no {path}, whose arms are to be timed; record them first with `moeviz "
            "experiment routers`, or give the --out where they are."
        )
    figures = json.loads(path.read_text(encoding="utf-8"))
    every = arms()
    rounded = time_steps({name: every[name] for name in figures["arms"]}, on_step)
    provenance = figures.pop("provenance")
    timing = {"provenance": meta, "seconds": rounded}
    write_json(path, provenance, with_multipliers(figures, timing))
    return rounded
