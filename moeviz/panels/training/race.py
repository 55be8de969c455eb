"""A dense and an MoE model of equal active parameters, training side by side."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from moeviz.costs.cost.energy import assumed_device
from moeviz.experiments.larger import LARGE, SMALL, size_of
from moeviz.experiments.recorded import recorded_runs
from moeviz.host import device_name, read_figures
from moeviz.panels.controls import choice, seed_box, size_choice, slider
from moeviz.panels.sized_panel import SizedPanel
from moeviz.pictures import Picture
from moeviz.pictures.over_seeds import Figure, interval_words
from moeviz.pictures.training.race import JOULES, race
from moeviz.pictures.training.settings import Setting
from moeviz.power import PowerMeter
from moeviz.predictions.prediction import ANSWERS
from moeviz.records.compare import compare
from moeviz.records.luck import SeedsOfRace
from moeviz.records.metrics import gap
from moeviz.records.runs import Snapshot, powered

if TYPE_CHECKING:
    from moeviz.training.live import Frame
    from moeviz.training.trainer import Trainer

AXIS_OPTIONS = (
    ("steps", "step"), ("FLOPs", "flops"), ("seconds", "seconds"), ("joules", JOULES),
)  # fmt: skip
# 0: as measured, or by the TDP of the device that a run was made on.
WATTS = (("measured, or TDP", 0), *((f"{watts} W", watts) for watts in (15, 65, 125, 250, 700)))
# Of each there is a recorded race, of `experiment race_settings` or of `experiment race`.
EXPERTS = (4, 16, 32)
CHOICES = (1, 2, 4)
SETTINGS = "race_settings"  # recorded beside other work: its speeds are no speeds of the machine
ACTIVE_WIDTH = 256  # of both models at the small size

Configuration = tuple[int, int, int, str]  # E, K, seed, size


class Race(SizedPanel):
    """Play, pause, step and reset a race; switch its x-axis; drag its timeline back."""

    called = "race"
    trained = "both models"
    series_label = "then race the next seed"
    labels = ("dense", "MoE")
    presets = {
        "2 of 16 experts": {"experts": 16, "top_k": 2},
        "2 of 4 experts": {"experts": 4},
        "4 of 32 experts": {"experts": 32, "top_k": 4},
        "By the clock": {"axis": "seconds"},
    }
    # The results of this process: a panel made anew goes on with them.
    _scores: ClassVar[dict[Configuration, dict[str, float]]] = {}

    def __init__(self) -> None:
        self._recorded, self._made = self._all_recorded()
        self._meter = PowerMeter()
        self._beside_work = {key for key, made in self._made.items() if SETTINGS in made["command"]}
        self._seeds, self._ahead = _over_seeds()
        super().__init__(
            {
                "experts": choice("Experts E", EXPERTS, 16, "44px"),
                "top_k": choice("Choices K", CHOICES, 2, "44px"),
            },
            last={"axis": choice("x-axis", AXIS_OPTIONS, "step", "80px")},
            more=[
                {"seed": seed_box(), **size_choice(max(EXPERTS), ACTIVE_WIDTH)},
                {"watts": slider("Watts", WATTS, 0)},
            ],
        )

    # What is recorded.

    def _all_recorded(
        self,
    ) -> tuple[dict[Configuration, list[Snapshot]], dict[Configuration, dict[str, Any]]]:
        """The learners of each recorded race, and where it was made. The races of several seeds
        have a third one: dense, with the parameters of all experts."""
        runs, made = {}, {}
        controls, _ = recorded_runs("race_control")
        for name, thirds in ((SETTINGS, []), ("race", controls)):
            races, provenance = recorded_runs(name)
            for i, moe in enumerate(races[1::2]):
                key = self._configured(moe.meta)
                runs[key] = [*races[2 * i : 2 * i + 2], *thirds[i : i + 1]]
                made[key] = provenance
        return runs, made

    def _settings(self) -> list[Setting]:
        """Every number of experts and of choices, which a press shows."""
        rows = []
        for experts, top_k in product(EXPERTS, CHOICES):
            key = experts, top_k, 0, SMALL
            press = {"experts": experts, "top_k": top_k, "seed": 0}
            name, chosen = f"E = {experts}, K = {top_k}", key == self._chosen
            rows.append(Setting(name, self._ahead[experts, top_k], press, chosen))
        return rows

    # Drawing.

    def _picture(self, learners: list[Snapshot], note: str) -> Picture:
        axis = self.controls["axis"].value
        beside_work = not self.live and self._chosen in self._beside_work
        settings, (_, power) = self._settings(), self._power()
        return race(
            learners, axis, note=note, settings=settings, luck=self._luck(learners, axis),
            beside_work=beside_work, power=power,
        )  # fmt: skip

    def _luck(self, learners: list[Snapshot], axis: str) -> list[tuple[float, float]]:
        """How far luck alone goes in a race of this setting; none for the large models, whose
        seeds are not recorded."""
        dense, moe = learners[:2]
        key = self._configured(moe.meta) if self.live else self._chosen
        experts, top_k, _, size = key
        if size == LARGE:
            return []
        return self._seeds[experts, top_k].luck(dense.curve, moe.curve, axis)

    def _learners(self) -> tuple[list[Snapshot], str]:
        learners, note = self._without_power()
        return [powered(run, self._power()[0]) for run in learners], note

    def _without_power(self) -> tuple[list[Snapshot], str]:
        if self.live:
            named = _named(self._configured(self.live[-1].meta))
            return [*self.live], f"live: {named}{self._aside}"
        if self._chosen in self._recorded:
            learners, made = self._recorded[self._chosen], self._made[self._chosen]
            words = f"recorded, not live: {_named(self._chosen)}"
            return learners, f"{words} · {made['device']} · {made['date']}"
        any_two = next(iter(self._recorded.values()))[:2]
        return [run.at("step", 0) for run in any_two], "not recorded: Play races it here"

    def _power(self) -> tuple[float, str]:
        """The watts of the learners that are shown, and where they are from, in words."""
        if chosen := self.controls["watts"].value:
            return chosen, f"{chosen} W as chosen"
        if self.live and (measured := self._meter.watts):
            return measured, f"{measured:.0f} W as measured ({self._meter.source})"
        recorded = not self.live and self._chosen in self._made
        device = assumed_device(self._made[self._chosen]["device"] if recorded else device_name())
        assert device.watts is not None
        name = device.name.partition(",")[0]
        return device.watts, f"{device.watts:g} W assumed, the TDP of a {name}"

    def _on_frame(self, frame: Frame) -> None:
        self._meter.tick(frame.status == "playing")
        super()._on_frame(frame)

    # The run.

    def _configuration(self) -> Configuration:
        values = self.values
        return values["experts"], values["top_k"], values["seed"], values.get("size", SMALL)

    def _set_controls_to(self, configuration: Any) -> None:
        keys = ("experts", "top_k", "seed", "size")
        self._set_sized(dict(zip(keys, configuration, strict=True)))

    def _configured(self, meta: dict[str, Any]) -> Configuration:
        experts, train = meta["model"]["moe"], meta["train"]
        return experts["num_experts"], experts["top_k"], train["seed"], size_of(train)

    def _build(self, configuration: Any, folder: Path | None) -> dict[str, Trainer]:
        from moeviz.experiments.race import build_race, resume_race

        if folder is None:
            experts, top_k, seed, size = configuration
            return build_race(experts, top_k, seed, size=size)
        return resume_race(folder, *configuration) or {}

    # The score over seeds.

    def _keep_score(self, frame: Frame) -> None:
        dense, moe = frame.learners
        gaps = {axis: gap(dense.curve, moe.curve, axis) for axis in ("step", "seconds")}
        self._scores.setdefault(self._configured(moe.meta), gaps)

    def _score_lines(self) -> list[str]:
        """Every finished race, and how the learner's prediction did."""
        lines = []
        by_kind: dict[tuple[int, int, str], list[dict[str, float]]] = {}
        for (experts, top_k, _, size), gaps in self._scores.items():
            by_kind.setdefault((experts, top_k, size), []).append(gaps)
        for (experts, top_k, size), races in sorted(by_kind.items(), key=lambda item: item[0]):
            large = f", {LARGE}" * (size == LARGE)
            ends = []
            for axis, words in (("step", "at equal steps"), ("seconds", "at equal seconds")):
                values = [gaps[axis] for gaps in races]
                ahead = f"MoE ahead in {sum(v > 0 for v in values)} of {len(values)}"
                ends.append(f"{words} {ahead}{_by(values)}")
            lines.append(f"Races here: E = {experts}, K = {top_k}{large}: {'; '.join(ends)}.")
        for axis, per in (("step", "step"), ("seconds", "second")) if lines else ():
            if said := ANSWERS.get(f"01.{axis}"):
                wins = sum(gaps[axis] > 0 for gaps in self._scores.values())
                lines.append(
                    f"You said “{said}” per {per}; here MoE was ahead in {wins} of "
                    f"{len(self._scores)} races."
                )
        return lines


def _over_seeds() -> tuple[dict[tuple[int, int], SeedsOfRace], dict[tuple[int, int], Figure]]:
    """The losses of the recorded seeds, and who ends ahead over them: by experts and choices."""
    recorded = read_figures(SETTINGS)
    step, dense = np.array(recorded["steps"]), np.array(recorded["dense"]["validation"])
    seeds, ahead = {}, {}
    for row in recorded["MoE"]:
        two = row["experts"], row["top_k"]
        seeds[two] = SeedsOfRace(step, dense, np.array(row["validation"]))
        ahead[two] = row["ahead"]
    return seeds, ahead


def _by(values: list[float]) -> str:
    """The mean lead of MoE and its interval, over the races whose curves meet on an axis."""
    met = [value for value in values if not math.isnan(value)]
    if not met:
        return ""
    lead = compare(met, np.zeros(len(met)))
    return f", by {lead.mean:+z.3f} nats ({interval_words(lead)})"


def _named(configuration: Configuration) -> str:
    experts, top_k, seed, size = configuration
    return f"E = {experts}, K = {top_k}, seed {seed}" + f", {LARGE}" * (size == LARGE)
