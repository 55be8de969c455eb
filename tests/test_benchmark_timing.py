"""The measuring of the layer benchmark. A GPU's path runs here on a stand-in for torch.cuda; how
long anything takes is never asserted."""

import contextlib
import importlib.util
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

import layer
import layer_contenders
import layer_study
import sanitize
import timing
from layer_contenders import OURS, Contender, NotRun, Problem
from layer_shapes import Shape
from timing import Ceilings
from training import DENSE

CPU = torch.device("cpu")
SMALL = Shape(tokens=10, d_model=8, d_expert=4, num_experts=5, top_k=2)
TIMES = ("forward_ms", "inference_ms", "backward_ms", "both_ms")
has_transformers = bool(importlib.util.find_spec("transformers"))


def test_saved_bytes_are_distinct_storages_without_the_weights():
    x, w = torch.randn(4, 8), torch.nn.Parameter(torch.randn(8, 8))
    assert timing.saved_bytes(lambda: x @ w.T, [w]) == 4 * 8 * 4
    assert timing.saved_bytes(lambda: x[:2] @ w.T + x[2:] @ w, [w]) == 4 * 8 * 4
    assert timing.saved_bytes(lambda: (x @ w).sigmoid(), [w]) == 2 * 4 * 8 * 4
    problem = Problem.random(SMALL, "uniform", CPU, torch.float32)
    dense = layer_contenders.dense(problem)
    # x, gate and up, silu(gate), the hidden rows: 10 x (8 + 16 + 8 + 8).
    assert timing.saved_bytes(dense.output, dense.weights) == 4 * 10 * 40


def test_repeats_end_at_a_difference_or_when_they_take_long():
    values = iter([1.0, 1.0, 2.0, 1.0])
    assert timing.repeatable(lambda: [torch.tensor(next(values))], 20, 9.0) == (False, 3)
    assert timing.repeatable(lambda: [torch.ones(2)], 20, 9.0) == (True, 20)
    assert timing.repeatable(lambda: [torch.ones(2)], 20, 0.0) == (True, 2)


