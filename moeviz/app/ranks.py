"""Several processes under one command: who speaks, and what is said when one of them is lost."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from moeviz.checks import one_line

if TYPE_CHECKING:
    from moeviz.systems.ranks import Ranks

# Ctrl-C; docker stop and SLURM; a terminal that closes
STOPS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
PLACES = ("out", "corpus")  # which another machine may call otherwise
LOST = ("gloo", "nccl", "connection", "timed out", "timeout", "socket")  # in torch's messages


@contextlib.contextmanager
def joined(args: argparse.Namespace) -> Iterator[Ranks | None]:
    """The processes of this run within, None where this one is alone. One of them prints, and of
    errors that many have, the first is told. ValueError where they were given different options or
    cannot be arranged so."""
    data, expert = args.data_parallel, args.expert_parallel
    if data is None and expert is None and "RANK" not in os.environ:
        yield None
        return
    # Not before: these are seconds that one process alone does not need.
    import torch.distributed as dist

    from moeviz.systems.ranks import Ranks, needs, started_by_torchrun
    from moeviz.training.config import resolve_device

    if not started_by_torchrun():
        raise ValueError(needs(data, expert))
    ranks = Ranks(resolve_device(getattr(args, "device", "auto")).type)
    try:
        with contextlib.ExitStack() as stack:
            if not ranks.leads:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            ranks.agree({k: v for k, v in vars(args).items() if k not in PLACES})
            ranks.arrange(data, expert)
            yield ranks
        ranks.end()
    except (ValueError, OSError, RuntimeError) as error:
        # torchrun asks all to stop as soon as one has ended: who speaks for all has to get there.
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)
        if not ranks.first_to_speak():
            raise SystemExit(2) from None
        if not ranks.leads:
            print(file=sys.stderr)  # the bar of the one that leads is on the last line
        lost = isinstance(error, dist.DistError) or type(error) is RuntimeError
        if lost and any(word in str(error).lower() for word in LOST):
            raise RuntimeError(
                f"Another process of this run has ended or does not answer ({one_line(error)}); "
                "--resume goes on from the last checkpoint."
            ) from None
        raise
