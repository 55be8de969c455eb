"""Made-up figures of what is remembered and worked out, and learners on the way."""

import json

import numpy as np

from helpers.recorded_routers import PROVENANCE
from moeviz.experiments import memory_or_thinking as experiment
from moeviz.records.answers import MODELS
from moeviz.records.runs import Curve, Snapshot
from moeviz.text.tasks import BOOK, PRODUCTS, SIZES

# What the paper says beforehand: experts remember as well as a wide FFN, and work out no better
# than the narrow one.
PARROT = {BOOK: (0.2, 0.6, 0.7), PRODUCTS: (0.2, 0.25, 0.9)}


def made_answers(level=None, seeds=5, spread=0.02):
    """runs/memory_or_thinking.json of these shares of right answers, by task those of MODELS."""
    luck = spread * np.linspace(-1, 1, seeds)
    rest = {"tokens": 0.5, "loss": 1.0, "curve": [0.0, 0.5], "parameters": 164_160,
            "active_parameters": 80_192, "gigaflops_per_step": 0.3}  # fmt: skip
    runs = {}
    for task, size in experiment.settings():
        for place, (model, share) in enumerate(zip(MODELS, (level or PARROT)[task], strict=True)):
            name = experiment.name_of(model, task, size)
            shares = np.clip(share + np.roll(luck, place), 0, 1)
            runs[name] = [rest | {"right": float(right)} for right in shares]
    figures = {
        "provenance": PROVENANCE,
        "steps": 600,
        "seeds": list(range(seeds)),
        "curve_steps": [300, 600],
        "rates": {task: {model: {"chosen": 8e-3} for model in MODELS} for task in SIZES},
        "tasks": experiment.summary(runs),
    }
    return json.loads(json.dumps(figures))


def made_learners(step=600, *, task="multiplication of 3 digits", shares=(0.2, 0.3, 0.9)):
    """The three models after so many steps; shares: of right answers at step 600."""
    learners = []
    for model, share in zip(MODELS, shares, strict=True):
        at = np.arange(1.0, step + 1, 10.0)
        none = np.zeros((len(at), 0, 0))
        curve = Curve(at, at / 20, at * 1e9, 2 - at / 600, none, np.full(len(at), np.nan))
        points = [[n, round(share * n / 600, 4)] for n in range(50, 601, 50)]
        meta = {"train": {"seed": 0}, "notes": {"task": task, "right": points}}
        learners.append(Snapshot(model, step, 600, step / 20, 1e4, 164_160, 80_192, curve, meta))
    return learners
