"""Processes that stay, what they really send each other, and that none of them is left over."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.patience import wait
from moeviz.experiments.exchanged import RANK, fit, grid, step
from moeviz.leaving import Stopped
from moeviz.pictures.costs.measured_exchange import computed, told_exchanges
from moeviz.records.exchanged import Exchanged, Line, legs, line_of
from moeviz.systems import pool as pools
from moeviz.systems.pool import Pool

pytestmark = pytest.mark.xdist_group("ranks")
OPENING = {"tokens": 64, "skew": 0.0, "capacity": 0.0, "limit": 0, "copies": "expert"}


@pytest.fixture(scope="module", params=[2, 4])
def pool(request):
    """Started once for all that only ask."""
    started = Pool(RANK, request.param)
    started.start()
    yield started
    started.end()


@pytest.fixture(scope="module")
def stepped(pool):
    """What one step of each setting did, measured once."""
    found = {}

    def of(**changes):
        key = frozenset(changes.items())
        if key not in found:
            found[key] = step(pool, OPENING | changes, 1)
        return found[key]

    return of


@pytest.mark.parametrize(
    "setting",
    [
        dict(),
        dict(skew=2.0),
        dict(skew=1.0, capacity=0.5),
        dict(limit=1),
        dict(skew=2.0, capacity=1.0, limit=1, tokens=128),
        dict(copies="device"),
        dict(copies="device", limit=1, skew=1.0),
        dict(copies="device", capacity=0.5, skew=2.0),
    ],
    ids=lambda setting: " ".join(f"{name}={value}" for name, value in setting.items()) or "plain",
)
def test_what_is_sent_is_what_was_computed_and_the_losses_are_one_process_s(stepped, pool, setting):
    found = stepped(**setting)
    assert found.sent.shape == (12, pool.size, pool.size) and found.sent.sum() > 0
    assert (found.sent == computed(found)).all()
    assert found.error < 1e-4
    # The gradient of what a combine brought goes the way of its dispatch.
    assert (found.sent == found.sent[::-1].swapaxes(1, 2)).all()
    assert (found.span[..., 1] >= found.span[..., 0]).all() and (found.travel > 0).all()
    again = Exchanged.read(found.written())
    assert (again.sent == found.sent).all() and again.travel == pytest.approx(
        found.travel, abs=1e-6
    )


def test_a_row_is_sent_for_each_choice_or_each_visit_and_not_where_it_was_dropped(stepped, pool):
    width, tokens = 4 * 64, pool.size * 64
    for changes in (dict(), dict(skew=2.0), dict(capacity=0.5, skew=2.0)):
        each, once = stepped(**changes), stepped(copies="device", **changes)
        assert (each.load == once.load).all()
        rows = each.load.reshape(3, pool.size, pool.size, -1).sum(-1)
        assert (each.sent[:6:2] == width * rows).all()
        assert (once.sent[:6:2] == width * once.visits).all() and (once.visits <= rows).all()
        assert once.beside > 0 == each.beside
        if "capacity" in changes:
            assert each.dropped > 0 and each.load.sum(1).max() <= 2 * tokens / 8 * 0.5
        else:
            assert each.dropped == 0 and each.load.sum() == 3 * 2 * tokens
    assert stepped(skew=2.0).load.sum((0, 1))[0] > 2 * stepped().load.sum((0, 1))[0]


def test_a_token_under_the_limit_visits_one_process(stepped):
    assert (stepped(copies="device", limit=1).visits.sum(2) == 64).all()
    assert (stepped(copies="device").visits.sum(2) > 64).all()


def test_the_line_is_of_all_sizes_and_times_are_of_this_machine(pool):
    line = fit(pool)
    sizes = [size for size, _ in line.points]
    assert sizes == [256.0 * (pool.size - 1) * 4**n for n in range(7)]
    assert line.alpha >= 0 and all(0 < seconds < 60 for _, seconds in line.points)


# Without processes.


@given(
    st.floats(1e-6, 1e-2), st.floats(1e6, 1e11),
    st.lists(st.integers(0, 24), min_size=2, max_size=9, unique=True),
)  # fmt: skip
def test_a_line_is_found_again(alpha, bandwidth, powers):
    points = [(2.0**n, alpha + 2.0**n / bandwidth) for n in powers]
    line = Line.fitted(points)
    for size, seconds in points:
        assert line.seconds(size) == pytest.approx(seconds, rel=1e-3)
    assert line.seconds(0) == 0 and Line.read(line.written()).alpha == pytest.approx(alpha, rel=0.1)


@given(st.lists(st.tuples(st.floats(1, 1e8), st.floats(1e-6, 10)), min_size=2, max_size=9))
def test_no_part_of_a_line_is_negative(points):
    line = Line.fitted(points)
    assert line.alpha >= 0 and line.bandwidth > 0


def test_a_line_of_one_part_is_the_mean_of_that_part():
    """Times that fall with the size have no bandwidth; those that rise faster have no start."""
    flat = Line.fitted([(1.0, 3.0), (2.0, 2.5), (4.0, 0.5)])
    assert flat.alpha == pytest.approx(2) and flat.seconds(1e6) == pytest.approx(2)
    steep = Line.fitted([(1.0, 1.0), (2.0, 4.0), (4.0, 12.0)])
    assert steep.alpha == 0 and steep.bandwidth == pytest.approx(1 / 2)


def test_a_point_of_a_line_is_the_median_time_from_when_all_were_ready():
    """Three processes, two sizes, three turns: 2 rows of 8 numbers to each of two others."""
    travel_NT = np.array([[3.0, 1.0, 2.0], [9.0, 5.0, 6.0]])
    ready_RNT = np.random.default_rng(0).uniform(0, 1, (3, 2, 3))
    ended_RNT = ready_RNT.max(0) + travel_NT - np.array([0.3, 0, 0.9])[:, None, None]
    times_RNT3 = np.stack((ready_RNT - 1, ready_RNT, ended_RNT), axis=-1)
    line = line_of(times_RNT3.tolist(), (2, 4), 8)
    assert np.array(line.points) == pytest.approx(np.array([[2 * 128 / 2, 2], [4 * 128 / 2, 6]]))


def test_a_step_is_shown_as_it_was_in_its_pass_of_the_median_time():
    """The travel of each exchange is a median of its own."""
    took, travels = (5.0, 9.0, 7.0), ((1.0, 4.0, 2.0), (2.0, 1.0, 6.0))
    answers = [
        {"sizes": {}, "load": [[1, 1]], "visits": [[1, 1]], "sent": [[0, 1]] * 2, "beside": 3,
         "error": 0.1 * rank,
         "passes": [[10.0 + rank, 11.0 + took[p] - rank,
                     [[11.5, 12.0 - rank, 12.0 + travel[p] - rank] for travel in travels]]
                    for p in range(3)]}
        for rank in range(2)
    ]  # fmt: skip
    found = Exchanged.merged(answers, 1, "expert")
    assert found.travel.tolist() == [2, 2] and found.end.tolist() == [7, 6]
    assert found.span[:, 0].tolist() == [[0.5, 1, 3], [0.5, 1, 7]]
    assert (found.beside, found.error, found.processes) == (6, 0.1, 2)


def test_the_legs_of_a_step_are_mirrored():
    forward, backward = legs(2)[:4], legs(2)[4:]
    assert [leg.name for leg in forward] == [
        "layer 0 dispatch", "layer 0 combine", "layer 1 dispatch", "layer 1 combine",
    ]  # fmt: skip
    assert [(leg.layer, leg.back) for leg in backward] == [
        (1, False), (1, True), (0, False), (0, True),
    ]  # fmt: skip


def made(sent=((0, 256), (512, 0))):
    """Of two processes, one layer, two experts, one choice of two tokens each, by hand."""
    load = np.array([[[1, 1], [2, 0]]])
    out = np.array(sent) + np.diag([256, 0])
    times = [[[0.0, 2.0, 3.0]] * 4, [[1.0, 2.0, 4.0]] * 4]
    answers = [
        {"sizes": {"d_model": 64, "num_experts": 2, "top_k": 1, "d_expert": 8},
         "load": load[:, rank].tolist(), "visits": load[:, rank].tolist(),
         "sent": [list(map(int, m[rank])) for m in (out, out.T, out, out.T)], "beside": 0,
         "passes": [[0.0, 9.0, times[rank]]], "error": 0.0}
        for rank in range(2)
    ]  # fmt: skip
    return Exchanged.merged(answers, 2, "expert")


def test_answers_are_put_together_and_what_differs_is_found():
    found = made()
    assert found.travel.tolist() == [2.0] * 4 and found.waited.tolist() == [8.0, 4.0]
    assert found.busiest.tolist() == [512] * 4 and (computed(found) == found.sent).all()
    wrong = made(((0, 252), (512, 0)))
    assert (computed(wrong) != wrong.sent).sum() == 4


def test_a_recording_is_told_from_its_figures():
    lines = {"2": Line(1e-3, 1e6, ((1.0, 1e-3),)).written() | {"load": [0.5, 0.5, 0.5]}}
    setting = {"processes": 2, "skew": 0.0, "capacity": 0.0, "limit": 0}
    right, wrong = (setting | made(*sent).written() for sent in ((), (((0, 252), (512, 0)),)))
    told = told_exchanges({"lines": lines, "runs": [right] * 3})
    assert told.startswith("In 3 recorded settings all 48 counts of bytes are equal")
    # To the digit: rounded down it would be less than what was seen.
    seen = told_exchanges({"lines": lines, "runs": [right | {"error": 1.4e-5}]})
    assert "from that of one process is 1.4e-05 nats." in seen
    assert "Of a training step the exchanges take " in told
    assert "load 0.5, α is 1,000 µs and β 0.001 GB/s." in told
    assert "took 1322.75 times as long" in told
    told = told_exchanges({"lines": lines, "runs": [right, wrong]})
    assert told.startswith("In 2 recorded settings 4 counts are not equal")


# How processes end.


def alive(pids):
    """Those that run; a dead child that nobody has waited for does not."""
    found = []
    for pid in pids:
        try:
            state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def gone(pids):
    wait(lambda: not alive(pids), "the end of all processes")


IDLE = "helpers.idle_rank"
HOLDER = f"""
from moeviz.systems.pool import Pool
pool = Pool({IDLE!r}, 2)
pool.start()
print(*(process.pid for process in pool._processes), flush=True)
pool.ask("sleep", seconds=600)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux's /proc")
def test_none_outlives_the_one_who_started_them_not_even_a_killed_one():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLDER], stdout=subprocess.PIPE, text=True, env=env
    )
    pids = [int(pid) for pid in holder.stdout.readline().split()]
    assert len(pids) == 2 and alive(pids) == pids
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    gone(pids)


