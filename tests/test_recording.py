"""Recording: every run with every seed in processes of their own, resumed where it was."""

import json
from functools import partial

import numpy as np
import pytest

from moeviz.experiments.recording import POINTS, collect, compact, mean_sd
from moeviz.records.metrics import max_violation
from moeviz.records.runs import Curve, Snapshot


def test_finished_runs_are_not_run_again_and_leave_no_file(tmp_path):
    path = tmp_path / "runs.part.json"
    kept = {"commit": "abc", "results": {"0 even": -1.0, "1 even": -2.0}}
    path.write_text(json.dumps(kept))
    # A function that a worker process can import; the seed is its argument.
    runs = {"even": max_violation, "ones": partial(round, ndigits=1)}
    seen = []
    results = collect(path, {"commit": "abc"}, runs, 2, lambda *at: seen.append(at))
    assert results == {"even": [-1.0, -2.0], "ones": [0, 1]}
    assert seen == [(3, 4), (4, 4)] and not path.exists()


def test_runs_of_another_commit_are_run_again(tmp_path):
    path = tmp_path / "runs.part.json"
    path.write_text(json.dumps({"commit": "abc", "results": {"0 ones": 9}}))
    runs = {"ones": partial(round, ndigits=1)}
    assert collect(path, {"commit": "def"}, runs, 1, lambda *_: None) == {"ones": [0]}


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
    # Groups differ in size by one at most, so the mean of means is near the mean.
    assert small.load.mean() == pytest.approx(load.mean(), abs=0.02)
    measured = small.validation[~np.isnan(small.validation)]
    assert measured.tolist() == [s for s in step if s % 25 == 0]
