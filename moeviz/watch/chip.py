"""A GPU's clock, power and temperature while something runs, as nvidia-smi tells them.

A chip that draws all the power it may have, or grows hot, lowers its clock, and the same kernel
takes longer: a time without the clock at which it was taken explains nothing.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

# By the name of a figure, what nvidia-smi is asked for: megahertz, watts (two), degrees Celsius.
QUERY = {
    "sm_mhz": "clocks.sm",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}
EVERY_MS = 100
Span = tuple[float, float]  # from, to, by time.monotonic(), which all processes share


class Chip:
    """nvidia-smi in the background, from the begin of a `with` to its end; where there is none, no
    sample comes."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, dict[str, float]]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
        arguments = [f"--id={gpu}", f"--query-gpu={','.join(QUERY.values())}"]
        arguments += ["--format=csv,noheader,nounits", f"--loop-ms={EVERY_MS}"]
        if (program := shutil.which("nvidia-smi")) is None or not hasattr(os, "openpty"):
            return self
        # To a terminal a program writes line by line, into a pipe only once a buffer is full.
        self._terminal, theirs = os.openpty()
        nothing = subprocess.DEVNULL
        self._process = subprocess.Popen(
            [program, *arguments], stdin=nothing, stdout=theirs, stderr=nothing
        )
        os.close(theirs)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._thread.join()

    def __str__(self) -> str:
        count = len(self._samples)
        return f"{count or 'no'} samples of clock, power and temperature from nvidia-smi"

    def _read(self) -> None:
        with os.fdopen(self._terminal, "rb") as lines:
            while True:
                try:
                    line = lines.readline()
                except OSError:  # a terminal's word for the end of what is written to it
                    return
                if not line:
                    return
                if sample := read_line(line.decode("ascii", "replace")):
                    self._samples.append((time.monotonic(), sample))

    def medians(self, spans: Iterable[Span]) -> dict[str, float] | None:
        """Each figure's median over the samples of these spans, and how many there were. Spans too
        short to hold one take those just before and after. None where there is none either."""
        spans = list(spans)
        for wider in (0.0, EVERY_MS / 1e3):
            found = [
                s for at, s in self._samples if any(a - wider <= at <= b + wider for a, b in spans)
            ]
            if found:
                break
        else:
            return None
        figures: dict[str, float] = {"samples": len(found)}
        for name in QUERY:
            if values := [sample[name] for sample in found if name in sample]:
                figures[name] = statistics.median(values)
        return figures


def read_line(line: str) -> dict[str, float]:
    """The figures of one line; what a chip does not tell ("[N/A]") is left out."""
    sample = {}
    for name, word in zip(QUERY, line.split(","), strict=False):
        try:
            sample[name] = float(word)
        except ValueError:
            continue
    return sample
