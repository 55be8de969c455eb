"""The tokenizer loses nothing, knows everything, and its pieces can be read."""

import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeviz import host as paths
from moeviz.text.tokenizer import Tokenizer, build_default

TOKENIZER = Tokenizer.default()


@given(st.text())
def test_any_text_comes_back(text):
    ids = TOKENIZER.encode(text)
    assert ids.dtype == np.int32
    assert TOKENIZER.decode(ids) == text
    assert len(TOKENIZER.pieces(ids)) == len(ids)


@given(st.text(alphabet=" \t\r\n\x0b\x85\u2028ab1(["))
def test_any_white_space_comes_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)))
def test_any_ids_decode_to_printable_pieces(ids):
    assert isinstance(TOKENIZER.decode(ids), str)
    assert all(piece and piece.isprintable() for piece in TOKENIZER.pieces(ids))


def test_pieces_are_readable():
    def show(text):
        return TOKENIZER.pieces(TOKENIZER.encode(text))

    assert show("def f(self):\n    return 120\n") == (
        ["def", "·f", "(", "self", ")", ":", "⏎", "····", "return", "·", "1", "2", "0", "⏎"]
    )
    assert show("the value of the object") == ["the", "·value", "·of", "·the", "·object"]
    assert show("12+34=46\n") == [*"12+34=46", "⏎"]
    assert show("([{}])") == list("([{}])")
    assert show("é\t\0") == ["‹c3›", "‹a9›", "⇥", "‹00›"]


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


def test_every_byte_is_a_token_and_no_digit_or_bracket_is_merged():
    pieces = TOKENIZER.pieces(range(TOKENIZER.vocab_size))
    assert TOKENIZER.vocab_size == 2048
    for sign in "0123456789()[]{}":
        assert sign in pieces
        assert all(
            piece.lstrip("·") == sign for piece in pieces if sign in piece and "‹" not in piece
        )


def test_empty_text_and_no_ids():
    assert TOKENIZER.encode("").tolist() == []
    assert TOKENIZER.decode([]) == ""
    assert TOKENIZER.pieces([]) == []
    assert TOKENIZER.encode_batch([]) == []


def test_a_batch_encodes_like_each_text_alone():
    texts = ["one two", "", "x = [1, 2]\n"]
    for text, ids in zip(texts, TOKENIZER.encode_batch(texts), strict=True):
        assert ids.tolist() == TOKENIZER.encode(text).tolist()


def test_training_is_deterministic_and_saving_loses_nothing(tmp_path):
    texts = ["the cat sat on the mat\n" * 9, "the dog sat on the log\n" * 9]
    one, two = Tokenizer.train(texts, 300), Tokenizer.train(iter(texts), 300)
    assert one.sha256 == two.sha256
    assert 256 < one.vocab_size <= 300
    one.save(tmp_path / "t.json")
    again = Tokenizer.from_file(tmp_path / "t.json")
    assert again.sha256 == one.sha256
    assert again.encode("the log ☃").tolist() == one.encode("the log ☃").tolist()
    # A Windows checkout may rewrite the line ends.
    crlf = (tmp_path / "t.json").read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "t.json").write_bytes(crlf)
    assert Tokenizer.from_file(tmp_path / "t.json").sha256 == one.sha256


def test_the_shipped_tokenizer_is_the_one_its_provenance_names():
    provenance = json.loads(paths.data_path("tokenizer", "provenance.json").read_text())
    assert provenance["sha256"] == TOKENIZER.sha256
    assert provenance["vocab_size"] == TOKENIZER.vocab_size


def test_build_default_writes_a_tokenizer_and_its_provenance(tmp_path):
    built = build_default(tmp_path / "new")
    assert Tokenizer.from_file(tmp_path / "new" / "tokenizer.json").sha256 == built.sha256
    provenance = json.loads((tmp_path / "new" / "provenance.json").read_text())
    assert provenance["sha256"] == built.sha256
    assert {"python", "english"} <= {entry["domain"] for entry in provenance["trained_on"]}


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


def test_missing_shipped_data_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "moeviz")
    with pytest.raises(FileNotFoundError, match='"tokenizer/tokenizer.json".*missing.*reinstall'):
        paths.data_path("tokenizer", "tokenizer.json")


def test_data_is_found_as_a_wheel_and_as_a_checkout_have_it(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "moeviz")
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


def test_importing_pulls_no_heavy_library():
    code = (
        "import sys, moeviz.text.tokenizer, moeviz.text.corpus, moeviz.text.sources;"
        "print([m for m in ('torch', 'datasets', 'tokenizers', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
