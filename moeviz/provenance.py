"""Where a recorded figure comes from: written beside every result under data/."""

from __future__ import annotations

import datetime
import platform
import subprocess
from pathlib import Path
from typing import Any

from moeviz.machine import device_name, package_version


def provenance(command: str) -> dict[str, Any]:
    """Commit, command, device, versions and date of this moment."""
    return {
        "command": command,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "device": device_name(),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in ("moeviz", "torch", "numpy")},
    }


def _commit() -> str | None:
    """The checkout's commit, with '+' where tracked files differ from it."""
    root = Path(__file__).resolve().parents[1]
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True
        )
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True)
    except OSError:
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+" if dirty.returncode else "")
