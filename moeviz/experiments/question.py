"""How far the recordings answer the lab's question: how much of a dense model's loss can a model
reach that uses one percent of it for a token?"""

from __future__ import annotations

from typing import Any

from moeviz.experiments.recorded import recorded_figures, recorded_runs
from moeviz.host import read_figures
from moeviz.pictures.over_seeds import told_gap
from moeviz.pictures.training.at_scale import told_difference
from moeviz.pictures.training.frontier_read import DENSE, LEARNED, TWIN, is_flat, of_kind, share_met
from moeviz.words import percent


def so_far() -> str:
    """A line for each size at which it was tried, from the recorded figures."""
    lines = [_small()]
    if race := recorded_figures("gpu_race"):
        lines.append(_on_a_gpu(race))
    lines.append(_one_percent(*(read_figures(name) for name in ("frontier_short", "frontier"))))
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


def _one_percent(*lengths: dict[str, Any]) -> str:
    """The smallest share of the FFN that was trained, with a learned router, by length."""
    arms = of_kind(lengths[-1], LEARNED)
    name = min(arms, key=lambda name: arms[name]["ffn_active_share"])
    arm = arms[name]
    said = [
        f"With {arm['experts']} experts the small model uses "
        f"{percent(arm['ffn_active_share'], 1)} of the FFN's parameters for a token, and "
        f"{percent(share_met(lengths[-1], arm), 1)} of all (10_efficiency_frontier)."
    ]
    for run in lengths:
        words = told_gap("it", "its dense twin", run["gaps"][f"{name} minus {TWIN}"])
        said.append(f"After {run['steps']:,} steps: {words[0].lower()}{words[1:]}")
        if is_flat(run):
            *_, widest = of_kind(run, DENSE).values()
            said.append(
                f"Dense models up to width {widest['width']:,} are not told apart from the twin "
                "there either: text and steps are the likely limit, and not parameters."
            )
    return " ".join([*said, "A dense model with all those parameters was not trained."])


def _least(arms: dict[str, Any]) -> str:
    """The most experts on a GPU, beside a dense twin."""
    name = min(arms, key=lambda name: arms[name]["active_parameters"] / arms[name]["parameters"])
    arm = arms[name]
    share = percent(arm["active_parameters"] / arm["parameters"], 1)
    words = f"On a GPU {arm['experts']} experts use {share} of all parameters (12_kernels)."
    gap = arm["loss_minus_base"]
    way = "below" if gap["mean"] < 0 else "above"
    seeds = len(gap["values"])
    runs = "one seed, so no interval" if seeds == 1 else f"{seeds} seeds"
    return (
        f"{words} They end {abs(gap['mean']):.3f} nats per token {way} their dense twin ({runs})."
    )


def _turned(control: dict[str, Any]) -> dict[str, Any]:
    """MoE minus dense, of the recorded dense minus MoE."""
    gap = control["minus_MoE"]
    other = {"lower": "higher", "higher": "lower", "open": "open"}[gap["verdict"]]
    low, high = (None if gap[end] is None else -gap[end] for end in ("high", "low"))
    return {"mean": -gap["mean"], "low": low, "high": high, "verdict": other}
