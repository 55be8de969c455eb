"""The corpus "packages": whole packages on one side, each text once, the same each time."""

import json
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from moeviz.text import packages
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.text.leaks import LEAK_WINDOW
from moeviz.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def installed():
    return load_corpus("packages", max_characters=1_000_000)


def text_of(corpus, part):
    return corpus.tokenizer.decode(corpus.tokens("packages", part))


def noise(seed, lines=20):
    random = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
    return "\n".join("".join(random.choice(letters, 90)) for _ in range(lines))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes packages in an environment of their own, beside a Python with a library of 2 files."""
    site, library = tmp_path / "site-packages", tmp_path / "lib"
    (library / "site-packages").mkdir(parents=True)
    (library / "site-packages" / "foreign.py").write_text(noise(99))
    for i in range(2):
        (library / f"module{i}.py").write_text(noise(100 + i))
    paths = packages.sysconfig.get_paths() | {"stdlib": str(library)}
    found = metadata.distributions
    monkeypatch.setattr(packages.sysconfig, "get_paths", lambda: paths)
    monkeypatch.setattr(packages.metadata, "distributions", lambda: found(path=[str(site)]))
    monkeypatch.setattr(packages, "_LEAST", 1_000)

    def made(name, files, record=True):
        info = site / f"{name}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        for place, text in files.items():
            (site / place).parent.mkdir(parents=True, exist_ok=True)
            (site / place).write_bytes(text if isinstance(text, bytes) else text.encode())
        if record:
            (info / "RECORD").write_text("".join(f"{place},,\n" for place in files))

    return made


def test_this_machines_packages_are_a_corpus(installed):
    [row] = installed.manifest.domains
    train, validation = (text_of(installed, part) for part in ("train", "validation"))
    assert row.characters == len(train) + len(validation)
    assert 900_000 < row.characters < 1_010_000
    assert 0.02 < len(validation) / row.characters <= 0.055
    parts = installed.manifest.packages
    assert sum(part.files for part in parts) == row.documents
    assert {part.held_out for part in parts} == {True, False}
    versions = {part.name: part.version for part in parts}
    known = [name for name in ("numpy", "torch", "transformers") if name in versions]
    assert known and all(versions[name] == metadata.version(name) for name in known)
    manifest = json.dumps(asdict(installed.manifest))
    assert str(Path.home()) not in manifest and sys.prefix not in manifest
    assert load_corpus("packages", max_characters=1_000_000) is installed


def test_no_run_of_held_out_characters_stands_in_the_training_text(installed):
    train, validation = (text_of(installed, part) for part in ("train", "validation"))
    runs = {validation[i : i + LEAK_WINDOW] for i in range(len(validation) - LEAK_WINDOW + 1)}
    assert not any(train[i : i + LEAK_WINDOW] in runs for i in range(len(train)))


def test_a_package_is_on_one_side_and_a_vendored_copy_is_there_once(install):
    copy = noise(7) + "\n"
    for i in range(40):
        files = {
            f"p{i}/{name}.py": f"# p{i}\n" + noise(1000 * i + k) for k, name in enumerate("ab")
        }
        install(f"p{i}", files | {f"p{i}/_vendor/copied.py": copy})
    source = packages.packages_source(1_000_000)
    [domain] = source.domains
    assert len(domain.documents) + len(domain.held_out) == 2 + 80 + 1
    assert sum(text == copy for text in domain.documents + domain.held_out) == 1
    order = [text.split("\n")[0][2:] for text in domain.documents if text.startswith("# ")]
    assert order == sorted(order) and len({*order}) > 30, "by package, not as they were drawn"
    sides = {part.name: part.held_out for part in source.packages}
    for side, texts in ((False, domain.documents), (True, domain.held_out)):
        named = {text.split("\n")[0][2:] for text in texts if text.startswith("# ")}
        assert named == {n for n, held_out in sides.items() if held_out is side and n != "python"}
    total = sum(part.characters for part in source.packages)
    assert 0.02 < sum(map(len, domain.held_out)) / total <= packages.HELD_OUT_SHARE
    assert packages.packages_source(1_000_000) == source
    shorter = packages.packages_source(60_000)
    assert 50_000 < sum(part.characters for part in shorter.packages) <= 60_000
    made = [Corpus(one, Tokenizer.default()).manifest.fingerprint for one in (source, shorter)]
    assert made[0] != made[1]


def test_what_is_no_text_is_passed_over(install):
    install("plain", {"plain/one.py": noise(1), "plain/guide.rst": noise(2)})
    install(
        "Odd.Name",
        {
            "odd/two.pyi": noise(3),
            "odd/README.md": noise(4),
            "odd/latin.py": b"\xdf" * 2_000,
            "odd/data.csv": noise(5),
            "odd/short.py": "import this",
            "odd/long.py": "x" * (packages._LONGEST + 1),
            "odd/__pycache__/three.py": noise(6),
            "../../bin/tool.py": noise(7),
            "__editable___odd_finder.py": noise(8),
        },
    )
    install("editable", {"elsewhere.py": noise(9)}, record=False)
    parts = packages.packages_source(1_000_000).packages
    assert {(part.name, part.version, part.files) for part in parts} == {
        ("plain", "1.2", 2),
        ("odd-name", "1.2", 2),
        ("python", ".".join(map(str, sys.version_info[:3])), 2),
    }


def test_too_little_is_refused_in_one_sentence(install):
    with pytest.raises(ValueError, match=r"hold 3,638 .* in 1 packages, too little .*embedded"):
        load_corpus("packages", tokenizer=Tokenizer.default())
    with pytest.raises(ValueError, match="max_characters must be"):
        load_corpus("packages", max_characters=0)


def test_less_than_the_least_is_enough_where_no_more_was_asked_for(install, monkeypatch):
    monkeypatch.setattr(packages, "_LEAST", 100_000)
    install("other", {"other/one.py": noise(1), "other/two.py": noise(2)})
    short = packages._SHORTEST - 1  # they need not fill up what is asked for
    parts = packages.packages_source(7_276 + short).packages
    assert sum(part.characters for part in parts) == 7_276
    with pytest.raises(ValueError, match=r"hold 7,276 .* in 2 packages, too little"):
        packages.packages_source(7_276 + short + 2)
