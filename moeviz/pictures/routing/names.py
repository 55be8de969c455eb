"""What pictures of routing call a token in their hover text, and which tokens are twins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from moeviz.pictures.svg import shorten
from moeviz.records.routes import Trace

BYTE = re.compile("‹[0-9a-f]{2}›")
CLUSTERS = "c3: a token of cluster 3, which expert 3 suits best."
OF_A_BYTE = "one byte of a letter that this small tokenizer does not know"


def named(place: int, token: str) -> str:
    """ "token 3 'def'", and what a byte is."""
    words = f"token {place} '{shorten(token, 24)}'"
    return f"{words} ({OF_A_BYTE})" if BYTE.fullmatch(token) else words


def bytes_note(tokens: Sequence[str]) -> str:
    """What a byte of a letter stands for, where there is one."""
    byte = BYTE.search("".join(tokens))
    return f"{byte[0]}: {OF_A_BYTE}" if byte else ""


def read_by(meta: Mapping[str, Any]) -> str:
    """Which real model a record is of; "" for the lab's own."""
    return f"read by {shorten(meta['model'], 40)}" if "model" in meta else ""


def lack(trace: Trace, *, weights: bool = False, scores: bool = False) -> str:
    """What a picture would tell and the trace does not hold, in one sentence; "" for nothing."""
    missing = []
    if weights and not trace.has_weights:
        missing.append("no weights")
    if scores and not trace.has_scores:
        missing.append("no scores of the router")
    return f"This trace holds {' and '.join(missing)}, only who was chosen." if missing else ""


def twins(tokens: Sequence[str]) -> list[str]:
    """Each token's kin name, that of the first one that is written alike."""
    first: dict[str, int] = {}
    return [f"t{first.setdefault(token, t)}" for t, token in enumerate(tokens)]
