"""What the tests of live runs share: waiting for their threads."""

import threading
import time


def wait(condition, what, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for: {what}"
        time.sleep(0.005)


def settle(player):
    """Every command to the run of this kind of panel has been obeyed."""
    done = threading.Event()
    player.run._commands.put(done.set)
    assert done.wait(20)


def end_of_kernel(player):
    """Close the run of this kind of panel, if there is one."""
    run, player.run = player.run, None
    if run is not None:
        run.close()
        assert not run._thread.is_alive()
