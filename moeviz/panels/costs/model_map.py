"""The map of all models, by year and by the way active parameters are counted."""

from __future__ import annotations

from moeviz.checks import check_choice
from moeviz.costs import MODELS
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, slider, whole_slider
from moeviz.panels.player import Player
from moeviz.pictures import Picture
from moeviz.pictures.costs.model_map import model_map, points

COUNTED = (
    ("everything", "all"),
    ("no input table", "ex_input_embedding"),
    ("no tables", "ex_embeddings"),
)
FIRST_YEAR, LAST_YEAR = 2020, max(model.year for model in MODELS.values())
OPENS_AT = 2024  # what came later is asked before


class ModelMap(Panel):
    """Nothing is fitted here: a place on the map is counted from a config, or printed somewhere."""

    presets = {
        "The years until 2024": {"until": OPENS_AT, "model": "DeepSeek-V3 / R1"},
        "A dense one: GPT-3": {"model": "GPT-3 175B"},
        "Up to now": {"until": LAST_YEAR, "model": "Kimi K2"},
        "Do not count the tables": {"counted": "ex_embeddings"},
    }

    def __init__(self, model: str = "DeepSeek-V3 / R1") -> None:
        by_year = sorted(points(), key=lambda p: (p.model.year, p.total))
        names = [p.model.name for p in by_year]
        check_choice("model", model, names)
        years = whole_slider("Up to", FIRST_YEAR, LAST_YEAR, OPENS_AT)
        self.player = Player(self, years, "until")
        # Each model is a mark and a line of the picture, which are pressed.
        super().__init__(
            self.player.bar,
            {"counted": choice("Active is", COUNTED, "all", "116px")},
            more=[{"model": slider("Model", names, model, "460px")}],
        )

    def draw(self) -> Picture | None:
        until, counted, model = self.values.values()
        return self.shown(model_map(chosen=model, convention=counted, until=until))
