"""How a training run has gone, as numpy: its points, its curve, and what the learner is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from moeviz.checks import check_whole
from moeviz.records.store import Record, load_records, save_records


class Point(NamedTuple):
    """One moment of a run. seconds: of training alone; loss: nats per token; load: the share of
    assignments that each expert took, float [L, E]; validation: nats per token; entropy: of the
    gate, float [L]; dropped: share of assignments, float [L]. NaN for what was not measured."""

    step: float
    seconds: float
    flops: float
    loss: float
    load: np.ndarray
    validation: float
    entropy: np.ndarray
    dropped: np.ndarray


@dataclass(frozen=True)
class Curve:
    """The P points of a run, in order: Point's fields with P in front (load: [P, L, E], L = 0 for
    a dense model). Where points were merged, all but the place and the validation are means."""

    step: np.ndarray
    seconds: np.ndarray
    flops: np.ndarray
    loss: np.ndarray
    load: np.ndarray
    validation: np.ndarray
    entropy: np.ndarray = field(default_factory=lambda: np.array(np.nan))
    dropped: np.ndarray = field(default_factory=lambda: np.array(np.nan))

    def __post_init__(self) -> None:
        # One NaN stands for a whole column that was not measured.
        for name in ("entropy", "dropped"):
            if getattr(self, name).ndim == 0:
                object.__setattr__(self, name, np.full(self.load.shape[:2], np.nan))

    def __len__(self) -> int:
        return len(self.step)

    def upto(self, axis: str, x: float) -> Curve:
        """The points whose `axis` (step, seconds or flops) is at most x."""
        n = int(np.searchsorted(getattr(self, axis), x, side="right"))
        return type(self)(**{name: column[:n] for name, column in vars(self).items()})


@dataclass(frozen=True)
class PoweredCurve(Curve):
    """A curve with one more axis: joules, of its seconds at a constant power."""

    joules: np.ndarray = field(default_factory=lambda: np.array([]))


class History:
    """Collects a run's points in bounded memory: when `capacity` is reached, neighbours are merged
    two by two, so a run of any length keeps between capacity / 2 and capacity points."""

    def __init__(self, num_layers: int, num_experts: int, *, capacity: int = 400) -> None:
        assert capacity > 1 and capacity % 2 == 0, "points are merged two by two"
        self.capacity = capacity
        self.stride = 1
        self._points: list[Point] = []
        self._pending: list[Point] = []
        layers = (num_layers,)
        self._shapes = {"load": (num_layers, num_experts), "entropy": layers, "dropped": layers}

    def add(self, point: Point) -> None:
        self._pending.append(point)
        if len(self._pending) < self.stride:
            return
        self._points.append(_merge(self._pending))
        self._pending = []
        if len(self._points) >= self.capacity:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [_merge(list(pair)) for pair in pairs]
            self.stride *= 2

    @property
    def flops(self) -> float:
        """Those of all points so far."""
        points = self._pending or self._points
        return points[-1].flops if points else 0.0

    def curve(self) -> Curve:
        """An independent copy of the points so far, the unfinished last one included."""
        return self._pack(self._points + ([_merge(self._pending)] if self._pending else []))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """What `restore` needs to go on exactly: every point, and two counts."""
        counts = {"stride": self.stride, "finished": len(self._points)}
        return vars(self._pack(self._points + self._pending)), counts

    def restore(self, arrays: dict[str, np.ndarray], counts: dict[str, int]) -> None:
        """Go on from what `state` gave; ValueError where it cannot have come from such a run."""
        columns = [arrays[name] for name in Point._fields]
        length = len(columns[0]) if columns[0].ndim else 0
        wanted = [(length, *self._shapes.get(name, ())) for name in Point._fields]
        if [v.shape for v in columns] != wanted or {v.dtype for v in columns} != {np.dtype("f8")}:
            raise ValueError("its history does not fit its layers and experts.")
        check_whole("the stride of its history", counts["stride"])
        check_whole("the finished points of its history", counts["finished"], 0, length)
        points = [
            Point._make(float(v) if v.ndim == 0 else v for v in row)
            for row in zip(*columns, strict=True)
        ]
        self.stride = counts["stride"]
        self._points, self._pending = points[: counts["finished"]], points[counts["finished"] :]

    def _pack(self, points: list[Point]) -> Curve:
        columns = {
            name: np.array([getattr(p, name) for p in points], dtype=np.float64)
            for name in Point._fields
        }
        return Curve(
            **{k: v.reshape(len(points), *self._shapes.get(k, ())) for k, v in columns.items()}
        )


def _merge(points: list[Point]) -> Point:
    """One point for many: the last place, the last validation, the mean of all else."""
    measured = [p.validation for p in points if not np.isnan(p.validation)]
    means = {
        name: np.mean([getattr(p, name) for p in points], axis=0)
        for name in ("loss", "load", "entropy", "dropped")
    }
    return points[-1]._replace(**means, validation=measured[-1] if measured else float("nan"))


@dataclass(frozen=True)
class Snapshot(Record):
    """One learner of a live run at one moment: its curve so far and what it is.

    step, total_steps; tokens_per_second over the run; parameters and active_parameters; label for
    the eye; meta: configuration and corpus (JSON values).
    """

    kind: ClassVar[str] = "snapshot"
    label: str
    step: int
    total_steps: int
    seconds: float
    tokens_per_second: float
    parameters: int
    active_parameters: int
    curve: Curve
    meta: dict[str, Any] = field(default_factory=dict)

    def at(self, axis: str, x: float) -> Snapshot:
        """The same run as it was at x on an axis (step, seconds or flops): the timeline."""
        curve = self.curve.upto(axis, x)
        last_step = int(curve.step[-1]) if len(curve) else 0
        last_second = float(curve.seconds[-1]) if len(curve) else 0.0
        return replace(self, curve=curve, step=last_step, seconds=last_second)

    def take_apart(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        values = {k: v for k, v in vars(self).items() if k != "curve"}
        return vars(self.curve), values

    @classmethod
    def put_together(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Self:
        return cls(curve=Curve(**arrays), **values)


def powered(snapshot: Snapshot, watts: float) -> Snapshot:
    """The same run with joules beside its seconds, for the eye; it is not saved so."""
    curve = snapshot.curve
    return replace(snapshot, curve=PoweredCurve(**vars(curve), joules=curve.seconds * watts))


def save_snapshots(path: str | Path, snapshots: Sequence[Snapshot], meta: dict[str, Any]) -> None:
    """Write several learners' snapshots and their provenance as one file."""
    save_records(path, {str(i): snapshot for i, snapshot in enumerate(snapshots)}, meta)


def load_snapshots(path: str | Path) -> tuple[list[Snapshot], dict[str, Any]]:
    """What save_snapshots wrote; ValueError where the file is damaged or of another kind."""
    snapshots, meta = load_records(path, Snapshot)
    return list(snapshots.values()), meta
