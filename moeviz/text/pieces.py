"""Real text that is the same on every supported Python: pieces of its own files, each known by its
hash. Nothing is copied into this package but the hashes, which `benchmarks/embedded_text.py` wrote.

This module needs the standard library alone, so that any Python can be asked what it has.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from moeviz.host import data_path

MANUAL = "pydoc_data/topics.py"  # the chapters of the reference manual behind `help()`
_DOCSTRING = re.compile(r'^[ \t]*[rR]?"""(.*?)"""', re.DOTALL | re.MULTILINE)
# Between pieces: what stands at the left margin of a Python file is two empty lines apart.
SEPARATORS = {"python": "\n\n\n", "english": "\n\n", "c": "\n\n"}


class Pieces(NamedTuple):
    """What this Python has of a domain: texts, one a file, and how many pieces were wanted."""

    texts: tuple[str, ...]
    found: int
    wanted: int


def folder_of(domain: str) -> Path:
    """Where this Python keeps the files of a domain."""
    return Path(sysconfig.get_paths()["include" if domain == "c" else "stdlib"])


def recorded_pieces() -> dict[str, dict[str, str]]:
    """By domain and file: the hashes of its pieces, in the order of the text."""
    pieces: dict[str, dict[str, str]] = json.loads(
        data_path("text", "pieces.json").read_text(encoding="utf-8")
    )
    return pieces


def find_pieces(domain: str, folder: Path) -> Pieces:
    """The recorded pieces of a domain in the files under `folder`; others are passed over."""
    texts: list[str] = []
    found = wanted = 0
    for file, hashes in recorded_pieces()[domain].items():
        known = {digest(piece): piece for piece in cut_pieces(domain, folder, file)}
        kept = [known[name] for name in hashes.split() if name in known]
        found += len(kept)
        wanted += len(hashes.split())
        if kept:
            texts.append(SEPARATORS[domain].join(kept))
    return Pieces(tuple(texts), found, wanted)


def digest(piece: str) -> str:
    """Short enough for a list of thousands, long enough to tell the pieces of a file apart."""
    return hashlib.sha256(piece.encode()).hexdigest()[:6]


def cut_pieces(domain: str, folder: Path, file: str) -> Iterator[str]:
    """Every piece of a file under `folder`, the same whatever its ends of line: what stands between
    `SEPARATORS`, for "english" within docstrings and the manual alone. None of a file that is not
    there or not UTF-8."""
    try:
        text = (folder / file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    passages: list[str] = [text]
    if domain == "english" and file == MANUAL:
        passages = [topic for _, topic in sorted(ast.literal_eval(text[text.index("{") :]).items())]
    elif domain == "english":
        docstrings = _DOCSTRING.findall(text)
        passages = ["\n".join(map(str.strip, passage.split("\n"))) for passage in docstrings]
    for passage in passages:
        for piece in passage.split(SEPARATORS[domain]):
            if piece.strip():
                yield piece.strip("\n")
