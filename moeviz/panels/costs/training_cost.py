"""What training costs, from tokens, utilisation, price and power."""

from __future__ import annotations

from moeviz.checks import check_choice
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, slider, whole_slider
from moeviz.pictures import Picture
from moeviz.pictures.costs.training_cost import (
    COMPARED,
    MFUS,
    PRICES,
    TOLD,
    TRILLIONS,
    published_setting,
    training_cost,
)
from moeviz.words import percent

# What a button says, and the model that it stands for.
SHORT = (
    "GPT-3", "Llama 405B", "GLaM", "Mixtral", "DeepSeek-V3", "Kimi K2", "Qwen3", "gpt-oss",
    "DeepSeek-V4",
)  # fmt: skip
LLAMA = "Llama 3.1 405B"
PUES = tuple(1 + i / 20 for i in range(21))
GPUS = ("A100-80G SXM", "H100 SXM", "H800 SXM", "B200 SXM")


class TrainingCost(Panel):
    """Every model on the same tokens at the same price; what is left is the architecture."""

    told_in_picture = True
    presets = {
        "DeepSeek-V3's pre-training": {"model": "DeepSeek-V3 / R1", "tokens": 14.8, "mfu": 0.39},
        "Llama 3.1's run": {
            "model": "Llama 3.1 405B",
            **(published_setting("Llama 3.1 405B") or {}),
        },
        "At half the price an hour": {"price": 1.0},
        "On a tenth of the tokens": {"tokens": 1},
    }

    def __init__(self, model: str = "DeepSeek-V3 / R1") -> None:
        check_choice("model", model, COMPARED)
        models = [*zip(SHORT, COMPARED, strict=True)]
        devices = [(name.split("-")[0].split()[0], name) for name in GPUS]
        # The models are bars, which are pressed, and the sliders tracks, which are dragged.
        super().__init__(
            more=[
                {"model": choice("Model", models, model, "118px")},
                {
                    "tokens": slider("Tokens", [(f"{v:g}T", v) for v in TRILLIONS], 14.8),
                    "mfu": slider("MFU", [(percent(v), v) for v in MFUS], 0.39),
                    "price": slider("An hour", [(f"${v:.2f}", v) for v in PRICES], 2.0),
                },
                {
                    "device": choice("Device", devices, "H800 SXM", "64px"),
                    "beside": choice("Beside", [(w, n) for n, w in TOLD.items()], "sum", "120px"),
                },
                {
                    "watts": whole_slider("Watts", 100, 1500, 700, step=50),
                    "pue": slider("PUE", [(f"{v:.2f}", v) for v in PUES], 1.1),
                },
            ],
        )

    def draw(self) -> Picture | None:
        model, trillions, mfu, price, device, beside, watts, pue = self.values.values()
        picture = training_cost(
            chosen=model,
            tokens=trillions * 1e12,
            device=device,
            mfu=mfu,
            usd_per_hour=price,
            watts=watts,
            pue=pue,
            beside=beside,
        )
        return self.shown(picture)
