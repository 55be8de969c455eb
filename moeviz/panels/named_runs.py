"""Live panels whose runs differ by a named choice and by the seed; seed 0 may be recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from moeviz.panels.live_panel import LivePanel
from moeviz.records.runs import Curve, Snapshot

Configuration = tuple[str, int]  # what is chosen, seed


class NamedRuns(LivePanel):
    """named: the control that chooses a run; noted: what a run's notes call that choice; steps: of
    a run that is not there yet. A panel sets `_recorded`, and `_made` where anything is recorded.
    """

    named: ClassVar[str]
    noted: ClassVar[str]
    steps: ClassVar[int]
    _recorded: Mapping[Configuration, list[Snapshot]]
    _made: Mapping[str, Any]

    def _shown(self) -> Configuration:
        """What the picture shows: the live run may be of the choice before."""
        return self._configured(self.live[-1].meta) if self.live else self._chosen

    def _learners(self) -> tuple[list[Snapshot], str]:
        if self.live:
            name, seed = self._shown()
            return [*self.live], f"live: {name}, seed {seed}{self._aside}"
        name, seed = self._chosen
        if self._chosen in self._recorded:
            made = self._made
            note = f"recorded, not live: {name}, seed 0 · {made['device']} · {made['date']}"
            return self._recorded[self._chosen], note
        note = f"not recorded: {name}, seed {seed} · Play trains it here"
        return [_untrained(label, self.steps) for label in self.labels], note

    def _configuration(self) -> Configuration:
        return self.controls[self.named].value, self.controls["seed"].value

    def _set_controls_to(self, configuration: Any) -> None:
        self.set_controls(dict(zip((self.named, "seed"), configuration, strict=True)))

    def _configured(self, meta: dict[str, Any]) -> Configuration:
        return meta["notes"][self.noted], meta["train"]["seed"]


def _untrained(label: str, steps: int) -> Snapshot:
    """A model of which nothing is known yet."""
    empty = np.zeros(0)
    curve = Curve(empty, empty, empty, empty, np.zeros((0, 0, 0)), empty)
    return Snapshot(label, 0, steps, 0.0, 0.0, 0, 0, curve)
