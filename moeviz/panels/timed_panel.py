"""What panels that time this machine share: the recorded machines beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from moeviz.panels.base import Row
from moeviz.panels.controls import choice
from moeviz.panels.running_panel import RunningPanel

HERE = "this machine"
NO_GPU = "No GPU run has been recorded yet."


class TimedPanel(RunningPanel):
    """A panel of one measurement; machine: which one's figures are shown.

    A subclass says by `measure` what is measured.
    """

    def __init__(
        self, recorded: dict[str, dict[str, Any]], controls: dict[str, widgets.Widget], label: str,
        more: Sequence[Row] = (),
    ) -> None:  # fmt: skip
        self.recorded = recorded
        gpus = [run for run in recorded.values() if run["device"].get("kind") == "cuda"]
        self.note = "" if gpus else f" {NO_GPU}"
        options = [*recorded, HERE]
        machine = choice("Machine", options, options[0], "auto")
        buttons = self.run_buttons(label, "On this machine, in the background")
        super().__init__({"machine": machine}, [*buttons, controls], more=more)

    @property
    def here(self) -> bool:
        return bool(self.controls["machine"].value == HERE)

    def _press(self) -> None:
        if not self._running:
            self.controls["machine"].value = HERE
        super()._press()
