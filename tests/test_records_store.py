"""One file format: safetensors with a JSON header, written whole or not at all."""

import json
import os
import pickle
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from moeviz.records import store as files
from moeviz.records.store import (
    HEADER_KEY,
    fitting,
    load_arrays,
    load_header,
    save_arrays,
    write_atomically,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DTYPES = st.sampled_from(["f4", "f8", "f2", "i2", "i4", "i8", "u1", "?"])
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0)
ARRAYS = arrays_of.arrays(DTYPES, SHAPES).flatmap(
    lambda array: st.sampled_from([array, array.T, array[::-1] if array.ndim else array])
)
NAMES = st.text(min_size=1, max_size=9).filter(lambda name: name != "__metadata__")


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(
    arrays=st.dictionaries(NAMES, ARRAYS, max_size=4),
    header=st.dictionaries(st.text().filter(lambda k: k != "kind"), JSON, max_size=3),
)
def test_arrays_of_any_shape_and_a_header_come_back(tmp_path, arrays, header):
    """Scalars and empty arrays included (np.ascontiguousarray would make vectors of scalars), and
    those that are not contiguous."""
    save_arrays(tmp_path / "a", arrays, header, kind="test")
    back, read = load_arrays(tmp_path / "a", kind="test")
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
    assert read == {"kind": "test", **header}
    assert load_header(tmp_path / "a", kind="test") == read


def test_anyone_can_read_the_file(tmp_path):
    save_arrays(tmp_path / "a", {"x": np.ones(3)}, {"seed": 1}, kind="test")
    assert load_file(tmp_path / "a")["x"].tolist() == [1, 1, 1]
    with safe_open(tmp_path / "a", "numpy") as file:
        header = json.loads(file.metadata()["moeviz"])
    assert re.fullmatch("[0-9a-f]{64}", header.pop("sha256"))
    assert header == {"kind": "test", "seed": 1}


def test_a_checkpoint_needs_a_checksum_and_the_right_one(tmp_path):
    save_arrays(tmp_path / "a", {"x": np.ones(3)}, {}, kind="checkpoint")
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[:-1] + b"\x40")
    with pytest.raises(ValueError, match="is damaged: what it holds does not fit its checksum"):
        load_arrays(tmp_path / "a", kind="checkpoint")
    for kind in ("checkpoint", "test"):  # a record of an earlier version has none
        metadata = {HEADER_KEY: json.dumps({"kind": kind})}
        save_file({"x": np.ones(3)}, tmp_path / "b", metadata=metadata)
        if kind == "test":
            assert load_arrays(tmp_path / "b", kind=kind)[1] == {"kind": kind}
            continue
        for load in (load_arrays, load_header):
            with pytest.raises(
                ValueError, match="of an earlier version of moeviz, without a check"
            ):
                load(tmp_path / "b", kind=kind)


def test_a_save_takes_away_the_partial_files_of_processes_that_have_ended(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f".a.{pid}.partial" for pid in (ended.pid, os.getppid(), 10**30)] + [".a.x.partial"]
    names += [f".a.json.{pid}.partial" for pid in (ended.pid, os.getppid())]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    others = [f".b.{ended.pid}.partial", ".a.²³.partial"]  # folders: they are not ours
    for name in others:
        (tmp_path / name).mkdir()
    write_atomically(tmp_path / "a", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1::2], *others, "a"])


class Bomb:
    """Unpickling it ends the process."""

    def __reduce__(self):
        return sys.exit, ("was unpickled",)


def written(**options):
    return lambda path, whole: save_file({"x": np.ones(3)}, path, **options)


def content(change):
    return lambda path, whole: path.write_bytes(change(whole))


DAMAGED, FOREIGN = "damaged or of another format", "was not written by moeviz"
DAMAGES = {
    "no safetensors": (content(lambda whole: random.Random(0).randbytes(5000)), DAMAGED),
    "empty": (content(lambda whole: b""), DAMAGED),
    "truncated": (content(lambda whole: whole[: len(whole) - 9]), DAMAGED),
    "truncated header": (content(lambda whole: whole[:60]), DAMAGED),
    "flipped": (content(lambda whole: whole[:8] + bytes([whole[8] ^ 255]) + whole[9:]), DAMAGED),
    "a pickle": (content(lambda whole: pickle.dumps(Bomb())), "no pickles"),
    "a file of torch": (lambda path, whole: torch.save(Bomb(), path), "no pickles"),
    "foreign": (written(metadata={"format": "pt"}), FOREIGN),
    "without a header": (written(), FOREIGN),
    "a header that is no JSON": (written(metadata={HEADER_KEY: "{"}), FOREIGN),
    "a header that is a list": (written(metadata={HEADER_KEY: "[]"}), FOREIGN),
    "another kind": (
        lambda path, whole: save_arrays(path, {}, {}, kind="other"),
        "is of the kind .other.; here .test. is needed",
    ),
    "bfloat16, which numpy has not": (
        lambda path, whole: save_torch({"w": torch.zeros(3, dtype=torch.bfloat16)}, path),
        f"{FOREIGN}|{DAMAGED}",
    ),
}


@pytest.mark.parametrize("read", [load_arrays, load_header])
@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_no_such_file_is_refused_in_one_sentence(tmp_path, read, kind):
    path, (damage, sentence) = tmp_path / "a", DAMAGES[kind]
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read(path, kind="test")
    save_arrays(path, {"x": np.ones(3)}, {}, kind="test")
    damage(path, path.read_bytes())
    with pytest.raises(ValueError, match=sentence) as refusal:
        read(path, kind="test")
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "er" / "a"
    for content in (b"new folders", b"old"):
        write_atomically(path, content)
        assert path.read_bytes() == content and os.listdir(path.parent) == ["a"]

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        OSError, match="Could not save .*No space left on device.*untouched"
    ) as stop:
        write_atomically(path, b"new")
    assert "\n" not in str(stop.value) and "Errno" not in str(stop.value)
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["a"]


@pytest.mark.parametrize("error", [KeyError("step"), TypeError("no step"), AttributeError("step")])
def test_what_does_not_fit_names_the_file(error):
    with pytest.raises(ValueError, match="run.safetensors does not fit this version.*step"):
        with fitting("run.safetensors"):
            raise error
