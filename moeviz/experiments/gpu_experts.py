"""On a GPU: 8 to 128 experts at equal active parameters, as many steps as fit (--seconds).

What 12_kernels shows of a GPU. How the comparison is made fair stands in at_scale.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.experiments.at_scale import DENSE, Arm, Size
from moeviz.experiments.gpu_record import Experiment
from moeviz.model.layer import MoEConfig
from moeviz.records.compare import half_interval

PREFIX = "E = "


def arms(size: Size) -> dict[str, Arm]:
    """The dense twin, and E experts of which a token visits the same K of the same width."""
    sweep = {f"{PREFIX}{e}": Arm(MoEConfig(e, size.top_k, size.d_expert)) for e in size.sweep}
    return {DENSE: Arm(None)} | sweep


def per_doubling(arms: dict[str, Any]) -> dict[str, Any]:
    """What each doubling of E changes in the held-out loss: the slope of a straight line through
    the arms over log2 E, with half of its 95 % interval. Without three sizes there is none."""
    places = {name: np.log2(int(name.removeprefix(PREFIX))) for name in arms if name != DENSE}
    x = np.array([place for name, place in places.items() for _ in range(arms[name]["runs"])])
    y = np.array([loss for name in places for loss in arms[name]["validation_loss"]["values"]])
    if len(set(x)) < 3:
        return {}
    from scipy.stats import linregress

    line = linregress(x, y)
    interval = round(half_interval(float(line.stderr), len(x) - 2), 4)
    slope = {"mean": round(float(line.slope), 4), "interval": interval}
    return {"loss_per_doubling": slope}


EXPERIMENT = Experiment("gpu_experts", arms, seeds=1, more=per_doubling)
run = EXPERIMENT.run
