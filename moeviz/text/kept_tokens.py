"""The embedded corpus, kept on disk for the next process: it is tokenised once on a machine.

A kept corpus is used only where all that decides its tokens is as it was: the files of Python that
the text comes from, the code of `moeviz.text`, the tokenizer, and the versions of Python and of the
libraries. Anything else, a damaged file too, is passed over and replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.host import package_version, user_folder
from moeviz.records.store import load_arrays, save_arrays
from moeviz.text.pieces import folder_of, recorded_pieces
from moeviz.text.tokenizer import Tokenizer

KIND = "embedded corpus"


def what_decides(tokenizer: Tokenizer) -> str:
    """Hash of all that the tokens of the embedded corpus depend on: 64 hex digits."""
    code = {path.name: path.read_bytes() for path in Path(__file__).parent.glob("*.py")}
    pieces = recorded_pieces()
    folders = {domain: folder_of(domain) for domain in pieces}
    texts = {
        f"{domain}/{file}": _bytes_of(folders[domain] / file)
        for domain, files in pieces.items()
        for file in files
    }
    versions = [sys.version, np.__version__, package_version("tokenizers"), tokenizer.sha256]
    digest = hashlib.sha256(json.dumps([versions, pieces]).encode())
    for name, content in sorted((code | texts).items()):
        size = -1 if content is None else len(content)
        digest.update(f"\0{name}\0{size}\0".encode() + (content or b""))
    return digest.hexdigest()


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def kept(decided_by: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """The arrays and the JSON values that `keep` wrote; None where there are none of this hash."""
    with contextlib.suppress(OSError, ValueError):
        arrays, header = load_arrays(_path(), kind=KIND)
        if header.get("decided_by") == decided_by:
            return arrays, header["values"]
    return None


def keep(decided_by: str, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    """Write them in place of those that are kept; where that cannot be, nothing happens."""
    with contextlib.suppress(OSError):
        save_arrays(_path(), arrays, {"decided_by": decided_by, "values": values}, kind=KIND)


def _path() -> Path:
    return user_folder() / "text" / "embedded.safetensors"
