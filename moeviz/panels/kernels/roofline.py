"""The roofline of a machine, with the experts and their kernels on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moeviz.experiments.recorded import recorded_machines
from moeviz.panels.controls import steps
from moeviz.panels.timed_panel import HERE, TimedPanel
from moeviz.pictures import Picture
from moeviz.pictures.kernels.layer_names import layer_name
from moeviz.pictures.kernels.layer_work import BYTES, TOKENS, Reached, all_experts
from moeviz.pictures.kernels.roofline import roofline

# The layer that is drawn where none was measured: as experiments.contest takes it on a CPU.
LAYER = dict(d_model=512, d_expert=256, num_experts=64, top_k=4)
MOST_POINTS = 8


class Roofline(TimedPanel):
    """What bounds a kernel: memory or arithmetic, from one token to a prefill. Measure asks this
    machine for its ceilings and for what its backend reaches; recorded machines are there at once.
    """

    told_in_picture = True
    presets = {
        "A prefill of 4,096": {"tokens": 4096},
        "Decoding 64 at once": {"tokens": 64},
        "Decoding one token": {"tokens": 1},
    }

    def __init__(self) -> None:
        self._measured: dict[str, Any] | None = None
        # It opens on a prefill: what decoding waits for is asked before.
        tokens = steps("Tokens", TOKENS, 4096)
        super().__init__(recorded_machines(), {"tokens": tokens}, "▶ Measure")

    def measure(self) -> Callable[[], None]:
        def work() -> None:
            from moeviz.experiments.backends_timed import machine

            self._measured = machine(self.going_on("A copy, a matrix product, the experts"))

        return work

    def draw(self) -> Picture | None:
        name = self.controls["machine"].value
        run = self._measured if name == HERE else self.recorded[name]
        tokens = self.controls["tokens"].value
        if run is None:
            return self.shown(roofline(None, LAYER, tokens))
        layer = run.get("layer") or _layer_of(run["cases"])
        return self.shown(roofline(run["device"], layer, tokens, _reached(run)))


def _layer_of(cases: list[dict[str, Any]]) -> dict[str, int]:
    """The layer of the first recorded case."""
    return {name: cases[0]["shape"][name] for name in LAYER}


def _reached(run: dict[str, Any]) -> list[Reached]:
    """The measured points: of one layer with growing batches, or of the recorded shapes, each by
    its fastest contender that routes."""
    size = BYTES.get(run["device"].get("dtype") or "float32", 4)
    if "points" in run:
        layer = run["layer"]
        return [
            Reached(
                f"T = {p['tokens']:,}",
                all_experts(p["tokens"], layer, size).intensity,
                p["flops_per_s"],
            )
            for p in run["points"]
        ]
    points: list[Reached] = []
    for case in run["cases"]:
        shape = case["shape"]
        times = {
            name: entry["forward_ms"]["median"]
            for name, entry in case["contenders"].items()
            if "forward_ms" in entry and not name.startswith("dense")
        }
        if times and case["routing"] == "uniform" and len(points) < MOST_POINTS:
            best = min(times, key=lambda name: times[name])
            work = all_experts(shape["tokens"], shape, BYTES.get(case["dtype"], size))
            speed = work.flops / times[best] * 1e3
            points.append(Reached(layer_name(shape), work.intensity, speed, by=best))
    return points
