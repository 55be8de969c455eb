"""Every model that the lab speaks of, by name."""

from __future__ import annotations

from typing import Literal

from moeviz.checks import check_choice
from moeviz.costs.known.catalogue import Figure, Model
from moeviz.costs.known.models_2024 import UP_TO_2024
from moeviz.costs.known.models_2025 import SINCE_2025
from moeviz.costs.known.models_early import EARLY
from moeviz.costs.shape.architecture import Architecture

MODELS: dict[str, Model] = {model.name: model for model in (*EARLY, *UP_TO_2024, *SINCE_2025)}


def shape_of(name: str) -> Architecture:
    """The architecture of one of MODELS; ValueError where its sizes are not public."""
    return model(name).shape


def model(name: str) -> Model:
    """One of MODELS; ValueError on an unknown name."""
    return MODELS[check_choice("model", name, MODELS)]


def published(name: str, what: Literal["tokens", "device_hours"]) -> float:
    """A published figure of one of MODELS; ValueError where there is none."""
    figure: Figure | None = getattr(model(name), what)
    if figure is None:
        raise ValueError(f"The {what} of {name} are not public.")
    return figure.value
