"""The embedded corpus: domains of text that exist on every machine, without a network.

Real text is found in the running Python installation, the rest is generated.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NATURAL_DOMAINS = ("python", "english", "c")
PIECE = 3_000  # characters of a document that is cut from a longer text

PYTHON = f"Python {platform.python_version()}"
_MOST = 600_000  # characters of an embedded domain, so that the corpus loads in seconds
_LEAST = 50_000  # below this a domain is too small to learn from, and the next place is tried
_SHORTEST, _LONGEST = 1_000, 20_000  # of an embedded file: no stubs, and no file that is a domain


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
    """The domains that exist on every machine, without a network: up to 600 kB of text each.

    `python`, `english` and `c` are real text found in the running Python installation, so they
    differ from one Python to another; `arithmetic`, `hex` and `brackets` are generated and the same
    everywhere. A domain for which this machine has no text is left out and named in `left_out`.
    """
    stdlib, include = (Path(sysconfig.get_paths()[name]) for name in ("stdlib", "include"))
    files = {
        "python": _files("python", stdlib, "*.py", f"{PYTHON} standard library"),
        "english": _help_topics() or _docstrings(stdlib),
        "c": _files("c", include, "**/*.h", f"C headers of {PYTHON}")
        or _files("c", Path(np.__file__).parent, "**/*.h", f"C headers of numpy {np.__version__}"),
    }
    left_out = tuple(
        f'domain "{name}": this Python installation has no text for it.'
        for name, domain in files.items()
        if domain is None
    )
    real = tuple(domain for domain in files.values() if domain is not None)
    return Source(
        "embedded", (*real, _arithmetic(), _hex_dumps(), _brackets()), left_out, reserve=True
    )


def _files(name: str, folder: Path, pattern: str, origin: str) -> Domain | None:
    texts = {
        path: text for path, text in _texts(folder, pattern) if _SHORTEST <= len(text) <= _LONGEST
    }
    chosen, size = [], 0
    for path in sorted(texts, key=_digest):  # hashed order: a spread over the whole alphabet
        if size + len(texts[path]) <= _MOST:
            chosen.append(path)
            size += len(texts[path])
    documents = [texts[path] for path in sorted(chosen)]
    return _domain(name, documents, f"{origin}, {len(documents)} files")


def _texts(folder: Path, pattern: str) -> Iterator[tuple[str, str]]:
    """Relative name and text of the files in `folder`; what is not UTF-8 is passed over."""
    for path in sorted(folder.glob(pattern)):
        if path.name.startswith(("_sysconfigdata", "sitecustomize")):
            continue  # written for one machine: they hold its paths
        try:
            yield path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue


def _help_topics() -> Domain | None:
    """The reference manual's chapters behind `help()`; many repeat paragraphs of longer ones."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return None
    seen: set[str] = set()
    documents: list[str] = []
    for _, topic in sorted(topics.items(), key=lambda item: (-len(item[1]), item[0])):
        fresh = [p for p in topic.split("\n\n") if p.strip() and p not in seen]
        seen.update(fresh)
        documents += cut_documents("\n\n".join(fresh))
    return _domain("english", documents, f"{PYTHON} reference manual (pydoc topics)")


def _docstrings(stdlib: Path) -> Domain | None:
    """Prose where there is no manual: the docstrings of the standard library."""
    documents: list[str] = []
    for _, text in _texts(stdlib, "*.py"):
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docstrings = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        prose = "\n\n".join(text for text in docstrings if text and len(text) >= 80)
        if sum(map(len, documents)) + len(prose) > _MOST // 2:
            break
        documents += cut_documents(prose)
    return _domain("english", documents, f"docstrings of {PYTHON}")


def _domain(name: str, documents: list[str], origin: str) -> Domain | None:
    enough = sum(map(len, documents)) >= _LEAST
    return Domain(name, tuple(documents), origin) if enough else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
        draws = random.random_sample(length)
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
