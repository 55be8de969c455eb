"""The layer benchmark of a GPU visit reaches all it is to measure, and no peer can keep it from the
others. What a GPU does is a stand-in's, with a clock that passes as an H200's record says."""

import math
import pickle
import time

import pytest
import torch

import gpu
import layer
import layer_apart
import layer_study
from helpers import first_visit
from helpers.visit import Parts
from layer_apart import Apart, Item, compile_all, compiling, measure_all, slow
from layer_contenders import DENSE, EAGER, GROUPED_COMPILED, LIGER, OURS
from layer_shapes import FIRST, GPU_CASES, HOT, LONG, SHAPES
from layer_study import Run
from moeviz.watch.timing import Ceilings
from visit import Phase, in_processes

SPEEDS = (Ceilings(788.0, 4299.0), 6e13)
UNIFORM = {case for case in GPU_CASES if case[1] == "uniform"}
COMPILED = {case for case in UNIFORM if case[0] in layer_apart.COMPILED_AT}
LOOPED = {case for case in UNIFORM if case[0] not in layer_apart.MANY_EXPERTS}


class OnGpu(Run):
    """A run of the benchmark whose work takes a clock's time and nothing else."""

    def __init__(self, budget):
        super().__init__(torch.device("cpu"), torch.bfloat16, 1, budget, SPEEDS)
        self.on_gpu, self.now, self.profiles = True, first_visit.START_S, []
        self.start, self.clock = 0.0, lambda: self.now

    def case(self, name, routing):
        self.now += first_visit.quick_seconds(name, routing)
        self.now += first_visit.LONG_RUN_S * (name in LONG)
        case = {"shape": {"name": name, **SHAPES[name]._asdict()}, "routing": routing}
        return case | {"contenders": {OURS: {"of_peers": {}}, DENSE: {}}}

    def problem(self, name, routing):
        return None

    def profiled(self, case, problem):
        self.now += first_visit.PROFILE_S
        self.profiles.append(case["shape"]["name"])


@pytest.fixture
def visit(monkeypatch):
    """visit(budget, seconds): what the benchmark leaves of all cases, and its run. seconds: those
    of an item, by default as recorded."""
    monkeypatch.setattr(layer, "table", lambda case: "")
    for module in (layer, layer_study):  # a search for garbage among a test run's objects is slow
        monkeypatch.setattr(module, "free_memory", lambda: None)

    def visit(budget, seconds=first_visit.apart_seconds):
        run, done, not_run = OnGpu(budget), [], {}

        def one_after_the_other(phase, tasks, workers):
            for task in tasks:
                run.now += first_visit.START_S / workers
                for item in task.parts:
                    if phase.left() <= 0:
                        phase.late.append(task.key(item))
                        continue
                    needed = first_visit.CALL_S if task.only_call else seconds(item)
                    limit = task.limit(item)
                    run.now += min(needed, limit) / workers
                    if needed > limit:
                        phase.strike(task.key(item), f"took longer than {limit:g} s")
                    else:
                        phase.items[task.key(item)] = {
                            "result": {"s": needed}, "of_ours": {"both": 1.0}, "failures": []
                        }  # fmt: skip
                        phase.save(done=False)

        monkeypatch.setattr(layer_apart, "in_processes", one_after_the_other)
        monkeypatch.setattr(layer_apart.os, "cpu_count", lambda: 16)
        layer.study(run, GPU_CASES, done, not_run, lambda: None)
        assert list(not_run.values()) == [run.used_up()] * len(not_run)
        return run, {(case["shape"]["name"], case["routing"]): case for case in done}

    return visit


def budget_of(minutes, *phases):
    """Seconds that the layer gets in a visit of these phases, once its process has started."""
    ends = [0.0, *gpu.ends(list(phases), 60 * minutes).values()]
    at = phases.index("layer")
    return ends[at + 1] - ends[at] - gpu.LAST_CASE_S


def ran(cases, peer):
    return [at for at, case in cases.items() if "s" in case["contenders"].get(peer, {})]


def test_a_visit_for_the_layer_reaches_every_item(visit):
    run, cases = visit(budget_of(8.5, "layer", "step"))
    assert set(cases) == set(GPU_CASES) and len(GPU_CASES) == 15
    assert sorted(run.profiles) == sorted(name for name, _ in GPU_CASES)
    assert set(ran(cases, LIGER)) == set(GPU_CASES) and set(ran(cases, EAGER)) == LOOPED
    assert set(ran(cases, GROUPED_COMPILED)) == COMPILED
    assert all(LIGER in case["contenders"][OURS]["of_peers"] for case in cases.values())


