"""Loop, grouped_mm, Triton: the same experts by time, measured here or recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moeviz.experiments.recorded import recorded_machines
from moeviz.panels.controls import choice, slider
from moeviz.panels.timed_panel import HERE, TimedPanel
from moeviz.pictures import Picture
from moeviz.pictures.kernels.contenders import DENSE, FASTEST, SERIES, contenders
from moeviz.pictures.kernels.layer_names import case_title

EXPERTS = (8, 64, 256)  # as experiments.contest measures
SMALL = {"num_experts": 0}


class Contenders(TimedPanel):
    """Who is faster, forward and with the backward pass. Run measures this machine; recorded
    machines stand beside it where there are any."""

    told_in_picture = True
    # Of the machine that it opens on, the recorded GPU; a recorded CPU adds one.
    presets = {
        "Many small experts": {"case": "Qwen3's layer, 32,768 tokens"},
        "All tokens to one expert": {"case": "OLMoE's layer, 32,768 tokens, all to one expert"},
        "Decoding one token": {"case": "OLMoE's layer, 1 token"},
    }

    def __init__(self) -> None:
        recorded = recorded_machines()
        # Cases by their titles; None where nothing is measured yet.
        self._by_machine: dict[str, dict[str, Any]] = {
            name: _titled(run["cases"]) for name, run in recorded.items()
        }
        for name, run in recorded.items():
            if run["device"].get("kind") == "cpu":
                title = _most_experts(self._by_machine[name])
                setting = {"machine": name, "case": title, "against": FASTEST}
                self.presets = {**self.presets, f"{title} on a CPU": setting}
        self._by_machine[HERE] = dict.fromkeys(f"{n} experts" for n in EXPERTS)
        first = next(iter(self._by_machine.values()))
        # Where the contenders differ most.
        largest = _most_experts(first)
        # Each is in the picture, to be pressed.
        cases = [case for run in recorded.values() for case in run["cases"]]
        timed = {n for c in cases for n, times in c["contenders"].items() if "forward_ms" in times}
        names = (FASTEST, *sorted(timed, key=str.lower))
        against = choice("Against", names, DENSE if DENSE in timed else FASTEST, "auto")
        passes = [(words, name) for name, words in SERIES.items()]
        more = [{"against": against}]
        shown = {
            "timed": choice("Timed", passes, "both_ms", "170px"),
            "case": slider("Layer", [*first], largest, "560px"),
        }
        super().__init__(recorded, shown, "▶ Run", more)

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
        machine, timed, title, against = self.values.values()
        cases = self._by_machine[machine]
        case = cases[title]
        if case and timed not in case["contenders"].get(against, {}):
            against = FASTEST  # as the picture has it, where the other was not timed
            with self.quietly():
                self.controls["against"].value = against
        picture = contenders(cases, title, where=machine, against=against, timed=timed)
        return self.shown(picture)


def _most_experts(cases: dict[str, Any]) -> str:
    return max(cases, key=lambda title: (cases[title] or {}).get("shape", SMALL)["num_experts"])


def _titled(cases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Cases by their titles, with the number format where there are several."""
    several = len({case["dtype"] for case in cases}) > 1
    titled: dict[str, dict[str, Any]] = {}
    for case in cases:
        titled.setdefault(case_title(case, dtype=several), case)
    return titled
