"""A process of a pool that computes nothing: it waits, refuses or dies when it is told to."""

import os
import signal
import time

from moeviz.systems import pool


def commands(rank):
    def die(**given):
        if given["rank"] == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)

    def refuse():
        raise ValueError("E must be 2.")

    return {"die": die, "refuse": refuse, "sleep": lambda seconds: time.sleep(seconds),
            "rank": lambda: rank}  # fmt: skip


if __name__ == "__main__":
    pool._meet = lambda place: int(place.partition("rank=")[2].partition("&")[0])
    pool.serve(commands)
