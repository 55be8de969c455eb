"""Recording: every run with every seed in processes of their own, resumed where it was."""

import dataclasses
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.patience import wait
from helpers.training import process_of
from moeviz.experiments import recording
from moeviz.experiments.race import race_models
from moeviz.experiments.recording import (
    POINTS,
    collect,
    compact,
    differences,
    mean_sd,
    packed,
    unpacked,
    write_json,
)
from moeviz.experiments.slots import placing_router, synthetic
from moeviz.model import LanguageModel
from moeviz.records.runs import Curve, Snapshot
from moeviz.routing import Capacity

META = {"code": "f00", "versions": {"torch": "2"}, "commit": "abc+", "date": "today"}


@pytest.fixture
def in_threads(monkeypatch):
    """Instead of processes, which import torch for seconds each."""
    monkeypatch.setattr(recording, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))


RUNS = {"even": lambda seed: 2 * seed, "ones": lambda seed: seed}


def interrupted(path, *, made_by, **results):
    """An interrupted recording of these results; the rest of two runs with two seeds."""
    path.write_text(json.dumps({"made_by": made_by, "results": results}))
    seen = []
    return collect(path, META, RUNS, 2, lambda *at: seen.append(at)), seen


@pytest.mark.slow
def test_each_run_has_a_process_and_one_thread(tmp_path):
    results = collect(tmp_path / "part.json", META, {"one": process_of}, 2, lambda *at: None)
    for seed, (process, threads, got) in enumerate(results["one"]):
        assert process != os.getpid() and (threads, got) == (1, seed)


def test_finished_runs_are_not_run_again(tmp_path, in_threads):
    made_by = {"code": "f00", "versions": {"torch": "2"}}
    results, seen = interrupted(
        tmp_path / "part", made_by=made_by, **{"0 even": -1.0, "1 even": -2.0}
    )
    assert results == {"even": [-1.0, -2.0], "ones": [0, 1]}
    assert seen == [(3, 4), (4, 4)]


def test_more_seeds_go_on_from_fewer_and_other_runs_stay(tmp_path, in_threads):
    path, ran = tmp_path / "part", []
    runs = {"a": lambda seed: ran.append(seed) or seed}
    for seeds in (2, 2, 4):
        assert collect(path, META, runs, seeds, lambda *at: None) == {"a": [*range(seeds)]}
    assert collect(path, META, {"b": abs}, 1, lambda *at: None) == {"b": [0]}
    assert ran == [0, 1, 2, 3]
    assert len(json.loads(path.read_text())["results"]) == 5


def test_each_whole_seed_is_told_of_once_and_none_that_lacks_a_run(tmp_path, in_threads):
    told = []
    collect(tmp_path / "part", META, RUNS, 3, lambda *at: None, told.append)
    assert [results["even"] for results in told] == [[0], [0, 2], [0, 2, 4]]
    assert all(len(results["ones"]) == len(results["even"]) for results in told)


def test_what_was_finished_before_a_failure_is_kept(tmp_path, in_threads):
    path, failing = tmp_path / "part", True

    def second(seed):
        if failing:
            raise RuntimeError("no memory")
        return -seed

    first_ran = []
    runs = {"first": lambda seed: first_ran.append(seed) or seed, "second": second}
    with pytest.raises(RuntimeError, match="no memory"):
        collect(path, META, runs, 2, lambda *at: None)
    failing = False
    results = collect(path, META, runs, 2, lambda *at: None)
    assert results == {"first": [0, 1], "second": [0, -1]} and first_ran.count(0) == 1


@pytest.mark.slow
def test_a_killed_recording_leaves_no_process_behind(tmp_path):
    """Its workers, each in the middle of a run, end with it."""
    code = (
        "import sys; from pathlib import Path; from helpers.training import linger\n"
        "from moeviz.experiments.recording import collect\n"
        "if __name__ == '__main__':\n"
        "    meta = {'code': '0', 'versions': {}}\n"
        "    collect(Path(sys.argv[1]) / 'part', meta, {'a': linger}, 2, print)\n"
    )
    script = tmp_path / "record.py"
    script.write_text(code)
    path = os.pathsep.join(map(str, sys.path))
    env = os.environ | {"PYTHONPATH": path, "LINGER": str(tmp_path)}
    recording = subprocess.Popen([sys.executable, script, tmp_path], env=env)
    wait(lambda: [*tmp_path.glob("[0-9]*")], "a worker that has begun")
    pids = [int(file.name) for file in tmp_path.glob("[0-9]*")]
    recording.kill()
    recording.wait()
    wait(lambda: not any(map(alive, pids)), "the end of its workers")


