"""One process at a time keeps its files in a folder; one that is killed holds nothing."""

import os

import pytest

from helpers.processes import another_process
from moeviz.records import lock


def test_a_folder_is_held_by_one_process_until_it_is_killed(tmp_path):
    folder = tmp_path / "a" / "b"
    with another_process(folder) as other:
        assert lock.holder(folder) == lock.take(folder) == other.pid
        with (
            pytest.raises(ValueError, match=rf"in use by another process \({other.pid}\); wait"),
            lock.held(folder),
        ):
            pytest.fail("it was held")
    assert lock.holder(folder) is None
    assert lock.take(folder) is None and lock.take(folder) is None
    assert (folder / lock.NAME).read_text() == str(os.getpid())
    assert lock.holder(folder) is None, "it is this process's own"
    lock.release(folder)
    lock.release(folder)
    assert list(folder.iterdir()) == []


def test_a_folder_is_held_before_its_holder_has_said_who_it_is(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / lock.NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert lock.holder(tmp_path) == lock.take(tmp_path) == 0
        with (
            pytest.raises(ValueError, match="is in use by another process; wait until it ends"),
            lock.held(tmp_path),
        ):
            pytest.fail("it was held")
    assert lock.holder(tmp_path) is None


def test_a_folder_that_stays_empty_is_taken_away_and_a_file_is_none(tmp_path):
    with lock.held(tmp_path / "run"):
        assert (tmp_path / "run" / lock.NAME).exists()
    assert not (tmp_path / "run").exists()
    (tmp_path / "empty").mkdir()
    with lock.held(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").exists(), "it is the user's"
    with lock.held(tmp_path / "run"):
        (tmp_path / "run" / "kept").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["kept"]
    with (
        pytest.raises(ValueError, match="kept cannot be a folder to write to"),
        lock.held(tmp_path / "run" / "kept"),
    ):
        pytest.fail("it was held")


def test_where_there_are_no_locks_nobody_is_refused(tmp_path, monkeypatch):
    with another_process(tmp_path):
        monkeypatch.setattr(lock, "fcntl", None)
        assert lock.holder(tmp_path) is None and lock.take(tmp_path) is None
        lock.release(tmp_path)
