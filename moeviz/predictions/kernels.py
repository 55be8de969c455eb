"""Predictions of 12_kernels."""

from __future__ import annotations

from typing import Any

from moeviz.experiments.recorded import recorded_machines
from moeviz.pictures.kernels.layer_work import all_experts
from moeviz.pictures.kernels.tile_waste import padding_rows, zipf_load
from moeviz.predictions.prediction import Measured, nearest, prediction
from moeviz.words import percent


@prediction(
    "12.padding",
    "256 tokens, K = 8, 64 experts, all equally popular: 2,048 rows, 32 for each expert on "
    "average. A matrix kernel takes tiles of 64 rows of one expert. What share of the computed "
    "rows is padding?",
    "none", "about 10 %", "about half", "about nine tenths",
)  # fmt: skip
def padding() -> Measured:
    load_E = zipf_load(2048, 64, 0.0, 0)
    filled = padding_rows(load_E, 64)
    share = filled / (2048 + filled)
    options = {"none": 0.0, "about 10 %": 0.1, "about half": 0.5, "about nine tenths": 0.9}
    figure = f"in a batch drawn at random {percent(share, 1)} of the computed rows are padding"
    because = (
        f"the experts got {load_E.min()} to {load_E.max()} rows each, which fill one tile in part"
    )
    return Measured(nearest(share, options), figure, because)


@prediction(
    "12.bound",
    "One token at a time (decoding), a layer of 64 experts, top-4. What limits the experts' speed?",
    "arithmetic", "reading the weights", "the sort",
)  # fmt: skip
def bound() -> Measured:
    run = recorded_on_a_cpu()
    experts, machine = all_experts(1, run["layer"], 4), run["device"]
    arithmetic = experts.flops / (1e12 * machine["matmul_tflops"])
    memory = experts.size / (1e9 * machine["copy_gb_per_s"])
    option = "reading the weights" if memory > arithmetic else "arithmetic"
    # The roofs are bounds: a launch and the sort are in neither.
    measured = next(point["flops_per_s"] for point in run["points"] if point["tokens"] == 1)
    figure = (
        f"on {machine['name']} reading takes at least {1e6 * memory:.0f} µs and the arithmetic at "
        f"least {1e6 * arithmetic:.0f} µs, of {1e6 * experts.flops / measured:.0f} µs measured"
    )
    because = (
        f"a weight that is read serves a single row: {experts.intensity:.1f} FLOPs for each byte"
    )
    return Measured(option, figure, because)


@prediction(
    "12.loop",
    "256 experts on a CPU, forward and backward. How many times as long as grouped_mm does a plain "
    "loop over W[e] take?",
    "about as long", "about 6 times", "about 60 times",
)  # fmt: skip
def loop() -> Measured:
    case = max(recorded_on_a_cpu()["cases"], key=lambda c: int(c["shape"]["num_experts"]))
    both = {
        name: c["both_ms"]["median"] for name, c in case["contenders"].items() if "both_ms" in c
    }
    times = both["loop over W[e]"] / both["grouped_mm"]
    unbound = both["loop over W.unbind()"] / both["grouped_mm"]
    options = {"about as long": 1, "about 6 times": 6, "about 60 times": 60}
    figure = f"it took {times:.0f} times as long, and a loop over W.unbind() {unbound:.1f} times"
    because = (
        "in the backward pass every W[e] fills a gradient for all experts, and there are "
        f"{case['shape']['num_experts']} of them"
    )
    return Measured(nearest(times, options, ratio=True), figure, because)


def recorded_on_a_cpu() -> dict[str, Any]:
    """The recorded benchmark of the experts on a CPU; ValueError where there is none."""
    for run in recorded_machines().values():
        if run["device"].get("kind") == "cpu":
            return run
    raise ValueError("Nothing is recorded on a CPU: run 'python -m moeviz experiment kernels'.")
