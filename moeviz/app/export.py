"""python -m moeviz export: a trained model as a Hugging Face checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from moeviz.model.export import write_checkpoint
from moeviz.text.tokenizer import Tokenizer
from moeviz.watch.text import load_model


def export(args: argparse.Namespace) -> int:
    """Write the model of a run; ValueError on what cannot be."""
    path: Path = args.run
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise ValueError(
            f"There is no file {path}; give what `moeviz train` wrote when it ended: a run's "
            "folder, or the model.safetensors in it."
        )
    tokenizer = Tokenizer.default()
    files = write_checkpoint(load_model(path, tokenizer), tokenizer, args.format, args.out)
    print(f"Wrote {', '.join(files)} to {args.out}; it loads with")
    print(f"  transformers.AutoModelForCausalLM.from_pretrained({str(args.out)!r})")
    return 0
