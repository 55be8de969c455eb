"""Every model that the lab speaks of, by name."""

from __future__ import annotations

from moeviz.checks import check_choice
from moeviz.costs.known.catalogue import Model
from moeviz.costs.known.models_2024 import UP_TO_2024
from moeviz.costs.known.models_2025 import SINCE_2025
from moeviz.costs.known.models_early import EARLY

MODELS: dict[str, Model] = {model.name: model for model in (*EARLY, *UP_TO_2024, *SINCE_2025)}


def model(name: str) -> Model:
    """One of MODELS; ValueError on an unknown name."""
    return MODELS[check_choice("model", name, MODELS)]
