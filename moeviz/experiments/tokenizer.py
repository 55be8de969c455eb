"""The tokenizer that ships, from the natural domains of the embedded corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moeviz.experiments import Progress
from moeviz.text.tokenizer import build_default


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Train it and write it to tokenizer/ under `out`."""
    built = build_default(out / "tokenizer")
    return {"vocab_size": built.vocab_size, "sha256": built.sha256}
