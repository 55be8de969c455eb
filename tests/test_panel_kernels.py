"""The panels of 12_kernels, driven as a learner would but without a browser."""

import contextlib
import json
import re
import shutil
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("triton")

from helpers.live import wait
from helpers.panels import (
    LOUD,
    at_ease,
    check_refused,
    drawn,
    everything,
    move,
    press,
    said,
    twin,
)
from helpers.patience import PATIENCE
from helpers.pictures import texts
from moeviz import panels
from moeviz.experiments import backends_timed as contest
from moeviz.experiments import recorded as machines
from moeviz.panels import timed_panel
from moeviz.panels import worker as background
from moeviz.panels.kernels import contenders as contenders_module
from moeviz.panels.kernels import roofline as roofline_module
from moeviz.records.dispatch import STAGES

pytestmark = [*LOUD, pytest.mark.usefixtures("a_reader")]


# The dispatch.


def stage_of(panel):
    return re.match(r"Dispatch, step \d+: ([\w-]+)\.", drawn(panel).get("aria-label"))[1]


def test_stepping_walks_through_all():
    panel, stages = panels.Dispatch(), []
    assert stage_of(panel) == "scatter", "it opens where rows have moved"
    last, panel.controls["step"].value = panel.recorded["text"].steps - 1, 0
    for step in range(1, last + 1):
        press(panel, "next")
        assert panel.controls["step"].value == step and panel.drawn.summary in said(panel)
        stages.append(stage_of(panel))
    assert [*dict.fromkeys(stages)] == list(STAGES[1:])


def test_a_stage_is_jumped_to_by_its_chip():
    panel = panels.Dispatch()
    for stage in reversed(STAGES):
        (chip,) = [
            m for m in drawn(panel).iterfind(".//{*}g[@data-press]")
            if m.findtext("{*}title") == f"Go to {stage}"
        ]  # fmt: skip
        panel.state = f"dispatch?{chip.get('data-press')}"
        trace = panel.recorded["text"]
        assert panel.controls["step"].value == trace.step_at(stage)
        assert panel.controls["step"].max == trace.steps - 1
        assert stage_of(panel) == stage


def test_of_a_burst_of_keys_the_first_and_the_last_are_computed(monkeypatch):
    panel, computed, hold = panels.Dispatch(), [], threading.Event()

    def held(values, loaded):
        computed.append(values["text"])
        assert hold.wait(60)
        return panel.recorded["text"]

    monkeypatch.setattr("moeviz.experiments.dispatch.dispatch_of", held)
    typed = [f"t{'o' * key}" for key in range(20)]
    panel.controls["text"].value = typed[0]
    wait(lambda: computed, "the computation of the first key")
    for text in typed[1:]:
        panel.controls["text"].value = text
    assert "moeviz-stale" in panel.picture._dom_classes
    hold.set()
    at_ease(panel)
    assert computed == [typed[0], typed[-1]]
    assert drawn(panel).get("data-state").startswith(panel.state) and typed[-1] in panel.state
    assert "moeviz-stale" not in panel.picture._dom_classes


def test_in_another_batch_the_learner_stays_at_the_stage():
    panel = panels.Dispatch()
    panel.controls["step"].value = panel.recorded["text"].step_at("tiles")
    for name, value in (("tokens", 10), ("sort_block", 16), ("source", "synthetic")):
        panel.controls[name].value = value
        assert stage_of(at_ease(panel)) == "tiles"
        press(panel, "back")
        assert stage_of(panel) == "scatter", "it was the first step of the stage"
        press(panel, "next")


@pytest.mark.parametrize(
    ("where", "error", "sentence"),
    [
        (
            "watch.kernels.kernels_anywhere",
            ValueError("Triton was imported before its interpreter was asked for: restart."),
            "Triton was imported before its interpreter was asked for: restart.",
        ),
        (
            "experiments.dispatch.dispatch_of",
            ImportError("No module named 'torch'"),
            "This needs a package that does not import: No module named 'torch'.",
        ),
    ],
)
def test_where_no_kernel_can_run_the_learner_is_told(where, error, sentence, monkeypatch):
    def refuse(*_):
        raise error

    monkeypatch.setattr(f"moeviz.{where}", refuse)
    panel = panels.Dispatch()
    move(panel, "tokens", 5)
    assert said(panel) == sentence and "unexpected" not in panel.status.value


# The panels that measure.


