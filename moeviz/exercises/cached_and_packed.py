"""Exercises of 08_hardware: a cache of experts, weights in few bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.exercises.exercise import function_asked

TRIES = 20


def lru_hits(stream, slots):
    cache, hits = [-1] * slots, 0  # empty; the last one is what was asked for last
    for expert in stream:
        if expert in cache:
            hits += 1
            cache.remove(expert)
        else:
            cache.pop(0)
        cache.append(expert)
    return hits


def _fifo_hits(stream: list[int], slots: int) -> int:
    cache: list[int] = []
    hits = 0
    for expert in stream:
        hits += expert in cache
        cache = [*cache, *[expert] * (expert not in cache)][-slots:]
    return hits


def _streams() -> list[tuple[list[int], int]]:
    """The example of the notebook, then streams that like some experts more than others."""
    rng = np.random.default_rng(5)
    cases = [([1, 2, 1, 3, 2, 1], 2)]
    for _ in range(TRIES):
        stream = (rng.geometric(0.2, size=60) % 12).tolist()
        cases.append((stream, int(rng.integers(2, 7))))
    return cases


function_asked(
    "08.5",
    "Keep a list of what is cached, in the order in which it was asked for last.",
    "A hit changes the order too: what was just asked for moves to the end. What stands in front "
    "is given up.",
    difficulty=2,
    minutes=8,
    solution=lru_hits,
    praise="That is the cache behind the picture, for one layer and one expert a token.",
    cases=_streams,
    mistakes=(
        (_fifo_hits, "that gives up what came first; LRU gives up what was asked for longest ago."),
        (lambda stream, slots: len(stream) - lru_hits(stream, slots), "those are the misses."),
        (lambda stream, slots: lru_hits(stream, slots) / len(stream), "that is the hit rate."),
        (
            lambda stream, slots: len(stream) - len(set(stream)),
            "so many hits has a cache that never gives up anything.",
        ),
    ),
    words="in the stream {0} with {1} slots the hits are {wanted:g}, not {found:g}.",
)


def round_group(weights, bits):
    top = 2 ** (bits - 1) - 1
    scale = np.abs(weights).max() / top
    return np.round(weights / scale) * scale


def _groups() -> list[tuple[np.ndarray, int]]:
    rng = np.random.default_rng(7)
    return [(rng.normal(size=32) * 10.0 ** rng.integers(-3, 2), bits) for bits in (4, 8, 3) * 4]


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return np.array(np.nan)


function_asked(
    "08.7",
    "Which code does the largest magnitude get? The scale is what one step of the code stands for.",
    "Divide by the scale, round, and multiply by it again.",
    difficulty=2,
    minutes=6,
    solution=round_group,
    praise="A real file keeps the codes and the scale; this is what they stand for.",
    cases=_groups,
    read=_array,
    mistakes=(
        (
            lambda w, bits: (
                np.floor(w / (np.abs(w).max() / (2 ** (bits - 1) - 1)))
                * (np.abs(w).max() / (2 ** (bits - 1) - 1))
            ),
            "that rounds down; the nearest code loses less.",
        ),
        (
            lambda w, bits: (
                np.round(w / (np.abs(w).max() / (2**bits - 1))) * (np.abs(w).max() / (2**bits - 1))
            ),
            "that has twice as many codes as fit: half of them are for negative weights.",
        ),
        (
            lambda w, bits: np.round(w / (np.abs(w).max() / (2 ** (bits - 1) - 1))),
            "those are the codes; what do they stand for?",
        ),
    ),
    words="with {1} bits these are not the values that the nearest codes stand for.",
)
