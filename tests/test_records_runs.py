"""What happened, as numpy: histories in bounded memory, and records that come back from files."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.host import data_path
from moeviz.records.dispatch import DispatchTrace
from moeviz.records.routes import Anatomy, Decision, Trace
from moeviz.records.runs import Curve, History, Point, Snapshot, load_snapshots, save_snapshots
from moeviz.records.store import load_records, save_arrays, save_records

SHAPE = (2, 3)  # layers, experts


def points(count, shape=SHAPE):
    random = np.random.default_rng(0)
    return [
        Point(
            step=step,
            seconds=0.1 * step,
            flops=1e9 * step,
            loss=random.normal(),
            load=random.random(shape),
            validation=random.normal() if step % 7 == 0 else float("nan"),
            entropy=random.random(shape[0]),
            dropped=random.random(shape[0]),
        )
        for step in range(1, count + 1)
    ]


def filled(added, capacity=8, shape=SHAPE):
    history = History(*shape, capacity=capacity)
    for point in added:
        history.add(point)
    return history


def same(a, b):
    """Records and curves of equal types, arrays and values."""
    assert type(a) is type(b) and vars(a).keys() == vars(b).keys()
    for name, value in vars(a).items():
        other = getattr(b, name)
        assert type(value) is type(other), name
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype and value.shape == other.shape, name
            assert value.tobytes() == other.tobytes(), name
        elif isinstance(value, Curve):
            same(value, other)
        else:
            assert value == other, name


@settings(max_examples=60)
@given(count=st.integers(0, 300), capacity=st.sampled_from([2, 4, 10, 32]))
def test_a_history_is_bounded_ends_at_the_last_step_and_keeps_exact_means(count, capacity):
    added = points(count)
    curve = filled(added, capacity).curve()
    assert len(curve) <= capacity
    if count < capacity:
        assert curve.loss.tolist() == [p.loss for p in added]
    else:
        assert len(curve) >= capacity // 2
    assert curve.step[-1:].tolist() == [count] * (count > 0)
    assert (np.diff(curve.step) > 0).all()
    # A point stands for all steps since the one before it.
    start = 0
    for i, end in enumerate(curve.step.astype(int)):
        group = added[start:end]
        assert (curve.seconds[i], curve.flops[i]) == (group[-1].seconds, group[-1].flops)
        for name in ("loss", "load", "entropy", "dropped"):
            mean = np.mean([getattr(p, name) for p in group], axis=0)
            assert getattr(curve, name)[i] == pytest.approx(mean), name
        measured = [p.validation for p in group if not np.isnan(p.validation)]
        assert np.array_equal(curve.validation[i], measured[-1] if measured else np.nan, True)
        start = end


@settings(max_examples=40)
@given(before=st.integers(0, 70), after=st.integers(0, 70), shape=st.sampled_from([SHAPE, (0, 0)]))
def test_a_restored_history_goes_on_exactly(before, after, shape):
    """Of a dense model, (0, 0), too; a curve is a copy of what is there."""
    added = points(before + after, shape)
    whole, part = filled(added, shape=shape), filled(added[:before], shape=shape)
    again = History(*shape, capacity=8)
    again.restore(*part.state())
    same(part.curve(), again.curve())
    for point in added[before:]:
        again.add(point)
    for column in vars(again.curve()).values():
        column[:] = 0
    same(whole.curve(), again.curve())
    assert again.stride == whole.stride


def snapshot(label="moe", load=(5, *SHAPE)):
    steps = np.arange(1.0, 6.0)
    curve = Curve(
        step=steps,
        seconds=steps / 2,
        flops=steps * 1e9,
        loss=10 - steps,
        load=np.ones(load) / 3,
        validation=np.array([np.nan, 3.0, np.nan, 2.0, np.nan]),
    )
    return Snapshot(label, 5, 9, 2.5, 7.0, 100, 40, curve, {"train": {"seed": 1}})


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


def test_a_trace_counts_its_load_and_skips_what_was_not_served():
    expert = np.array([[[0, 3], [1, -1], [2, 3]], [[3, 0], [1, 0], [3, 2]]] * 2, dtype=np.int16)
    score = np.full((4, 3, 4), 1 / 4, dtype=np.float32)
    trace = Trace(("a", "b", "c", "d"), expert, score[..., :2], score, (0, 2, 5))
    assert trace.load().tolist() == [[4, 0, 0, 4], [2, 4, 0, 0], [0, 0, 4, 4]]
    assert (trace.num_experts, trace.top_k) == (4, 2)


# Files.

SHIPPED = {
    "start_here": Trace,
    "inside_layer": Anatomy,
    "slots": Decision,
    "dispatch": DispatchTrace,
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_record_comes_back_from_its_file(tmp_path, name):
    record = SHIPPED[name].load_file(data_path("traces", f"{name}.safetensors"))
    record = dataclasses.replace(record, meta={"list": [1, {"a": None}], "sign": "\u2028☃"})
    assert isinstance(record.tokens, tuple)
    record.save(tmp_path / "new" / "record")
    same(record, SHIPPED[name].load_file(tmp_path / "new" / "record"))


def test_several_records_come_back_from_one_file_by_name_and_in_order(tmp_path):
    decisions, meta = load_records(data_path("traces", "routing.safetensors"), Decision)
    save_records(tmp_path / "a", decisions, meta)
    back, again = load_records(tmp_path / "a", Decision)
    assert again == meta and list(back) == list(decisions)
    shots = [snapshot("dense", load=(5, 0, 0)), *(snapshot(f"moe {i}") for i in range(11))]
    save_snapshots(tmp_path / "b", shots, {"python": "3"})
    found, meta = load_snapshots(tmp_path / "b")
    assert meta == {"python": "3"}
    for one, other in zip([*decisions.values(), *shots], [*back.values(), *found], strict=True):
        same(one, other)


def test_a_record_of_another_kind_or_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is of the kind .trace."):
        Anatomy.load_file(data_path("traces", "start_here.safetensors"))
    save_arrays(tmp_path / "old", {"expert": np.zeros(3)}, {"tokens": []}, kind="trace")
    with pytest.raises(ValueError, match="another version of moeviz"):
        Trace.load_file(tmp_path / "old")
    for header in ({}, {"snapshots": {"0": {"label": "a"}}}, {"snapshots": [{"label": "a"}]}):
        save_arrays(tmp_path / "older", {}, header, kind="snapshots")
        with pytest.raises(ValueError, match="does not fit this version of moeviz") as refusal:
            load_snapshots(tmp_path / "older")
        assert "\n" not in str(refusal.value)


def test_records_and_texts_are_read_without_heavy_libraries():
    code = (
        "import sys\nfrom moeviz.records import Trace\nimport moeviz.records.metrics\n"
        "import moeviz.text.corpus, moeviz.text.sources, moeviz.text.tokenizer\n"
        "heavy = {'torch', 'datasets', 'tokenizers', 'pandas', 'scipy'} & {*sys.modules}\n"
        "print(Trace.load_file(sys.argv[1]).top_k, *heavy)"
    )
    path = data_path("traces", "start_here.safetensors")
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"]