def case(num_experts, naive=4.0):
    spread = {"median": 1.0, "q1": 0.9, "q3": 1.2}
    shape = contest.shape_of(num_experts, "cpu")
    found = {"loop over W[e]": {"forward_ms": spread, "both_ms": {**spread, "median": naive}},
             "grouped_mm": {"forward_ms": spread, "both_ms": spread},
             "Triton": {"not_run": "needs a GPU"}}  # fmt: skip
    return {"shape": shape, "dtype": "float32", "routing": "uniform", "contenders": found}


def recording(name, kind, cases, **more):
    device = {"name": name, "kind": kind, "dtype": "float32", "copy_gb_per_s": 9.0,
              "matmul_tflops": 0.1}  # fmt: skip
    return {"device": device, "cases": cases, "provenance": {"date": "2026-01-02"}, **more}


@pytest.fixture
def recorded(monkeypatch):
    """Two recorded machines, a GPU with several dtypes and a CPU."""
    gpu = [case(8), {**case(64), "dtype": "bfloat16"}, {**case(64), "routing": "zipf"}]
    found = {
        "A GPU, 2026-01-02": recording("A GPU", "cuda", gpu),
        "A CPU, 2026-01-02": recording("A CPU", "cpu", [case(8), case(256)]),
    }
    for owner in (contenders_module, roofline_module):
        monkeypatch.setattr(owner, "recorded_machines", lambda: found)
    return found


def test_the_contest_runs_in_the_background_and_is_shown(monkeypatch, recorded):
    seen = []

    def measured(num_experts, *, on_turn):
        seen.append(on_turn(1, 2))
        return case(num_experts, naive=80.0)

    monkeypatch.setattr(contest, "contest", measured)
    panel = panels.Contenders()
    panel.controls["machine"].value = timed_panel.HERE
    assert "Nothing is measured on this machine yet." in said(panel)
    panel.controls["case"].value = "64 experts"
    press(panel, "run")
    at_ease(panel)
    assert seen == [True] and "80.0 times as long" in said(panel)
    assert "64 experts · this machine, float32" in texts(panel.drawn)
    panel.controls["case"].value = "8 experts"
    assert "Nothing is measured" in said(panel)


def test_a_measurement_can_be_stopped_and_says_how_far_it_is_and_what_breaks(monkeypatch, recorded):
    begun = threading.Event()

    def endless(num_experts, *, on_turn):
        while on_turn(1, 4):
            begun.set()
            time.sleep(0.01)
        raise contest.Stopped

    def breaks(num_experts, *, on_turn):
        raise ValueError("The GPU is gone.")

    monkeypatch.setattr(contest, "contest", endless)
    panel = panels.Contenders()
    press(panel, "run")
    assert begun.wait(PATIENCE) and "25 % done" in said(panel)
    press(panel, "run")  # pressed twice it is one
    panel.controls["case"].value = panel.controls["case"].options[-1]
    assert "25 % done" in said(panel), "a redraw does not hide the progress"
    press(panel, "stop")
    at_ease(panel)
    assert said(panel) == "Stopped: nothing was changed."
    panel.refresh()
    assert "Nothing is measured" in said(panel)
    monkeypatch.setattr(contest, "contest", breaks)
    press(panel, "run")
    assert said(at_ease(panel)) == "The GPU is gone."


def test_the_recorded_cpu_of_the_prediction_is_a_button():
    panel = panels.Contenders()
    panel._try("256 experts on a CPU")
    rows = {"loop over W[e]", "loop over W.unbind()", "grouped_mm"}
    assert rows < {*texts(panel.drawn)} and "CPU" in panel.controls["machine"].value
    for against in ("dense, equal active FLOPs", "loop over W[e]"):  # the first was not timed there
        panel.controls["against"].value = against
        base = panel.controls["against"].value.replace("the fastest that routes", "grouped_mm")
        assert f"{base} = 1×" in texts(panel.drawn), "as the picture has it"


def test_the_layers_on_offer_are_those_of_the_machine(recorded):
    panel = panels.Contenders()
    assert panel.controls["case"].options == (
        "8 experts, float32", "64 experts, bfloat16", "64 experts, skewed, float32",
    )  # fmt: skip
    assert panel.controls["case"].value.startswith("64 experts, bfloat16")
    assert timed_panel.NO_GPU not in said(panel)
    panel.controls["machine"].value = "A CPU, 2026-01-02"
    assert panel.controls["case"].options == ("8 experts", "256 experts")
    panel.controls["case"].value = "256 experts"
    second = panels.Contenders()
    second.state_box.value = panel.state
    assert everything(second) == everything(panel)
    sentence = "case must be one of 8 experts, 256 experts"
    check_refused(second, panel.state.replace("256", "99"), sentence)


