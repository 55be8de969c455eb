"""What happened, as numpy: the line between computing and showing. Nothing here needs torch.

Trace: where a text's tokens were routed. Curve and Snapshot: how a training run has gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from moeviz.records.store import fitting, load_arrays, save_arrays

R = TypeVar("R")


def _split(record: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A record's arrays, and its other fields as JSON values."""
    arrays = {k: v for k, v in vars(record).items() if isinstance(v, np.ndarray)}
    return arrays, {k: v for k, v in vars(record).items() if k not in arrays}


def _joined(kind: type[R], arrays: dict[str, np.ndarray], header: dict[str, Any]) -> R:
    """The record that _split took apart (JSON made lists of its tuples)."""
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if {*arrays, *header} - {"kind"} != names:
        raise ValueError(f"This {kind.__name__.lower()} was written by another version of moeviz.")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in header.items() if k in names}
    return kind(**arrays, **plain)


@dataclass(frozen=True)
class Trace:
    """The routing of one text through every MoE layer of a model.

    tokens: T readable pieces; expert: int16 [T, L, K], -1 where a choice was not served;
    weight: float32 [T, L, K]; score: float32 [T, L, E], the router's probabilities;
    layers: the L block numbers; meta: provenance and model facts (JSON values).
    """

    tokens: tuple[str, ...]
    expert: np.ndarray
    weight: np.ndarray
    score: np.ndarray
    layers: tuple[int, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def num_experts(self) -> int:
        return self.score.shape[2]

    @property
    def top_k(self) -> int:
        return self.expert.shape[2]

    def load(self) -> np.ndarray:
        """Assignments each expert took, int64 [L, E]."""
        counts = [
            np.bincount(layer[layer >= 0], minlength=self.num_experts)
            for layer in self.expert.transpose(1, 0, 2).reshape(len(self.layers), -1)
        ]
        return np.stack(counts)

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file; OSError where that fails."""
        save_arrays(path, *_split(self), kind="trace")

    @staticmethod
    def load_file(path: str | Path) -> Trace:
        """Read a trace; ValueError where the file is damaged or no trace."""
        return _joined(Trace, *load_arrays(path, kind="trace"))


@dataclass(frozen=True)
class Anatomy:
    """Every matrix on a text's way through one MoE layer, all float32 but the indices.

    x [T, D] -> logits [T, E] -> score = softmax [T, E] -> expert int16, weight [T, K]
    -> dispatch: row_token, row_expert int32 [N] sorted by expert, offsets int32 [E + 1]
    -> experts: row_output [N, D] -> combine: y [T, D] = sum of row_weight * row_output
    """

    text: str
    tokens: tuple[str, ...]
    layer: int
    model_layers: tuple[int, ...]
    weighting: str
    x: np.ndarray
    logits: np.ndarray
    score: np.ndarray
    expert: np.ndarray
    weight: np.ndarray
    row_token: np.ndarray
    row_expert: np.ndarray
    row_weight: np.ndarray
    offsets: np.ndarray
    row_output: np.ndarray
    y: np.ndarray
    meta: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file; OSError where that fails."""
        save_arrays(path, *_split(self), kind="anatomy")

    @staticmethod
    def load_file(path: str | Path) -> Anatomy:
        """Read one; ValueError where the file is damaged or no anatomy."""
        return _joined(Anatomy, *load_arrays(path, kind="anatomy"))


@dataclass(frozen=True)
class Decision:
    """What one router decides for some tokens: the same record for every router.

    label; tokens: T readable pieces; score: float32 [T, E]; weight: float32 [T, E], the combine
    weight, 0 where the token does not visit the expert (a soft router: the share of its slots);
    visits, dropped: bool [T, E]; leaks: bool [T], tokens proven to depend on later ones; load,
    demand: int64 [E]; places: of each expert, None where there is no limit; causal: what the router
    declares; soft: whether experts read mixtures; meta: JSON values.
    """

    label: str
    tokens: tuple[str, ...]
    score: np.ndarray
    weight: np.ndarray
    visits: np.ndarray
    dropped: np.ndarray
    leaks: np.ndarray
    load: np.ndarray
    demand: np.ndarray
    places: int | None
    causal: bool
    soft: bool
    meta: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file; OSError where that fails."""
        save_arrays(path, *_split(self), kind="decision")

    @staticmethod
    def load_file(path: str | Path) -> Decision:
        """Read one; ValueError where the file is damaged or no decision."""
        return _joined(Decision, *load_arrays(path, kind="decision"))


class Point(NamedTuple):
    """One moment of a run. seconds: of training alone; loss: nats per token; load: the share of
    assignments that each expert took, float [L, E]; validation: nats per token; entropy: of the
    gate, float [L]; dropped: share of assignments, float [L]. NaN for what was not measured."""

    step: float
    seconds: float
    flops: float
    loss: float
    load: np.ndarray
    validation: float = float("nan")
    entropy: np.ndarray = np.array(np.nan)
    dropped: np.ndarray = np.array(np.nan)


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
        return Curve(**{name: column[:n] for name, column in vars(self).items()})


class History:
    """Collects a run's points in bounded memory: when `capacity` is reached, neighbours are merged
    two by two, so a run of any length keeps between capacity / 2 and capacity points."""

    def __init__(self, num_layers: int, num_experts: int, *, capacity: int = 400) -> None:
        assert capacity > 1 and capacity % 2 == 0, "points are merged two by two"
        self.capacity = capacity
        self.stride = 1
        self._points: list[Point] = []
        self._pending: list[Point] = []
        self._shape = (num_layers, num_experts)

    def add(self, point: Point) -> None:
        layers = self._shape[:1]
        self._pending.append(
            point._replace(
                entropy=np.broadcast_to(point.entropy, layers),
                dropped=np.broadcast_to(point.dropped, layers),
            )
        )
        if len(self._pending) < self.stride:
            return
        self._points.append(_merge(self._pending))
        self._pending = []
        if len(self._points) >= self.capacity:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [_merge(list(pair)) for pair in pairs]
            self.stride *= 2

    def curve(self) -> Curve:
        """An independent copy of the points so far, the unfinished last one included."""
        return self._pack(self._points + ([_merge(self._pending)] if self._pending else []))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """What `restore` needs to go on exactly: every point, and two counts."""
        counts = {"stride": self.stride, "finished": len(self._points)}
        return vars(self._pack(self._points + self._pending)), counts

    def restore(self, arrays: dict[str, np.ndarray], counts: dict[str, int]) -> None:
        columns = [arrays[name] for name in Point._fields]
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
        columns["load"] = columns["load"].reshape(len(points), *self._shape)
        for name in ("entropy", "dropped"):
            columns[name] = columns[name].reshape(len(points), self._shape[0])
        return Curve(**columns)


def _merge(points: list[Point]) -> Point:
    """One point for many: the last place, the last validation, the mean of all else."""
    measured = [p.validation for p in points if not np.isnan(p.validation)]
    return points[-1]._replace(
        loss=float(np.mean([p.loss for p in points])),
        load=np.mean([p.load for p in points], axis=0),
        entropy=np.mean([p.entropy for p in points], axis=0),
        dropped=np.mean([p.dropped for p in points], axis=0),
        validation=measured[-1] if measured else float("nan"),
    )


@dataclass(frozen=True)
class Snapshot:
    """One learner of a live run at one moment: its curve so far and what it is.

    step, total_steps; tokens_per_second over the run; parameters and active_parameters; label for
    the eye; meta: configuration and corpus (JSON values).
    """

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


def save_snapshots(path: str | Path, snapshots: Sequence[Snapshot], meta: dict[str, Any]) -> None:
    """Write several learners' snapshots and their provenance as one file."""
    arrays: dict[str, np.ndarray] = {}
    others = []
    for i, snapshot in enumerate(snapshots):
        arrays |= {f"{i}.{name}": column for name, column in vars(snapshot.curve).items()}
        others.append({k: v for k, v in vars(snapshot).items() if k != "curve"})
    save_arrays(path, arrays, {"snapshots": others, "meta": meta}, kind="snapshots")


def load_snapshots(path: str | Path) -> tuple[list[Snapshot], dict[str, Any]]:
    """What save_snapshots wrote; ValueError where the file is damaged or of another kind."""
    arrays, header = load_arrays(path, kind="snapshots")
    snapshots = []
    with fitting(path):
        for i, others in enumerate(header["snapshots"]):
            columns = {n: arrays[f"{i}.{n}"] for n in Point._fields if f"{i}.{n}" in arrays}
            curve = Curve(**columns)
            snapshots.append(Snapshot(curve=curve, **others))
        return snapshots, header["meta"]
