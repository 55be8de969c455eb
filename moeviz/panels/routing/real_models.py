"""Two real models, from public traces: which experts they choose, and what of that is chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from moeviz.checks import check_choice
from moeviz.host import read_figures
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, slider
from moeviz.pictures import Picture
from moeviz.pictures.routing.real_choices import experts_of_a_batch, load_of_task, repeats
from moeviz.pictures.routing.real_tasks import information, meetings, specialists
from moeviz.pictures.routing.real_view import ALL, POOLED, View

MODELS = {"deepseek_v2_lite": "DeepSeek-V2-Lite", "olmoe": "OLMoE"}
# Each question with its picture; the last three need the order of tokens, or each token's choices.
QUESTIONS: dict[str, tuple[str, Callable[[View], Picture]]] = {
    "load": ("how even?", load_of_task),
    "tasks": ("does it tell the task?", information),
    "specialists": ("how many specialists?", specialists),
    "together": ("who meets?", meetings),
    "batch": ("how many in a batch?", experts_of_a_batch),
    "stay": ("does one stay?", repeats),
}
CAUTIONS = {"olmoe": "Five prompts a domain: few."}
OF_COUNTS = ("load", "tasks", "specialists")
UNTOLD = (
    " This study kept counts and no tokens: it does not tell who meets, what a batch touches and "
    "who stays."
)


class RealModels(Panel):
    """Choose a question, a model, a task and a layer. Every figure was computed by this project
    from other people's traces (experiments.real_traces), and names its source.

    question: what it opens on, one of QUESTIONS.
    """

    presets = {
        "One task, all tasks": {"question": "load", "task": "translation"},
        "Specialists out of noise": {"question": "specialists", "layer": 10},
        "A batch of neighbours": {"question": "batch", "task": "summary", "layer": 20},
        "Six domains of OLMoE": {"model": "olmoe", "question": "tasks", "task": "pooled"},
    }

    def __init__(self, question: str = "load") -> None:
        check_choice("question", question, QUESTIONS)
        recorded = read_figures("real_traces")
        self._views = {
            name: View(
                title, recorded[name], recorded["sources"][name], 0, POOLED, CAUTIONS.get(name, "")
            )
            for name, title in MODELS.items()
        }
        titles = [(title, name) for name, title in MODELS.items()]
        first = next(iter(MODELS))
        view = self._views[first]
        super().__init__(
            {"question": choice("Question", self._questions(first), question, "auto")},
            {
                "model": choice("Model", titles, first, "auto"),
                "task": choice("Task", self._tasks(first), next(iter(view.tasks)), "auto"),
                "layer": slider("Layer", self._layers(first), len(view.layers) // 2, "300px"),
            },
        )

    # What is on offer is what the model's trace holds.

    def _questions(self, model: str) -> list[tuple[str, str]]:
        whole = self._whole(model)
        return [(words, q) for q, (words, _) in QUESTIONS.items() if whole or q in OF_COUNTS]

    def _whole(self, model: str) -> bool:
        """Whether its trace holds each token's choices, in their order."""
        return "tasks" in self._views[model].figures

    def _tasks(self, model: str) -> list[tuple[str, str]]:
        view = self._views[model]
        return [*((view.whose(task), task) for task in view.tasks), (ALL, POOLED)]

    def _layers(self, model: str) -> list[tuple[str, int]]:
        return [(f"{layer}", place) for place, layer in enumerate(self._views[model].layers)]

    def changed(self) -> None:
        if not self._quiet:
            self._offer(self.controls["model"].value)
            self.refresh()

    def check_state(self, given: dict[str, str]) -> None:
        if (model := given.get("model")) in self._views:
            self._offer(model)

    def _offer(self, model: str) -> None:
        offered: dict[str, list[tuple[str, Any]]] = {
            "question": self._questions(model),
            "task": self._tasks(model),
            "layer": self._layers(model),
        }
        with self.quietly():
            for name, options in offered.items():
                control, values = self.controls[name], [value for _, value in options]
                if list(control.options) != options:
                    before = control.value
                    # A page whose slider stands beyond its new end would send that end back.
                    control.index = 0
                    control.options = options
                    control.value = before if before in values else values[0]

    def draw(self) -> Picture | None:
        question, model, task, layer = self.values.values()
        of = self._views[model]
        _, drawn = QUESTIONS[question]
        picture = drawn(replace(of, place=layer, task=task))
        self.say(picture.summary + ("" if self._whole(model) else UNTOLD))
        return picture
