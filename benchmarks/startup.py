"""From a fresh clone to a served page: how long the first `make lab` takes, and the second.

    python -m moeviz bench startup

Clones this checkout's last commit into a temporary folder and runs `make lab` there twice, each
until JupyterLab answers at the address that it prints; then it stops it as Ctrl-C does. The first
time installs everything: it depends on the network and on pip's cache, which the result names.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import report

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r"http://\S+/lab/tree/\S+\?token=\S+")


def make_lab(folder: Path, port: int, timeout: float) -> dict[str, Any]:
    """Seconds from `make lab` until its page is served, and what it printed with the time."""
    command = ["make", "lab", f"PYTHON={sys.executable}"]
    command.append(f"ARGS=--no-browser --port {port}")
    # The caller's environment and server must not leak in: this is a newcomer's terminal.
    kept = ("VIRTUAL_ENV", "PYTHONPATH", "JUPYTER_TOKEN", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in kept}
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that make and the lab can be stopped together
        # A caller in the background ignores Ctrl-C, and children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    watchdog = threading.Timer(timeout, lambda: os.killpg(process.pid, signal.SIGKILL))
    watchdog.start()
    output, stages = "", {}
    try:
        assert process.stdout is not None
        while "Ctrl-C stops" not in output and (line := process.stdout.readline()):
            output += line
            if stage := re.match(r"\[\d/\d\]", line):
                stages[stage[0]] = round(time.monotonic() - begun, 1)
        address = ADDRESS.search(output)
        if address is None:
            raise RuntimeError(f"`make lab` did not come up:\n{output[-2000:]}")
        with urllib.request.urlopen(address[0], timeout=60) as answer:
            assert answer.status == 200
        seconds = time.monotonic() - begun
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return {"seconds": round(seconds, 1), "stages_begun_at": stages}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns 0 when both starts served their page."""
    parser = report.command_line("startup", __doc__)
    add = parser.add_argument
    add("--port", type=int, default=8899, help="first port to try (%(default)s)")
    add("--timeout", type=float, default=1800, help="seconds for one start (%(default)s)")
    default = report.RESULTS / "startup.json"
    add("--json", type=Path, default=default, help="where the figures go (%(default)s)")
    arguments = parser.parse_args(argv)

    ask = [sys.executable, "-m", "pip", "cache", "dir"]
    cache = Path(subprocess.run(ask, capture_output=True, text=True).stdout.strip() or os.devnull)
    results = report.begin(parser.prog)
    results["pip_cache_filled"] = cache.is_dir() and any(cache.iterdir())
    with tempfile.TemporaryDirectory(prefix="moeviz-startup-") as home:
        folder = Path(home) / "moeviz"
        clone = ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)]
        subprocess.run(clone, check=True)
        for name in ("first", "second"):
            results[name] = make_lab(folder, arguments.port, arguments.timeout)
            print(f"{name} `make lab`: page served after {results[name]['seconds']} s", flush=True)
    report.save(results, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
