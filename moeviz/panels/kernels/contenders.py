"""Loop, grouped_mm, Triton: the same experts by time, measured here or recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import ipywidgets as widgets

from moeviz.panels.base import Panel
from moeviz.panels.timed import HERE, NO_GPU, Timed, recorded_machines
from moeviz.pictures import Picture
from moeviz.pictures.kernels.contenders import contenders

EXPERTS = (8, 64, 256)  # as experiments.contest measures
SMALL = {"num_experts": 0}


class Contenders(Timed):
    """Who is faster, forward and with the backward pass. Run measures this machine; recorded
    machines stand beside it where there are any."""

    kind = "contenders"

    def __init__(self) -> None:
        recorded = recorded_machines()
        # Cases by their titles; None where nothing is measured yet.
        self._by_machine: dict[str, dict[str, Any]] = {
            name: _titled(run["cases"]) for name, run in recorded.items()
        }
        self._by_machine[HERE] = dict.fromkeys(f"{n} experts" for n in EXPERTS)
        first = next(iter(self._by_machine.values()))
        # Where the contenders differ most.
        largest = max(
            first, key=lambda title: (first[title] or {}).get("shape", SMALL)["num_experts"]
        )
        case = widgets.SelectionSlider(
            options=[*first], value=largest, description="Layer",
            layout=widgets.Layout(width="560px"),
        )  # fmt: skip
        super().__init__(recorded, {"case": case}, "▶ Run")
        self.controls["machine"].observe(lambda _: self._offer(), "value")
        self.refresh()

    # The layers on offer are those of the machine.

    def _offer(self, wanted: str | None = None) -> None:
        titles = [*self._by_machine[self.controls["machine"].value]]
        control = self.controls["case"]
        value = wanted or control.value
        if list(control.options) != titles:
            quiet, self._quiet = self._quiet, True
            try:
                control.options = titles
                control.value = value if value in titles else titles[0]
            finally:
                self._quiet = quiet
            self.changed()

    def _take_state(self, text: str) -> None:
        kind, _, query = text.strip().partition("?")
        given = dict(parse_qsl(query, keep_blank_values=True)).get("machine")
        control, before = self.controls["case"], self.controls["case"].value
        options = list(control.options)
        if kind == self.kind and given in self._by_machine:
            self._set_options([*self._by_machine[given]], None)
        try:
            Panel.state.fset(self, text)  # type: ignore[attr-defined]
        except ValueError:
            self._set_options(options, before)
            raise

    state = property(Panel.state.fget, _take_state)  # type: ignore[attr-defined]

    def _set_options(self, options: list[str], value: str | None) -> None:
        quiet, self._quiet = self._quiet, True
        try:
            self.controls["case"].options = options
            self.controls["case"].value = value or options[0]
        finally:
            self._quiet = quiet

    # Measuring and drawing.

    def measure(self) -> Callable[[], None]:
        title = self.controls["case"].value
        num_experts = EXPERTS[[*self._by_machine[HERE]].index(title)]

        def work() -> None:
            from moeviz.experiments.backends_timed import contest

            on_turn = self.going_on(f"{title}, each contender once a round")
            self._by_machine[HERE][title] = contest(num_experts, on_turn=on_turn)

        return work

    def draw(self) -> Picture | None:
        machine, title = self.controls["machine"].value, self.controls["case"].value
        case = self._by_machine[machine].get(title)
        picture = contenders(case, where=machine, state=self.state)
        said = picture.summary
        if not self.has_gpu_run:
            said += f" {NO_GPU}"
        self.tell(said)
        return picture


def _titled(cases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Cases by a name for each; more of it where the shape alone would not tell them apart."""
    titled: dict[str, dict[str, Any]] = {}
    several = {len({c[key] for c in cases}) > 1 for key in ("routing", "dtype")}
    for case in cases:
        title = str(case["shape"]["name"])
        if True in several:
            title = f"{title}, {case['routing']}, {case['dtype']}"
        titled.setdefault(title, case)
    return titled
