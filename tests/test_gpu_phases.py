"""The phases of a GPU visit at toy size, by a clock of the test: what is asked of a cut, how the
best is found, and that a visit that is late, interrupted or killed keeps what it has."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

import cuts
import gpu
import gpu_adopt
from cuts import TOY, Candidates, Device, Prepared, check, heights, sweep
from helpers.visit import Clock
from layer_shapes import HOT, SHAPES
from moeviz_kernels.configs import Gemm
from visit import Phase, load

TOY_DEVICE = Device.here(rehearse=True)
SOME = ("up", "dW2")  # products, one on each kind of walk; the slow rehearsal has all


# Which cuts are right.


class Answers:
    """The products of a layer, as they might be: results, one for each call, and their error."""

    def __init__(self, *results, error=0.0):
        self.results, self.error = iter(results), error

    def call(self, role, cut):
        return tuple(torch.tensor(value) for value in next(self.results))

    def errors(self, role, results):
        return [0.0, self.error]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (Answers(*[((1.0,), (2.0,))] * 5), None),
        (Answers(*[((1.0,), (2.0,))] * 4, ((1.0,), (2.5,))), "two runs on the same numbers differ"),
        (Answers(*[((1.0,), (2.0,))] * 5, error=0.01), "is 1.0e-02 from float64"),
        (Answers(*[((1.0,), (2.0,))] * 5, error=float("nan")), "is nan from float64"),
    ],
    ids=["right", "the last of five runs differs", "wrong", "no number"],
)
def test_a_cut_is_held_to_float64_and_to_equal_bits_in_five_runs(state, words):
    task = Candidates("toy", TOY, TOY_DEVICE, ())
    part = ("up", Gemm(16, 16, 16, 4, 2))
    if words is None:
        assert task.measure(state, part) == {"errors": [0.0, 0.0]}
        assert next(state.results, "none left") == "none left"
    else:
        with pytest.raises(ValueError, match=words):
            task.measure(state, part)


def one_after_the_other(phase, tasks, workers):
    """As in_processes, in this one."""
    for task in tasks:
        state = task.begin()
        for part in task.parts:
            phase.item(task.key(part), lambda t=task, s=state, p=part: t.measure(s, p))


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """The check of a rehearsal, with two runs of each cut."""
    phase = Phase("check", tmp_path_factory.mktemp("check"), 1e12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "ROLES", SOME)
        patch.setattr(cuts, "RUNS", 2)
        patch.setattr(cuts, "in_processes", one_after_the_other)
        check(phase, ["toy"], TOY_DEVICE)
    return phase


def test_a_rehearsal_strikes_out_the_cut_that_cannot_work_and_names_it(checked):
    left = load(checked.out, "check")
    assert {key.split()[1] for key in left["items"]} == {*SOME} and len(left["items"]) == 4
    assert {*left["failed"]} == {f"toy {role} 16x24x16 w4 s2 g8" for role in SOME}
    assert all("power of 2" in why for why in left["failed"].values())


# Which are fast.


def test_both_heights_of_a_tile_are_tried_where_either_may_win():
    tried = {name: heights("up", SHAPES[name]) for name in (*HOT, "OLMoE-8192", "teach")}
    assert tried.pop("Qwen3-8192") == (128, 64) and {*tried.values()} == {(128,)}
    of_rows = {rows: heights("dx", TOY._replace(tokens=rows * 2)) for rows in (96, 97, 768, 769)}
    assert of_rows == {96: (64,), 97: (128, 64), 768: (128, 64), 769: (128,)}
    assert heights("dW2", SHAPES["Qwen3-8192"]) == (128,), "which walks no tiles of rows"


def test_cuts_take_turns_and_the_best_of_a_few_rounds_get_many_more(monkeypatch):
    found = [Gemm(16, 16, 16, 4, stages) for stages in range(2, 8)]
    broken, *right = found
    said, launched = [], []

    def call(role, cut):
        if cut == broken:
            raise RuntimeError("too large")
        launched.append(cut)

    def clock(device, run):
        run()
        said.append(launched[-1])
        return 10.0 - launched[-1].num_stages

    monkeypatch.setattr(Device, "products", lambda *_: SimpleNamespace(call=call))
    monkeypatch.setattr(Device, "clock", clock)
    prepared = Prepared(TOY_DEVICE, "toy")
    results = prepared.times("up", found, lambda: 1.0)
    best = [*reversed(right)][:4]
    assert said[:15] == right * 3, "each round all of them"
    assert said[15:] == best * 15
    assert [Gemm(**entry["cut"]) for entry in results] == [*best, right[0]]
    assert [len(entry["ms"]) for entry in results] == [18] * 4 + [3]
    said.clear()
    late = prepared.times("up", found, lambda: 0.0)
    assert said == right * 3 and [len(entry["ms"]) for entry in late] == [3] * 5


def test_a_late_sweep_says_so_and_keeps_the_table_of_what_it_has(checked, tmp_path, monkeypatch):
    """All products in time but the last, by a clock that each measurement moves on."""
    clock = Clock()

    def takes(device, run):
        clock.now += 1.0
        return 1.0 + clock.now % 7

    monkeypatch.setattr(Device, "clock", takes)
    monkeypatch.setattr(cuts, "ROLES", SOME)
    monkeypatch.setattr(cuts, "QUICK_ROUNDS", 1)
    monkeypatch.setattr(cuts, "FINAL_ROUNDS", 1)
    of_a_product = 2 * 2  # two right cuts, in each of two rounds
    phase = Phase("sweep", tmp_path, of_a_product * (len(SOME) - 1) - 0.5, clock)
    sweep(phase, ["toy", "toy"], TOY_DEVICE, {*checked.items})
    phase.save()
    left = load(tmp_path, "sweep")
    assert left["late"] == ["toy dW2 128", "toy"] and not left["failed"]
    assert left["sentence"] == "sweep: 1 done, 2 not begun, for want of time in 4 s"
    assert [entry["for"][4] for entry in left["table"]["cuts"]] == [*SOME[:-1]]
    assert [entry["height"] for entry in left["table"]["heights"]] == [16]
    for entry in left["table"]["cuts"]:
        assert entry["cut"] == left["items"][f"toy {entry['for'][4]} 16"][0]["cut"]


# The whole visit.


def a_process(code):
    return subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


ITS_CHILD_HOLDS_THE_PIPE = """
import subprocess, sys, time
subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])
print('begun', flush=True)
time.sleep(60)
"""


def test_a_phase_is_stopped_after_its_deadline_with_all_its_processes(monkeypatch):
    monkeypatch.setattr(gpu, "GRACE_S", 0.5)
    begun, log = time.monotonic(), io.StringIO()
    process = a_process(ITS_CHILD_HOLDS_THE_PIPE)
    assert gpu.finish(process, begun, log) == "was stopped 0.5 s after its deadline"
    assert time.monotonic() - begun < 30 and process.returncode
    ended = a_process("import sys; input(); print('its turn'); sys.exit(3)")
    assert gpu.finish(ended, time.monotonic() + 300, log) == "ended with exit code 3"
    assert log.getvalue().endswith("its turn\n")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_visit_ends_its_phase(how, tmp_path, monkeypatch):
    """Which has a session of its own, and hears of no interruption."""
    process, begun = a_process(ITS_CHILD_HOLDS_THE_PIPE), time.monotonic()

    class Interrupted(io.StringIO):
        def write(self, line):
            os.kill(os.getpid(), how)

    def visit(*_):
        return gpu.finish(process, begun + 600, Interrupted())

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a worker of tests may ignore
    monkeypatch.setattr(gpu, "visit", visit)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            gpu.main(["--rehearse", "--out", str(tmp_path)])
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert process.returncode and time.monotonic() - begun < 30


def test_phases_that_come_too_late_are_not_begun_and_named(tmp_path, monkeypatch, capsys):
    clock, begun = Clock(), []
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=clock))

    def begin(name, out, until, rehearse):
        begun.append((name, until))
        return SimpleNamespace(kill=lambda: begun.append("killed"))

    def finish(process, until, log):
        clock.now = until + 150
        return "was stopped 5 s after its deadline"

    monkeypatch.setattr(gpu, "begin", begin)
    monkeypatch.setattr(gpu, "finish", finish)
    ends = {"check": 60.0, "sweep": 120.0, "layer": 180.0, "train": 600.0}
    monkeypatch.setattr(gpu, "ends", lambda phases, seconds: ends)
    monkeypatch.setenv("MOEVIZ_COMMIT", "abc")
    assert gpu.visit(tmp_path, 10.0, [*ends], True, "the command") == 1
    assert begun == [("train", 600.0), ("check", 60.0), "killed"], "its text is read meanwhile"
    troubles = load(tmp_path, "env")["troubles"]
    assert troubles["sweep"] == "not begun: its time had passed after 120 s" and len(troubles) == 4
    printed = capsys.readouterr().out
    assert "\nlayer not begun: its time had passed after 180 s\n" in printed
    assert printed.endswith((tmp_path / "log.txt").read_text())
    assert load(tmp_path, "env")["provenance"]["commit"] == "abc"


def test_a_visit_that_could_not_be_adopted_is_told_so_before_it_begins(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(gpu, "begin", lambda *_: SimpleNamespace(kill=lambda: None))
    monkeypatch.setattr(gpu, "finish", lambda *_: None)
    monkeypatch.setenv("MOEVIZ_COMMIT", "abc")
    known = gpu.environment("the command", rehearse=False)
    card = {"name": "NVIDIA H200", "driver": "570.1"}
    for commit, driver, told in (
        (None, None, "commit, the GPU's driver unknown; MOEVIZ_COMMIT names a tree's commit."),
        ("abc", None, "the GPU's driver unknown."),
        ("abc", "570.1", None),
    ):
        where = known | {"provenance": known["provenance"] | {"commit": commit}}
        where |= {"gpu": card | {"driver": driver}}
        monkeypatch.setattr(gpu, "environment", lambda *_, found=where: found)
        assert gpu.visit(tmp_path, 10.0, ["sweep"], False, "the command") == 0
        first, second = capsys.readouterr().out.splitlines()[:2]
        if told is None:
            assert first.startswith("== sweep: from 0 to")
        else:
            assert first == f"== --adopt will refuse this visit: {told}"
            assert second.startswith("== sweep: from 0 to")


def test_a_visit_leaves_no_more_files_than_can_be_brought_home():
    assert len(["env.json", "log.txt", *gpu.LENGTHS]) <= 7
    assert {*gpu_adopt.PHASES} == {*gpu.LENGTHS}, "whose origin is looked at"


def test_phases_share_a_visit_whichever_run():
    for phases in (["layer", "step"], [*gpu.USUAL], ["train"]):
        ends = gpu.ends(phases, 540.0)
        assert list(ends) == phases and ends[phases[-1]] == pytest.approx(gpu.SPARE * 540)
        lengths = [b - a for a, b in pairwise([0.0, *ends.values()])]
        shares = [gpu.LENGTHS[name] for name in phases]
        assert lengths == pytest.approx([n * sum(lengths) / sum(shares) for n in shares])


def test_the_layer_runs_with_the_cuts_of_the_sweep(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(gpu, "TABLE", tmp_path / "build" / "tuned.json")
    monkeypatch.setattr(gpu.subprocess, "Popen", lambda *_, env, **__: calls.append(env))
    monkeypatch.delenv("MOEVIZ_TUNED", raising=False)
    gpu.begin("layer", tmp_path, 1.0, rehearse=False)
    table = {"cuts": [], "heights": []}
    (tmp_path / "sweep.json").write_text(json.dumps({"table": table}))
    gpu.begin("train", tmp_path, 1.0, rehearse=False)
    gpu.begin("layer", tmp_path, 1.0, rehearse=False)
    tuned = [call.get("MOEVIZ_TUNED") for call in calls]
    assert tuned == [None, None, str(gpu.TABLE)]
    assert json.loads(gpu.TABLE.read_text()) == table


def test_the_summary_tells_each_step(tmp_path):
    (tmp_path / "env.json").write_text(json.dumps({"provenance": {"commit": "abc"}}))
    items = {
        "MoE eager": {"step_ms": 73.0, "tokens_per_second": 446000.4},
        "MoE pass": {"both_ms": {"median": 60.0}, "graph_ms": {"median": 31.25}},
        "dense pass": {"both_ms": {"median": 40.0}, "graph_ms": None},
    }
    Phase("step", tmp_path, 1e12, items=items).save()
    lines = [" ".join(line.split()) for line in gpu.summary(tmp_path)]
    assert lines[3:] == [
        "step, MoE eager 73.0 ms, 446,000 tokens/s",
        "step, MoE pass 60.0 ms, 31.2 as a CUDA graph",
        "step, dense pass 40.0 ms, nan as a CUDA graph",
    ]


def test_the_summary_has_at_most_40_lines(tmp_path):
    env = {"gpu": {"name": "NVIDIA H200"}, "provenance": {"commit": "abc"}, "troubles": {"a": "b"}}
    (tmp_path / "env.json").write_text(json.dumps(env))
    timed = [{"cut": {**vars(Gemm(16, 16, 16, 4, 2))}, "ms": [2.0, 1.0, 9.0]}]
    of = {"failed": {}, "late": [], "sentence": "sweep: some done", "done": True}

    def lines(number):
        items = {f"size {i} up 128": timed for i in range(number)}
        (tmp_path / "sweep.json").write_text(json.dumps(of | {"items": items}))
        return gpu.summary(tmp_path)

    assert lines(36)[1:4] == ["== NVIDIA H200, commit abc", "a b", "sweep: some done"]
    assert len(lines(36)) == 40 and lines(36)[-1].split() == (
        "size 35 up 128 2.000 ms 16x16x16 w4 s2 g8".split()
    )
    assert len(lines(37)) == 40 and lines(37)[-1] == f"... and more in {tmp_path}"


KILLED_AT = """
import os, signal, sys
from pathlib import Path

from visit import Phase, load

out, last = Path(sys.argv[1]), 250  # steps of Python at the end of a save, where it writes
phase = Phase("sweep", out, 1e12)
phase.item("before", lambda: 1)


def saves(at):
    # The steps that it took; killed at step `at`.
    steps = 0

    def count(*_):
        nonlocal steps
        steps += 1
        if steps == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    phase.item("after", lambda: [2.5] * 9)
    sys.setprofile(None)
    return steps


whole = saves(0)
phase.items.pop("after")
seen = set()
for at in range(max(1, whole - last), whole + 1, 3):
    phase.save(done=False)
    child = os.fork()
    if not child:
        saves(at)
        os._exit(0)
    os.waitpid(child, 0)
    left = load(out, "sweep")
    assert left["items"]["before"] == 1 and not left["done"], left
    seen.add(len(left["items"]))
print(sorted(seen))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of itself at each step")
def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", KILLED_AT, str(tmp_path)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "[1, 2]\n", "killed before the new file stood there, and after"
