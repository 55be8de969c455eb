"""Short texts that the shipped model never read, to train an expert of one's own on.

All were made for this lab. TEXTS are those of the figures; on GRID settings are chosen. A learner's
own comes from a file.
"""

from __future__ import annotations

from pathlib import Path

from moeviz.checks import brief, check_choice
from moeviz.text.sources import read_utf8

TEXTS = {
    "notes": "garden notes in English",
    "german": "a diary in German",
    "javascript": "a program in JavaScript",
    "svg": "a picture as SVG",
    "log": "a server's log",
}
GRID = {"glossary": "words and their meanings", "build": "rules and settings of a build"}
MOST_BYTES = 2_000_000  # of a text file


def own_text(name: str) -> str:
    """One of TEXTS and GRID, each of 2,200 tokens or a little more; ValueError for another name."""
    check_choice("text", name, (*TEXTS, *GRID))
    return (Path(__file__).parent / f"own_{name}.txt").read_text(encoding="utf-8")


def read_file(path: Path) -> str:
    """A text file; ValueError (one sentence) where it is none, or too large."""
    if not path.is_file():
        raise ValueError(
            f"There is no file {brief(str(path))}; give another path, or paste a text."
        )
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES:,} bytes; give a part of it.")
    return read_utf8(path, MOST_BYTES)
