"""The benchmarks run, are complete, check what they time and say what they leave out; how long
anything takes is never asserted. A GPU's path runs here on a stand-in for torch.cuda."""

import contextlib
import importlib.util
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

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
MIXTRAL = [f"transformers Mixtral {name}" for name in ("grouped_mm", "batched_mm", "eager")]
PEERS = ["torch grouped_mm", *MIXTRAL]
LOOP = "naive loop over W[e]"
TIMES = ("forward_ms", "inference_ms", "backward_ms", "both_ms")
ROOT = Path(__file__).resolve().parents[1]
has_transformers = bool(importlib.util.find_spec("transformers"))


def quick_turns(steps, rounds):
    return timing.by_turns(steps, rounds, turn_seconds=0.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(layer_study, "by_turns", quick_turns)
    monkeypatch.setattr(layer_study, "ceilings", lambda *_: Ceilings(0.1, 10.0))
    monkeypatch.setattr(layer_study, "matmul_tflops", lambda *_: 0.05)


def tiny(tmp_path, *more):
    path = tmp_path / "results" / "layer.json"
    tiny = ["--shapes", "tiny", "--rounds", "2", "--device", "cpu"]
    code = layer.main([*tiny, "--json", str(path), *more])
    return code, json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_study, "by_turns", quick_turns)
        code, report = tiny(tmp_path_factory.mktemp("bench"))
    assert code == 0
    return report


def test_report_is_complete(report, tmp_path):
    assert {"triton", "transformers", "liger-kernel"} < set(report["provenance"]["versions"])
    assert set(report["device"]) == {
        "name", "kind", "capability", "memory_gb", "copy_gb_per_s", "matmul_tflops", "dtype"
    }  # fmt: skip
    assert report["device"]["kind"] == "cpu" and report["device"]["dtype"] == "float32"
    assert str(tmp_path.parent) not in json.dumps(report)
    assert report["failures"] == [] and report["not_run"] == ABSENT
    (case,) = report["cases"]
    assert case["shape"] == {"name": "tiny", **SHAPES["tiny"]._asdict()}
    assert (case["dtype"], case["routing"], case["checked_tokens"]) == ("float32", "uniform", 64)
    assert set(case["limit_ms"]) == {"forward", "both"} and case["kernels"] == []
    assert list(case["contenders"]) == [OURS, "moeviz grouped", *PEERS, LOOP, DENSE]


def test_every_contender_is_measured_and_right(report):
    for name, result in report["cases"][0]["contenders"].items():
        if name == OURS or (name.startswith("transformers") and not has_transformers):
            assert list(result) == ["not_run"]
            continue
        for key in TIMES:
            assert set(result[key]) == {"median", "q1", "q3"}
            assert 0 < result[key]["q1"] <= result[key]["median"] <= result[key]["q3"]
        for key in ("tflops", "of_dense", "of_dense_cpu", "of_limit"):
            assert set(result[key]) == {"forward", "both"}, (name, key)
        for peer, ratios in result["of_peers"].items():
            assert set(ratios) == {"forward", "inference", "both"}, (name, peer)
            for ratio in ratios.values():
                assert 0 < ratio["q1"] <= ratio["median"] <= ratio["q3"]
        for key, ratio in result["of_dense"].items():
            assert ratio == result["of_peers"][DENSE][key]["median"]
        assert result["saved_bytes"] > 0 and result["first_call_s"] > 0
        assert result["peak_bytes"] is result["syncs"] is result["launches"]["both"] is None
        assert result["repeatable"] and 2 <= result["repeated_runs"] <= layer_study.RUNS
        if name != DENSE:
            assert set(result["relative_error"]) == {"out", "dx", "dlogits", "dw13", "dw2"}
            assert all(0 < error < 1e-5 for error in result["relative_error"].values())


