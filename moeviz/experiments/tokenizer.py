"""The tokenizer that ships, from the natural domains of the embedded corpus."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import tokenizers

from moeviz.experiments import Progress
from moeviz.text.embedded import NATURAL_DOMAINS, embedded_source
from moeviz.text.tokenizer import Tokenizer


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Train it and write it, with where it comes from, to tokenizer/ under `out`.

    It learns from equal shares of the natural domains (generated ones would spend the vocabulary on
    pairs of hex letters). The shipped file was trained on an earlier embedded text, and is kept.
    """
    domains = [d for d in embedded_source().domains if d.name in NATURAL_DOMAINS]
    joined = {d.name: "\n".join(d.documents) for d in domains}
    share = min(map(len, joined.values()))
    texts = {name: text[:share] for name, text in joined.items()}
    built = Tokenizer.train(texts.values())
    figures = {"vocab_size": built.vocab_size, "sha256": built.sha256}
    trained_on = [
        {
            "domain": d.name,
            "origin": d.origin,
            "characters": share,
            "sha256": hashlib.sha256(texts[d.name].encode()).hexdigest(),
        }
        for d in domains
    ]
    where = {"tokenizers": tokenizers.__version__, "trained_on": trained_on}
    folder = out / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    built.save(folder / "tokenizer.json")
    text = json.dumps({"file": "tokenizer.json", **figures, **meta, **where}, indent=2) + "\n"
    (folder / "provenance.json").write_text(text, encoding="utf-8", newline="\n")
    return figures
