"""How much power this machine draws, where it says so: counters of the processor, or of the GPU.

Linux counts the energy of Intel and AMD processors (RAPL). Many machines, most virtual ones among
them, have no such counter, or keep it for the administrator.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

COUNTERS = Path("/sys/class/powercap")
RAPL, NVML = "RAPL, the whole processor", "NVML, the GPU alone"


class PowerMeter:
    """The mean power over the time that a run was at work.

    `tick` again and again. watts: what was measured between neighbours of which the first was at
    work; None where the machine tells nothing. source: what measured it. Other programs' power is
    part of it.
    """

    def __init__(self, counters: Path = COUNTERS) -> None:
        self._packages = [
            place
            for place in sorted(counters.glob("intel-rapl:*"))
            if (_read(place / "name") or "").startswith("package") and _joules(place) is not None
        ]
        self._energy = self._seconds = 0.0
        self._last: tuple[float, list[float | None]] | None = None
        self.source = ""

    @property
    def watts(self) -> float | None:
        return self._energy / self._seconds if self._seconds else None

    def tick(self, at_work: bool) -> None:
        """A moment, after which the run works on, or does not."""
        now = time.perf_counter()
        draw = _gpu_watts()
        counted = [] if draw is not None else [_joules(place) for place in self._packages]
        if self._last is not None:
            before, earlier = self._last
            if draw is not None:
                self._add(draw * (now - before), now - before, NVML)
            elif counted and len(counted) == len(earlier):
                energy = _gained(self._packages, earlier, counted)
                if energy is not None:
                    self._add(energy, now - before, RAPL)
        self._last = (now, counted) if at_work else None

    def _add(self, joules: float, seconds: float, source: str) -> None:
        self._energy += joules
        self._seconds += seconds
        self.source = source


def _gained(
    packages: list[Path], before: list[float | None], after: list[float | None]
) -> float | None:
    """Joules between two readings; a counter begins anew at its largest value. None where one
    could not be read."""
    total = 0.0
    for place, first, last in zip(packages, before, after, strict=True):
        if first is None or last is None:
            return None
        largest = float(_read(place / "max_energy_range_uj") or 0) / 1e6
        total += last - first + (largest if last < first else 0.0)
    return total


def _joules(package: Path) -> float | None:
    text = _read(package / "energy_uj")
    return float(text) / 1e6 if text else None


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text("utf-8").strip()
    return None


def _gpu_watts() -> float | None:
    """What the GPU draws now, where torch is loaded and sees one that says so."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    with contextlib.suppress(ImportError, RuntimeError, AttributeError):  # no pynvml, old driver
        return float(torch.cuda.power_draw()) / 1000
    return None
