"""A real exchange between processes of this machine: recorded at first, and then measured here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moeviz.experiments.exchanged import RANK, fit, step
from moeviz.host import read_figures
from moeviz.leaving import Stopped
from moeviz.panels.controls import choice, switch, whole_slider
from moeviz.panels.running_panel import RunningPanel
from moeviz.pictures import Picture
from moeviz.pictures.costs.measured_exchange import measured_exchange
from moeviz.records.exchanged import (
    CAPACITIES,
    COPIES,
    LIMITS,
    PROCESSES,
    SKEWS,
    TOKENS,
    Exchanged,
    Line,
)
from moeviz.systems.pool import OnWait, Pool

RECORDED, HERE = "recorded", "this machine"
STARTS = "4 to 70 seconds"  # seen on two cores, idle and busy
PASSES = 3  # steps that are measured here: a change is answered while it is looked at
SETTING = ("tokens", "skew", "capacity", "limit", "copies")


class MeasuredExchange(RunningPanel):
    """Who sends how many bytes to whom when the small model's experts lie in 2 or 4 processes, and
    how long it takes, beside what is computed. Start makes the processes on this machine; they stay
    until Stop, or until the panel or the kernel ends."""

    told_in_picture = True
    stopped = "The processes have ended."
    presets = {
        "As the router chooses": {"processes": 2, "skew": 0.0},
        "Popular experts": {"skew": 2.0},
        "Half the slots": {"skew": 2.0, "capacity": 0.5},
        "One copy, one process": {"copies": "device", "limit": 1},
    }

    def __init__(self) -> None:
        figures = read_figures("exchanged")
        made = figures["provenance"]
        self._where = {
            int(
                size
            ): f"recorded: {made['device']}, machine load {line['load'][0]:.1f}, {made['date']}"
            for size, line in figures["lines"].items()
        }
        self.recorded = {_key(run): run for run in figures["runs"]}
        self._exchanges = len(Exchanged.read(figures["runs"][0]).legs)  # of both passes
        self.lines = {int(size): Line.read(v) for size, v in figures["lines"].items()}
        self.live: dict[Any, Exchanged] = {}  # by setting, of the processes that run
        self.line: Line | None = None
        self.pool: Pool | None = None
        buttons = self.run_buttons(_label(PROCESSES[0]), f"On this machine; it takes {STARTS}")
        self._run, stop = buttons
        stop.tooltip = "End what runs, and the processes"
        copies = zip(("each expert", "each process"), COPIES, strict=True)
        slots = [("all find a slot", CAPACITIES[0]), *((f"{c:g}", c) for c in CAPACITIES[1:])]
        limits = zip(("none", "1 process"), LIMITS, strict=True)
        super().__init__(
            [
                *buttons,
                {
                    "figures": choice("Figures", (RECORDED, HERE), RECORDED, "auto"),
                    "processes": choice("Processes", PROCESSES, PROCESSES[0], "44px"),
                },
            ],
            {
                "skew": choice("Skew", [(f"{skew:g}", skew) for skew in SKEWS], SKEWS[0], "44px"),
                "copies": choice("A copy for", [*copies], COPIES[0], "auto"),
            },
            more=[
                {
                    "capacity": choice("Capacity", slots, CAPACITIES[0], "auto"),
                    "limit": choice("Limit", [*limits], LIMITS[0], "auto"),
                },
                {
                    "tokens": choice("Tokens", TOKENS, TOKENS[-1], "56px"),
                    "whole": switch("The backward pass too"),
                },
                # Pressed in the picture; 0 is all of them.
                {"exchange": whole_slider("Exchange", 0, self._exchanges, 0)},
            ],
        )

    # What is shown.

    @property
    def _setting(self) -> dict[str, Any]:
        return {name: self.values[name] for name in SETTING}

    @property
    def _warm(self) -> bool:
        """Whether as many processes as are chosen stand ready."""
        pool = self.pool
        return pool is not None and pool.size == self.values["processes"] and pool.ready

    def check_state(self, given: dict[str, str]) -> None:
        """With the backward pass any exchange may be meant."""
        self.controls["exchange"].max = self._exchanges

    def draw(self) -> Picture | None:
        chosen, last = self.controls["exchange"], self._exchanges
        if not self.values["whole"]:
            last //= 2
        with self.quietly():
            if chosen.value > last:
                chosen.value = 0
            chosen.max = last
        size, here = self.values["processes"], self.values["figures"] == HERE
        self._run.description = "↻ Measure again" if self._warm else _label(size)
        exchanged = self.live.get(_key(self.values)) if here else None
        line, where = self.line, f"measured here, in {size} processes"
        if exchanged is None and here and self._warm and not self._running:
            self.say("Measuring…")
            self._stop.clear()
            self.worker.ask(self._measure_one)
            return None
        if exchanged is None or line is None:
            exchanged, line = self._recorded(size)
            where = self._where[size]
            if here:
                where += f" · press {_label(size)}"
        return self.shown(
            measured_exchange(
                exchanged, line, whole=self.values["whole"], skew=self.values["skew"],
                capacity=self.values["capacity"], limit=self.values["limit"], where=where,
                exchange=self.values["exchange"],
            )
        )  # fmt: skip

    def _recorded(self, size: int) -> tuple[Exchanged, Line]:
        return Exchanged.read(self.recorded[_key(self.values)]), self.lines[size]

    # What is measured.

    def measure(self) -> Callable[[], None]:
        size = self.values["processes"]

        def work() -> None:
            try:
                self._begin(size)
            except (Stopped, ValueError):  # what is left of them serves nobody
                self._end_processes()
                raise

        return work

    def _begin(self, size: int) -> None:
        """Have so many processes, time messages between them, and show this machine."""
        if not self._warm:
            self._end_processes()
            self.pool = Pool(RANK, size)
            self.pool.start(self._waiting(f"Starting {size} processes (takes {STARTS})"))
        assert self.pool is not None
        self.live = {}
        self.line = fit(self.pool, self._waiting("Messages of several sizes travel"))
        with self.quietly():
            self.controls["figures"].value = HERE
        self._opened_with = self._opened_with | {"figures": HERE}  # presets stay here

    def _measure_one(self) -> None:
        """The step of the controls as they are now, on processes that stand ready."""
        values, setting = self.values, self._setting
        if self._warm and self.pool is not None:
            try:
                found = step(self.pool, setting, PASSES, self._waiting("Measuring"))
            except Stopped:
                self._end_processes()
                self.told_stopped()
                return
            self.live[_key(values)] = found
        self.refresh()

    def _waiting(self, what: str) -> OnWait:
        """Tells the learner how long it has taken, and the wait whether to go on."""

        def on_wait(seconds: float) -> bool:
            self.say(f"{what}: {seconds:.0f} s so far…")
            return not self._stop.is_set()

        return on_wait

    # How it ends.

    def _press_stop(self) -> None:
        super()._press_stop()
        if not self.worker.busy:
            self._end_processes()
            self.told_stopped()

    def end(self) -> None:
        super().end()
        if not self.worker.busy:  # who waits for an answer hears of the end, and ends them
            self._end_processes()

    def _end_processes(self) -> None:
        if self.pool is not None:
            self.pool.end()
        self.pool, self.line, self.live = None, None, {}
        self._opened_with = self._opened_with | {"figures": RECORDED}


def _label(size: int) -> str:
    return f"▶ Start {size} processes"


def _key(values: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a step another one."""
    return tuple(values[name] for name in ("processes", *SETTING))