def test_ours_is_compared_with_every_peer_that_ran(report):
    found = report["cases"][0]["contenders"]
    ran = [name for name in (*PEERS, LOOP, DENSE) if "both_ms" in found[name]]
    assert {"torch grouped_mm", LOOP, DENSE} <= set(ran)
    assert list(found["moeviz grouped"]["of_peers"]) == ran
    assert list(found["torch grouped_mm"]["of_peers"]) == [DENSE]


def test_recorded_runs_can_still_be_read():
    recorded = sorted((ROOT / "benchmarks" / "results").glob("layer_*.json"))
    cases = [c for path in recorded for c in json.loads(path.read_text("utf-8"))["cases"]]
    assert cases and all("moeviz grouped" in layer.table(case) for case in cases)


@pytest.mark.parametrize("factor", [1.01, math.nan])
def test_another_computation_is_a_failure_and_is_timed_all_the_same(
    factor, monkeypatch, tmp_path, capsys
):
    original = layer_contenders.naive_loop
    monkeypatch.setattr(layer_contenders, "naive_loop", lambda *given: factor * original(*given))
    code, report = tiny(tmp_path)
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
    code, report = tiny(tmp_path)
    assert code == 1
    assert report["failures"] == [
        "moeviz grouped did not run: RuntimeError: an illegal memory access, tiny, uniform routing"
    ]
    results = report["cases"][0]["contenders"]
    assert "is no speed" in results[OURS]["not_run"]
    assert results[LOOP] == {"not_run": "OutOfMemoryError: CUDA out of memory."}
    assert "not run: OutOfMemoryError: CUDA out of memory." in capsys.readouterr().out
    monkeypatch.setattr(Problem, "random", full)
    code, report = tiny(tmp_path)
    assert code == 0 and report["cases"] == []
    assert report["not_run"]["tiny, uniform"] == "OutOfMemoryError: CUDA out of memory."


def test_what_the_budget_does_not_reach_is_noted(tmp_path, monkeypatch):
    code, report = tiny(tmp_path, "--budget", "0", "--shapes", "tiny,coarse")
    message = "the budget of 0 s was used up"
    assert code == 0 and report["cases"] == []
    assert report["not_run"] == {**ABSENT, "coarse, uniform": message, "tiny, uniform": message}
    looks = iter([None, None, None])  # for the case, the refused first contender and one more
    monkeypatch.setattr(layer_study.Run, "out_of_time", lambda *_: next(looks, "no time"))
    _, report = tiny(tmp_path)
    results = report["cases"][0]["contenders"]
    assert "both_ms" in results["moeviz grouped"] and results[DENSE] == {"not_run": "no time"}


