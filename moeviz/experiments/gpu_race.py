"""On a GPU: dense against MoE at equal active parameters, as many steps as fit (--seconds).

What 01_dense_vs_moe shows of a GPU. How the comparison is made fair stands in at_scale.py.
"""

from __future__ import annotations

from moeviz.experiments.at_scale import DENSE, Arm, Size
from moeviz.experiments.gpu_record import Experiment
from moeviz.model.layer import MoEConfig


def arms(size: Size) -> dict[str, Arm]:
    """The dense model, and E experts of which a token visits K: the same active width K F."""
    return {DENSE: Arm(None), "MoE": Arm(MoEConfig(size.num_experts, size.top_k, size.d_expert))}


EXPERIMENT = Experiment("gpu_race", arms, seeds=3)
run = EXPERIMENT.run
