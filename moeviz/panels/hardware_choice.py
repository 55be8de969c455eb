"""What the exhibits about hardware let a learner choose from."""

from __future__ import annotations

from collections.abc import Iterable

import ipywidgets as widgets

from moeviz.panels.controls import choice
from moeviz.pictures.costs.memory_fit import PLANS

DENSE = ("Llama 3.1 8B", "Llama 3.1 405B")
SPARSE = ("Mixtral 8x7B", "gpt-oss-120b", "Qwen3-30B-A3B", "Qwen3-235B-A22B", "DeepSeek-V3 / R1",
          "Kimi K2")  # fmt: skip
# Label -> name in moeviz.costs.DEVICES.
DEVICES = {
    "T4": "T4",
    "RTX 4090": "RTX 4090",
    "A100": "A100-80G SXM",
    "H100": "H100 SXM",
    "H200": "H200 SXM",
    "B200": "B200 SXM",
    "MI300X": "MI300X",
    "M3 Ultra": "Apple M3 Ultra",
    "Laptop": "Laptop CPU, DDR5-5600 x2",
}
BATCHES = tuple(2**i for i in range(15))


def model_choice(models: Iterable[str], value: str) -> widgets.ToggleButtons:
    return choice("Model", tuple(models), value, "auto")


def device_choice(value: str, without: tuple[str, ...] = ()) -> widgets.ToggleButtons:
    options = tuple(item for item in DEVICES.items() if item[0] not in without)
    return choice("Device", options, value, "auto")


def plan_choice(value: str) -> widgets.ToggleButtons:
    options = tuple((label, name) for name, label in PLANS.items())
    return choice("Weights", options, value, "auto")
