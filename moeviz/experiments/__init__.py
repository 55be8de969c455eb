"""Named, seeded experiments: what ships in data/ is made by them and by nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]


def _tokenizer(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """The tokenizer that ships, from the natural domains of the embedded corpus."""
    from moeviz.tokenizer import build_default

    built = build_default(out / "tokenizer")
    return {"vocab_size": built.vocab_size, "sha256": built.sha256}


def _start_here(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """The small MoE model that ships, and the recordings that notebooks open on (3 minutes)."""
    from moeviz.experiments.start_here import record

    return record(out, meta, on_step)


def _race(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Dense against MoE at equal active parameters, seed by seed (1 minute a seed)."""
    from moeviz.experiments.race import run, summary
    from moeviz.files import write_atomically
    from moeviz.snapshot import save_snapshots

    snapshots = []
    for seed in range(seeds):
        snapshots += run(seed)
        on_step(seed + 1, seeds)
    figures = summary(snapshots)
    save_snapshots(out / "runs" / "race.safetensors", snapshots, meta)
    text = json.dumps({"provenance": meta, **figures}, indent=1) + "\n"
    write_atomically(out / "runs" / "race.json", text.encode())
    return figures


EXPERIMENTS = {"tokenizer": _tokenizer, "start_here": _start_here, "race": _race}
