"""The benchmarks run, check what they time and say what they leave out; how long anything takes is
never asserted. A GPU's path runs here on a stand-in for torch.cuda."""

import contextlib
import dataclasses
import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.autograd import DeviceType

import layer
import layer_contenders
import layer_shapes
import layer_study
import profiling
import sanitize
from layer_contenders import ABSENT, DENSE, OURS, Problem
from layer_shapes import SHAPES, Shape
from moeviz.watch import timing
from moeviz.watch.timing import Ceilings

CPU = torch.device("cpu")
SMALL = Shape(tokens=10, d_model=8, d_expert=4, num_experts=5, top_k=2)
LOOP = "naive loop over W[e]"
PEERS = [
    "torch grouped_mm",
    *(f"transformers Mixtral {name}" for name in ("grouped_mm", "batched_mm", "eager")),
    LOOP,
    DENSE,
]
TIMES = ("forward_ms", "inference_ms", "backward_ms", "both_ms")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Nothing is repeated for the sake of its time, and no ceiling is measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            layer_study, "by_turns", lambda *given: timing.by_turns(*given, turn_seconds=0.0)
        )
        patch.setattr(layer_study, "ceilings", lambda *_: Ceilings(0.1, 10.0))
        patch.setattr(layer_study, "matmul_tflops", lambda *_: 0.05)
        yield


def bench(path, *more):
    """The exit status and the report of a tiny layer benchmark."""
    command = ["--shapes", "tiny", "--rounds", "2", "--device", "cpu", "--json", str(path), *more]
    return layer.main(command), json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.xdist_group("layer_report")
def test_every_contender_is_measured_and_right(layer_report, tmp_path):
    pytest.importorskip("transformers")  # a peer's, which not all test with
    report = json.loads(layer_report.read_text(encoding="utf-8"))
    assert report["failures"] == [] and report["not_run"] == ABSENT
    assert {"triton", "transformers", "liger-kernel"} < set(report["provenance"]["versions"])
    assert report["device"]["kind"] == "cpu" and report["device"]["dtype"] == "float32"
    assert str(tmp_path.parent) not in json.dumps(report)
    (case,) = report["cases"]
    assert case["shape"] == {"name": "tiny", **SHAPES["tiny"]._asdict()}
    assert list(case["contenders"]) == [OURS, "moeviz grouped", *PEERS]
    ran = dict(case["contenders"])
    assert list(ran.pop(OURS)) == ["not_run"]
    for name, result in ran.items():
        assert all(result[key]["median"] > 0 for key in TIMES)
        assert result["first_call_s"] > 0
        # With several threads a peer may add up in another order from run to run.
        assert result["repeatable"] or not name.startswith("moeviz"), name
        assert result["repeated_runs"] >= 2
        errors = {} if name == DENSE else result["relative_error"]
        assert all(0 < error < 1e-5 for error in errors.values()), errors
    # x, gate and up, silu(gate), the hidden rows, in float32.
    assert ran[DENSE]["saved_bytes"] == 4 * 64 * (64 + 2 * 64 + 64 + 64)
    assert list(ran["moeviz grouped"]["of_peers"]) == PEERS
    assert list(ran["torch grouped_mm"]["of_peers"]) == [DENSE]


@pytest.mark.parametrize("factor", [1.01, math.nan])
def test_another_computation_is_a_failure_and_is_timed_all_the_same(
    factor, monkeypatch, tmp_path, capsys
):
    original = layer_contenders.naive_loop
    monkeypatch.setattr(layer_contenders, "naive_loop", lambda *given: factor * original(*given))
    code, report = bench(tmp_path / "layer.json")
    assert code == 1
    assert f"FAILED: {LOOP} computes something else: out is" in capsys.readouterr().out
    assert all(LOOP in failure for failure in report["failures"])
    result = report["cases"][0]["contenders"][LOOP]
    assert result["both_ms"] and result["relative_error"]["out"] > 0.009  # JSON has no NaN