def test_without_any_recording_the_panels_still_open(monkeypatch):
    for owner in (contenders_module, roofline_module):
        monkeypatch.setattr(owner, "recorded_machines", dict)
    for kind in (panels.Contenders, panels.Roofline):
        panel = kind()
        assert panel.here and timed_panel.NO_GPU in said(panel)
        assert "measured" in said(panel)


def test_the_roofline_is_measured_here(monkeypatch, recorded):
    run = recording("Here", "cpu", [], layer=roofline_module.LAYER,
                    points=[{"tokens": 16, "flops_per_s": 2e9}])  # fmt: skip
    monkeypatch.setattr(contest, "machine", lambda on_turn: run)
    panel = panels.Roofline()
    assert ">A GPU · 8 experts of" in panel.picture.value
    assert "8 experts (loop over" in panel.picture.value
    for tokens in roofline_module.TOKENS:
        panel.controls["tokens"].value = tokens
        assert f"T = {tokens:,} token" in panel.picture.value
    press(panel, "run")
    at_ease(panel)
    assert panel.here and ">Here · 64 experts" in panel.picture.value
    assert "T = 16: " in panel.picture.value and "2 GFLOP/s measured" in panel.picture.value


@pytest.mark.xdist_group("layer_report")
def test_what_the_layer_benchmark_writes_is_drawn(layer_report, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    shutil.copy(layer_report, tmp_path / "runs")
    monkeypatch.setattr(machines, "data_path", lambda *parts: tmp_path.joinpath(*parts))
    run = json.loads(layer_report.read_text(encoding="utf-8"))
    name = f"{run['device']['name']}, {run['provenance']['date']}"
    contest, roof = panels.Contenders(), panels.Roofline()
    for panel in (contest, roof):
        assert panel.controls["machine"].value == name
        assert "unexpected" not in panel.status.value and panel.drawn.summary in said(panel)
    assert contest.controls["case"].value == "8 experts of width 32, 64 tokens"
    contest.show_table.value = True
    found = run["cases"][0]["contenders"]
    assert {"moeviz grouped", "torch grouped_mm", "dense, equal active FLOPs"} <= found.keys()
    assert {row[0] for row in twin(contest)[0][1:]} == found.keys()
    assert f">{run['device']['name']} · 8 experts of width 32" in roof.picture.value
    assert "8 experts of width 32, 64 tokens (" in roof.picture.value


@pytest.mark.xdist_group("layer_report")
def test_a_benchmark_that_finished_no_case_is_not_offered(layer_report, tmp_path, monkeypatch):
    run = json.loads(layer_report.read_text(encoding="utf-8"))
    (tmp_path / "layer_here.json").write_text(json.dumps({**run, "cases": []}), encoding="utf-8")
    monkeypatch.setattr(machines, "data_path", lambda *parts: tmp_path)
    assert machines.recorded_machines() == {}
    for kind in (panels.Contenders, panels.Roofline):
        assert kind().here


def test_a_real_contest_of_the_smallest_kind(monkeypatch):
    monkeypatch.setattr(contest, "ROUNDS", 2)
    told = []
    found = contest.contest(8, on_turn=lambda done, total: not told.append((done, total)))
    times = {n: c for n, c in found["contenders"].items() if "forward_ms" in c}
    assert list(found["contenders"]) == list(contest.CONTENDERS) and "grouped_mm" in times
    assert all(c["both_ms"]["q1"] <= c["both_ms"]["median"] <= c["both_ms"]["q3"]
               for c in times.values())  # fmt: skip
    assert told[-1][0] == told[-1][1] == 4 * len(times)
    with pytest.raises(contest.Stopped):
        contest.contest(8, on_turn=lambda done, total: False)


def test_a_worker_serves_the_latest_and_rests():
    pulse = SimpleNamespace(begin=lambda: None)
    worker = background.Worker("moeviz-test", contextlib.nullcontext, pulse)
    done, begun, hold = [], threading.Event(), threading.Event()
    worker.ask(lambda: (begun.set(), hold.wait(PATIENCE)))
    begun.wait(PATIENCE)  # or the next would take its place
    for number in range(5):
        worker.ask(lambda n=number: done.append(n))
    hold.set()
    wait(lambda: done == [4], "the latest")
    worker.ask(lambda: done.append(9))
    wait(lambda: done == [4, 9], "one more")
