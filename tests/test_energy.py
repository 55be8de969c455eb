"""Joules and carbon of a run: by hand, by counters of a made machine, and on the axis of a race."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeviz import power
from moeviz.costs import DEVICES, GRIDS, assumed_device, footprint
from moeviz.costs.cost.energy import LAPTOP
from moeviz.experiments.recorded import recorded_runs
from moeviz.panels.training.race import Race
from moeviz.power import PowerMeter
from moeviz.records.runs import powered


def test_a_footprint_by_hand():
    # A heater of 1 kW for an hour is a kWh.
    found = footprint(3600, 1000, 0.481)
    assert (found.joules, found.kwh) == (3.6e6, 1.0) and found.co2_grams == pytest.approx(481)
    assert [term.value for term in found.terms] == [found.joules, found.kwh, found.co2_grams]


@given(*[st.floats(0, 1e6)] * 2, st.floats(0, 2), st.floats(0, 100))
def test_a_footprint_grows_with_each_of_its_factors(seconds, watts, intensity, times):
    one, more = footprint(seconds, watts, intensity), footprint(times * seconds, watts, intensity)
    assert more.co2_grams == pytest.approx(times * one.co2_grams)
    assert footprint(seconds, times * watts, intensity).joules == pytest.approx(times * one.joules)


@pytest.mark.parametrize("given_values", [(-1, 45, 0.4), (1, -45, 0.4), (1, 45, float("nan"))])
def test_impossible_runs_are_refused(given_values):
    with pytest.raises(ValueError, match="must be a finite number of at least 0"):
        footprint(*given_values)


def test_every_grid_says_its_year_and_source():
    assert all(2020 <= g.year <= 2026 and g.source and g.confidence for g in GRIDS.values())
    intensity = [grid.kg_per_kwh for grid in GRIDS.values()]
    assert intensity == sorted(intensity) and 0.01 < intensity[0] and intensity[-1] < 1


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200 SXM"),
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-80GB", "A100-80G SXM"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA T400 4GB", LAPTOP.name),
        ("x86_64 CPU, 2 cores", LAPTOP.name),
    ],
)
def test_a_device_is_known_by_its_name(name, device):
    assert assumed_device(name) is DEVICES[device]
    assert assumed_device(name).watts


# --- measured -------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Two processors with a counter each, a part of one, and a clock; both move by `spend`."""
    for name, label in (
        ("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1"),
        ("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys"),
    ):  # fmt: skip
        place = tmp_path / name
        place.mkdir()
        (place / "name").write_text(label + "\n")
        (place / "energy_uj").write_text("0\n")
        (place / "max_energy_range_uj").write_text("1000000000\n")
    clock, at = [0.0], [0, 0]
    monkeypatch.setattr(power.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(power, "_gpu_watts", lambda: None)

    def spend(seconds, watts):
        clock[0] += seconds
        for i in range(2):
            at[i] = (at[i] + int(seconds * watts * 5e5)) % 1_000_000_000
            (tmp_path / f"intel-rapl:{i}" / "energy_uj").write_text(f"{at[i]}\n")

    return tmp_path, spend


def test_watts_are_the_mean_over_the_time_at_work(machine):
    counters, spend = machine
    meter = PowerMeter(counters)
    assert meter.watts is None
    meter.tick(True)
    spend(2, 40)
    meter.tick(True)
    spend(6, 80)
    meter.tick(False)  # paused
    spend(100, 5)
    meter.tick(True)
    spend(2, 80)
    meter.tick(True)
    assert meter.watts == pytest.approx((2 * 40 + 8 * 80) / 10)
    assert meter.source == power.RAPL


def test_a_counter_that_begins_anew_is_read_on(machine):
    counters, spend = machine
    spend(1, 1800)  # close to the end of both
    meter = PowerMeter(counters)
    meter.tick(True)
    spend(4, 100)
    meter.tick(True)
    assert meter.watts == pytest.approx(100)


def test_a_counter_that_is_taken_away_or_was_never_there_measures_nothing(machine, tmp_path):
    counters, spend = machine
    meter, without = PowerMeter(counters), PowerMeter(tmp_path / "nothing")
    meter.tick(True)
    (counters / "intel-rapl:1" / "energy_uj").unlink()
    (counters / "intel-rapl:0" / "energy_uj").unlink()
    for each in (meter, without):
        each.tick(True)
        each.tick(True)
        assert each.watts is None


def test_a_gpu_is_asked_for_itself_alone(machine, monkeypatch):
    counters, spend = machine
    monkeypatch.setattr(power, "_gpu_watts", lambda: 300.0)
    meter = PowerMeter(counters)
    meter.tick(True)
    spend(5, 40)
    meter.tick(True)
    assert meter.watts == pytest.approx(300) and meter.source == power.NVML


# --- the axis of a race ---------------------------------------------------------------------------


def test_joules_are_seconds_times_watts_and_the_run_is_cut_along_them():
    run = recorded_runs("race")[0][0]
    with_joules = powered(run, 50)
    np.testing.assert_allclose(with_joules.curve.joules, 50 * run.curve.seconds)
    middle = float(run.curve.seconds[len(run.curve) // 2])
    cut, want = with_joules.at("joules", 50 * middle), run.at("seconds", middle)
    assert cut.step == want.step and len(cut.curve.joules) == len(want.curve)
    assert dataclasses.asdict(run.curve).keys() < dataclasses.asdict(with_joules.curve).keys()


def test_a_race_says_by_which_watts_it_counts_joules_and_that_they_are_an_estimate():
    panel = Race()
    panel.controls["axis"].value = "joules"
    assert (
        "joules (estimate), seconds × 45 W assumed, the TDP of a Laptop CPU" in panel.picture.value
    )
    order = panel.drawn.summary.partition(" J")[0]
    panel.controls["watts"].value = 250
    assert "joules (estimate), seconds × 250 W as chosen" in panel.picture.value
    assert panel.drawn.summary.partition(" J")[0] != order
    # By whatever watts, the order is that of the seconds.
    lead = panel.drawn.summary.partition("ahead by")[2]
    panel.controls["axis"].value = "seconds"
    assert panel.drawn.summary.partition("ahead by")[2] == lead
    assert "joules" not in panel.picture.value.partition("<table")[0].replace("By the", "")
    panel.close()