@pytest.mark.parametrize(
    "arguments", [["--shapes", "tiny,huge"], ["--rounds", "0"], ["--dtype", "fp8"]]
)
def test_refuses_what_it_cannot_run(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        layer.main([*arguments, "--json", str(tmp_path / "x.json")])
    assert arguments[0] in capsys.readouterr().err


def test_cases_and_files_go_by_device(monkeypatch):
    cuda = torch.device("cuda")
    names = [name for name, _ in layer.cases_for(cuda, None)]
    assert names[:5] == ["OLMoE-32768", "Qwen3-32768", "Mixtral-8192", "teach", "mini"]
    assert len(names) == 15 and names[-1] == "DSv3-8192"
    assert [r for n, r in layer.cases_for(cuda, "olmoe-32768,tiny")] == [
        "uniform", "zipf", "all-to-one", "uniform"
    ]  # fmt: skip
    assert layer.cases_for(CPU, "teach,fine") == [("fine", "uniform"), ("teach", "uniform")]
    assert layer.default_file(CPU) == ROOT / "benchmarks" / "results" / "layer_cpu.json"
    for name, file in (("NVIDIA H200", "h200"), ("Tesla T4", "t4"), ("NVIDIA L4-24Q", "l4_24q")):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert layer.default_file(cuda) == ROOT / "data" / "runs" / f"layer_{file}.json"


# The limit and the work of the kernels, by hand.


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


def test_kernels_share_the_active_flops_and_move_their_bytes():
    work = layer_shapes.kernel_work(SMALL, 2)
    flops = [amount for amount, of in work.values() if of == "matmul"]
    assert len(flops) == 4 and sum(flops) == 3 * SMALL.forward_flops == 18 * 20 * 8 * 4
    # Rows read, tokens written in bf16, the plan in int32, twice.
    assert work["gather_sum_kernel"] == (2 * (2 * (20 * 8 + 10 * 8) + 4 * (20 + 11)), "copy")
    assert work["topk_kernel"] == (4 * (50 + 50 + 20 + 20), "copy")


# What is compared and measured.


@pytest.mark.parametrize("routing", ["uniform", "zipf", "all-to-one"])
def test_routings_are_as_skewed_as_they_are_called(routing):
    problem = Problem.random(Shape(512, 8, 4, 16, 2), routing, CPU, torch.float32)
    load_E = layer_contenders.load(problem)
    assert load_E.sum() == 1024
    share = float(load_E.max()) / 64
    low, high = {"uniform": (1, 1.5), "zipf": (2.5, 8), "all-to-one": (8, 8)}[routing]
    assert low <= share <= high
    assert (load_E[2:] == 0).all() == (routing == "all-to-one")


@pytest.mark.parametrize("which", ["out", "dx", "dlogits", "dw13", "dw2"])
def test_errors_are_found_in_the_output_and_in_every_gradient(which, monkeypatch):
    problem = Problem.random(Shape(16, 8, 4, 5, 2), "all-to-one", CPU, torch.float32)
    contender = layer_contenders.naive(problem)
    errors = layer_contenders.relative_errors(contender)
    assert list(errors) == ["out", "dx", "dlogits", "dw13", "dw2"]
    assert all(error < 1e-6 for error in errors.values())
    place, run = list(errors).index(which), contender.run

    def wrong():
        results = run()
        results[place][-1] += 1.0  # of the weights: an expert without tokens
        return results

    monkeypatch.setattr(contender, "run", wrong)
    wrong_errors = layer_contenders.relative_errors(contender)
    assert wrong_errors.pop(which) > 1e-2
    assert all(error < 1e-6 for error in wrong_errors.values())


def test_saved_bytes_are_distinct_storages_without_the_weights():
    x, w = torch.randn(4, 8), torch.nn.Parameter(torch.randn(8, 8))
    assert profiling.saved_bytes(lambda: x @ w.T, [w]) == 4 * 8 * 4
    assert profiling.saved_bytes(lambda: x[:2] @ w.T + x[2:] @ w, [w]) == 4 * 8 * 4
    assert profiling.saved_bytes(lambda: (x @ w).sigmoid(), [w]) == 2 * 4 * 8 * 4
    problem = Problem.random(SMALL, "uniform", CPU, torch.float32)
    dense = layer_contenders.dense(problem)
    # x, gate and up, silu(gate), the hidden rows: 10 x (8 + 16 + 8 + 8).
    assert profiling.saved_bytes(dense.output, dense.weights) == 4 * 10 * 40


def test_repeats_end_at_a_difference_or_when_they_take_long():
    values = iter([1.0, 1.0, 2.0, 1.0])
    assert profiling.repeatable(lambda: [torch.tensor(next(values))], 20, 9.0) == (False, 3)
    assert profiling.repeatable(lambda: [torch.ones(2)], 20, 9.0) == (True, 20)
    assert profiling.repeatable(lambda: [torch.ones(2)], 20, 0.0) == (True, 2)


def test_slow_steps_get_fewer_turns_and_quick_ones_are_repeated():
    calls, heard = [], []
    steps = {
        "quick": timing.single(lambda: calls.append(time.sleep(0.001))),
        "slow": timing.single(lambda: time.sleep(0.02)),
    }
    turns = timing.by_turns(
        steps, 5, turn_seconds=0.01, step_seconds=0.01, on_turn=lambda *at: heard.append(at)
    )
    assert len(turns["slow"]) == 2 and len(calls) > 2 + len(turns["quick"])
    (walls, cpus) = turns["slow"][0]
    assert walls[0] >= 20 > cpus[0] and len(walls) == len(cpus) == 1
    assert heard == [(done, 14) for done in range(1, 15)]


def test_spread_is_median_and_quartiles():
    assert timing.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    assert timing.spread([7.0]) == {"median": 7.0, "q1": 7.0, "q3": 7.0}


def event(name, us, device=DeviceType.CUDA, **more):
    span = SimpleNamespace(elapsed_us=lambda: us)
    return SimpleNamespace(name=name, device_type=device, time_range=span, **more)


def test_kernel_table_of_the_profilers_events():
    events = profiling.on_device(
        [
            event("aten::sort", 999.0, DeviceType.CPU),
            event("range", 999.0, is_user_annotation=True),
            event("topk_kernel", 10.0, is_user_annotation=False),
            event("up_kernel", 300.0),
            event("topk_kernel", 30.0),
            event("up_kernel", 100.0),
            event("void at::native::(anonymous namespace)::fill<int, 4>(int*)", 2.0),
            event("Memset (Device)", 1.0),
        ]
    )
    assert len(events) == 6
    work = {"up_kernel": (1e8, "matmul"), "topk_kernel": (1e4, "copy")}
    rows = profiling.kernel_table(events, 2, work, Ceilings(matmul_tflops=1.0, copy_gb_per_s=1.0))
    assert rows == [
        {"name": "up_kernel", "calls": 1, "ms": 0.2, "share": pytest.approx(0.5), "of": "matmul"},
        {"name": "topk_kernel", "calls": 1, "ms": 0.02, "share": pytest.approx(0.5), "of": "copy"},
        {"name": "at::native::fill", "calls": 0.5, "ms": 0.001, "share": None, "of": None},
        {"name": "Memset", "calls": 0.5, "ms": 0.0005, "share": None, "of": None},
    ]


# The GPU's path, on a stand-in.


class Graph:
    """What is captured runs on the CPU as it is captured; a replay does it again."""

    def replay(self):
        for old, new in zip(self.results, self.run(), strict=True):
            old.copy_(new)


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, other):
        return 1e3 * (other.at - self.at)