def test_what_does_not_run_says_why_and_ours_has_to_run(monkeypatch, tmp_path, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    def broken(*_, **__):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(layer_contenders, "naive_loop", full)
    monkeypatch.setattr(layer_contenders, "apply_experts", broken)
    code, report = bench(tmp_path / "layer.json")
    assert code == 1
    assert report["failures"] == [
        "moeviz grouped did not run: RuntimeError: an illegal memory access, tiny, uniform routing"
    ]
    results = report["cases"][0]["contenders"]
    assert "is no speed" in results[OURS]["not_run"]
    assert results[LOOP] == {"not_run": "OutOfMemoryError: CUDA out of memory."}
    assert "not run: OutOfMemoryError: CUDA out of memory." in capsys.readouterr().out
    monkeypatch.setattr(Problem, "random", full)
    code, report = bench(tmp_path / "layer.json")
    assert code == 0 and report["cases"] == []
    assert report["not_run"]["tiny, uniform"] == "OutOfMemoryError: CUDA out of memory."


def test_what_the_budget_does_not_reach_is_noted(tmp_path, monkeypatch):
    code, report = bench(tmp_path / "layer.json", "--budget", "0", "--shapes", "tiny,coarse")
    message = "the budget of 0 s was used up"
    assert code == 0 and report["cases"] == []
    assert report["not_run"] == {**ABSENT, "coarse, uniform": message, "tiny, uniform": message}
    looks = iter([None, None, None])  # for the case, the refused first contender and one more
    monkeypatch.setattr(layer_study.Run, "out_of_time", lambda *_: next(looks, "no time"))
    _, report = bench(tmp_path / "layer.json")
    results = report["cases"][0]["contenders"]
    assert "both_ms" in results["moeviz grouped"] and results[DENSE] == {"not_run": "no time"}


# What the times are compared with, by hand.


def test_times_are_divided_within_a_round_and_speeds_follow_from_their_medians():
    run = layer_study.Run(CPU, torch.float32, 2, 60.0)
    quick, slow = (dict.fromkeys(("forward", "backward", "inference", "both"), ms)
                   for ms in ([2.0, 1.0, 2.0], [4.0, 8.0, 6.0]))  # fmt: skip
    ours = "moeviz grouped"
    case = {"shape": {"name": "tiny"}, "routing": "uniform", "limit_ms": {"forward": 3, "both": 9}}
    case["contenders"] = {ours: {}, LOOP: {}, DENSE: {}}
    run.times = {"tiny, uniform routing": {ours: slow, LOOP: quick, DENSE: quick}}
    run.compare(case)
    result = case["contenders"][ours]
    assert list(result["of_peers"]) == [LOOP, DENSE]
    assert list(case["contenders"][LOOP]["of_peers"]) == [DENSE]
    assert result["of_peers"][LOOP]["both"] == {"median": 3.0, "q1": 2.5, "q3": 5.5}
    assert result["both_ms"] == {"median": 6.0, "q1": 5.0, "q3": 7.0}
    assert result["of_limit"] == {"forward": 0.5, "both": 1.5}
    assert result["tflops"]["both"] == pytest.approx(18 * 64 * 2 * 64 * 32 / 6e-3 * 1e-12)
    one = layer_shapes.limit_ms(Shape(64, 64, 64, 1, 1), 1, 4, run.ceilings)
    assert case["contenders"][DENSE]["of_limit"]["both"] == pytest.approx(one["both"] / 2)


def test_limit_is_the_larger_of_arithmetic_and_traffic():
    # Forward: x and y 160, 3 experts' weights 288, gate and up of 20 rows 160: 608 elements; then
    # 608 again, 80 for dx and 480 for the gradients of all weights.
    quick_sums = Ceilings(matmul_tflops=1e6, copy_gb_per_s=1.0)
    limit = layer_shapes.limit_ms(SMALL, 3, 2, quick_sums)
    assert limit == pytest.approx({"forward": 2 * 608e-6, "both": 2 * (608 + 608 + 560) * 1e-6})
    # Arithmetic: 6 x 10 x 2 x 8 x 4 FLOPs at 1 kFLOP/s.
    slow_sums = Ceilings(matmul_tflops=1e-9, copy_gb_per_s=1.0)
    limit = layer_shapes.limit_ms(SMALL, 3, 2, slow_sums)
    assert limit == pytest.approx({"forward": 3840.0, "both": 11520.0})


@pytest.mark.parametrize("which", ["out", "dx", "dlogits", "dw13", "dw2"])
def test_errors_are_found_in_the_output_and_in_every_gradient(which, monkeypatch):
    problem = Problem.random(Shape(16, 8, 4, 5, 2), "all-to-one", CPU, torch.float32)
    contender = layer_contenders.naive(problem)
    run, names = contender.run, list(layer_contenders.relative_errors(contender))

    def wrong():
        results = run()
        results[names.index(which)][-1] += 1.0  # of the weights: an expert without tokens
        return results

    monkeypatch.setattr(contender, "run", wrong)
    errors = layer_contenders.relative_errors(contender)
    assert errors.pop(which) > 1e-2 and len(errors) == 4
    assert all(error < 1e-6 for error in errors.values())


def test_slow_steps_get_fewer_turns_and_quick_ones_are_repeated(monkeypatch):
    now, heard = [0.0], []

    def lasts(seconds):
        def run():
            now[0] += seconds

        return timing.single(run)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    turns = timing.by_turns(
        {"quick": lasts(0.001), "slow": lasts(0.02)},
        rounds=5,
        turn_seconds=0.01,
        step_seconds=0.01,
        on_turn=lambda *at: heard.append(at),
    )
    assert np.allclose(turns["quick"], [[1.0]] * 5) and np.allclose(turns["slow"], [[20.0]] * 2)
    assert now[0] == pytest.approx(2 * (0.001 + 0.02) + 5 * 10 * 0.001 + 2 * 0.02)
    assert heard == [(done, 14) for done in range(1, 15)]


# The GPU's path, on a stand-in.


def event(name, us, device=DeviceType.CUDA, **more):
    span = SimpleNamespace(elapsed_us=lambda: us)
    return SimpleNamespace(name=name, device_type=device, time_range=span, **more)


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, other):
        return 1e3 * (other.at - self.at)