def test_slow_steps_get_fewer_turns(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS_PER_STEP", 0.01)
    turns = timing.by_turns(
        {"quick": timing.single(int), "slow": timing.single(lambda: time.sleep(0.02))}, 5
    )
    assert len(turns["quick"]) == 5 and len(turns["slow"]) == 2
    (walls, cpus) = turns["slow"][0]
    assert walls[0] >= 20 > cpus[0] and len(walls) == len(cpus) == 1


def test_a_slow_first_run_costs_no_repetitions(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS_PER_TURN", 0.1)
    naps = iter([0.2] + [0.01] * 99)
    timing.by_turns({"warms up": timing.single(lambda: time.sleep(next(naps)))}, 1)
    assert len(list(naps)) < 100 - 2 - 3


def test_spread_is_median_and_quartiles():
    assert timing.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    assert timing.spread([7.0]) == {"median": 7.0, "q1": 7.0, "q3": 7.0}


def event(name, us, device=DeviceType.CUDA, **more):
    span = SimpleNamespace(elapsed_us=lambda: us)
    return SimpleNamespace(name=name, device_type=device, time_range=span, **more)


def test_kernel_table_of_the_profilers_events():
    events = timing.on_device(
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
    rows = timing.kernel_table(events, 2, work, Ceilings(matmul_tflops=1.0, copy_gb_per_s=1.0))
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


def test_what_compiles_comes_after_all_cases_and_leaves_time_for_the_profiler(
    stand_in, monkeypatch
):
    run, found = stand_in
    slow = {"compiled": layer_contenders.naive}
    monkeypatch.setattr(layer_study, "compiling_builders", lambda: slow)
    first, second = (run.case("tiny", routing) for routing in ("uniform", "zipf"))
    assert [*first["contenders"]] == [*second["contenders"]] == [*found]
    run.compiled(first)
    assert set(first["contenders"]["compiled"]["of_dense"]) == {"forward", "both"}
    monkeypatch.setattr(run, "start", time.perf_counter() - 0.9 * run.budget)
    run.later([second], lambda: None)
    said = "80% of the budget of 60 s was used up"
    assert second["contenders"]["compiled"] == {"not_run": said}
    assert second["contenders"][OURS]["launches"] == {"forward": 2, "both": 2}
    assert layer.table(second).count(said) == 1


def test_one_case_that_breaks_later_leaves_the_others(stand_in, monkeypatch):
    run, _ = stand_in
    cases = [run.case("tiny", routing) for routing in ("uniform", "zipf")]
    random = layer_contenders.Problem.random

    def full(shape, routing, *where):
        if routing == "uniform":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return random(shape, routing, *where)

    monkeypatch.setattr(layer_contenders.Problem, "random", full)
    run.later(cases, lambda: None)
    said = "OutOfMemoryError: CUDA out of memory."
    assert cases[0]["notes"] == {"compiled": said, "profiled": said}
    assert "notes" not in cases[1] and cases[1]["kernels"]


def test_syncs_are_counted_by_torchs_warnings(stand_in):
    def run():
        for text in (timing.SYNC_WARNING, "prototype feature", timing.SYNC_WARNING):
            warnings.warn(text, stacklevel=1)

    assert timing.count_syncs(run) == 2


def test_a_captured_graph_is_warmed_up_and_replayed(stand_in, monkeypatch):
    calls = []

    class Replay:
        def replay(self):
            calls.append("replay")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Replay)
    monkeypatch.setattr(torch.cuda, "graph", lambda _: contextlib.nullcontext())
    step, results = timing.captured(lambda: calls.append("run") or [torch.ones(1)])
    assert calls == ["run"] * 4 and len(results) == 1
    step(lambda: None)
    assert calls[-1] == "replay"


def test_the_l2_cache_is_flushed_before_the_first_mark(stand_in):
    flush = torch.ones(3)
    seen = []
    times = timing.by_events(lambda mark: (seen.append(flush.sum()), mark(), mark()), 2, flush)
    assert seen == [0, 0] and [len(parts) for parts in times] == [1, 1]


def test_a_loop_that_would_fill_memory_all_day_is_not_run_on_a_gpu():
    if not has_transformers:
        pytest.skip("transformers is not installed")
    problem = Problem.random(SMALL, "uniform", CPU, torch.float32)
    problem.x_TD = SimpleNamespace(is_cuda=True)
    with pytest.raises(NotRun, match=r"gradients of `weight\[e\]`"):
        layer_contenders.mixtral(problem, "eager", copy_gb_per_s=1e-9)
    assert isinstance(layer_contenders.mixtral(problem, "grouped_mm", 1e-9), Contender)


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


def test_errors_found_before_the_time_was_up_count():
    said = "========= COMPUTE-SANITIZER\n========= Invalid __global__ read of size 2 bytes\n"
    for output, code, word in ((said, 1, "found errors"), ("", 0, "not checked"), (None, 0, "not")):
        found, sentence = sanitize.unfinished(subprocess.TimeoutExpired("memcheck", 5.0, output))
        assert found == code and word in sentence


def test_without_a_gpu_or_a_checker_nothing_is_checked(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert sanitize.main([]) == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sanitize.shutil, "which", lambda *_, **__: None)
    assert sanitize.main([]) == 0
    assert capsys.readouterr().out.count("not checked") == 2


def test_the_memory_checker_is_ended_with_all_that_it_started():
    child = "import time; time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    start = time.perf_counter()
    with pytest.raises(subprocess.TimeoutExpired) as late:
        sanitize.run_within([sys.executable, "-c", f"print(7, flush=True); {parent}"], 1.0)
    assert time.perf_counter() - start < 30 and late.value.output == "7\n"
    assert sanitize.run_within([sys.executable, "-c", "print(6 * 7)"], 30.0) == (0, "42\n")
