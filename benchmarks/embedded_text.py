"""Chooses the real text of the embedded corpus: what is equal in several installations of Python.

    python benchmarks/embedded_text.py PREFIX ...

Each PREFIX holds lib/python3.N and, where there are headers, include/python3.N. The list of hashes
goes to data/text/pieces.json. An installation without the manual is taken for a slim one, which may
also lack modules and headers.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

from moeviz.text.pieces import MANUAL, SEPARATORS, cut_pieces, digest

OUT = Path(__file__).resolve().parents[1] / "data" / "text" / "pieces.json"
MOST = 600_000  # characters of a domain, so that the corpus loads in seconds
SHORTEST, LONGEST = 1_000, 20_000  # of a file's text: no stubs, and no file that is a domain
SHARE = 0.5  # of a Python file that must be equal, for the text to read like one
PARAGRAPH = 80  # characters of a paragraph at least
# What distributions split off or leave out, what repeats itself, what is written for one machine.
PASSED_OVER = re.compile(
    r"(^|/)(test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|distutils|venv|encodings|curses"
    r"|dbm|sqlite3|pydoc_data|site-packages|dist-packages|config-[^/]*|__phello__|macholib)/"
    r"|^_sysconfigdata|sitecustomize|^(turtle|pyconfig)\."
)


def write_pieces(prefixes: list[str]) -> None:
    """Write the list and say how much each domain has."""
    libraries = [next(Path(prefix, "lib").glob("python3.*")) for prefix in prefixes]
    full = [(path / MANUAL).exists() for path in libraries]
    headers = [path for prefix in prefixes for path in Path(prefix, "include").glob("python3.*")]
    taken: set[str] = set()
    chosen = {
        "python": _choose("python", _files(libraries, full, "**/*.py"), libraries, taken),
        "c": _choose("c", _files(headers, [True] * len(headers), "**/*.h"), headers, taken),
    }
    rest = [f for f in _files(libraries, full, "**/*.py") if f not in chosen["python"]]
    chosen["english"] = _choose("english", [MANUAL, *rest], libraries, taken)
    OUT.parent.mkdir(exist_ok=True)
    ordered = {domain: dict(sorted(chosen[domain].items())) for domain in SEPARATORS}
    OUT.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8", newline="\n")


def _files(folders: list[Path], full: list[bool], pattern: str) -> list[str]:
    """Files of every full installation, in the order of their names' hashes: a fair choice."""
    found = [
        {path.relative_to(folder).as_posix() for path in folder.glob(pattern)}
        for folder, is_full in zip(folders, full, strict=True)
        if is_full
    ]
    files = [file for file in set.intersection(*found) if not PASSED_OVER.search(file)]
    return sorted(files, key=lambda file: hashlib.sha256(file.encode()).digest())


def _choose(domain: str, files: list[str], folders: list[Path], taken: set[str]) -> dict[str, str]:
    """The hashes of each file's pieces that all installations have which have the file, each piece
    once. taken: the pieces chosen so far."""
    chosen: dict[str, str] = {}
    pieces, characters = 0, 0
    for file in files:
        having = [folder for folder in folders if (folder / file).exists()]
        cut = [list(cut_pieces(domain, folder, file)) for folder in having]
        common = set(cut[0]).intersection(*cut[1:])
        equal = [piece for piece in dict.fromkeys(cut[0]) if piece in common]
        if domain == "python" and sum(map(len, equal)) < SHARE * sum(map(len, cut[0])):
            continue
        kept = [p for p in equal if p not in taken and (domain != "english" or _is_prose(p))]
        size = sum(map(len, kept))
        fits = SHORTEST <= size <= LONGEST or file == MANUAL
        if not fits or characters + size > MOST:
            continue
        taken.update(kept)
        chosen[file] = " ".join(map(digest, kept))
        pieces, characters = pieces + len(kept), characters + size
    print(f"{domain}: {characters:,} characters, {pieces:,} pieces of {len(chosen)} files")
    return chosen


def _is_prose(paragraph: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    lines = paragraph.split("\n")
    return (
        len(paragraph) >= PARAGRAPH
        and letters >= 0.85 * len(paragraph)
        and not any(line.lstrip().startswith((">>>", "...")) for line in lines)
    )


if __name__ == "__main__":
    write_pieces(sys.argv[1:])
