"""Exercises of 08b_many_devices: experts on devices, their exchange, and the bytes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moeviz.exercises.exercise import Wrong, exercise, function_asked
from moeviz.records.placement import Placement, balanced

if TYPE_CHECKING:
    from torch import Tensor

TRIES = 20


def place(load, devices):
    room, device_loads = len(load) // devices, [0.0] * devices
    held: list[list[int]] = [[] for _ in range(devices)]
    for expert in sorted(range(len(load)), key=lambda e: -load[e]):
        with_room = [d for d in range(devices) if len(held[d]) < room]
        lightest = min(with_room, key=lambda d: device_loads[d])
        held[lightest].append(expert)
        device_loads[lightest] += load[expert]
    return held


@exercise(
    "08.6",
    "A heavy expert is hard to place late, a light one fits anywhere.",
    "Give each expert to the device that has least to do so far, and still has room.",
    difficulty=2,
    minutes=8,
    solution=place,
    praise="That is how EPLB packs experts.",
)
def placed(answer: Any) -> str | None:
    rng = np.random.default_rng(6)
    for devices in (4, 8, 2):
        load = np.round(rng.exponential(100, size=8 * devices)).tolist()
        held = answer(list(load), devices)
        try:
            expert_DR = np.array([[int(e) for e in device] for device in held])
        except TypeError:
            return "it must give a list of the experts of each device."
        except ValueError:  # lists of several lengths
            expert_DR = np.zeros(0)
        if expert_DR.shape != (devices, 8):
            return (
                f"for {len(load)} experts and {devices} devices it must give {devices} lists of 8."
            )
        if sorted(expert_DR.ravel().tolist()) != list(range(len(load))):
            return "every expert must stand on exactly one device."
        found = Placement(expert_DR, len(load)).imbalance(load)
        best = balanced(load, devices=devices).imbalance(load)
        if found > 1.01 * best:
            return (
                f"of {devices} devices the busiest has {found:.2f} times the mean load, and "
                f"{best:.2f} is possible."
            )
    return None


# 08.8

THERE_AND_BACK = """
def there_and_back(rows, counts, run):
    ranks = len(rows)
    sends_RR = counts.view(ranks, ranks, -1).sum(2)  # from, to
    parts = [x_ND.split(sends_RR[r].tolist()) for r, x_ND in enumerate(rows)]
    back = []
    for to in range(ranks):
        x_MD = torch.cat([parts[r][to] for r in range(ranks)])
        back.append(run(to, x_MD).split(sends_RR[:, to].tolist()))
    return [torch.cat([back[to][r] for to in range(ranks)]) for r in range(ranks)]
""".strip()


class Spread:
    """Experts on R ranks, `here` on each, and rows of each rank sorted by expert. One rank has no
    rows, and of some seeds one has experts that nobody asks for."""

    def __init__(self, seed: int, ranks: int, here: int) -> None:
        import torch

        drawn = torch.Generator().manual_seed(seed)
        E, D, F = ranks * here, 3, 2
        self.counts_RE = torch.randint(0, 4, (ranks, E), generator=drawn)
        self.counts_RE[seed % ranks] = 0
        if seed % 2:
            self.counts_RE[:, :here] = 0
        self.rows = [torch.randn(n, D, generator=drawn) for n in self.counts_RE.sum(1).tolist()]
        self.w13_E2FD = torch.randn(E, 2 * F, D, generator=drawn)
        self.w2_EDF = torch.randn(E, D, F, generator=drawn)
        self.here = here

    def run(self, rank: Any, x_MD: Any) -> Tensor:
        """The outputs of a rank's experts, by the library; Wrong where other rows came to it."""
        import torch

        from moeviz.systems.exchange import own_experts

        if not isinstance(rank, int) or not 0 <= rank < len(self.rows):
            raise Wrong(f"run takes the number of a rank first, 0 to {len(self.rows) - 1}.")
        if not isinstance(x_MD, torch.Tensor) or x_MD.shape[1:] != (self.w2_EDF.shape[1],):
            raise Wrong("run takes the rows that came to a rank second, as one tensor [M, D].")
        held = slice(rank * self.here, (rank + 1) * self.here)
        came_Re = self.counts_RE[:, held]
        if len(x_MD) != came_Re.sum():
            raise Wrong(
                f"rank {rank} ran {len(x_MD)} rows, and by the counts {int(came_Re.sum())} are for "
                "its experts."
            )
        return own_experts(x_MD, came_Re, self.w13_E2FD[held], self.w2_EDF[held], "reference")

    def outputs(self) -> list[Tensor]:
        """What each rank gets where it holds all experts itself, by the library."""
        from moeviz.systems.exchange import own_experts

        experts = self.w13_E2FD, self.w2_EDF, "reference"
        return [
            own_experts(x_ND, counts_E[None], *experts)
            for x_ND, counts_E in zip(self.rows, self.counts_RE, strict=True)
        ]


def _spreads() -> list[Spread]:
    shapes = ((2, 2), (3, 1), (4, 2), (2, 3), (5, 1), (3, 3))
    return [Spread(seed, *shape) for seed, shape in enumerate(shapes)]


