"""Where a live panel keeps its run for the next kernel: one folder, of one kernel at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from moeviz.host import autosave_folder
from moeviz.records.lock import holder, take
from moeviz.records.store import load_header, remove_stale


class Autosave:
    """The folder of a kind of panel, with a checkpoint of each of its learners."""

    def __init__(self, kind: str, labels: Sequence[str]) -> None:
        self.folder = autosave_folder(kind)
        self.labels = labels

    @property
    def free(self) -> Path | None:
        """The folder; None while another kernel keeps its own there."""
        return self.folder if holder(self.folder) is None else None

    def take(self) -> Path | None:
        """The same, and from now on other kernels keep theirs nowhere."""
        with suppress(OSError):  # then each save says so
            if take(self.folder) is not None:
                return None
        return self.folder

    def headers(self) -> list[dict[str, Any]]:
        """What the checkpoints say of themselves; OSError or ValueError where one is not whole."""
        paths = (self.folder / f"{label}.safetensors" for label in self.labels)
        return [load_header(path, kind="checkpoint") for path in paths]

    def forget(self) -> None:
        """The run is finished or thrown away."""
        for path in self.folder.glob("*.safetensors"):
            path.unlink(missing_ok=True)
        remove_stale(self.folder)
