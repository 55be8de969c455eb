"""One file format for checkpoints and records: safetensors with a JSON header.

Nothing is ever unpickled. A file is written beside its place and moved there when it is whole, so
an interrupted or failed save leaves the earlier file as it was. The header ends in a checksum
of itself and of all arrays: a checkpoint without it, or any file with another, is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from moeviz.checks import one_line

HEADER_KEY, SUM_KEY = "moeviz", "sha256"


def save_arrays(
    path: str | Path, arrays: dict[str, np.ndarray], header: dict[str, Any], *, kind: str
) -> None:
    """Write the arrays and the header (JSON values) atomically.

    Raises OSError with one clear sentence where the disk is full or the place cannot be written.
    """
    from safetensors.numpy import save

    # np.ascontiguousarray would make a vector of a scalar.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header = {"kind": kind, **header}
    proved = {**header, SUM_KEY: checksum(contiguous, header)}
    write_atomically(path, save(contiguous, metadata={HEADER_KEY: json.dumps(proved)}))


def checksum(arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> str:
    """SHA-256 of the header as JSON and of every array: its name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(header).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.hexdigest()


def write_atomically(path: str | Path, data: bytes) -> None:
    """Replace the file by data in one step; OSError (one sentence) leaves it as it was."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OSError(
            f"Could not save {path} ({error.strerror or error}); what stood there before is "
            "untouched. Free some space or give another path."
        ) from None


def remove_stale(folder: Path) -> None:
    """Take away the partial files of processes that have ended in the middle of a save."""
    for partial in folder.glob(".*.partial"):
        pid = partial.name.split(".")[-2]
        if pid.isdecimal() and not _alive(int(pid)):
            with contextlib.suppress(OSError):  # a folder, or another user's: no reason not to save
                partial.unlink()


def _alive(pid: int) -> bool:
    """Whether a process of this machine has the number; yes where asking would end it (Windows)."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def load_arrays(path: str | Path, *, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the header of a file that save_arrays wrote.

    Raises FileNotFoundError, or ValueError on a damaged file and on one of another kind or origin.
    """
    with _opened(path, kind) as (file, header, wanted):
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if wanted is not None and wanted != checksum(arrays, header):
        raise ValueError(f"{path} is damaged: what it holds does not fit its checksum.")
    return arrays, header


def load_header(path: str | Path, *, kind: str) -> dict[str, Any]:
    """The header alone; errors as load_arrays."""
    with _opened(path, kind) as (_, header, _):
        return header


@contextlib.contextmanager
def _opened(path: str | Path, kind: str) -> Iterator[tuple[Any, dict[str, Any], str | None]]:
    """The open file, its header, and the checksum that it names (None: it need not have one)."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(str(path), framework="numpy") as file:
            header = _header(path, file.metadata() or {}, kind)
            wanted = header.pop(SUM_KEY, None)
            if kind == "checkpoint" and wanted is None:
                raise ValueError(
                    f"{path} is a checkpoint of an earlier version of moeviz, without a checksum: "
                    "train anew, or finish it with that version."
                )
            yield file, header, wanted
    except (SafetensorError, OSError, TypeError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file ({error}); it is damaged or of another "
            "format, and moeviz loads no pickles."
        ) from None


def _header(path: Path, metadata: dict[str, str], kind: str) -> dict[str, Any]:
    try:
        header = json.loads(metadata[HEADER_KEY])
        found = header["kind"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} was not written by moeviz: it has no moeviz header.") from None
    if found != kind:
        raise ValueError(f"{path} is of the kind '{found}'; here '{kind}' is needed.")
    return header


@contextlib.contextmanager
def fitting(path: str | Path) -> Iterator[None]:
    """Around the use of a file's header and arrays: what is missing, unknown or impossible there
    is a ValueError in one sentence, as when another version of moeviz wrote the file."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"{path} does not fit this version of moeviz ({type(error).__name__}: "
            f"{one_line(error)}); write it again with this version."
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {one_line(error)}.") from None


class Record:
    """A frozen dataclass of arrays and JSON values that fits one file; kind: the file's."""

    kind: ClassVar[str]

    def take_apart(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Its arrays, and its other fields."""
        arrays = {k: v for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return arrays, {k: v for k, v in vars(self).items() if k not in arrays}

    @classmethod
    def put_together(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Self:
        """The record of such parts (JSON made lists of its tuples); ValueError where one is missing
        or unknown."""
        if {*arrays, *values} != {f.name for f in fields(cls)}:  # type: ignore[arg-type]
            raise ValueError(f"This {cls.kind} was written by another version of moeviz.")
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arrays, **plain)

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file; OSError where that fails."""
        save_arrays(path, *self.take_apart(), kind=self.kind)

    @classmethod
    def load_file(cls, path: str | Path) -> Self:
        """Read one; ValueError where the file is damaged, or of another kind or version."""
        arrays, header = load_arrays(path, kind=cls.kind)
        with fitting(path):
            return cls.put_together(arrays, {k: v for k, v in header.items() if k != "kind"})


R = TypeVar("R", bound=Record)


def save_records(path: str | Path, records: Mapping[str, Record], meta: dict[str, Any]) -> None:
    """Write several records of one kind, by name (no dots), and their provenance as one file."""
    arrays: dict[str, np.ndarray] = {}
    values: dict[str, dict[str, Any]] = {}
    for name, record in records.items():
        columns, values[name] = record.take_apart()
        arrays |= {f"{name}.{column}": array for column, array in columns.items()}
    kind = f"{next(iter(records.values())).kind}s"
    save_arrays(path, arrays, {kind: values, "meta": meta}, kind=kind)


def load_records(path: str | Path, record: type[R]) -> tuple[dict[str, R], dict[str, Any]]:
    """What save_records wrote; ValueError where the file is damaged or of another kind."""
    kind = f"{record.kind}s"
    arrays, header = load_arrays(path, kind=kind)
    columns: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for key, array in arrays.items():
        name, _, column = key.partition(".")
        columns[name][column] = array
    with fitting(path):
        values = header[kind]
        return {n: record.put_together(columns[n], v) for n, v in values.items()}, header["meta"]
