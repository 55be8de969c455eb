"""Recordings of ways to adapt with known effects, and of ESFT's choice."""

import numpy as np

from helpers.recorded_routers import PROVENANCE
from moeviz.experiments import adapting, esft_selection
from moeviz.experiments.routers_compared import best_rate
from moeviz.records.adapting import ALL, BY_LOT, EVERYTHING, WAYS, WHOLE, at_gain

NUMBERS = {ALL: 65536, WHOLE: 221184, EVERYTHING: 1083712}


def made_run(seed, gain, elsewhere):
    """One seed's figures: gain and elsewhere by way are those of the last step, give or take."""
    rng = np.random.default_rng(seed)
    grows = np.sqrt(np.array(adapting.MEASURED) / adapting.STEPS)
    tasks = {}
    for task in adapting.TASKS:
        ways = {}
        for way in WAYS:
            end, other = gain.get(way, 1.0), elsewhere.get(way, 0.2)
            gains = (end + 0.005 * rng.standard_normal()) * grows
            others = (other + 0.005 * rng.standard_normal()) * grows**2
            numbers = NUMBERS.get(way, 18432)
            ways[way] = {
                "task": 4.0 - gains[-1], "gain": gains[-1], "elsewhere": others[-1],
                "numbers": numbers, "bytes": 4 * numbers, "rank": 4, "seconds": 2.0,
                "curve": {"gain": gains.tolist(), "elsewhere": others.tolist()},
            }  # fmt: skip
        least = min(of["gain"] for of in ways.values())
        for of in ways.values():
            of["at_equal_gain"] = at_gain(least, **of["curve"])
        chosen = {"gate": 4.5, "token": 4.0, "common": 0.9}
        tasks[task] = {"before": 4.0, "chosen": chosen, "ways": ways}
    return tasks


def made_adapting(seeds=5, *, gain=None, elsewhere=None):
    """Every way gains 1 nat and costs 0.2 elsewhere, unless told otherwise; the lot gains 0.6."""
    gain = {BY_LOT: 0.6} | (gain or {})
    rates = {
        task: {
            way: best_rate({rate: [3.0 - rate] for rate in grid})
            for way, (_, grid) in adapting.OWN_RATE.items()
        }
        for task in adapting.TASKS
    }
    runs = [made_run(seed, gain, elsewhere or {}) for seed in range(seeds)]
    return {"provenance": PROVENANCE} | adapting.compared(runs, rates)


def made_selection(equal=26):
    """A recording in which the first rule gives so many layers of each task as published."""
    counts = [5] * 25 + [4]
    again = {
        name: {"counts": counts, "mean": mean, "equal": same}
        for name, mean, same in (
            ("token, experts", 4.962, equal), ("gate, experts", 3.6, 2), ("gate, tokens", 14.0, 0),
            ("token, layers", 2.0, 0), ("gate, layers", 1.8, 0),
        )
    }  # fmt: skip
    task = {
        "tokens": 8000, "sequences": 30, "published": {"counts": counts, "mean": 4.962},
        "again": again, "halves": 0.9, "shared_start": 20, "halves_later": 0.8,
        "others": 0.1, "chance": 0.07,
    }  # fmt: skip
    return {
        "provenance": PROVENANCE, "experts": 64, "top_p": 0.2,
        "source": {"model": "a model", "from": "a place", "commit": "abc", "licence": "MIT"},
        "tasks": dict.fromkeys(esft_selection.PUBLISHED, task),
    }  # fmt: skip
