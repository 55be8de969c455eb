"""What happened, as numpy: histories in bounded memory, and records that come back from files."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.records.runs import (
    Anatomy,
    Curve,
    History,
    Point,
    Snapshot,
    Trace,
    load_snapshots,
    save_snapshots,
)
from moeviz.records.store import save_arrays

SHAPE = (2, 3)  # layers, experts


def points(count, seed=0, validate_every=7):
    random = np.random.default_rng(seed)
    return [
        Point(
            step=step,
            seconds=0.1 * step,
            flops=1e9 * step,
            loss=random.normal(),
            load=random.random(SHAPE),
            validation=random.normal() if step % validate_every == 0 else float("nan"),
        )
        for step in range(1, count + 1)
    ]


def filled(added, capacity=8):
    history = History(*SHAPE, capacity=capacity)
    for point in added:
        history.add(point)
    return history


def same(a, b):
    for name, column in vars(a).items():
        other = getattr(b, name)
        assert column.dtype == other.dtype and column.shape == other.shape, name
        assert np.array_equal(column, other, equal_nan=True), name


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 300), capacity=st.sampled_from([2, 4, 10, 32]))
def test_a_history_is_bounded_ends_at_the_last_step_and_keeps_exact_means(count, capacity):
    added = points(count)
    history = filled(added, capacity)
    curve = history.curve()
    assert len(curve) <= capacity
    if count >= capacity:
        assert len(curve) >= capacity // 2
    if count == 0:
        assert curve.load.shape == (0, *SHAPE)
        return
    assert curve.step[-1] == count and curve.seconds[-1] == pytest.approx(0.1 * count)
    assert (np.diff(curve.step) > 0).all()
    # A point stands for all steps since the one before it.
    start = 0
    for i, end in enumerate(curve.step.astype(int)):
        group = added[start:end]
        assert curve.loss[i] == pytest.approx(np.mean([p.loss for p in group]))
        assert curve.load[i] == pytest.approx(np.mean([p.load for p in group], axis=0))
        measured = [p.validation for p in group if not np.isnan(p.validation)]
        assert np.array_equal(curve.validation[i], measured[-1] if measured else np.nan, True)
        start = end


def test_a_short_history_keeps_every_point():
    added = points(7)
    curve = filled(added, capacity=8).curve()
    assert curve.step.tolist() == list(range(1, 8))
    assert curve.loss.tolist() == [p.loss for p in added]


@settings(max_examples=40, deadline=None)
@given(before=st.integers(0, 70), after=st.integers(0, 70))
def test_a_restored_history_goes_on_exactly(before, after):
    added = points(before + after)
    whole, part = filled(added), filled(added[:before])
    again = History(*SHAPE, capacity=8)
    again.restore(*part.state())
    same(part.curve(), again.curve())
    for point in added[before:]:
        again.add(point)
    same(whole.curve(), again.curve())
    assert again.stride == whole.stride


def test_a_dense_model_has_no_load():
    history = History(0, 0, capacity=4)
    for step in range(1, 10):
        history.add(Point(step, 0.1, 1.0, 2.0, np.zeros((0, 0))))
    assert history.curve().load.shape == (len(history.curve()), 0, 0)
    again = History(0, 0, capacity=4)
    again.restore(*history.state())
    same(history.curve(), again.curve())


def test_a_curve_is_a_copy():
    history = filled(points(5))
    curve = history.curve()
    curve.loss[:] = 0
    assert (history.curve().loss != 0).all()


def curve(**columns):
    steps = np.arange(1.0, 6.0)
    return Curve(
        **{
            "step": steps,
            "seconds": steps / 2,
            "flops": steps * 1e9,
            "loss": 10 - steps,
            "load": np.ones((5, *SHAPE)) / 3,
            "validation": np.array([np.nan, 3.0, np.nan, 2.0, np.nan]),
            **columns,
        }
    )


def snapshot(label="moe", **changes):
    fields = dict(
        label=label,
        step=5,
        total_steps=9,
        seconds=2.5,
        tokens_per_second=7.0,
        parameters=100,
        active_parameters=40,
        curve=curve(),
        meta={"train": {"seed": 1}},
    )
    return Snapshot(**{**fields, **changes})


@pytest.mark.parametrize(
    "axis,x,count",
    [("step", 3, 3), ("step", 2.9, 2), ("step", 0, 0), ("seconds", 1.0, 2), ("flops", 1e99, 5)],
)
def test_the_timeline_goes_back_to_any_point(axis, x, count):
    back = snapshot().at(axis, x)
    assert len(back.curve) == count == back.step
    assert back.seconds == count / 2
    assert back.curve.load.shape == (count, *SHAPE)
    assert back.label == "moe" and back.total_steps == 9


def trace():
    return Trace(
        tokens=("<b>", "n", "‹c3›", "‹a9›"),
        expert=np.array([[[0, 2], [1, -1]], [[2, 0], [1, 0]]] * 2, dtype=np.int16),
        weight=np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 2, 2),
        score=np.full((4, 2, 3), 1 / 3, dtype=np.float32),
        layers=(0, 2),
        meta={"seed": 3, "list": [1, {"a": None}], "sign": "\u2028☃"},
    )


def anatomy():
    T, D, E, K = 3, 4, 5, 2
    random = np.random.default_rng(0)

    def floats(*shape):
        return random.normal(size=shape).astype(np.float32)

    return Anatomy(
        text="a b c",
        tokens=("a", "b", "c"),
        layer=1,
        model_layers=(0, 1),
        weighting="raw",
        x=floats(T, D),
        logits=floats(T, E),
        score=floats(T, E),
        expert=random.integers(0, E, (T, K)).astype(np.int16),
        weight=floats(T, K),
        row_token=np.arange(6, dtype=np.int32),
        row_expert=np.arange(6, dtype=np.int32),
        row_weight=floats(6),
        offsets=np.arange(E + 1, dtype=np.int32),
        row_output=floats(6, D),
        y=floats(T, D),
        meta={"step": 3},
    )


def same_record(a, b):
    assert type(a) is type(b)
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype and np.array_equal(value, other), name
        else:
            assert value == other and type(value) is type(other), name


def test_a_trace_counts_its_load_and_skips_what_was_not_served():
    assert trace().load().tolist() == [[4, 0, 4], [2, 4, 0]]
    assert (trace().num_experts, trace().top_k) == (3, 2)


@pytest.mark.parametrize("make", [trace, anatomy])
def test_a_record_comes_back_from_its_file(tmp_path, make):
    path = tmp_path / "new" / "record.safetensors"
    make().save(path)
    same_record(make(), type(make()).load_file(path))


def test_a_record_is_saved_as_it_is_seen(tmp_path):
    """A transposed or sliced array is not laid out in memory as it is read."""
    record = trace()
    score = np.arange(48, dtype=np.float32).reshape(3, 2, 8).T[::2]
    assert not score.flags.c_contiguous
    turned = Trace(**{**vars(record), "score": score})
    turned.save(tmp_path / "a")
    assert np.array_equal(Trace.load_file(tmp_path / "a").score, turned.score)


def test_snapshots_come_back_from_their_file(tmp_path):
    shots = [snapshot("dense", curve=curve(load=np.zeros((5, 0, 0)))), snapshot("moe")]
    save_snapshots(tmp_path / "a", shots, {"python": "3"})
    back, meta = load_snapshots(tmp_path / "a")
    assert meta == {"python": "3"} and len(back) == 2
    for one, other in zip(shots, back, strict=True):
        same(one.curve, other.curve)
        assert {k: v for k, v in vars(one).items() if k != "curve"} == {
            k: v for k, v in vars(other).items() if k != "curve"
        }


def test_a_record_of_another_kind_or_version_is_refused(tmp_path):
    trace().save(tmp_path / "trace")
    with pytest.raises(ValueError, match="is of the kind .trace."):
        Anatomy.load_file(tmp_path / "trace")
    save_arrays(tmp_path / "old", {"expert": np.zeros(3)}, {"tokens": []}, kind="trace")
    with pytest.raises(ValueError, match="another version of moeviz"):
        Trace.load_file(tmp_path / "old")
    save_arrays(tmp_path / "older", {}, {"snapshots": [{"label": "a"}]}, kind="snapshots")
    with pytest.raises(ValueError, match="does not fit this version of moeviz") as refusal:
        load_snapshots(tmp_path / "older")
    assert "\n" not in str(refusal.value)


def test_reading_a_record_needs_no_torch(tmp_path):
    trace().save(tmp_path / "trace")
    code = (
        "import sys\nfrom moeviz.records.runs import Trace\nimport moeviz.records.metrics\n"
        "print(Trace.load_file(sys.argv[1]).top_k, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "trace")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2", "False"]
