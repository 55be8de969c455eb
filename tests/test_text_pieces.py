"""The real text of the embedded corpus: pieces that are the same on every supported Python."""

import glob
import hashlib
import inspect
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import moeviz
from helpers.patience import PATIENCE
from moeviz.text import embedded as domains
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.text.pieces import cut_pieces, digest, find_pieces, folder_of, recorded_pieces
from moeviz.text.tokenizer import Tokenizer


def hashes_of_texts():
    """Of the real domains of the Python that runs it."""
    texts = {name: find_pieces(name, folder_of(name)).texts for name in recorded_pieces()}
    return {
        name: hashlib.sha256("\0".join(ones).encode()).hexdigest() for name, ones in texts.items()
    }


def test_every_listed_piece_is_here_and_stands_in_one_place_only():
    recorded = recorded_pieces()
    every = [
        piece
        for name, files in recorded.items()
        for file, hashes in files.items()
        for piece in set(cut_pieces(name, folder_of(name), file))
        if digest(piece) in hashes.split()
    ]
    assert (
        len(every)
        == len(set(every))
        == sum(len(hashes.split()) for files in recorded.values() for hashes in files.values())
    )
    characters = {row.name: row.characters for row in load_corpus().manifest.domains}
    assert all(200_000 < characters[name] < 620_000 for name in recorded)


def pythons():
    """Of the machine, of the supported versions."""
    places = ["/usr/bin/python3.1[123]", "/usr/local/bin/python3.1[123]"]
    places += [f"{Path.home()}/.pyenv/versions/3.1[123].*/bin/python"]
    return sorted(path for place in places for path in glob.glob(place))


@pytest.mark.parametrize("python", pythons())
def test_the_text_is_the_same_to_the_byte_under_every_python(python):
    code = inspect.getsource(hashes_of_texts) + (
        "import hashlib, json\n"
        "from moeviz.text.pieces import MANUAL, find_pieces, folder_of, recorded_pieces\n"
        "lacks = not (folder_of('english') / MANUAL).exists()\n"
        "lacks = lacks or not (folder_of('c') / 'Python.h').exists()\n"
        "print('null' if lacks else json.dumps(hashes_of_texts()))\n"
    )
    path = str(Path(moeviz.__file__).parents[1])
    done = subprocess.run(
        [python, "-B", "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    hashes = json.loads(done.stdout)
    if hashes is None:
        pytest.skip("that Python has no manual or no headers")
    assert hashes == hashes_of_texts()


def test_ends_of_line_change_nothing(tmp_path):
    """As a Python for Windows has them."""
    for file in recorded_pieces()["c"]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        text = (folder_of("c") / file).read_text(encoding="utf-8")
        (tmp_path / file).write_text(text, encoding="utf-8", newline="\r\n")
    assert find_pieces("c", tmp_path) == find_pieces("c", folder_of("c"))


def copied(name, folder):
    """A copy of the files that a domain is made of."""
    for file in recorded_pieces()[name]:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder_of(name) / file, folder / file)
    return folder


def test_a_python_whose_files_differ_says_how_many_pieces_and_keeps_the_rest(tmp_path, monkeypatch):
    name = "python"
    folder = copied(name, tmp_path)
    whole = find_pieces(name, folder)
    files = list(recorded_pieces()[name].items())
    (gone, lost), (changed, hashes) = files[0], files[1]
    (folder / gone).unlink()
    [piece] = (p for p in cut_pieces(name, folder, changed) if digest(p) == hashes.split()[0])
    text = (folder / changed).read_text(encoding="utf-8")
    (folder / changed).write_text(text.replace(piece, f"{piece}  # changed"), encoding="utf-8")
    count = len(lost.split()) + 1
    monkeypatch.setattr(
        domains, "folder_of", lambda wanted: folder if wanted == name else folder_of(wanted)
    )
    source = domains.embedded_source.__wrapped__()
    assert [domain.name for domain in source.domains][:3] == ["python", "english", "c"]
    [sentence] = source.left_out
    assert f'"python": {count:,} of {whole.wanted:,} pieces' in sentence
    assert "cannot be compared to the digit" in sentence
    assert set(source.domains[0].documents[1:]) < set(whole.texts)


def test_a_python_without_headers_or_a_library_says_what_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(domains, "folder_of", lambda name: tmp_path)
    source = domains.embedded_source.__wrapped__()
    assert [domain.name for domain in source.domains] == ["arithmetic", "hex", "brackets"]
    assert [text.split('"')[1] for text in source.left_out] == ["python", "english", "c"]
    assert 'install "python3-dev"' in source.left_out[2]
    assert Corpus(source, Tokenizer.default()).manifest.left_out == source.left_out
