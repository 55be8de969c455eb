"""Made-up figures of grown models, and learners on the way."""

import json

import numpy as np

from helpers.recorded_routers import PROVENANCE
from moeviz.experiments import upcycling as experiment
from moeviz.records.growth import BEFORE, COPIES, COSINE, DENSE, DROP, LEARNERS, NOISE, SCRATCH, WAY
from moeviz.records.runs import Curve, Snapshot

EXPERTS = 8
# By arm, the loss at growing and after so many steps, a straight line between: copies lead early
# and lose late, as the paper says of them.
FALLS = {
    DENSE: (4.0, 3.8), COPIES: (4.0, 3.7), NOISE: (4.0, 3.7), DROP: (4.5, 3.5), SCRATCH: (7.0, 3.6),
}  # fmt: skip
ALIKE = {COPIES: (1.0, 0.9), NOISE: (0.99, 0.9), DROP: (0.25, 0.2), SCRATCH: (0.0, 0.05)}


def made_upcycling(falls=FALLS, seeds=5, spread=0.01):
    """runs/upcycling.json of these losses."""
    luck = spread * np.linspace(-1, 1, seeds)
    rest = {"parameters": 689_472, "active_parameters": 394_560, "gigaflops_per_step": 1.7}
    looks = len(range(0, experiment.STEPS + 1, experiment.MEASURE_EVERY))
    runs = []
    for seed in range(seeds):
        results = {"parent": {"loss": falls[DENSE][0]}}
        for place, (name, steps) in enumerate(experiment.marks().items()):
            first, last = falls[name]
            along = np.array(steps) / experiment.STEPS
            own = np.roll(luck, place)[seed] * (1 + along)
            results[name] = rest | {"loss": (first + (last - first) * along + own).tolist()}
            if name != DENSE:
                results[name]["cosine"] = np.linspace(*ALIKE[name], looks).tolist()
                results[name]["effective_experts"] = 7.5
        runs.append(results)
    rate = {"grid": [4e-3, 8e-3], "losses": [4.0, 3.9], "chosen": 8e-3, "at_edge": True}
    arms = ("parent", DENSE, COPIES, DROP, SCRATCH)
    figures = {
        "provenance": PROVENANCE,
        "steps": experiment.STEPS,
        "parent_steps": experiment.PARENT_STEPS,
        "early": experiment.EARLY_STEP,
        "seeds": list(range(seeds)),
        "cosine_steps": list(range(0, experiment.STEPS + 1, experiment.MEASURE_EVERY)),
        "rates": {arm: rate | {"at_edge": arm == DROP} for arm in arms},
        **experiment.summary(runs, runs),
    }
    return json.loads(json.dumps(figures))


def made_grown(step=300, *, way=DROP, total=300, layers=2):
    """The learners of a live run after so many steps."""
    learners = []
    for place, label in enumerate(LEARNERS):
        at = np.arange(1.0, step + 1, 5.0)
        validation = np.where(at % 50 == 1, 5 - at / 300 - 0.1 * place, np.nan)
        count = EXPERTS if label != DENSE else 0
        load = np.full((len(at), layers if count else 0, count), 1 / EXPERTS)
        curve = Curve(at, at / 20, at * 1.6e9, 5 - at / 300 - 0.1 * place, load, validation)
        notes = {} if label == SCRATCH else {BEFORE: 5e11}
        if count:
            pairs = EXPERTS * (EXPERTS - 1) // 2
            first, last = ALIKE[way if label == "grown" else SCRATCH]
            notes[COSINE] = [
                [look, [[first + (last - first) * look / total] * pairs] * layers]
                for look in range(0, total + 1, 50)
            ]
        if label == "grown":
            notes[WAY] = way
        meta = {"train": {"seed": 0}, "notes": notes}
        learners.append(Snapshot(label, step, total, step / 20, 1e4, 689_472, 394_560, curve, meta))
    return learners
