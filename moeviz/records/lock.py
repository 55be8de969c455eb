"""One process at a time keeps its files in a folder.

The system lets go of a lock when its process ends, however it ends; the file that stays behind
then means nothing. Where a system or a disk has no such locks, nobody is refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
_held: dict[Path, IO[str]] = {}  # by this process


def take(folder: Path) -> int | None:
    """Hold the folder, which is made, until `release` or the end of this process. None where that
    went well; else the process (its pid) that holds it, 0 where
    it has not said so yet. OSError where there can be no such folder.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    while folder not in _held:
        file = path.open("a+")
        if not _locked(file):
            return _pid(file)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            _held[folder] = file
        else:  # its holder has taken the file away meanwhile
            file.close()
    return None


def holder(folder: Path) -> int | None:
    """The other process (its pid, as from `take`) that holds the folder; None where none does."""
    if folder.resolve() in _held:
        return None
    try:
        file = (folder / NAME).open("r+")
    except OSError:
        return None
    with file:
        return None if _locked(file) else _pid(file)


def release(folder: Path) -> None:
    """Let go of the folder, if this process holds it."""
    file = _held.pop(folder.resolve(), None)
    if file is not None:
        with contextlib.suppress(OSError):
            (folder / NAME).unlink()
        file.close()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder within, and leave none behind that is new and empty. ValueError where another
    process has it or it cannot be written."""
    new = not folder.exists()
    try:
        pid = take(folder)
    except OSError as error:
        raise ValueError(f"{folder} cannot be a folder to write to ({error.strerror}).") from None
    if pid is not None:
        other = f"another process ({pid})" if pid else "another process"
        raise ValueError(
            f"{folder} is in use by {other}; wait until it ends, or give another folder."
        )
    try:
        yield
    finally:
        release(folder)
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _locked(file: IO[str]) -> bool:
    """Whether the file is locked now, or could not be by anyone."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk that has no locks
        return True
    return True


def _pid(file: IO[str]) -> int:
    """Whose lock it is; 0 where it has not said so yet."""
    file.seek(0)
    text = file.read()
    file.close()
    return int(text) if text.isdigit() else 0
