"""Processes of this machine that stay, wait for commands and work on each together.

The one who asks needs no torch: it starts `python -m` a module, whose main calls `serve`. What is
asked and answered are lines of JSON in pipes. A process ends where its pipe ends, so none outlives
the one who started it, not even one that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from moeviz.checks import check_whole, one_line
from moeviz.host import free_memory_bytes
from moeviz.leaving import Stopped

if TYPE_CHECKING:
    from moeviz.systems.ranks import Ranks

Command = Callable[..., Any]
# on_wait(seconds) -> whether to wait on.
OnWait = Callable[[float], bool]
MEMORY = 0.4e9  # bytes of one process: most of it is torch
PATIENCE = 300.0  # seconds after which a start, or a process that does not answer, is given up
OFTEN = 0.25  # seconds between two looks at the clock
# Gloo listens on the network unless it is told the name of the device that leads nowhere else.
LOOPBACK = {"linux": "lo", "darwin": "lo0"}


class Pool:
    """`size` processes that run `module`; started by `start`, ended by `end`."""

    def __init__(self, module: str, size: int) -> None:
        check_whole("size", size)
        self.module, self.size = module, size
        self.seconds = 0.0  # that the start took
        self._processes: list[subprocess.Popen[str]] = []
        self._lines: queue.Queue[tuple[int, str | None]] = queue.Queue()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def ready(self) -> bool:
        """Whether they have started and none has ended."""
        return bool(self._processes) and all(p.poll() is None for p in self._processes)

    def start(self, on_wait: OnWait = lambda seconds: True) -> None:
        """Start them and wait until they have found each other: some seconds, most of them for
        torch. ValueError where they cannot; Stopped where on_wait says so."""
        if self.ready:
            return
        self.end()
        if free_memory_bytes() < self.size * MEMORY:
            raise ValueError(
                f"{self.size} processes need about {self.size * MEMORY / 1e9:.1f} GB of memory, "
                f"and {free_memory_bytes() / 1e9:.1f} GB are free; take fewer, or close another "
                "program."
            )
        begun = time.monotonic()
        self._lines = queue.Queue()
        self._folder = tempfile.TemporaryDirectory(prefix="moeviz-", ignore_cleanup_errors=True)
        try:
            for rank in range(self.size):
                self._processes.append(self._process(rank))
        except OSError as error:
            self.end()
            raise ValueError(f"Processes cannot be started here: {one_line(error)}.") from None
        self._answers(on_wait)
        self.seconds = time.monotonic() - begun

    def ask(self, command: str, on_wait: OnWait = lambda seconds: True, **given: Any) -> list[Any]:
        """What each of them answers to a command, in their order. Where one ends or refuses, all
        are ended: ValueError; Stopped where on_wait says so."""
        if not self.ready:
            self.end()
            raise ValueError("The processes have ended; start them again.")
        line = json.dumps([command, given]) + "\n"
        for process in self._processes:
            with contextlib.suppress(OSError):  # it has ended: its pipe says so
                pipe = _pipe(process.stdin)
                pipe.write(line)
                pipe.flush()
        return self._answers(on_wait)

    def end(self) -> None:
        """End them, whatever they are at."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            with contextlib.suppress(OSError):
                _pipe(process.stdin).close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _process(self, rank: int) -> subprocess.Popen[str]:
        assert self._folder is not None
        meeting = Path(self._folder.name, "meeting").as_posix().lstrip("/")
        place = f"file:///{meeting}?rank={rank}&world_size={self.size}"
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        if (name := LOOPBACK.get(sys.platform)) is not None:
            env |= {"GLOO_SOCKET_IFNAME": name}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", self.module, place],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, encoding="utf-8", env=env,
            start_new_session=True,  # a kernel that is interrupted interrupts its whole group
        )  # fmt: skip
        lines = self._lines

        def read() -> None:
            with _pipe(process.stdout) as pipe:
                for line in pipe:
                    lines.put((rank, line))
            lines.put((rank, None))

        threading.Thread(target=read, name=f"reads process {rank}", daemon=True).start()
        return process

    def _answers(self, on_wait: OnWait) -> list[Any]:
        begun, found, processes = time.monotonic(), dict[int, Any](), self._processes
        refusal = ""
        try:
            while len(found) < self.size:
                waited = time.monotonic() - begun
                if not on_wait(waited):
                    raise Stopped
                try:
                    rank, line = self._lines.get(timeout=OFTEN)
                except queue.Empty:
                    if refusal or waited > PATIENCE:
                        break
                    continue
                if line is None:  # the others then speak of a lost connection
                    raise ValueError(_lost(rank, processes))
                answer = json.loads(line)
                found[rank] = answer.get("answer")
                refusal = refusal or answer.get("refusal", "")
            if refusal or len(found) < self.size:
                why = refusal or f"A process has not answered for {PATIENCE:.0f} seconds."
                raise ValueError(f"{why} All {self.size} were ended.")
        except BaseException:
            self.end()
            raise
        return [found[rank] for rank in range(self.size)]


def _lost(rank: int, processes: list[subprocess.Popen[str]]) -> str:
    code = processes[rank].wait()
    how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    return (
        f"Process {rank} of {len(processes)} has ended ({how}), and the others were ended with it; "
        "start them again."
    )


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


# In a process of a pool.


def serve(commands: Callable[[Ranks], Mapping[str, Command]]) -> None:
    """Answer every line of stdin, a command and what it is given, by one line; the first line says
    that the processes have met. commands: what there is to call, by name."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    asked: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()

    def answer(work: Callable[[], Any]) -> Any:
        try:
            result, refusal = work(), ""
        except Exception as error:
            result, refusal = None, one_line(error)
            if not refusal.endswith("."):
                refusal += "."
        told = {"refusal": refusal} if refusal else {"answer": result}
        out.write(json.dumps(told) + "\n")
        out.flush()
        return result

    met: dict[str, Command] = {}
    answer(lambda: met.update(commands(_meet(sys.argv[1]))))
    while True:
        name, given = json.loads(asked.get())
        answer(lambda name=name, given=given: met[name](**given))  # type: ignore[misc]


def _listen(asked: queue.Queue[str]) -> None:
    """The end of the pipe is the end of this process, whatever it is at."""
    for line in sys.stdin:
        asked.put(line)
    os._exit(0)


def _meet(place: str) -> Ranks:
    import datetime

    import torch
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_gloo_available()):
        raise ValueError(
            "This PyTorch comes without gloo, by which processes on a CPU speak to each other; "
            "install one that has it, as those of pip have."
        )
    from moeviz.systems.ranks import Ranks

    torch.set_num_threads(1)
    ranks = Ranks(timeout=datetime.timedelta(seconds=PATIENCE), place=place)
    ranks.arrange(1, ranks.size)
    return ranks
