"""Exhibits: controls, a picture and its table twin, each in one call: `panels.Race()`.

A file in a room of this folder holds one exhibit, under the file's name in capitals:
training/race.py holds Race. It is imported when it is asked for.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

_FILES = {
    "".join(part.capitalize() for part in path.stem.split("_")): path
    for path in sorted(Path(__file__).parent.glob("*/[a-z]*.py"))
}
__all__ = [*_FILES, "Outcome", "Predict"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"There is no panel '{name}'; there is {', '.join(__all__)}.")
    import_module("moeviz.panels.backlog").keep_messages()
    room = f"{_FILES[name].parent.name}." if name in _FILES else ""
    stem = _FILES[name].stem if name in _FILES else "predict"
    return getattr(import_module(f"moeviz.panels.{room}{stem}"), name)


def __dir__() -> list[str]:
    return __all__