def alive(pid):
    """Whether it runs: a process that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_numbers_of_a_list_share_a_line_and_stay_what_they_are(tmp_path):
    figures = {
        "a": {"values": [1.5, -2e-05, None, 3], "name": "[ 1,\n 2 ]"},
        "b": [[1, 2], [], ["x", 1], [True]],
    }
    write_json(tmp_path / "a.json", META, figures)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"provenance": META, **figures}
    assert "[1.5, -2e-05, null, 3]" in text and "[1, 2]" in text


@pytest.mark.parametrize(
    "made_by",
    [
        {"code": "f01", "versions": {"torch": "2"}},  # the same commit, with other changes to it
        {"code": "f00", "versions": {"torch": "3"}},
        None,
    ],
)
def test_runs_of_other_code_are_run_again(tmp_path, in_threads, made_by):
    results, seen = interrupted(tmp_path / "part.json", made_by=made_by, **{"0 ones": 9})
    assert results == {"even": [0, 2], "ones": [0, 1]} and len(seen) == 4


def test_mean_and_spread():
    assert mean_sd([1.0, 2.0, 3.0]) == {"mean": 2.0, "sd": 1.0, "values": [1.0, 2.0, 3.0]}
    assert mean_sd([1.5])["sd"] is None


@pytest.mark.parametrize("points", [1, 7, 100, 101, 350])
def test_a_compact_curve_keeps_ends_means_and_the_last_validation(points):
    rng = np.random.default_rng(points)
    step = np.arange(1.0, points + 1)
    validation = np.where(step % 25 == 0, step, np.nan)
    load = rng.random((points, 2, 4))
    curve = Curve(step, step * 2, step * 3, rng.random(points), load, validation, load[..., 0])
    snapshot = Snapshot("a", points, points, 1.0, 1.0, 1, 1, curve)
    small = compact(snapshot).curve
    assert len(small) == min(points, POINTS)
    assert small.step[-1] == points and small.flops[-1] == 3 * points
    assert small.load.dtype == np.float32 and small.dropped.shape == (len(small), 2)
    # Groups are of nearly one size, so the mean of means is near the mean.
    assert small.load.mean() == pytest.approx(load.mean(), abs=0.02)
    measured = ~np.isnan(small.validation)
    assert small.validation[measured].tolist() == [s for s in step if s % 25 == 0]
    assert (small.step == small.validation)[measured].all(), "each at its own step"


def test_a_packed_snapshot_comes_back_to_the_last_bit():
    rng = np.random.default_rng(0)
    step, load = np.arange(1.0, 151), rng.random((150, 2, 4))
    validation = np.where(step % 25 == 0, rng.random(150), np.nan)
    curve = Curve(step, step / 3, step * 3, rng.random(150), load, validation)
    snapshot = compact(Snapshot("a", 150, 150, 1.5, 1.0, 1, 1, curve, {"train": {"seed": 3}}))
    again = unpacked(json.loads(json.dumps(packed(snapshot))))
    for name, column in vars(snapshot.curve).items():
        other = getattr(again.curve, name)
        assert other.dtype == column.dtype and np.array_equal(other, column, equal_nan=True), name
    assert dataclasses.replace(again, curve=snapshot.curve) == snapshot


def test_differences_are_paired_and_judged_as_one_table():
    """The interval of three seeds by Student's t table: 4.3027 standard errors."""
    losses = {"dense": [3.0, 3.1, 3.2], "better": [2.9, 2.99, 3.11], "noise": [3.1, 3.0, 3.2]}
    found = differences(losses, "dense")
    better = found["better"]
    assert better["values"] == pytest.approx([-0.1, -0.11, -0.09], abs=1e-9)
    assert better["high"] - better["mean"] == pytest.approx(4.3027 * 0.01 / 3**0.5, abs=1e-4)
    assert (better["mean"], better["sd"], better["verdict"]) == (-0.1, 0.01, "lower")
    assert found["noise"]["verdict"] == found["dense"]["verdict"] == "open"
    alone = differences({"a": [1.0], "b": [2.0]}, "a")["b"]
    assert (alone["mean"], alone["low"], alone["p"], alone["verdict"]) == (1.0, None, 1.0, "open")


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_race_trains_its_gate_by_the_loss_of_the_text(top_k):
    """With K = 1 a weight divided by its own sum is 1, whatever the gate says."""
    torch.manual_seed(0)
    model = LanguageModel(race_models(8, top_k)["MoE"])
    tokens_BS = torch.randint(0, model.config.vocab_size, (2, 16))
    logits = model(tokens_BS[:, :-1]).logits.flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, tokens_BS[:, 1:].flatten()).backward()
    assert all(block.ffn.router.weight_ED.grad.norm() > 1e-4 for block in model.blocks)


@pytest.mark.parametrize("pool", ["batch", "sequence"])
def test_an_own_priority_by_position_is_the_built_in_one_padding_included(pool):
    """The first and the last of four sequences are shorter, one of them all padding."""
    tokens = synthetic(32, skew=1.0)
    mask_T = torch.ones(32, dtype=torch.bool)
    mask_T[5:8] = mask_T[24:] = False
    context = dataclasses.replace(tokens.context, training=True, mask=mask_T)
    capacity = Capacity(1.0, pool=pool)
    rule = lambda token_N, choice_N, weight_N: -(2.0 * token_N + choice_N)  # noqa: E731
    own, built_in = (
        placing_router(tokens, 2, capacity, priority)(tokens.x_TD, context)
        for priority in (rule, None)
    )
    assert own.stats.capacity == built_in.stats.capacity and len(own.plan.dropped)
    assert torch.equal(own.plan.dense_weights(), built_in.plan.dense_weights())
