"""Provenance names moeviz's own commit and code, or nothing; autosaves lie where the user says."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from moeviz import host
from moeviz.panels.autosave import Autosave
from moeviz.records.store import save_arrays
from moeviz.text import kept_tokens


def git(folder, *command):
    """Git without what the user has told it: to sign every commit, say."""
    as_somebody = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    run = subprocess.run(
        [*as_somebody, *command], capture_output=True, text=True, check=True,
        env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull},
    )  # fmt: skip
    return run.stdout.strip()


def installed(folder):
    """moeviz.host as it is where the package stands in `folder`."""
    (folder / "moeviz").mkdir(parents=True)
    shutil.copy(host.__file__, folder / "moeviz" / "host.py")
    (folder / "moeviz" / "__init__.py").touch()
    spec = importlib.util.spec_from_file_location("other_host", folder / "moeviz" / "host.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commit_of(module):
    return module.provenance("x")["commit"]


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "thesis.txt").write_text("Chapter one.\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "start")
    return tmp_path


@pytest.mark.parametrize("place", ["venv/lib/site-packages", "."])
def test_the_commit_of_a_strangers_repository_is_not_ours(repository, place):
    """Installed in an environment inside it, or laid into it and never committed."""
    assert commit_of(installed(repository / place)) is None


def test_a_named_commit_goes_before_the_repository_that_the_code_lies_in(repository, monkeypatch):
    monkeypatch.setenv("MOEVIZ_COMMIT", "abc123")
    assert commit_of(installed(repository / "lib")) == "abc123"


def test_the_commit_of_our_checkout_is_told_with_a_plus_where_files_were_changed(
    repository, monkeypatch
):
    checkout = installed(repository)
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "the package")
    commit = git(repository, "rev-parse", "--short=12", "HEAD")
    assert commit_of(checkout) == commit
    (repository / "thesis.txt").write_text("Chapter two.\n")
    assert commit_of(checkout) == commit + "+"
    monkeypatch.setenv("PATH", "")  # no git
    assert commit_of(checkout) is None


def test_the_fingerprint_follows_every_python_file(tmp_path):
    other, new = installed(tmp_path), tmp_path / "moeviz" / "new.py"
    seen = [other.code_fingerprint()]
    (tmp_path / "moeviz" / "notes.txt").write_text("not code")
    assert other.code_fingerprint() == seen[0]
    for content in ("", "a = 1\n", "a = 2\n"):  # a new file counts, committed or not
        new.write_text(content)
        seen.append(other.code_fingerprint())
    new.rename(tmp_path / "moeviz" / "renamed.py")
    seen.append(other.provenance("x")["code"])
    assert len(set(seen)) == 5


def test_damaged_figures_are_named_with_the_way_to_restore_them(monkeypatch, tmp_path):
    (tmp_path / "race.json").write_text('{"arms": ')
    monkeypatch.setattr(host, "data_path", lambda folder, file: tmp_path / file)
    with pytest.raises(ValueError, match=r"race.json that ships .* damaged .*git checkout -- data"):
        host.read_figures("race")


def test_autosaves_lie_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MOEVIZ_HOME", str(tmp_path))
    assert host.autosave_folder("race") == tmp_path / "live" / "race"
    monkeypatch.delenv("MOEVIZ_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert host.autosave_folder("race") == tmp_path / ".cache" / "moeviz" / "live" / "race"
    monkeypatch.setattr(host.Path, "home", no_home)
    folder = host.autosave_folder("race")  # and the panels import
    assert folder.name == "race" and Path(tempfile.gettempdir()) in folder.parents


def test_a_home_that_is_a_file_keeps_nothing_and_each_save_says_so(monkeypatch, tmp_path):
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("MOEVIZ_HOME", str(tmp_path / "home"))
    runs = Autosave("race", ["dense"])
    assert runs.free == runs.take() == tmp_path / "home" / "live" / "race"
    with pytest.raises(FileNotFoundError, match="There is no file"):
        runs.headers()
    with pytest.raises(OSError, match=r"Could not save .*home.live.race.*give another path"):
        save_arrays(runs.folder / "dense.safetensors", {}, {}, kind="checkpoint")
    kept_tokens.keep("hash", {}, {})  # the tokens are made anew in each process
    assert kept_tokens.kept("hash") is None


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_the_memory_is_that_of_the_machine_or_its_container():
    assert 2**28 < host.memory_bytes() < 2**50
