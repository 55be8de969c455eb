"""What this machine is, found cheaply."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_name() -> str:
    """The GPU where torch is loaded and sees one, else the processor and its cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{platform.machine()} CPU, {cores()} cores"


def package_version(distribution: str) -> str | None:
    """The version installed, found without importing it; None where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
