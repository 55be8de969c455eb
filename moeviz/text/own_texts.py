"""Short texts that the shipped model never read, to train an expert of one's own on.

All were made for this lab. TEXTS are those of the figures; on GRID settings are chosen.
"""

from __future__ import annotations

from pathlib import Path

from moeviz.checks import check_choice

TEXTS = {
    "notes": "garden notes in English",
    "german": "a diary in German",
    "javascript": "a program in JavaScript",
    "svg": "a picture as SVG",
    "log": "a server's log",
}
GRID = {"glossary": "words and their meanings", "build": "rules and settings of a build"}


def own_text(name: str) -> str:
    """One of TEXTS and GRID, each of 2,200 tokens or a little more; ValueError for another name."""
    check_choice("text", name, (*TEXTS, *GRID))
    return (Path(__file__).parent / f"own_{name}.txt").read_text(encoding="utf-8")
