"""What live panels share whose models have two sizes: the small one, and one for a GPU."""

from __future__ import annotations

from typing import Any

from moeviz.experiments.larger import LARGE, SMALL
from moeviz.panels.live_panel import LivePanel


class SizedPanel(LivePanel):
    """The small size, which is the only one without a GPU, stands in no state."""

    def state_values(self) -> dict[str, Any]:
        return {name: v for name, v in self.values.items() if (name, v) != ("size", SMALL)}

    def check_state(self, given: dict[str, str]) -> None:
        # A mark in the picture gives a part alone, which leaves the size as it is.
        if self.controls.keys() - given.keys() == {"size"}:
            given["size"] = SMALL
        self._check_size(given.get("size", SMALL))

    def _set_sized(self, values: dict[str, Any]) -> None:
        """Give controls new values, where they are there; ValueError for a size that is not."""
        self._check_size(values["size"])
        self.set_controls({name: v for name, v in values.items() if name in self.controls})

    def _check_size(self, size: str) -> None:
        if size == LARGE and "size" not in self.controls:
            raise ValueError("The large size needs a GPU, and there is none here.")
