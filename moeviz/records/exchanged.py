"""What processes really sent each other in one training step, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

# What can be set, of experiments.exchanged and of the panel. Capacity 0 and limit 0: none.
PROCESSES = (2, 4)
TOKENS = (64, 512)  # of each process
SKEWS = (0.0, 1.0, 2.0)
CAPACITIES = (0.0, 1.0, 0.5)
LIMITS = (0, 1)  # processes that a token may visit
COPIES = ("expert", "device")

# Of a record's fields: those that JSON has as they are, counts, and times.
PLAIN = ("tokens", "copies", "sizes", "beside")
WHOLE = ("load", "visits", "sent")
MICRO = ("span", "end", "travel")
FITS = 30  # rounds, after which a fitted line no longer moves

Answers = Sequence[dict[str, Any]]  # of experiments.exchange_rank, one for each process


@dataclass(frozen=True)
class Line:
    """time = alpha + bytes / bandwidth: seconds that a message of no bytes takes, and bytes a
    second. points: (bytes, seconds) that it was fitted to."""

    alpha: float
    bandwidth: float
    points: tuple[tuple[float, float], ...]

    def written(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "alpha": float(f"{self.alpha:.4g}"), "bandwidth": float(f"{self.bandwidth:.4g}"),
            "points": [[size, float(f"{seconds:.4g}")] for size, seconds in self.points],
        }  # fmt: skip

    @classmethod
    def read(cls, values: dict[str, Any]) -> Line:
        """What `written` wrote."""
        points = tuple((size, seconds) for size, seconds in values["points"])
        return cls(values["alpha"], values["bandwidth"], points)

    def seconds(self, size: float) -> float:
        """That a message of so many bytes takes; 0 where nothing is sent."""
        return self.alpha + size / self.bandwidth if size else 0.0

    @classmethod
    def fitted(cls, points: Sequence[tuple[float, float]]) -> Line:
        """The line of least squares where each point counts by its relative distance from the
        line, so that short messages count as much as long ones; neither part of it is below 0."""
        size_N, seconds_N = np.array(points, np.float64).T
        parts_N2 = np.stack((np.ones_like(size_N), size_N), axis=1)
        expected_N = seconds_N
        for _ in range(FITS):
            scaled_N2, wanted_N = parts_N2 / expected_N[:, None], seconds_N / expected_N
            alpha, each = np.linalg.lstsq(scaled_N2, wanted_N, rcond=None)[0]
            if min(alpha, each) < 0:  # one part alone
                part_2 = scaled_N2.T @ wanted_N / (scaled_N2**2).sum(0)
                alpha, each = (part_2[0], 0.0) if each < 0 else (0.0, part_2[1])
            expected_N = alpha + each * size_N
        each = max(each, 1e-18)
        return cls(float(alpha), 1 / float(each), tuple(points))


class Leg(NamedTuple):
    """One exchange of a step: in which MoE layer, there or back, in which pass."""

    layer: int
    back: bool  # outputs to their tokens (combine), or rows to their experts (dispatch)
    backward: bool  # of gradients

    @property
    def name(self) -> str:
        what = "combine" if self.back else "dispatch"
        return f"layer {self.layer} {what}{', its gradient' if self.backward else ''}"


def legs(layers: int) -> tuple[Leg, ...]:
    """The exchanges of a step in order. The gradient of what a combine brought goes to the experts,
    so it travels as a dispatch, and that of a dispatch as a combine."""
    forward = [Leg(layer, back, False) for layer in range(layers) for back in (False, True)]
    return (*forward, *(Leg(leg.layer, not leg.back, True) for leg in reversed(forward)))


@dataclass(frozen=True)
class Exchanged:
    """One step of R processes: L MoE layers, X = 4 L exchanges.

    load: int [L, R, E], rows of each process for each expert, without those dropped; visits:
    int [L, R, R], tokens of each that visit each; sent: int [X, R, R], bytes from each to each,
    its own rows too; beside: bytes that travelled besides, in all; span: float [X, R, 3], seconds
    from the start of the step at which each was ready, all were, and it had ended; end: float [R];
    travel: float [X], seconds from where all were ready, the median of several steps (span is of
    the one that took the median time); error: the largest difference of a token's loss, in nats,
    from that of one process alone.
    """

    kind: ClassVar[str] = "exchanged"
    tokens: int
    copies: str
    sizes: dict[str, int]
    load: np.ndarray
    visits: np.ndarray
    sent: np.ndarray
    beside: int
    span: np.ndarray
    end: np.ndarray
    travel: np.ndarray
    error: float

    @property
    def processes(self) -> int:
        return self.sent.shape[1]

    @property
    def legs(self) -> tuple[Leg, ...]:
        return legs(len(self.load))

    @property
    def dropped(self) -> int:
        """Assignments that found no slot, of all layers."""
        wanted = self.load.shape[0] * self.processes * self.tokens * self.sizes["top_k"]
        return int(wanted - self.load.sum())

    @property
    def crossed(self) -> np.ndarray:
        """Bytes that left their process, int [X, R, R]: 0 on the diagonal."""
        return self.sent * (1 - np.eye(self.processes, dtype=self.sent.dtype))

    @property
    def busiest(self) -> np.ndarray:
        """Bytes of the process that sends or receives most, int [X]."""
        return np.maximum(self.crossed.sum(2).max(1), self.crossed.sum(1).max(1))

    def predicted(self, line: Line) -> np.ndarray:
        """Seconds of each exchange, by the bytes of the busiest process, float [X]."""
        return np.array([line.seconds(float(size)) for size in self.busiest])

    @property
    def waited(self) -> np.ndarray:
        """Seconds that each process was ready before all were, float [R]."""
        return (self.span[..., 1] - self.span[..., 0]).sum(0)

    @classmethod
    def merged(cls, answers: Answers, tokens: int, copies: str) -> Exchanged:
        """What the processes answered, put together."""
        passes = [answer["passes"] for answer in answers]
        begun_RP = np.array([[each[0] for each in of] for of in passes])
        end_RP = np.array([[each[1] for each in of] for of in passes])
        span_RPX3 = np.array([[each[2] for each in of] for of in passes])
        start_P = begun_RP.max(0)
        took_P = end_RP.max(0) - start_P
        middle = int(np.argsort(took_P, kind="stable")[len(took_P) // 2])
        travel_PX = span_RPX3[..., 2].max(0) - span_RPX3[..., 1].max(0)
        load_RLE, visits_RLR, sent_RXR = (
            np.array([answer[name] for answer in answers]) for name in ("load", "visits", "sent")
        )
        return cls(
            tokens=tokens,
            copies=copies,
            sizes=answers[0]["sizes"],
            load=load_RLE.swapaxes(0, 1),
            visits=visits_RLR.swapaxes(0, 1),
            sent=sent_RXR.swapaxes(0, 1),
            beside=sum(answer["beside"] for answer in answers),
            span=np.maximum(span_RPX3[:, middle].swapaxes(0, 1) - start_P[middle], 0.0),
            end=end_RP[:, middle] - start_P[middle],
            travel=np.median(travel_PX, axis=0),
            error=max(answer["error"] for answer in answers),
        )

    def written(self) -> dict[str, Any]:
        """As JSON values: arrays flat, times in whole microseconds."""
        arrays = {name: getattr(self, name) for name in WHOLE}
        arrays |= {name: (1e6 * getattr(self, name)).round().astype(int) for name in MICRO}
        return {
            **{name: getattr(self, name) for name in PLAIN},
            "error": float(f"{self.error:.2g}"),
            **{name: values.ravel().tolist() for name, values in arrays.items()},
        }

    @classmethod
    def read(cls, values: dict[str, Any]) -> Exchanged:
        """What `written` wrote, whatever stands beside it."""
        size = len(values["end"])
        arrays: dict[str, Any] = {name: np.array(values[name]) for name in WHOLE}
        arrays |= {name: np.array(values[name]) / 1e6 for name in MICRO}
        arrays["load"] = arrays["load"].reshape(-1, size, values["sizes"]["num_experts"])
        for name, last in (("visits", size), ("sent", size), ("span", 3)):
            arrays[name] = arrays[name].reshape(-1, size, last)
        return cls(**{name: values[name] for name in PLAIN}, error=values["error"], **arrays)


def line_of(answers: Sequence[list[list[list[float]]]], rows: Sequence[int], width: int) -> Line:
    """The line through messages of so many rows of `width` float32 from each process to each; each
    point is the median of its turns. answers: of experiments.exchange_rank's `links`."""
    time_RNT3 = np.array(answers)
    travel_NT = time_RNT3[..., 2].max(0) - time_RNT3[..., 1].max(0)
    others = len(answers) - 1
    sizes = [float(count * width * 4 * others) for count in rows]
    return Line.fitted([*zip(sizes, np.median(travel_NT, axis=1).tolist(), strict=True)])
