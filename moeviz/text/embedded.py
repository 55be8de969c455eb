"""The embedded corpus: domains of text that exist on every machine, without a network.

Real text is found in the running Python installation (`moeviz.text.pieces`), the rest is generated.
"""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass

import numpy as np

from moeviz.text.pieces import Pieces, find_pieces, folder_of

NATURAL_DOMAINS = ("python", "english", "c")
PIECE = 3_000  # characters of a document that is cut from a longer text

PYTHON = f"Python {platform.python_version()}"
_LEAST = 0.5  # of a domain's pieces; with fewer it is left out
_NO_HEADERS = (
    'domain "c" is left out: this Python has no C headers; to get them install "python3-dev" (on '
    "Debian and Ubuntu) or a Python from python.org, conda or pyenv."
)


@dataclass(frozen=True)
class Domain:
    """One kind of text: `documents` in a fixed order, and in words where they came from.

    held_out: documents for validation, where the source knows what belongs together; by default
    some of `documents` are chosen for it.
    """

    name: str
    documents: tuple[str, ...]
    origin: str
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Package:
    """How much text an installed package gave, and to which side."""

    name: str
    version: str
    files: int
    characters: int
    held_out: bool


@dataclass(frozen=True)
class Source:
    """What a corpus is made of; `left_out` says in a sentence each what was not to be had,
    `packages` which ones gave the text, where it is theirs, and `reserve` whether a tenth is kept
    for figures that are measured after all choices."""

    name: str
    domains: tuple[Domain, ...]
    left_out: tuple[str, ...] = ()
    packages: tuple[Package, ...] = ()
    reserve: bool = False


def cut_documents(text: str, size: int = PIECE) -> list[str]:
    """Cut a long text into documents of about `size` characters: at blank lines, else at lines,
    else anywhere; what is left out is only the blank space at the cuts."""
    documents: list[str] = []
    separator = next((mark for mark in ("\n\n", "\n") if mark in text), "")
    current = ""
    for block in text.split(separator) if separator else [text]:
        if current and len(current) + len(block) > size:
            documents.append(current)
            current = ""
        current = f"{current}{separator}{block}" if current else block
        while len(current) > 2 * size:  # one block without a blank line
            end = current.rfind("\n", 1, size) + 1 or size
            documents.append(current[:end])
            current = current[end:]
    documents.append(current)
    return [document for document in documents if document.strip()]


@functools.cache
def embedded_source() -> Source:
    """The domains that exist on every machine, without a network: 200 to 600 kB of text each.

    `python`, `english` and `c` are real text found in the running Python installation: pieces of
    its files that every supported Python has, so the text is the same on all of them.
    `arithmetic`, `hex` and `brackets` are generated. What this Python has not is named in
    `left_out`.
    """
    found = {name: find_pieces(name, folder_of(name)) for name in NATURAL_DOMAINS}
    left_out = tuple(
        sentence for name, pieces in found.items() if (sentence := _what_lacks(name, pieces))
    )
    real = tuple(
        _real_domain(name, pieces)
        for name, pieces in found.items()
        if pieces.found >= _LEAST * pieces.wanted
    )
    domains = (*real, _arithmetic(), _hex_dumps(), _brackets())
    return Source("embedded", domains, left_out, reserve=True)


def _real_domain(name: str, pieces: Pieces) -> Domain:
    """Code by whole files; prose in shorter documents, for half of it is one book."""
    if name == "english":
        documents = [part for text in pieces.texts for part in cut_documents(text)]
    else:
        documents = list(pieces.texts)
    kind = {"python": "modules", "english": "manual and docstrings", "c": "headers"}[name]
    origin = f"{kind} of Python 3.11 to 3.13: {pieces.found:,} pieces that are equal in all"
    return Domain(name, tuple(documents), origin)


def _what_lacks(name: str, pieces: Pieces) -> str | None:
    lost = pieces.wanted - pieces.found
    if not lost:
        return None
    if name == "c" and not pieces.found:
        return _NO_HEADERS
    if pieces.found < _LEAST * pieces.wanted:
        return f'domain "{name}" is left out: {PYTHON} has {pieces.found:,} of its pieces only.'
    return (
        f'domain "{name}": {lost:,} of {pieces.wanted:,} pieces are not in {PYTHON}, so losses '
        f"cannot be compared to the digit with the recorded ones."
    )


def _random(seed: int) -> np.random.RandomState:
    # numpy has frozen this stream for good, so generated text is the same on every machine.
    return np.random.RandomState(seed)  # noqa: NPY002


def _arithmetic() -> Domain:
    """Lines `a+b=c`, `a-b=c`, `a*b=c` with operands up to 999. Every unordered pair of operands
    stands in one document only, so that no problem, nor its mirror image, is on both sides."""
    random = _random(1)
    small = [(a, b) for b in range(100) for a in range(b, 100)]
    large = {(int(max(p)), int(min(p))) for p in random.randint(100, 1000, (3000, 2))}
    pairs = small + sorted(large)
    lines = [
        [f"{a}+{b}={a + b}", f"{b}+{a}={a + b}", f"{a}-{b}={a - b}"]
        + [f"{a}*{b}={a * b}"] * (a < 100)
        for a, b in pairs
    ]
    order = random.permutation(len(pairs))
    documents = []
    for start in range(0, len(pairs), 25):
        block = [line for place in order[start : start + 25] for line in lines[place]]
        documents.append("\n".join(block[i] for i in random.permutation(len(block))))
    return Domain("arithmetic", tuple(documents), "generated: sums, differences and products")


def _hex_dumps() -> Domain:
    """Hex dumps of invented binary files: an address that counts, then 16-byte records with a magic
    number, a counter, a kind, noise, zeros and four letters."""
    random = _random(2)
    documents = []
    for _ in range(90):
        base, magic, count = (int(n) for n in random.randint(0, 1 << 16, 3))
        rows = []
        for row in range(48):
            kind = int(random.randint(1, 4))
            record = (
                magic.to_bytes(2, "big")
                + ((count + row) & 0xFFFF).to_bytes(2, "big")
                + bytes([kind, 0])
                + random.randint(0, 256, 2 * kind).astype(np.uint8).tobytes().ljust(6, b"\0")
                + random.randint(97, 123, 4).astype(np.uint8).tobytes()
            )
            groups = " ".join(record[i : i + 2].hex() for i in range(0, 16, 2))
            rows.append(f"{(base << 12) + 16 * row:08x}: {groups}")
        documents.append("\n".join(rows))
    return Domain("hex", tuple(documents), "generated: hex dumps of invented records")


def _brackets() -> Domain:
    """Lines of balanced (), [] and {}: what may close depends on what was opened last."""
    random = _random(3)
    lines: dict[str, None] = {}  # a dict keeps the order and drops repeated lines
    while len(lines) < 6000:
        length = 2 * int(random.randint(8, 25))
        draws = random.random_sample(length).tolist()  # Python counts faster with its own
        stack: list[str] = []
        line = ""
        for place, draw in enumerate(draws):
            if len(stack) == length - place or (stack and draw < 0.45):
                line += stack.pop()
            else:
                kind = int(draw * 1000) % 3
                line += "([{"[kind]
                stack.append(")]}"[kind])
        lines[line] = None
    every = list(lines)
    documents = tuple("\n".join(every[i : i + 40]) for i in range(0, len(every), 40))
    return Domain("brackets", documents, "generated: balanced brackets")
