"""The exchanges of rows as they happen: how many bytes go to whom, and when."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Sent:
    """What one process handed over in one exchange. bytes: to each process, its own rows too;
    seconds of a clock that all processes of a machine share: came, when it was ready to send;
    begun, when all were; ended, when it had all that was sent to it."""

    width: int
    bytes: list[int]
    came: float
    begun: float
    ended: float

    @property
    def times(self) -> list[float]:
        return [self.came, self.begun, self.ended]


class Watched(TorchDispatchMode):
    """Notes every all-to-all of rows while it is on, the backward pass's too.

    Before each exchange the processes wait for each other. So what waits for a slower process is
    told apart from what travels.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.group = group
        self.sent: list[Sent] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if "all_to_all_single" not in func.name() or not args[0].is_floating_point():
            return func(*args, **(kwargs or {}))
        rows_ND, _, sends_R, *_ = args
        came = now()
        dist.barrier(self.group)
        begun = now()
        received: Tensor = func(*args, **(kwargs or {}))
        wait(received)
        ended = now()
        each = rows_ND.shape[1] * rows_ND.element_size()
        sizes = [count * each for count in sends_R]
        self.sent.append(Sent(rows_ND.shape[1], sizes, came, begun, ended))
        return received


def now() -> float:
    """Seconds of a clock that the processes of a machine share."""
    return time.perf_counter()


def wait(received: Tensor) -> None:
    """A collective that torch traces goes on in the background until its rows are asked for."""
    from torch.distributed._functional_collectives import wait_tensor

    wait_tensor(received)
