"""Which documents of a domain are for training, and which are held out."""

from __future__ import annotations

import hashlib
from typing import Literal

from moeviz.text.embedded import Domain

HELD_OUT_SHARE = 0.1  # of the characters, for validation and again for the reserve

Part = Literal["train", "validation", "reserve"]


def split_documents(domain: Domain, reserve: bool) -> dict[Part, list[str]]:
    """The documents of each part, each ended by an empty line."""
    documents, held_out = (
        dict.fromkeys(document.strip("\n") + "\n\n" for document in part)
        for part in (domain.documents, domain.held_out)
    )
    if held_out:
        return {"train": list(documents), "validation": list(held_out)}
    most = HELD_OUT_SHARE * sum(map(len, documents))
    left = sorted(documents, key=lambda text: hashlib.sha256(text.encode()).digest())
    part_of: dict[str, Part] = {}
    parts: tuple[Part, ...] = ("validation", "reserve") if reserve else ("validation",)
    for part in parts:
        chosen = _that_fit(left, most)
        if not chosen and len(left) > 1:
            chosen = {min(left, key=len)}
        if not chosen:
            raise ValueError(
                f'the domain "{domain.name}" has {len(documents)} document of {round(10 * most)} '
                f"characters, too little to keep some for {part}; give more text."
            )
        part_of |= dict.fromkeys(chosen, part)
        left = [document for document in left if document not in chosen]
    return {
        part: [d for d in documents if part_of.get(d, "train") == part]
        for part in ("train", *parts)
    }


def _that_fit(documents: list[str], most: float) -> set[str]:
    """Whatever still fits, one after the other: `most` is met closely and never exceeded."""
    chosen: set[str] = set()
    for document in documents:
        if len(document) <= most:
            chosen.add(document)
            most -= len(document)
    return chosen
