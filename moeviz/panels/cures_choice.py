"""The cures of a collapse that a learner may choose from."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import ipywidgets as widgets

from moeviz.experiments.cures import Cures
from moeviz.panels.controls import choice, switch

Z_LOSS = 1e-3
SWITCHES = ("aux", "scope", "bias", "noise", "z", "shared", "router", "learning")
ROUTERS = (
    ("token choice", "token_choice"),
    ("expert choice", "expert_choice"),
    ("Sinkhorn", "sinkhorn"),
    ("hash", "hash"),
)
LEARNING = (("learned", "learned"), ("frozen", "frozen"), ("re-randomised", "rerandomised"))


def cure_controls() -> list[dict[str, widgets.Widget]]:
    """The switches in rows, all of them off; the first row has the usual cures."""
    amounts = (("off", 0.0), ("0.01", 0.01), ("0.1", 0.1))
    sizes = (("off", 0.0), ("0.3", 0.3), ("1", 1.0))
    z_loss, shared = switch(f"z-loss {Z_LOSS:g}"), switch("shared expert")
    z_loss.layout.width = shared.layout.width = "130px"
    return [
        {
            "aux": choice("Bal. loss", amounts, 0.0, "54px"),
            "bias": choice("Bias", ("none", "sign", "quantile"), "none", "88px"),
        },
        {
            "scope": choice("Scope", ("batch", "sequence"), "batch", "96px"),
            "noise": choice("Noise", sizes, 0.0, "54px"),
            "z": z_loss,
            "shared": shared,
        },
        {
            "router": choice("Router", ROUTERS, "token_choice", "110px"),
            "learning": choice("Learning", LEARNING, "learned", "130px"),
        },
    ]


def switched(cures: Cures) -> dict[str, Any]:
    """The values of the switches that these cures have."""
    values = asdict(cures) | {"z": bool(cures.z)}
    return {name: values[name] for name in SWITCHES}


def chosen_cures(values: dict[str, Any]) -> Cures:
    """The cures of these values of the switches; ValueError where two exclude each other."""
    named = {field.name: values[field.name] for field in fields(Cures) if field.name in values}
    scope = values["scope"] if values["aux"] else "batch"
    return Cures(**named | {"scope": scope, "z": Z_LOSS if values["z"] else 0.0})
