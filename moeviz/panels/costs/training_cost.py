"""What training costs, from tokens, utilisation, price and power."""

from __future__ import annotations

import ipywidgets as widgets

from moeviz.panels.base import Panel, choice
from moeviz.pictures import Picture
from moeviz.pictures.costs.training_cost import COMPARED, training_cost

# What a button says, and the model that it stands for.
SHORT = ("GPT-3", "405B", "GLaM", "8x22B", "V3", "K2", "Qwen3", "gpt-oss", "V4-Pro")
TRILLIONS = (
    *(0.1, 0.3, 0.6, 1, 2, 3, 5, 7, 8.1, 10, 12, 13, 14.8),
    *(15.6, 18, 20, 22, 25, 28, 32, 36, 40, 50, 70, 100),
)
MFUS = tuple(i / 100 for i in range(5, 101))
PRICES = tuple(i / 10 for i in range(1, 101))
PUES = tuple(1 + i / 20 for i in range(21))
GPUS = ("A100-80G SXM", "H100 SXM", "H800 SXM", "B200 SXM")


class TrainingCost(Panel):
    """Every model on the same tokens at the same price; what is left is the architecture."""

    kind = "training_cost"

    def __init__(self, model: str = "DeepSeek-V3 / R1") -> None:
        if model not in COMPARED:
            raise ValueError(f"model must be one of {', '.join(COMPARED)}, got {model!r}.")
        models = [*zip(SHORT, COMPARED, strict=True)]
        devices = [(name.split("-")[0].split()[0], name) for name in GPUS]
        controls: dict[str, widgets.Widget] = {
            "model": choice("Model", models, model, "70px"),
            "tokens": widgets.SelectionSlider(
                options=[(f"{v:g}T", v) for v in TRILLIONS], value=14.8, description="Tokens"
            ),
            "mfu": widgets.SelectionSlider(
                options=[(f"{100 * v:.0f} %", v) for v in MFUS], value=0.39, description="MFU"
            ),
            "price": widgets.SelectionSlider(
                options=[(f"${v:.2f}", v) for v in PRICES], value=2.0, description="An hour"
            ),
            "watts": widgets.IntSlider(700, min=100, max=1500, step=50, description="Watts"),
            "pue": widgets.SelectionSlider(options=PUES, value=1.1, description="PUE"),
            "device": choice("Device", devices, "H800 SXM", "64px"),
        }
        c = controls
        super().__init__(
            controls,
            [
                [c["model"]],
                [c["tokens"], c["mfu"], c["price"]],
                [c["watts"], c["pue"], c["device"]],
            ],
        )
        self.refresh()

    def draw(self) -> Picture | None:
        v = {name: control.value for name, control in self.controls.items()}
        picture = training_cost(
            chosen=v["model"],
            tokens=v["tokens"] * 1e12,
            device=v["device"],
            mfu=v["mfu"],
            usd_per_hour=v["price"],
            watts=v["watts"],
            pue=v["pue"],
            state=self.state,
        )
        self.say(picture.summary)
        return picture
