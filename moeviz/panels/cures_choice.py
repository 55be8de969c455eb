"""The cures of a collapse that a learner may choose from."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from moeviz.experiments.cures import Cures
from moeviz.panels.controls import choice, switch

Z_LOSS = 1e-3
ROUTERS = (
    ("token choice", "token_choice"),
    ("expert choice", "expert_choice"),
    ("Sinkhorn", "sinkhorn"),
    ("hash", "hash"),
)
LEARNING = (("learned", "learned"), ("frozen", "frozen"), ("re-randomised", "rerandomised"))


def cure_controls() -> dict[str, widgets.Widget]:
    """The switches, all of them off."""
    amounts = (("off", 0.0), ("0.01", 0.01), ("0.1", 0.1))
    sizes = (("off", 0.0), ("0.3", 0.3), ("1", 1.0))
    controls: dict[str, widgets.Widget] = {
        "aux": choice("Bal. loss", amounts, 0.0, "54px"),
        "scope": choice("Scope", ("batch", "sequence"), "batch", "96px"),
        "bias": choice("Bias", ("none", "sign", "quantile"), "none", "88px"),
        "noise": choice("Noise", sizes, 0.0, "54px"),
        "z": switch(f"z-loss {Z_LOSS:g}"),
        "shared": switch("shared expert"),
        "router": choice("Router", ROUTERS, "token_choice", "110px"),
        "learning": choice("Learning", LEARNING, "learned", "130px"),
    }
    for name in ("z", "shared"):
        controls[name].layout.width = "130px"
    return controls


def chosen_cures(values: dict[str, Any]) -> Cures:
    """The cures of these values of the switches; ValueError where two exclude each other."""
    return Cures(
        aux=values["aux"],
        scope=values["scope"] if values["aux"] else "batch",
        z=Z_LOSS if values["z"] else 0.0,
        noise=values["noise"],
        bias=values["bias"],
        router=values["router"],
        shared=values["shared"],
        learning=values["learning"],
    )
