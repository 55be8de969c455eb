"""Ways to adapt a small model to a new text, as they were recorded: what each gives and costs."""

from __future__ import annotations

from moeviz.experiments.recorded import recorded_figures
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice
from moeviz.pictures import Picture
from moeviz.pictures.training.adapting import adapting


class Adapting(Panel):
    """LoRA on the experts that matter for a text, and on other parts of a model, compared."""

    presets = {
        "Learn C": {"task": "c", "measure": "task", "larger": False},
        "What it costs elsewhere": {"task": "c", "measure": "elsewhere", "larger": False},
        "The cost of an equal gain": {"task": "c", "measure": "at_equal_gain", "larger": False},
        "Learn arithmetic, by any means": {"task": "arithmetic", "measure": "task", "larger": True},
    }
    told_in_picture = True

    def __init__(self) -> None:
        self.recorded = recorded_figures("adapting")
        tasks = [("C", "c"), ("arithmetic", "arithmetic")]
        figures = [
            ("new text", "task"),
            ("elsewhere", "elsewhere"),
            ("elsewhere, at equal gain", "at_equal_gain"),
        ]
        sizes = [("equal size", False), ("larger ones too", True)]
        super().__init__(
            {
                "task": choice("New text", tasks, "c", "auto"),
                "measure": choice("Loss of", figures, "task", "auto"),
            },
            {"larger": choice("Ways", sizes, False, "auto")},
        )

    def draw(self) -> Picture | None:
        return self.shown(adapting(self.recorded, **self.values))
