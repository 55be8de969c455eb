"""The text of the installed Python packages: far more of it than is embedded, and no network.

Each package is trained on or held out as a whole, so that no file is guessed from its neighbours.
"""

from __future__ import annotations

import csv
import hashlib
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from moeviz.text.embedded import PYTHON, Domain, Package, Source

MOST = 60_000_000  # characters unless told otherwise: some 23 million tokens
HELD_OUT_SHARE = 0.05
SUFFIXES = (".py", ".pyi", ".md", ".rst")

_SHORTEST, _LONGEST = 500, 100_000  # characters of a file: no stubs, no tables of data
_LEAST = 200_000  # characters below which a model learns nothing worth looking at
# Folders that are no text of the package, and files that hold paths of the machine.
_PASSED_OVER = re.compile(
    r"(^|/)(\.\.|site-packages|dist-packages|__pycache__|_sysconfigdata\w*\.py|sitecustomize\.py"
    r"|direct_url\.json|__editable__[^/]*)(/|$)"
)


@dataclass(frozen=True)
class _Installed:
    version: str
    folder: Path
    places: list[str]  # of its texts in the folder, with "/"


@dataclass(frozen=True)
class _Text:
    package: str
    place: str
    text: str


def packages_source(max_characters: int) -> Source:
    """Sources and documentation of the installed packages, and of Python's own library, as one
    domain: about `max_characters` of them where there is so much, each text once.

    1. The files take their turn by the hash of their names: all packages have a share.
    2. The packages take their turn by the hash of theirs: whichever still fits into
       `HELD_OUT_SHARE` of the characters is held out.
    3. What is left of either stands in the order of packages and paths.

    The same packages give the same text. Raises ValueError where there is too little.
    """
    installed = _installed()
    texts = sorted(_some(installed, max_characters), key=lambda text: (text.package, text.place))
    sizes: dict[str, int] = {}
    for text in texts:
        sizes[text.package] = sizes.get(text.package, 0) + len(text.text)
    total = sum(sizes.values())
    least = min(_LEAST, max_characters - _SHORTEST)  # they stop up to so many short
    if total < least or len(sizes) < 2:
        raise ValueError(
            f"The installed Python packages hold {total:,} characters of text in {len(sizes)} "
            f"packages, too little to train on (at least {_LEAST:,}, in 2 packages); install "
            f'others, or use load_corpus("embedded").'
        )
    held_out = _held_out(sizes)
    files = {name: sum(text.package == name for text in texts) for name in sizes}
    packages = tuple(
        Package(name, installed[name].version, files[name], size, name in held_out)
        for name, size in sizes.items()
    )
    train, validation = (
        tuple(text.text for text in texts if (text.package in held_out) is side)
        for side in (False, True)
    )
    origin = f"{len(texts)} files of {len(sizes)} packages installed beside {PYTHON}"
    return Source("packages", (Domain("packages", train, origin, validation),), packages=packages)


def _held_out(sizes: dict[str, int]) -> set[str]:
    by_hash = sorted(sizes, key=_digest)
    most = HELD_OUT_SHARE * sum(sizes.values())
    chosen: set[str] = set()
    taken = 0
    for name in by_hash:
        if taken + sizes[name] <= most:
            chosen.add(name)
            taken += sizes[name]
    return chosen or {min(by_hash, key=sizes.__getitem__)}


def _some(installed: dict[str, _Installed], most: int) -> Iterator[_Text]:
    """Texts in the order of their names' hashes, each once, until there are `most` characters."""
    files = [(name, place) for name, package in installed.items() for place in package.places]
    known: set[bytes] = set()
    for name, place in sorted(files, key=lambda file: _digest("/".join(file))):
        try:
            text = (installed[name].folder / place).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        content = hashlib.sha256(text.strip().encode()).digest()  # a vendored copy is the same
        if _SHORTEST <= len(text) <= min(_LONGEST, most) and content not in known:
            known.add(content)
            most -= len(text)
            yield _Text(name, place, text)
        if most < _SHORTEST:
            return


def _installed() -> dict[str, _Installed]:
    """By name: Python's own library, and the packages whose files are listed (those of an editable
    one are not)."""
    library = Path(sysconfig.get_paths()["stdlib"])
    own = [
        Path(folder, file).relative_to(library).as_posix()
        for folder, _, files in os.walk(library)
        for file in files
        if file.endswith(SUFFIXES)
    ]
    found = {"python": _Installed(platform.python_version(), library, _texts(own))}
    for distribution in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.name or "").lower()
        if name and name not in found:  # as an import, which takes the first on the path
            # Not distribution.files, which looks at each of 100,000 files.
            record = csv.reader((distribution.read_text("RECORD") or "").splitlines())
            places = _texts([row[0] for row in record if row])
            folder = Path(str(distribution.locate_file("")))
            found[name] = _Installed(distribution.version, folder, places)
    return found


def _texts(places: list[str]) -> list[str]:
    return [p for p in places if p.endswith(SUFFIXES) and not _PASSED_OVER.search(p)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
