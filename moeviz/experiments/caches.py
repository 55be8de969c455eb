"""What a cache of experts is worth on a real model's routing, from a public trace (6 minutes).

Papers disagree on which policy is best. Each is replayed over the same trace (records.caching):
four tasks, each as one stream, and a stream that changes its task every CHANGES tokens. The trace
does not ship (see public_traces); only these figures do.

runs/caches.json: source; experts, top_k, layers of the model; slots, a list, of each layer's own
cache; streams, by name ("changing" is the one that changes its task): tokens, and by policy a list
by slots of
    hit_rate        the share of the chosen experts that lay in the cache when they were asked for
    loads           experts loaded for a token, over all layers: guesses count, used or not
"next_layer" has one size, GUESSED. Of the changing stream besides
    after_change    by policy, at GUESSED slots: hit_rate in each BIN tokens after a change, without
                    the first turn of each task
shared: one cache for all layers, of so many slots a layer, the first SHARED_TOKENS tokens of a task
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.public_traces import (
    DEEPSEEK,
    NUM_EXPERTS,
    SOURCES,
    plain,
    read_tasks,
    traces_folder,
)
from moeviz.experiments.recording import write_json
from moeviz.records.caching import Replay, replay
from moeviz.records.imports import joined

SLOTS = (8, 16, 32)
GUESSED = 16
CHANGES = 750
BIN = 50
CHANGING = "changing"
SHARED_TASK, SHARED_TOKENS, SHARED_SLOTS = "law", 1500, (4, 8, 16)

Figures = dict[str, Any]


def changing(expert: dict[str, np.ndarray]) -> np.ndarray:
    """The tasks in turns of CHANGES tokens, as long as all of them have some left."""
    starts = range(0, min(map(len, expert.values())) - CHANGES + 1, CHANGES)
    return np.concatenate(
        [chosen[start : start + CHANGES] for start in starts for chosen in expert.values()]
    )


def of_replay(found: Replay) -> Figures:
    return {"hit_rate": found.hit_rate, "loads": found.loads_per_token}


def of_stream(expert_TLK: np.ndarray, turn: int = 0, tasks: int = 1) -> Figures:
    """A stream's figures; with a turn of so many tokens, those after a change too."""
    figures: Figures = {"tokens": len(expert_TLK)}
    curves: Figures = {}
    for policy in ("lru", "lfu", "belady", "next_layer"):
        sizes = (GUESSED,) if policy == "next_layer" else SLOTS
        found = {n: replay(expert_TLK, NUM_EXPERTS, n, policy) for n in sizes}
        figures[policy] = [of_replay(each) for each in found.values()]
        if turn:
            hits, asked = (
                counts[turn * tasks :].sum(1).reshape(-1, turn // BIN, BIN).sum((0, 2))
                for counts in (found[GUESSED].hits, found[GUESSED].asked)
            )
            curves[policy] = (hits / asked).tolist()
    return figures | ({"after_change": curves} if turn else {})


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Replay every policy; write runs/caches.json under `out`."""
    traces = read_tasks(traces_folder() / DEEPSEEK)
    expert = {task: joined(of_task)[0] for task, of_task in traces.items()}
    streams: Figures = {}
    total = len(expert) + len(SHARED_SLOTS) + 1
    for task, chosen in expert.items():
        streams[task] = of_stream(chosen)
        on_step(len(streams), total)
    streams[CHANGING] = of_stream(changing(expert), CHANGES, len(expert))
    on_step(len(streams), total)
    shared: Figures = {"task": SHARED_TASK, "tokens": SHARED_TOKENS, "slots": list(SHARED_SLOTS)}
    some = expert[SHARED_TASK][:SHARED_TOKENS]
    for number, slots in enumerate(SHARED_SLOTS):
        for policy in ("lru", "least_stale", "belady"):
            found = replay(some, NUM_EXPERTS, slots, policy, shared=True)
            shared.setdefault(policy, []).append(of_replay(found))
        on_step(len(streams) + number + 1, total)
    figures = {
        "source": SOURCES["deepseek_v2_lite"],
        "experts": NUM_EXPERTS,
        "top_k": some.shape[2],
        "layers": some.shape[1],
        "slots": list(SLOTS),
        "guessed": GUESSED,
        "turn": CHANGES,
        "bin": BIN,
        "streams": streams,
        "shared": shared,
    }
    write_json(out / "runs" / "caches.json", meta, plain(figures))
    return {name: plain(streams[name]["lru"]) for name in streams}