class Profile:
    def __init__(self, activities):
        assert len(activities) == 2

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def events(self):
        return [event("up_kernel", 5.0), event("gemm_kernel", 3.0), event("x", 1.0, DeviceType.CPU)]


@pytest.fixture
def stand_in(monkeypatch):
    """torch.cuda as the benchmark uses it, on the CPU. Returns the run and its cases' contenders:
    ours, which is `grouped` here, and the dense one."""
    stream = SimpleNamespace(wait_stream=lambda _: None)
    mode = []
    fakes = {
        "Event": Event,
        "synchronize": lambda: None,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _: contextlib.nullcontext(),
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 100,
        "max_memory_allocated": lambda: 300,
        "set_sync_debug_mode": mode.append,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.profiler, "profile", Profile)

    def captured(run):
        graph = Graph()
        graph.run, graph.results = run, run()
        return timing.single(graph.replay), graph.results

    monkeypatch.setattr(layer_study, "captured", captured)
    monkeypatch.setattr(layer_study, "FLUSH_BYTES", 16)
    monkeypatch.setattr(layer_study, "ceilings", lambda *_: Ceilings(0.1, 10.0))
    monkeypatch.setattr(layer_study, "matmul_tflops", lambda *_: 0.05)
    run = layer_study.Run(CPU, torch.float32, 1, 60.0)
    run.on_gpu = True

    def ours(problem):
        contender = layer_contenders.moeviz(problem, "grouped")
        contender.graph = True
        return contender

    found = {OURS: ours, DENSE: layer_contenders.dense}
    monkeypatch.setattr(layer_study, "builders", lambda *_: found)
    monkeypatch.setattr(layer_study, "compiling_builders", dict)
    yield run, found
    assert mode == ["warn", "default"] * (len(mode) // 2)


def test_on_a_gpu_all_is_measured(stand_in):
    run, _ = stand_in
    case, saved = run.case("tiny", "zipf"), []
    assert case["kernels"] == []  # the profiler would slow down the cases after this one
    run.later([case], lambda: saved.append(len(case["kernels"])))
    assert run.failures == [] and saved == [0, 2]
    for name, result in case["contenders"].items():
        for key in (*TIMES, "graph_forward_ms", "graph_both_ms"):
            assert set(result[key]) == {"median", "q1", "q3"}, (name, key)
        assert result["launches"] == {"forward": 2, "both": 2}
        assert result["peak_bytes"] == 200 and result["syncs"] == 0 and "notes" not in result
        assert set(result["of_dense"]) == {"forward", "both"}
    up, gemm = case["kernels"]
    assert (up["name"], up["of"], up["calls"]) == ("up_kernel", "matmul", 0.2)
    assert (gemm["name"], gemm["of"]) == ("gemm_kernel", "matmul")
    text = layer.table(case)
    assert "  as a CUDA graph" in text and "up_kernel" in text and "% of matmul" in text


def test_on_a_gpu_a_figure_that_fails_does_not_take_the_times_along(stand_in, monkeypatch):
    run, _ = stand_in

    def fails(*_):
        raise RuntimeError("no profiler here")

    monkeypatch.setattr(layer_study, "device_events", fails)
    monkeypatch.setattr(layer_study, "captured", lambda run: (timing.single(int), run()))
    case = run.case("tiny", "uniform")
    run.later([case], lambda: None)
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
    assert "not run" not in layer.table(case)


def test_bits_that_change_between_runs_are_a_failure(stand_in):
    run, found = stand_in
    ours = found[OURS]

    def unsteady(problem):
        contender = ours(problem)
        forward = contender.forward
        contender.forward = lambda x, logits: forward(x, logits) * (1 + 1e-6 * torch.rand(()))
        return contender

    found[OURS] = unsteady
    case = run.case("tiny", "uniform")
    assert run.failures == [f"{OURS} is not repeatable bit for bit: tiny, uniform routing"]
    assert not case["contenders"][OURS]["repeatable"]


# The memory checker's words.


@pytest.mark.parametrize(
    ("code", "said", "verdict", "sentence"),
    [
        (0, "========= ERROR SUMMARY: 0 errors", 0, "found no errors"),
        (9, "Invalid __global__ write\n========= ERROR SUMMARY: 1 error", 1, "found errors"),
        (0, "========= ERROR SUMMARY: 12 errors", 1, "found errors"),
        (1, "Device not supported\n========= ERROR SUMMARY: 1 error", 0, "not checked"),
        (1, "ValueError\n========= ERROR SUMMARY: 0 errors", 1, "kernels failed"),
        (127, "libsanitizer-collection.so not found", 0, "not checked"),
    ],
)
def test_only_real_errors_of_the_memory_checker_are_fatal(code, said, verdict, sentence):
    found, text = sanitize.verdict(code, said)
    assert found == verdict and sentence in text


def test_the_memory_checker_is_ended_with_all_that_it_started():
    child = "import time; time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    start = time.perf_counter()
    with pytest.raises(subprocess.TimeoutExpired) as late:
        sanitize.run_within([sys.executable, "-c", f"print(7, flush=True); {parent}"], 1.0)
    assert time.perf_counter() - start < 30 and late.value.output == "7\n"
    assert sanitize.run_within([sys.executable, "-c", "print(6 * 7)"], 30.0) == (0, "42\n")
