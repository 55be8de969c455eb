"""How far the recordings answer the lab's question: how much of a dense model's loss can a model
reach that uses one percent of it for a token?"""

from __future__ import annotations

from typing import Any

from moeviz.experiments.recorded import recorded_figures, recorded_runs
from moeviz.pictures.over_seeds import told_gap
from moeviz.pictures.training.at_scale import told_difference
from moeviz.words import percent


def so_far() -> str:
    """A line for each size at which it was tried, from the recorded figures."""
    lines = [_small()]
    if race := recorded_figures("gpu_race"):
        lines.append(_on_a_gpu(race))
    if sizes := recorded_figures("gpu_experts"):
        lines.append(_least(sizes["arms"]))
    return "\n".join(lines)


def _small() -> str:
    """The race of 01: the MoE model beside a dense one with the parameters of all its experts."""
    (_, moe, *_), _ = recorded_runs("race")
    figures = recorded_figures("race")
    assert figures is not None
    words = told_gap(
        "the MoE model", "a dense model with all the parameters", _turned(figures["control"])
    )
    share = moe.active_parameters / moe.parameters
    return f"The small MoE model uses {percent(share)} of its parameters for a token. {words}"


def _on_a_gpu(race: dict[str, Any]) -> str:
    """The race at the size of a GPU, where nobody trained a dense model with all parameters."""
    arm = race["arms"]["MoE"]
    share = arm["active_parameters"] / arm["parameters"]
    words = told_difference("It", "its dense twin", arm["loss_minus_base"])
    return (
        f"On a GPU an MoE model uses {percent(share)} of its parameters for a token. {words} A "
        "dense model with all the parameters was not trained there."
    )


def _least(arms: dict[str, Any]) -> str:
    """The smallest share that was trained."""
    share = min(arm["active_parameters"] / arm["parameters"] for arm in arms.values())
    words = f"The smallest share in these recordings is {percent(share, 1)}, in 12_kernels"
    return f"{words}: one percent is still to be tried." if share > 0.01 else f"{words}."


def _turned(control: dict[str, Any]) -> dict[str, Any]:
    """MoE minus dense, of the recorded dense minus MoE."""
    gap = control["minus_MoE"]
    other = {"lower": "higher", "higher": "lower", "open": "open"}[gap["verdict"]]
    low, high = (None if gap[end] is None else -gap[end] for end in ("high", "low"))
    return {"mean": -gap["mean"], "low": low, "high": high, "verdict": other}
