"""The recordings that ship with moeviz, as panels and exercises open them."""

from __future__ import annotations

import json
from typing import Any, Protocol, TypeVar

from moeviz.host import data_path, read_figures
from moeviz.records.runs import Snapshot, load_snapshots
from moeviz.records.store import R, load_records

BENCHMARKS = ("layer_*.json", "kernels.json")


class Loadable(Protocol):
    """A record that reads itself from a file."""

    @classmethod
    def load_file(cls: type[Record], path: Any) -> Record: ...


Record = TypeVar("Record", bound=Loadable)


def recorded_trace(record: type[Record], name: str) -> Record:
    """One look inside a model, by its file's name; ValueError where the file is damaged."""
    return record.load_file(data_path("traces", f"{name}.safetensors"))


def recorded_records(record: type[R], name: str) -> dict[str, R]:
    """Several of one kind, by their names in the file; ValueError where it is damaged."""
    return load_records(data_path("traces", f"{name}.safetensors"), record)[0]


def recorded_runs(name: str) -> tuple[list[Snapshot], dict[str, Any]]:
    """Runs of a training experiment and where they were made."""
    return load_snapshots(data_path("runs", f"{name}.safetensors"))


def recorded_figures(name: str) -> dict[str, Any] | None:
    """The figures that an experiment wrote to runs/NAME.json; None where none are recorded yet."""
    try:
        return read_figures(name)
    except FileNotFoundError:
        return None


def recorded_machines() -> dict[str, dict[str, Any]]:
    """Recorded benchmarks of the experts by device, GPUs first; of one device the layer benchmark
    wins over the small contest. A damaged file is none, nor is a run that finished no case."""
    machines: dict[str, dict[str, Any]] = {}
    for pattern in BENCHMARKS:
        for path in sorted(data_path("runs").glob(pattern)):
            try:
                run = json.loads(path.read_text(encoding="utf-8"))
                name = f"{run['device']['name']}, {run['provenance']['date']}"
                if run["cases"]:
                    machines.setdefault(name, run)
            except (ValueError, LookupError, TypeError):
                continue
    return dict(sorted(machines.items(), key=lambda item: item[1]["device"].get("kind") != "cuda"))
