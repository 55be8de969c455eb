"""Every recorded result as a figure for a paper or a slide, in one line:

from moeviz import figures
figures.routers().savefig("routers.pdf")

Each is a matplotlib Figure. Each raises FileNotFoundError where nothing is recorded yet, and
ValueError where what was asked for is not in the recording.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from moeviz.experiments.recorded import recorded_runs
from moeviz.host import read_figures
from moeviz.pictures.printed import comparisons, speed, training
from moeviz.pictures.training.arms import FAIR


def race(axis: str = "step") -> Figure:
    """Dense against MoE over seeds, against "step" or "flops" (01_dense_vs_moe)."""
    return training.race(*recorded_runs("race"), axis)


def routers(setting: str = FAIR) -> Figure:
    """Every router beside its dense twin in one setting (03c_trained_and_compared)."""
    return comparisons.routers(read_figures("routers"), setting)


def fair_and_written() -> Figure:
    """Every router at the fair scale and as written (03c_trained_and_compared)."""
    return comparisons.fair_and_written(read_figures("routers"))


def lengths() -> Figure:
    """Five routers beside their dense twin at several lengths (03c_trained_and_compared)."""
    return comparisons.lengths(read_figures("routers"), read_figures("routers_longer"))


def output_scale() -> Figure:
    """Loss against the output scale at the start (03c_trained_and_compared)."""
    return comparisons.output_scale(read_figures("scale"))


def collapse() -> Figure:
    """Balance and loss under every cure of collapse (04_collapse)."""
    return training.collapse(read_figures("collapse"))


def capacity() -> Figure:
    """What a limit of slots costs, pool by pool (05_capacity)."""
    return training.capacity(read_figures("capacity"))


def kernels(name: str = "layer_h200") -> Figure:
    """Times of the ways to run the same experts, of a benchmark in data/runs (12_kernels)."""
    return speed.kernels(read_figures(name))


def at_scale(name: str) -> Figure:
    """A training on a GPU: "gpu_race" (01_dense_vs_moe), "gpu_collapse" (04_collapse) or
    "gpu_experts" (12_kernels)."""
    return training.at_scale(name, read_figures(name))
