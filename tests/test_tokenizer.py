"""The tokenizer loses nothing, knows everything, and its pieces can be read."""

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeviz import host as paths
from moeviz.experiments import tokenizer as experiment
from moeviz.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.default()


@given(st.lists(st.text() | st.text(alphabet=" \t\r\n\x0b\x85\u2028ab1([")))
def test_any_texts_come_back_alone_and_in_a_batch(texts):
    batch = TOKENIZER.encode_batch(texts)
    assert len(batch) == len(texts)
    for text, ids in zip(texts, batch, strict=True):
        assert ids.dtype == np.int32 and ids.tolist() == TOKENIZER.encode(text).tolist()
        assert TOKENIZER.decode(ids) == text
        assert len(TOKENIZER.pieces(ids)) == len(ids)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)))
def test_any_ids_decode_to_printable_pieces(ids):
    assert isinstance(TOKENIZER.decode(ids), str)
    assert all(piece and piece.isprintable() for piece in TOKENIZER.pieces(ids))


@pytest.fixture(scope="module", params=["shipped", "made again"])
def made(request, tmp_path_factory):
    """The tokenizer that ships, and the one that its experiment makes here, with its folder."""
    folder = paths.data_path("tokenizer")
    if request.param == "made again":
        out = tmp_path_factory.mktemp("out")
        experiment.run(out, {"command": "python -m"}, 1, lambda done, of: None)
        folder = out / "tokenizer"
    return folder, Tokenizer.from_file(folder / "tokenizer.json")


def test_pieces_are_readable(made):
    _, held = made
    for text, pieces in (
        ("def f(self):\n    return 120\n", "def ·f ( self ) : ⏎ ···· return · 1 2 0 ⏎"),
        ("the value of the object", "the ·value ·of ·the ·object"),
        ("12+34=46\n", "1 2 + 3 4 = 4 6 ⏎"),
        ("([{}])", "( [ { } ] )"),
        ("é\t\0", "‹c3› ‹a9› ⇥ ‹00›"),
    ):
        assert held.pieces(held.encode(text)) == pieces.split()
    every = held.pieces(range(held.vocab_size))
    for sign in "0123456789()[]{}":  # stand alone, but for a space before them
        assert sign in every
        assert {p.lstrip("·") for p in every if sign in p and "‹" not in p} == {sign}


def test_a_sign_means_one_thing_and_no_mark_stands_alone():
    texts = ["a·b a b caf\u0065\u0301 \u0301 x\u0302\u0301 ⏎ ⇥ ‹ › ◌ " * 200]
    own = Tokenizer.train(texts, 400)
    shown = own.pieces(range(own.vocab_size))
    assert len(set(shown)) == own.vocab_size  # also "·" for a space and for U+00B7
    for piece in shown:
        assert not unicodedata.combining(piece[0]), piece
    by_id = [own.pieces([i])[0] for i in own.encode("a·b a \u0301x\u0302\u0301")]
    text = "".join(by_id)
    assert text.startswith("a‹c2›‹b7›b·a") and "\u0302\u0301" in text
    assert "·\u0301" not in text and "◌\u0301" in text


def test_training_is_deterministic_and_saving_loses_nothing(tmp_path):
    texts = ["the cat sat on the mat\n" * 9, "the dog sat on the log\n" * 9]
    one, two = Tokenizer.train(texts, 300), Tokenizer.train(iter(texts), 300)
    assert one.sha256 == two.sha256
    assert 256 < one.vocab_size <= 300
    one.save(tmp_path / "t.json")
    again = Tokenizer.from_file(tmp_path / "t.json")
    assert again.encode("the log ☃").tolist() == one.encode("the log ☃").tolist()
    # A Windows checkout may rewrite the line ends.
    crlf = (tmp_path / "t.json").read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "t.json").write_bytes(crlf)
    assert Tokenizer.from_file(tmp_path / "t.json").sha256 == again.sha256 == one.sha256


def test_a_tokenizer_is_the_one_its_provenance_names(made):
    folder, held = made
    provenance = json.loads((folder / "provenance.json").read_text())
    assert (held.sha256, held.vocab_size) == (provenance["sha256"], provenance["vocab_size"])
    assert held.vocab_size == 2048 and provenance["command"].startswith("python -m")
    assert {"python", "english"} <= {entry["domain"] for entry in provenance["trained_on"]}
    assert len({entry["characters"] for entry in provenance["trained_on"]}) == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"model": {}}',
        '{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}',
        '{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[]}}',
    ],
)
def test_a_damaged_or_foreign_file_is_refused_in_one_sentence(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="not a usable tokenizer") as refusal:
        Tokenizer.from_file(file)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path):
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\0")
    for name in ("t.json", "absent.json"):
        with pytest.raises(ValueError, match="not a usable tokenizer"):
            Tokenizer.from_file(tmp_path / name)


def test_data_is_found_as_a_wheel_and_as_a_checkout_have_it(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "moeviz")
    with pytest.raises(FileNotFoundError, match='"a.json".*missing.*reinstall'):
        paths.data_path("a.json")
    checkout = tmp_path / "data" / "a.json"
    wheel = tmp_path / "moeviz" / "recorded" / "a.json"
    for file in (checkout, wheel):
        file.parent.mkdir(parents=True)
        file.touch()
        assert paths.data_path("a.json") == file


@pytest.mark.parametrize("ids", [[-1], [TOKENIZER.vocab_size], [0.5], np.array([1 << 40])])
def test_ids_outside_the_vocabulary_are_refused(ids):
    for use in (TOKENIZER.decode, TOKENIZER.pieces):
        with pytest.raises(ValueError, match="from 0 to 2047"):
            use(ids)


def test_what_is_no_text_is_refused():
    with pytest.raises(ValueError, match="not bytes"):
        TOKENIZER.encode(b"abc")
    with pytest.raises(ValueError, match=r"U\+D83D.*character 2"):
        TOKENIZER.encode("ab\ud83d")
    with pytest.raises(ValueError, match="at least 256"):
        Tokenizer.train(["abc"], 255)
