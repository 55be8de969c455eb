"""Loop, grouped_mm, Triton: the same experts by time, measured here or recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moeviz.experiments.recorded import recorded_machines
from moeviz.panels.controls import slider
from moeviz.panels.timed_panel import HERE, TimedPanel
from moeviz.pictures import Picture
from moeviz.pictures.kernels.contenders import contenders

EXPERTS = (8, 64, 256)  # as experiments.contest measures
SMALL = {"num_experts": 0}


class Contenders(TimedPanel):
    """Who is faster, forward and with the backward pass. Run measures this machine; recorded
    machines stand beside it where there are any."""

    # Of the machine that it opens on: the recorded GPU.
    presets = {
        "Few large experts": {"case": "Mixtral-8192, uniform"},
        "Many small experts": {"case": "Qwen3-32768, uniform"},
        "All tokens to one expert": {"case": "OLMoE-32768, all-to-one"},
        "Decoding one token": {"case": "decode-1, uniform"},
    }

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
        case = slider("Layer", [*first], largest, "560px")
        super().__init__(recorded, {"case": case}, "▶ Run")

    # The layers on offer are those of the machine.

    def changed(self) -> None:
        if not self._quiet:
            self._offer(self.controls["machine"].value)
            self.refresh()

    def check_state(self, given: dict[str, str]) -> None:
        if (machine := given.get("machine")) in self._by_machine:
            self._offer(machine)

    def _offer(self, machine: str) -> None:
        titles, control = [*self._by_machine[machine]], self.controls["case"]
        if list(control.options) != titles:
            before = control.value
            with self.quietly():
                control.options = titles
                control.value = before if before in titles else titles[0]

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
        return self.shown(contenders(self._by_machine[machine], title, where=machine))


def _titled(cases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Cases by a name for each; more of it where the shape alone would not tell them apart."""
    titled: dict[str, dict[str, Any]] = {}
    several = [key for key in ("routing", "dtype") if len({case[key] for case in cases}) > 1]
    for case in cases:
        title = ", ".join([str(case["shape"]["name"]), *(case[key] for key in several)])
        titled.setdefault(title, case)
    return titled
