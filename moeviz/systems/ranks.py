"""The processes of one run: who they are and what they agree on, by torch.distributed as it is."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.rendezvous import rendezvous

from moeviz.checks import check_whole, one_line

TIMEOUT = datetime.timedelta(minutes=10)  # after which a process that does not answer is given up


def launcher() -> str:
    """The command that starts several processes of this Python: torchrun, where the shell finds the
    one that belongs to it, and else the module that torchrun runs, which is always there."""
    found = shutil.which("torchrun")
    own = found and Path(found).absolute().parent == Path(sys.executable).absolute().parent
    return "torchrun" if own else "python -m torch.distributed.run"


def started_by_torchrun() -> bool:
    """Whether torchrun, or what speaks its language, started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


class Ranks:
    """The `size` processes of this run, of which this is number `rank`.

    device: "cpu" (gloo) or "cuda" (NCCL, one GPU each). place: where they meet, as an address of
    torch.distributed; by default the one that torchrun gives. Raises ValueError where they do not
    find each other. `arrange` comes next: one that fails may be told by a single process.
    """

    def __init__(
        self, device: str = "cpu", timeout: datetime.timedelta = TIMEOUT, place: str = "env://"
    ) -> None:
        self.device = _device(device)
        self._connect(timeout, place)

    def arrange(self, data: int | None = None, expert: int | None = None) -> None:
        """Make them a mesh of `data` x `expert`: the experts of a layer are spread over the
        `expert` processes of a row. Where one is not given it takes what the other leaves; where
        neither is, all is data. ValueError where there are not so many processes."""
        self.data, self.expert = _shape(self.size, data, expert)
        shape, names = (self.data, self.expert), ("data", "expert")
        self.mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=names)
        self.data_group, self.expert_group = (self.mesh.get_group(name) for name in names)
        assert dist.group.WORLD is not None
        self.all_group = dist.group.WORLD

    @property
    def leads(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def _connect(self, timeout: datetime.timedelta, place: str) -> None:
        backend = "gloo" if self.device.type == "cpu" else "cpu:gloo,cuda:nccl"
        try:
            self._store, self.rank, self.size = next(rendezvous(place, timeout=timeout))
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("moeviz", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=timeout,
            )
        except (RuntimeError, ValueError) as error:
            if place != "env://":
                raise ValueError(
                    f"The processes do not find each other ({one_line(error)})."
                ) from None
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            if "EADDRINUSE" in str(error):
                raise ValueError(
                    f"Port {os.environ['MASTER_PORT']} is in use by another program; give torchrun "
                    "another --master-port, or --standalone on one machine."
                ) from None
            raise ValueError(
                f"The processes of the run do not find each other at {address} "
                f"({one_line(error)}); check --master-addr, --master-port and the network."
            ) from None

    def end(self) -> None:
        """Let go of the other processes."""
        dist.destroy_process_group()

    def first_to_speak(self) -> bool:
        """Whether no process has said yet why the run ends; true too where nobody can be asked."""
        try:
            return int(self._store.add("spoke", 1)) == 1
        except RuntimeError:
            return True

    def any(self, *flags: bool) -> list[bool]:
        """Whether each is so in any process."""
        counts = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(counts)
        return [count > 0 for count in counts.tolist()]

    def together(self, work: Callable[[], object]) -> None:
        """Do it in this process; once all have done it, OSError in all where it failed in one."""
        try:
            work()
            error = ""
        except OSError as refusal:
            error = str(refusal)
        for why in self.texts(error):
            if why:
                raise OSError(why)

    def texts(self, text: str) -> list[str]:
        """What each process says, in their order."""
        letters = torch.tensor(list(text.encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(letters)]))
        longest = max(int(size) for size in sizes)
        padded = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
        dist.all_gather(padded, torch.nn.functional.pad(letters, (0, longest - len(letters))))
        pairs = zip(padded, sizes, strict=True)
        return [bytes(letters[: int(size)].tolist()).decode() for letters, size in pairs]

    def agree(self, settings: Mapping[str, object]) -> None:
        """ValueError, in every process, where the processes have not the same settings."""
        ours = {name: str(value) for name, value in settings.items()}
        for number, text in enumerate(self.texts(json.dumps(ours))):
            theirs = json.loads(text)
            for name in sorted(ours.keys() | theirs.keys()):
                one, other = (given.get(name, "not given") for given in (ours, theirs))
                if one != other:
                    raise ValueError(
                        f"Process {self.rank} has {name} {one}, process {number} has {name} "
                        f"{other}: start all with the same options, on the same text and with the "
                        "same versions."
                    )


def needs(data: int | None, expert: int | None) -> str:
    """Why one process alone cannot do it."""
    data, expert = data or 1, expert or 1
    return (
        f"data_parallel {data} x expert_parallel {expert} needs {data * expert} processes, and "
        f"this is one; {_start(data * expert)}"
    )


def _start(processes: int) -> str:
    return (
        f"start it as: {launcher()} --nproc-per-node {processes} -m moeviz train, with the same "
        "options."
    )


def _shape(size: int, data: int | None, expert: int | None) -> tuple[int, int]:
    for name, value in (("data_parallel", data), ("expert_parallel", expert)):
        if value is not None:
            check_whole(name, value)
    if data is None:
        data = size if expert is None else max(size // expert, 1)
    if expert is None:
        expert = max(size // data, 1)
    if data * expert != size:
        raise ValueError(
            f"data_parallel {data} x expert_parallel {expert} needs {data * expert} processes, and "
            f"there are {size}; {_start(data * expert)}"
        )
    return data, expert


def _device(kind: str) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise ValueError(
            f"Process {local} of this machine has no GPU, there are {torch.cuda.device_count()}; "
            "start as many processes as GPUs, or add --device cpu."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
