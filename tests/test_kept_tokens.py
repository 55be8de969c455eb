"""The embedded corpus kept on disk: never another token, whatever became of the file."""

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moeviz.records.store import save_arrays
from moeviz.text import corpus as corpora
from moeviz.text import kept_tokens
from moeviz.text.corpus import Corpus
from moeviz.text.embedded import Domain, Source, embedded_source
from moeviz.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.default()
IN_PLACE = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_equal(one, other):
    assert one.manifest == other.manifest and one.tokenizer is other.tokenizer
    assert (one.name, one.domains, repr(one)) == (other.name, other.domains, repr(other))
    for part in ("train", "validation", "reserve"):
        for domain in other.domains:
            ids = one.tokens(domain, part)
            assert ids.dtype == np.int32 and not ids.flags.writeable
            assert np.array_equal(ids, other.tokens(domain, part))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home in which nothing is kept yet."""
    monkeypatch.setenv("MOEVIZ_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def builds(home, monkeypatch):
    """Names of the corpora that were tokenised since the test began."""
    built, real = [], Corpus.__init__

    def counted(self, source, tokenizer):
        built.append(source.name)
        real(self, source, tokenizer)

    monkeypatch.setattr(Corpus, "__init__", counted)
    return built


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A folder of the two files that the text comes from."""
    pieces = {"python": {"a.py": "00"}, "c": {"sub/b.h": "11"}}
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text("a = 1\n")
    (tmp_path / "sub" / "b.h").write_text("int b;\n")
    monkeypatch.setattr(kept_tokens, "recorded_pieces", lambda: pieces)
    monkeypatch.setattr(kept_tokens, "folder_of", lambda domain: tmp_path)
    return tmp_path


@pytest.fixture
def small(texts, monkeypatch):
    """In place of the embedded text: two domains of a few lines."""
    random = np.random.default_rng(5)
    lines = ["".join(map(chr, random.integers(97, 123, 90))) for _ in range(40)]
    both = Domain("a", tuple(lines[:20]), "test"), Domain("b", tuple(lines[20:]), "test")
    source = Source("embedded", both, ("nothing but a test",), reserve=True)
    monkeypatch.setattr(corpora, "embedded_source", lambda: source)
    return Corpus(source, TOKENIZER)


def test_the_embedded_corpus_is_read_as_it_was_made(builds):
    made, read = corpora._embedded(TOKENIZER), corpora._embedded(TOKENIZER)
    assert builds == ["embedded"] and read is not made
    assert_equal(read, made)
    assert_equal(read.only("hex"), made.only("hex"))


@IN_PLACE
@given(st.data())
def test_a_damaged_file_is_made_again_and_changes_no_token(home, small, builds, data):
    assert_equal(corpora._embedded(TOKENIZER), small)
    path = kept_tokens._path()
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1), "place")
    bits = data.draw(st.integers(1, 255), "bits")
    damaged = {
        "a byte": whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :],
        "its end": whole[:place],
        "its beginning": whole[place + 1 :],
    }
    path.write_bytes(damaged[data.draw(st.sampled_from(sorted(damaged)), "what is damaged")])
    del builds[:]
    assert_equal(corpora._embedded(TOKENIZER), small)
    if builds:  # what was thrown away was replaced
        assert path.read_bytes() == whole
        assert_equal(corpora._embedded(TOKENIZER), small)
    assert len(builds) <= 1


def test_a_foreign_file_is_passed_over(home, small, builds):
    decided_by = kept_tokens.what_decides(TOKENIZER)
    arrays, values = small._take_apart()
    wrong = {name: ids + 1 for name, ids in arrays.items()}
    header = {"decided_by": decided_by, "values": values}
    others = header | {"decided_by": "0" * 64}
    kinds = ("checkpoint", kept_tokens.KIND, kept_tokens.KIND)
    for kind, foreign in zip(kinds, (header, {}, others), strict=True):
        save_arrays(kept_tokens._path(), wrong, foreign, kind=kind)
        assert_equal(corpora._embedded(TOKENIZER), small)
    assert len(builds) == 3


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_home_that_cannot_be_written_is_no_reason_to_fail(home, small, builds, what):
    if what == "file":
        home.write_text("no folder")
    else:
        kept_tokens._path().mkdir(parents=True)
    for _ in range(2):
        assert_equal(corpora._embedded(TOKENIZER), small)
    assert len(builds) == 2


def test_whatever_decides_the_tokens_is_in_the_hash(texts, tmp_path_factory, monkeypatch):
    def now(tokenizer=TOKENIZER):
        return kept_tokens.what_decides(tokenizer)

    seen = [now()]
    assert now() == seen[0]
    (texts / "a.py").write_text("a = 2\n")
    seen.append(now())
    (texts / "a.py").write_text("")
    seen.append(now())
    (texts / "a.py").unlink()
    seen.append(now())
    (texts / "sub" / "b.h").write_bytes(b"\xff")
    seen.append(now())
    seen.append(now(Tokenizer.train(["abc"], 256)))
    monkeypatch.setattr(kept_tokens, "package_version", lambda name: "0")
    seen.append(now())
    for name in ("np.__version__", "sys.version"):
        monkeypatch.setattr(f"moeviz.text.kept_tokens.{name}", "0")
        seen.append(now())
    copy = tmp_path_factory.mktemp("code")
    for path in Path(kept_tokens.__file__).parent.glob("*.py"):
        shutil.copy(path, copy)
    monkeypatch.setattr(kept_tokens, "__file__", str(copy / "kept_tokens.py"))
    assert now() == seen[-1]
    for name in ("leaks.py", "new.py"):
        with (copy / name).open("a") as file:
            file.write("# changed\n")
        seen.append(now())
    monkeypatch.setattr(kept_tokens, "recorded_pieces", lambda: {"python": {"a.py": "22"}})
    seen.append(now())
    assert len(set(seen)) == len(seen) == 12


def test_every_file_that_the_text_is_read_from_is_in_the_hash(monkeypatch):
    read = {"read_text": set(), "read_bytes": set()}

    def noted(self, *args, name, real, **options):
        read[name].add(self)
        return real(self, *args, **options)

    for name in read:
        method = functools.partialmethod(noted, name=name, real=getattr(Path, name))
        monkeypatch.setattr(Path, name, method)
    embedded_source.__wrapped__()
    kept_tokens.what_decides(TOKENIZER)
    texts = {path for path in read["read_text"] if path.suffix in (".py", ".h")}
    assert len(texts) > 200 and texts <= read["read_bytes"]
