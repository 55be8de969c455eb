"""Other processes, as the tests of what they share need them."""

import contextlib
import subprocess
import sys

HOLD = """
import sys, time
from pathlib import Path
from moeviz.records.lock import take
print(take(Path(sys.argv[1])), flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def another_process(folder):
    """A process that holds the folder within, and is then killed."""
    command = [sys.executable, "-P", "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "None\n"
        yield process
    finally:
        process.kill()
        process.wait()
