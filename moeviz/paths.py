"""Where the data that ships with moeviz lies: a checkout, an editable install and a wheel."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_path(*parts: str) -> Path:
    """The path of a shipped file, for example ``data_path("tokenizer", "tokenizer.json")``.

    A wheel carries the repository's ``data/`` folder as ``moeviz/recorded/``; a checkout and an
    editable install have it beside the package.

    Raises FileNotFoundError, in one sentence, when neither place has the file.
    """
    roots = (_PACKAGE / "recorded", _PACKAGE.parent / "data")
    for root in roots:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(
        f'the file "{"/".join(parts)}" that ships with moeviz is missing (looked in {roots[0]} '
        f'and {roots[1]}); reinstall moeviz, or restore it with "git checkout -- data" in a clone.'
    )


def autosave_folder(name: str) -> Path:
    """Where the live run called `name` keeps its checkpoints: under MOEVIZ_HOME, or in the user's
    cache."""
    home = os.environ.get("MOEVIZ_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "moeviz") / "live" / name