class Profile(contextlib.nullcontext):
    def __init__(self, activities):
        assert len(activities) == 2
        super().__init__(self)

    def events(self):
        return [
            event("aten::sort", 999.0, DeviceType.CPU),
            event("range", 999.0, is_user_annotation=True),
            event("gather_sum_kernel", 2.0, is_user_annotation=False),
            event("up_kernel", 5.0),
            event("gather_sum_kernel", 1.0),
            event("void at::native::(anonymous namespace)::fill<int, 4>(int*)", 0.5),
        ]


@pytest.fixture
def stand_in(monkeypatch):
    """torch.cuda as the benchmark uses it, on the CPU. Returns the run and its cases' contenders:
    ours, which is `grouped` here, and the dense one."""
    mode = []
    fakes = {
        "Event": Event,
        "synchronize": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 100,
        "max_memory_allocated": lambda: 300,
        "set_sync_debug_mode": mode.append,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.profiler, "profile", Profile)

    def captured(run):
        """What is captured runs on the CPU as it is captured; a replay does it again."""
        results = run()

        def replay():
            for old, new in zip(results, run(), strict=True):
                old.copy_(new)

        return timing.single(replay), results

    monkeypatch.setattr(layer_study, "captured", captured)
    monkeypatch.setattr(layer_study, "FLUSH_BYTES", 16)
    monkeypatch.setattr(profiling, "PART_S", 0.0)
    monkeypatch.setattr(profiling, "HOST_S", 0.0)
    run = layer_study.Run(CPU, torch.float32, 1, 60.0)
    run.on_gpu = True

    def ours(problem):
        contender = layer_contenders.moeviz(problem, "grouped")
        contender.graph = True
        return contender

    contenders = {OURS: ours, DENSE: layer_contenders.dense}
    monkeypatch.setattr(layer_study, "builders", lambda *_: contenders)
    apart = {"apart": layer_contenders.torch_grouped_mm, "refused": layer_contenders.moeviz_triton}
    monkeypatch.setattr(layer_study, "apart_builders", lambda *_: apart)
    yield run, contenders
    assert mode == ["warn", "default"] * (len(mode) // 2)


def test_on_a_gpu_all_is_measured(stand_in, monkeypatch):
    run, contenders = stand_in
    monkeypatch.setattr(layer_study, "LONG", ("tiny",))
    case, saved = run.case("tiny", "zipf"), []
    assert 2.5 < case["max_over_mean_load"] < 8
    assert case["kernels"] == []  # the profiler would slow down the cases after this one
    run.profile([case], lambda: saved.append(len(case["kernels"])))
    assert run.failures == [] and saved == [3]
    results = case["contenders"]
    for name in contenders:
        for key in (*TIMES, "graph_forward_ms", "graph_both_ms"):
            assert set(results[name][key]) == {"median", "q1", "q3"}, (name, key)
        assert results[name]["launches"] == {"forward": 4, "both": 4}
        assert results[name]["peak_bytes"] == 200 and results[name]["syncs"] == 0
        assert all(results[name]["host_ms"][part] > 0 for part in ("forward", "backward"))
        assert [part["ms"] > 0 for part in results[name]["long_run"]] == [True] * 4
        assert "notes" not in results[name]
    assert list(results[OURS]["of_peers"]) == [DENSE]
    rows = [(row["name"], row["calls"], row["of"]) for row in case["kernels"]]
    assert rows == [
        ("up_kernel", 0.2, "matmul"), ("gather_sum_kernel", 0.4, "copy"),
        ("at::native::fill", 0.2, None),
    ]  # fmt: skip
    # At the ceiling of 0.1 TFLOP/s, in the 1 us that a step takes of the five.
    flops = layer_shapes.kernel_work(SHAPES["tiny"], 4)["up_kernel"][0]
    assert case["kernels"][0]["share"] == pytest.approx(flops / 1e-6 / 0.1e12)
    text = layer.table(case)
    assert (
        "  as a CUDA graph" in text
        and "host: forward" in text
        and "up_kernel" in text
        and "% of matmul" in text
    )


def test_on_a_gpu_contenders_are_timed_down_their_list_and_up_again(stand_in, monkeypatch):
    run, _ = stand_in
    steps = {name: SimpleNamespace(training_step=name, inference_step=name) for name in "ABC"}
    timed = []

    def on_gpu(step, budget, flush):
        timed.append(step)
        return [[float(len(timed)), 0.0]]

    monkeypatch.setattr(layer_study, "on_gpu", on_gpu)
    monkeypatch.setattr(run, "flush", lambda contender: None)
    times = run.there_and_back(steps, {"contenders": {name: {} for name in steps}})
    assert "".join(timed) == "AABBCCCCBBAA", "training and inference of each"
    assert times["B"]["forward"] == [3.0, 9.0] and times["B"]["inference"] == [4.0, 10.0]


def test_on_a_gpu_what_fails_is_said_and_does_not_take_the_times_along(stand_in, monkeypatch):
    """No profiler, a graph that replays something else, and bits that change from run to run."""
    run, contenders = stand_in
    ours = contenders[OURS]

    def no_profiler(*_):
        raise RuntimeError("no profiler here")

    def unsteady(problem):
        contender = ours(problem)
        forward = contender.forward
        contender.forward = lambda x, logits: forward(x, logits) * (1 + 1e-6 * torch.rand(()))
        return contender

    contenders[OURS] = unsteady
    monkeypatch.setattr(profiling, "device_events", no_profiler)
    monkeypatch.setattr(layer_study, "captured", lambda run: (timing.single(int), run()))
    case = run.case("tiny", "uniform")
    run.profile([case], lambda: None)
    assert run.failures == [f"{OURS} is not repeatable bit for bit: tiny, uniform routing"]
    result = case["contenders"][OURS]
    replay = "ValueError: the replay of the CUDA graph computes something else"
    assert result["notes"] == {
        "launches": "RuntimeError: no profiler here",
        "graph_forward_ms": replay,
        "graph_both_ms": replay,
    }
    assert case["notes"] == {"kernels": "RuntimeError: no profiler here"}
    assert result["launches"] == {"forward": None, "both": None} and case["kernels"] == []
    assert result["graph_both_ms"] is None and result["both_ms"]["median"] > 0
    assert f"{OURS:32}not run" not in layer.table(case)


def test_a_peer_apart_takes_turns_with_ours(stand_in):
    run, contenders = stand_in
    answer = run.beside("tiny", "zipf", "apart")
    assert answer["failures"] == [] and set(answer["of_ours"]) == {"forward", "inference", "both"}
    assert answer["result"]["both_ms"]["median"] > 0 and answer["result"]["repeated_runs"] >= 2
    assert len(answer["result"]["timed"]) == 2, "before ours and after it"
    with pytest.raises(layer_contenders.NotRun, match="need an NVIDIA GPU"):
        run.beside("tiny", "zipf", "refused")
    contenders[OURS] = layer_contenders.moeviz_triton
    assert run.beside("tiny", "zipf", "apart")["of_ours"] is None


def test_a_wrong_peer_apart_is_a_failure_of_its_own_item(stand_in, monkeypatch):
    run, _ = stand_in
    original = layer_contenders.torch_grouped_mm

    def wrong(problem):
        contender = original(problem)
        return dataclasses.replace(contender, forward=lambda *g: 1.01 * contender.forward(*g))

    monkeypatch.setattr(layer_study, "apart_builders", lambda *_: {"x": wrong, "right": original})
    failures = run.beside("tiny", "uniform", "x")["failures"]
    assert failures and all("x computes something else" in words for words in failures)
    assert run.beside("tiny", "uniform", "right")["failures"] == []


def test_the_chips_clock_stands_beside_what_was_timed():
    result = {"timed": [(1.0, 2.0)], "long_run": [{"ms": 1.0, "timed": [(3.0, 4.0)]}]}
    case = {"contenders": {OURS: result, DENSE: {"not_run": "no time"}}}
    chip = SimpleNamespace(medians=lambda spans: {"sm_mhz": 1000 * spans[0][0]})
    for _ in range(2):  # a report is written more than once
        layer.add_chip(case, chip)
        assert case["contenders"] == {
            OURS: {
                "chip": {"sm_mhz": 1000.0},
                "long_run": [{"ms": 1.0, "chip": {"sm_mhz": 3000.0}}],
            },
            DENSE: {"not_run": "no time"},
        }


def test_a_gpus_report_has_the_chip_in_place_of_the_moments(monkeypatch, tmp_path):
    def study(run, cases, done, not_run, save):
        shape = {"name": "teach", **SHAPES["teach"]._asdict()}
        timed = {"not_run": "no time", "timed": [(1.0, 2.0)]}
        done.append({"shape": shape, "contenders": {OURS: timed}})
        save()
        assert "timed" not in timed

    class Watched(contextlib.AbstractContextManager):
        def __exit__(self, *_):
            pass

        def medians(self, spans):
            return {"sm_mhz": 1980.0, "samples": len(spans)}

        def __str__(self):
            return "9 samples"

    run = SimpleNamespace(on_gpu=True, ceilings=Ceilings(1.0, 1.0), failures=[])
    monkeypatch.setattr(layer, "Run", lambda *_: run)
    monkeypatch.setattr(layer, "describe", lambda run: {"name": "NVIDIA H200"})
    monkeypatch.setattr(layer, "table", lambda case: "")
    monkeypatch.setattr(layer, "study", study)
    monkeypatch.setattr(layer, "Chip", Watched)
    _, report = bench(tmp_path / "layer.json")
    assert report["cases"][0]["contenders"][OURS]["chip"] == {"sm_mhz": 1980.0, "samples": 1}
    assert report["chip"] == "9 samples"


def test_a_slow_step_is_repeated_seldom_on_a_gpu(monkeypatch):
    calls = []

    def by_events(step, repeats, flush=None):
        calls.append(repeats)
        return [[step]] * repeats

    monkeypatch.setattr(timing, "by_events", by_events)
    counts = {}
    for ms in (1.0, 20.0, 60.0, 500.0):
        calls.clear()
        timing.on_gpu(ms, 0.25)
        counts[ms] = calls[:]
    assert counts == {1.0: [2, 3, 50], 20.0: [2, 3, 12], 60.0: [2, 4], 500.0: [2, 3]}


def test_the_hosts_time_is_that_of_each_part(monkeypatch):
    now = [0.0]

    def lasts(seconds):
        return lambda: now.__setitem__(0, now[0] + seconds)

    monkeypatch.setattr(torch.cuda, "synchronize", lasts(0.5))  # what the GPU does is not counted
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    assert timing.host_ms([lasts(0.002), lasts(0.003)], 0.2) == pytest.approx([2.0, 3.0])
    assert now[0] == pytest.approx(3 * 0.505 + 0.5)


# The memory checker's words.


@pytest.mark.parametrize(
    ("code", "output", "verdict", "sentence"),
    [
        (0, "========= ERROR SUMMARY: 0 errors", 0, "found no errors"),
        (9, "Invalid __global__ write\n========= ERROR SUMMARY: 1 error", 1, "found errors"),
        (0, "========= ERROR SUMMARY: 12 errors", 1, "found errors"),
        (1, "Device not supported\n========= ERROR SUMMARY: 1 error", 0, "not checked"),
        (1, "ValueError\n========= ERROR SUMMARY: 0 errors", 1, "kernels failed"),
        (127, "libsanitizer-collection.so not found", 0, "not checked"),
        (sanitize.KILLED, "========= Program begins", 0, "took longer"),
        (sanitize.KILLED, "=== COMPUTE\n========= Invalid __global__ read", 1, "found errors"),
    ],
)
def test_only_real_errors_of_the_memory_checker_are_fatal(code, output, verdict, sentence):
    status, text = sanitize.verdict(code, output)
    assert status == verdict and sentence in text


def test_the_memory_checker_and_what_is_before_it_share_the_seconds(monkeypatch, capsys):
    now, given = [100.0], []

    def run_within(command, seconds):
        given.append(seconds)
        now[0] += 30
        return 0, "========= ERROR SUMMARY: 0 errors"

    monkeypatch.setattr(sanitize, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(sanitize, "run_within", run_within)
    monkeypatch.setattr(sanitize.shutil, "which", lambda *_, **__: "compute-sanitizer")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert sanitize.main(["--seconds", "40"]) == 0
    assert given == [40.0, 10.0] and "found no errors" in capsys.readouterr().out
