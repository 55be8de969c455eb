"""On a GPU: collapse and three cures, as many steps as fit (--seconds).

What 04_collapse shows of a GPU. How the comparison is made fair stands in at_scale.py.
"""

from __future__ import annotations

import dataclasses

from moeviz.experiments.at_scale import DENSE, Arm, Size
from moeviz.experiments.collapse import collapse_experts
from moeviz.experiments.cures import Cures, name_of
from moeviz.experiments.gpu_record import Experiment

CURES = (Cures(), Cures(aux=0.01), Cures(bias="sign"), Cures(aux=0.01, z=1e-3))


def arms(size: Size) -> dict[str, Arm]:
    """Top-1 routing with experts K times as wide and K times fewer, as the small collapse has it:
    without a cure, with three, and the dense twin."""
    found = {}
    for cures in CURES:
        cures = dataclasses.replace(cures, num_experts=size.num_experts // size.top_k)
        weights = {"balance_weight": cures.aux, "z_weight": cures.z}
        found[name_of(cures)] = Arm(collapse_experts(cures, size.width), weights)
    return found | {DENSE: Arm(None)}


EXPERIMENT = Experiment("gpu_collapse", arms, seeds=1)
run = EXPERIMENT.run
