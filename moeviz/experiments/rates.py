"""Learning rates by name, from a grid that goes on where its best rate is an end of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from moeviz.experiments import Progress
from moeviz.experiments.recording import collect
from moeviz.experiments.routers_compared import best_rate
from moeviz.training.trainer import NonFiniteLossError

FURTHER = 3  # rates beyond an end of the grid, at most

Losses = Mapping[str, Sequence[float | None]]  # "name at rate": by seed, None where it diverged
Tried = Callable[[int], float | None]  # the loss of a seed


def label(name: str, rate: float) -> str:
    """How a rate that is tried is called."""
    return f"{name} at {rate:g}"


def chosen_rates(losses: Losses) -> dict[str, dict[str, Any]]:
    """By name what its grid found; see best_rate."""
    grids: dict[str, dict[float, Sequence[float | None]]] = {}
    for tried, seeds in losses.items():
        name, _, rate = tried.rpartition(" at ")
        grids.setdefault(name, {})[float(rate)] = seeds
    return {name: best_rate(dict(sorted(grid.items()))) for name, grid in grids.items()}


def settled_rates(
    losses: Losses,
    try_at: Callable[[str, float], Tried],
    collected: Callable[[dict[str, Tried]], Losses],
) -> dict[str, dict[str, Any]]:
    """chosen_rates, where a name whose best rate is an end of its grid is tried at the next rate
    beyond (half of it, or twice) as long as that is the better one, and FURTHER times at most.
    collected: runs what is to be tried, by label."""
    known = dict(losses)
    for _ in range(FURTHER):
        more = {}
        for name, found in chosen_rates(known).items():
            if found["at_edge"]:
                best = found["chosen"]
                rate = best / 2 if best == found["grid"][0] else 2 * best
                more[label(name, rate)] = try_at(name, rate)
        if not more:
            break
        known |= collected(more)
    return chosen_rates(known)


def finite(tried: Tried, seed: int) -> float | None:
    """The loss of a seed; None where training diverges."""
    try:
        loss = tried(seed)
    except NonFiniteLossError:
        return None
    return loss if loss is not None and math.isfinite(loss) else None


def looked_for(
    part: Path,
    meta: dict[str, Any],
    grids: Mapping[str, Sequence[float]],
    try_at: Callable[[str, float], Tried],
    seeds: int,
    on_step: Progress,
) -> dict[str, dict[str, Any]]:
    """settled_rates of grids by name, each rate tried with so many seeds and kept in `part` (see
    recording.collect). on_step is told of the grids alone: how far beyond is not known before."""

    def tried(name: str, rate: float) -> Tried:
        return partial(finite, try_at(name, rate))

    def collected(runs: dict[str, Tried], told: Progress = lambda *_: None) -> Losses:
        return collect(part, meta, runs, seeds, told)

    first = {label(n, rate): tried(n, rate) for n, grid in grids.items() for rate in grid}
    return settled_rates(collected(first, on_step), tried, collected)