def _there(rows: list[Tensor], counts: Tensor, run: Any) -> list[Tensor]:
    """The way there alone: the outputs stay where the experts are."""
    import torch

    ranks = len(rows)
    sends_RR = counts.view(ranks, ranks, -1).sum(2)
    parts = [x_ND.split(sends_RR[r].tolist()) for r, x_ND in enumerate(rows)]
    return [run(to, torch.cat([parts[r][to] for r in range(ranks)])) for to in range(ranks)]


def _last_rank_first(rows: list[Tensor], counts: Tensor, run: Any) -> list[Tensor]:
    """There and back, but put together in the wrong order."""
    import torch

    ranks = range(len(rows))
    sends_RR = counts.view(len(rows), len(rows), -1).sum(2)
    back = [y.split(sends_RR[:, to].tolist()) for to, y in enumerate(_there(rows, counts, run))]
    return [torch.cat([back[to][r] for to in reversed(ranks)]) for r in ranks]


STAYED = "those are the outputs where the experts are: send them back to the ranks of the rows."
UNSENT = "those are the rows themselves; the outputs of the experts are asked for."
TURNED = (
    "every rank has its outputs, but not in the order of its rows: these are sorted by expert, so "
    "what comes from rank 0 stands first."
)


@exercise(
    "08.8",
    "Sum the counts of each rank's experts: so many rows go from each rank to each. By these "
    "numbers all tensors are split.",
    "What comes to a rank stands in the order of the senders. What goes back is split by the same "
    "numbers, read by column.",
    difficulty=3,
    minutes=12,
    solution=THERE_AND_BACK,
    praise="That is what every process does in training; there the parts travel between processes.",
    asks="a function there_and_back(rows, counts, run)",
    mistakes=(
        (_there, STAYED), (lambda rows, counts, run: rows, UNSENT), (_last_rank_first, TURNED),
    ),
)  # fmt: skip
def exchanged(answer: Any) -> str | None:
    import torch

    for spread in _spreads():
        wanted = spread.outputs()
        given = answer([x.clone() for x in spread.rows], spread.counts_RE.clone(), spread.run)
        if not isinstance(given, list | tuple) or len(given) != len(wanted):
            return f"for {len(wanted)} ranks it must give a list of {len(wanted)} tensors."
        if not all(isinstance(y, torch.Tensor) and y.ndim == 2 for y in given):
            return "it must give a tensor [N, D] for each rank."
        if _same(given, wanted):
            continue
        if _same(given, spread.rows):
            return UNSENT
        if _same(given, _there(spread.rows, spread.counts_RE, spread.run)):
            return STAYED
        for rank, (y_ND, wanted_ND) in enumerate(zip(given, wanted, strict=True)):
            if y_ND.shape != wanted_ND.shape:
                return (
                    f"rank {rank} sent {len(wanted_ND)} rows of {wanted_ND.shape[1]} numbers and "
                    f"gets back {list(y_ND.shape)}."
                )
        if _same([y.sort(0).values for y in given], [y.sort(0).values for y in wanted]):
            return TURNED
        return "some rows came back from another expert than theirs."
    return None


def _same(given: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    import torch

    pairs = zip(given, wanted, strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in pairs)


# 08.9


def sent_bytes(tokens, top_k, d_model, bytes_each, devices):
    copies = tokens * top_k * (devices - 1) / devices
    return copies * d_model * bytes_each


def _exchanges() -> list[tuple[int, ...]]:
    """A layer of DeepSeek-V3 as it decodes, then any."""
    rng = np.random.default_rng(9)
    cases: list[tuple[int, ...]] = [(128, 8, 7168, 2, 64)]
    for _ in range(TRIES):
        sizes = rng.integers((1, 1, 8, 1, 2), (999, 9, 999, 5, 65)).tolist()
        cases.append(tuple(sizes))
    return cases


function_asked(
    "08.9",
    "A token is sent top_k times, each time as a row of d_model numbers.",
    "Under even routing every device gets the same share, the sender itself included. What stays "
    "is not sent.",
    difficulty=1,
    minutes=4,
    solution=sent_bytes,
    praise="The way back takes as much again, if the outputs have as many bits.",
    cases=_exchanges,
    mistakes=(
        (lambda t, k, d, b, r: t * k * d * b, "one copy in so many devices stays where it is."),
        (lambda t, k, d, b, r: t * d * b * (r - 1) / r, "each chosen expert gets a copy."),
        (lambda t, k, d, b, r: t * k * d * (r - 1) / r, "those are numbers; how many bytes?"),
        (
            lambda t, k, d, b, r: 2 * t * k * d * b * (r - 1) / r,
            "that is there and back; only the way to the experts is asked for.",
        ),
        (lambda t, k, d, b, r: t * k * d * b / r, "that is what one device gets; add all others."),
        (
            lambda t, k, d, b, r: t * k * d * b * (r - 1),
            "that sends every copy to every other device.",
        ),
    ),
    words="for {} tokens, K = {}, {} numbers of {} bytes and {} devices it is {wanted:,.0f}, not "
    "{found:,.0f}.",
)
