"""Several processes that stay: each runs the cases of helpers.rank_cases, all of them together."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from lab_browser import free_port

TESTS = Path(__file__).resolve().parent.parent


def environment(size=None, rank=0, port=0):
    """What a child needs to import what this process does; with a size, all that torchrun says."""
    path = [str(TESTS), *filter(None, sys.path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    if size is not None:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        values = (rank, rank, size, "127.0.0.1", port)
        env |= dict(zip(names, map(str, values), strict=True))
    return env


class Processes:
    """`size` processes of one run, started once; `ask` runs a case in all of them."""

    def __init__(self, size, folder):
        port = free_port()
        self.all = [
            subprocess.Popen(
                [sys.executable, "-P", "-c", "import helpers.rank_cases as c; c.serve()", folder],
                env=environment(size, rank, port), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]  # fmt: skip

    def ask(self, case, **given):
        """What the case returns in each process; a refusal comes back as its words."""
        for process in self.all:
            process.stdin.write(json.dumps([case, given]) + "\n")
            process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in self.all]

    def end(self):
        for process in self.all:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdin.close()
            process.stdout.close()
