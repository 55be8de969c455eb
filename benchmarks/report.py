"""What the benchmarks share: their command line, and the JSON file that they leave."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from moeviz.host import load_average, package_version, provenance
from moeviz.records.store import write_atomically

RESULTS = Path(__file__).resolve().parent / "results"


def command_line(name: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m moeviz bench NAME`. description: the module's, its first line."""
    first_line = (description or "").partition("\n")[0]
    return argparse.ArgumentParser(prog=f"python -m moeviz bench {name}", description=first_line)


def reason(error: BaseException) -> str:
    """The kind of an error and its first line, without this machine's folders."""
    line = (str(error).strip().splitlines() or [""])[0]
    line = re.sub(r"(?:/[\w.+-]+)+/", "", line)[:200]
    return f"{type(error).__name__}: {line}"


def begin(command: str, packages: Iterable[str] = ()) -> dict[str, Any]:
    """What a report says before anything is measured. packages: whose versions matter besides."""
    begun = {"provenance": provenance(command), "load_average_before": load_average()}
    begun["provenance"]["versions"] |= {name: package_version(name) for name in packages}
    return begun


def save(report: dict[str, Any], path: Path) -> None:
    """Write the report, and how busy the machine was; lists of numbers stand on one line."""
    text = json.dumps(report | {"load_average_after": load_average()}, indent=1)
    text = re.sub(r"(?<=[\d\[l,])\n\s+(?=[\d\]n])", " ", text)
    write_atomically(path, f"{text}\n".encode())