def test_a_visit_of_all_phases_reaches_what_the_first_one_did_not(visit):
    _, cases = visit(budget_of(9, *gpu.USUAL))
    assert [name for name, _ in list(cases)[: len(FIRST)]] == list(FIRST)
    assert set(ran(cases, LIGER)) >= {(name, "uniform") for name in FIRST}


def test_peers_that_never_end_take_their_limits_and_no_more(visit):
    """And the others are measured all the same."""
    budget = budget_of(8.5, "layer", "step")
    run, cases = visit(budget, lambda item: math.inf if item.peer == EAGER else 1.0)
    assert set(ran(cases, LIGER)) == set(GPU_CASES) and not ran(cases, EAGER)
    assert run.now < budget + max(layer_apart.LIMITS.values())
    words = {cases[at]["contenders"][EAGER]["not_run"] for at in LOOPED}
    assert "took longer than 15 s" in words


def test_what_never_compiles_is_not_tried_again(visit, monkeypatch):
    monkeypatch.setattr(first_visit, "CALL_S", 1e9)
    run, cases = visit(1000.0)
    assert not ran(cases, LIGER) and set(ran(cases, EAGER)) == LOOPED
    assert all(c["contenders"][LIGER]["not_run"] == "took longer than 60 s" for c in cases.values())


def test_kernels_are_compiled_once_at_the_fewest_tokens(monkeypatch):
    called = []
    monkeypatch.setattr(
        layer_apart, "in_processes", lambda phase, tasks, _: called.extend(t.parts for t in tasks)
    )
    first, last = compiling(GPU_CASES), slow(GPU_CASES)
    assert first[:4] == [Item(name, "uniform", LIGER) for name in HOT]
    assert last[0].name == "decode-1" and {item.peer for item in last} == {EAGER}
    assert compile_all(OnGpu(9.0), first) == {}
    liger = [item.name for (item,) in called if item.peer == LIGER]
    assert sorted(liger) == sorted(
        [
            "Mixtral-8192",
            "Qwen3-8192",
            "DSv3-8192",
            "teach",
            "mini",
            "mini32",
            "7B-fine",
            "decode-1",
        ]
    )
    assert sum(item.peer == GROUPED_COMPILED for (item,) in called) == len(layer_apart.COMPILED_AT)


def test_what_one_process_leaves_out_another_says_why(monkeypatch):
    items = [Item("teach", "uniform", peer) for peer in (LIGER, EAGER, GROUPED_COMPILED)]
    case = {"shape": {"name": "teach"}, "routing": "uniform", "contenders": {OURS: {}}}

    def processes(phase, tasks, workers):
        if not tasks:
            return
        [task] = tasks
        assert task.parts == tuple(items[1:])
        phase.items[items[2].key()] = {"result": {"s": 1}, "of_ours": None, "failures": ["wrong"]}
        phase.strike(items[1].key(), "NotRun: a step would move 9 GB")

    monkeypatch.setattr(layer_apart, "in_processes", processes)
    run, stored = OnGpu(9.0), []
    refused = {layer_apart.kernels_of(items[0]): "its process ended with exit code -11"}
    measure_all(run, items, [case], lambda: stored.append(1), refused)
    assert case["contenders"] == {
        OURS: {},
        LIGER: {"not_run": "its process ended with exit code -11"},
        EAGER: {"not_run": "a step would move 9 GB"},
        GROUPED_COMPILED: {"s": 1},
    }
    assert run.failures == ["wrong"] and stored
    measure_all(OnGpu(9.0), [], [case], lambda: None, {})  # no process for nothing


def test_work_for_another_process_travels():
    task = Apart((Item("teach", "zipf", LIGER),), "cuda", torch.bfloat16, SPEEDS, only_call=True)
    assert pickle.loads(pickle.dumps(task)) == task


def test_a_part_has_its_limit_and_the_rest_goes_on(tmp_path):
    phase = Phase("apart", tmp_path, time.monotonic() + 900)
    in_processes(phase, [Parts("peer", ("a", "sleeps", "b"), most=0.5)], workers=1)
    assert set(phase.items) == {"peer a", "peer b"} and not phase.late
    assert phase.failed == {"peer sleeps": "took longer than 0.5 s"}
