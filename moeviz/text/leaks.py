"""Held-out text without what has been seen: copied paragraphs, licences, vendored files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# No run of this many characters of a domain's held-out text stands in another part of any domain.
LEAK_WINDOW = 80
_HASHED_AT_ONCE = 1 << 16  # runs


def without_leaks(parts: Sequence[Sequence[str]]) -> list[list[str]]:
    """Parts of a corpus, each a text for every domain; each part without the lines that share
    `LEAK_WINDOW` characters with any text of a part before it."""
    known = np.empty(0, dtype=np.uint64)
    cleaned: list[list[str]] = []
    for texts in parts:
        cleaned.append([_unknown_lines(text, known) if known.size else text for text in texts])
        if len(cleaned) < len(parts):
            known = np.sort(np.concatenate([known, *map(_window_hashes, cleaned[-1])]))
    return cleaned


def _unknown_lines(text: str, known: np.ndarray) -> str:
    """Taking lines out makes new neighbours, so it goes on until nothing is shared."""
    while True:
        hashes = _window_hashes(text)
        order = np.argsort(hashes)  # looked up in order, neighbours stand in the cache
        place = np.searchsorted(known, hashes[order]).clip(max=known.size - 1)
        leaks = order[known[place] == hashes[order]]
        if leaks.size == 0:
            return text
        covered = np.zeros(len(text) + 1, dtype=np.int64)
        covered[leaks] += 1
        covered[leaks + LEAK_WINDOW] -= 1
        lines = text.splitlines(keepends=True)
        lengths = np.array([len(line) for line in lines])
        shared = np.add.reduceat(np.cumsum(covered[:-1]) > 0, lengths.cumsum() - lengths)
        # A run often ends a few characters into a line that is new: keep that line, unless
        # nothing else can be taken out.
        drop = shared > lengths / 2
        if not drop.any():
            drop = shared > 0
        text = "".join(line for line, gone in zip(lines, drop, strict=True) if not gone)


def _window_hashes(text: str) -> np.ndarray:
    """A 64-bit hash of every run of `LEAK_WINDOW` characters: uint64 [characters - window + 1].

    In pieces, whose arrays stay in the processor's cache.
    """
    windows = max(len(text) - LEAK_WINDOW + 1, 0)
    hashes = np.empty(windows, dtype=np.uint64)
    for start in range(0, windows, _HASHED_AT_ONCE):
        end = min(start + _HASHED_AT_ONCE, windows)
        hashes[start:end] = _hashes_of_piece(text[start : end + LEAK_WINDOW - 1])
    return hashes


def _hashes_of_piece(text: str) -> np.ndarray:
    """A polynomial hash modulo 2^64 in an odd base, which has an inverse, so that all windows come
    from one running sum. Equal runs hash alike; unequal ones that did would only be cleaned away.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    base = 0x9E3779B97F4A7C15
    inverse = pow(base, -1, 1 << 64)
    powers = np.cumprod(np.full(codes.size, base, dtype=np.uint64))
    mixed = (codes.astype(np.uint64) + np.uint64(1)) * np.uint64(0xD6E8FEB86659FD93)
    sums = np.concatenate(
        [np.zeros(1, dtype=np.uint64), np.cumsum((mixed ^ (mixed >> np.uint64(32))) * powers)]
    )
    back = np.cumprod(np.full(codes.size - LEAK_WINDOW + 1, inverse, dtype=np.uint64))
    return (sums[LEAK_WINDOW:] - sums[:-LEAK_WINDOW]) * back