@pytest.fixture
def idle():
    """Two processes that compute nothing, and start fast."""
    started = Pool(IDLE, 2)
    started.start()
    yield started
    started.end()


def test_one_that_dies_ends_all_in_one_sentence_and_they_can_be_started_again(idle):
    pids = [process.pid for process in idle._processes]
    sentence = r"^Process 1 of 2 has ended \(killed by signal 9\), .* start them again\.$"
    with pytest.raises(ValueError, match=sentence):
        idle.ask("die", rank=1)
    assert not idle.ready
    gone(pids)
    with pytest.raises(ValueError, match=r"^The processes have ended; start them again\.$"):
        idle.ask("rank")
    idle.start()
    assert idle.ask("rank") == [0, 1]
    with pytest.raises(ValueError, match=r"^E must be 2\. All 2 were ended\.$"):
        idle.ask("refuse")
    assert not idle.ready


def test_a_start_or_a_wait_can_be_stopped(idle):
    with pytest.raises(Stopped):
        idle.ask("sleep", lambda seconds: seconds < 0.3, seconds=600)
    assert not idle.ready
    with pytest.raises(Stopped):
        idle.start(lambda seconds: False)
    assert not idle.ready and not idle._processes


def test_what_cannot_start_says_so_in_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match=r"^size must be a whole number of at least 1, got 0\.$"):
        Pool(IDLE, 0)
    with pytest.raises(ValueError, match=r"^Process \d of 2 has ended \(exit status 1\)"):
        Pool("moeviz.no_such_module", 2).start()
    with monkeypatch.context() as patch:
        patch.setattr(pools, "free_memory_bytes", lambda: 0.5e9)
        with pytest.raises(ValueError, match=r"^4 processes need about 1\.6 GB .* 0\.5 GB are"):
            Pool(IDLE, 4).start()
    with monkeypatch.context() as patch:
        patch.setattr(pools.sys, "executable", "/nowhere/python")
        with pytest.raises(ValueError, match=r"^Processes cannot be started here: .*\.$"):
            Pool(IDLE, 2).start()
    monkeypatch.setattr("torch.distributed.is_gloo_available", lambda: False)
    with pytest.raises(ValueError, match=r"^This PyTorch comes without gloo"):
        pools._meet("file:///tmp/none")


def test_the_grid_has_every_setting_once():
    settings = [frozenset(setting.items()) for setting in grid(2)]
    assert len(settings) == len({*settings}) == 72 and frozenset(OPENING.items()) in settings
