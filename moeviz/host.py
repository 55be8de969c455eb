"""Where we run: what this machine is, where the shipped data lies, where a figure comes from."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
_RESTORE = 'reinstall moeviz, or restore it with "git checkout -- data" in a clone.'


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> list[float] | None:
    """Of the last 1, 5 and 15 minutes; None where the system keeps none."""
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


def memory_bytes() -> float:
    """Memory that this process may fill: the machine's, or its container's where that is less;
    infinity where the system does not say."""
    limits = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        limits.append(float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits, default=math.inf)


def free_memory_bytes() -> float:
    """What other programs leave of the machine's memory; infinity where the system does not say."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        return 1024 * float(dict(line.split(":") for line in lines)["MemAvailable"].split()[0])
    return math.inf


def processor_name() -> str:
    return f"{platform.machine()} CPU, {cores()} cores"


def device_name() -> str:
    """The GPU where torch is loaded and sees one, else the processor and its cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return processor_name()


def has_gpu() -> bool:
    """Whether torch will see an NVIDIA GPU: the driver is loaded and torch is no CPU build. Asked
    without importing it."""
    torch = package_version("torch") or "+cpu"
    return Path("/proc/driver/nvidia/version").exists() and not torch.endswith("+cpu")


def package_version(distribution: str) -> str | None:
    """The version installed, found without importing it; None where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def data_path(*parts: str) -> Path:
    """The path of a shipped file, for example ``data_path("tokenizer", "tokenizer.json")``.

    A wheel carries the repository's ``data/`` folder as ``moeviz/recorded/``; a checkout and an
    editable install have it beside the package.

    Raises FileNotFoundError, in one sentence, when neither place has the file.
    """
    roots = (_PACKAGE / "recorded", _PACKAGE.parent / "data")
    for root in roots:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(
        f'the file "{"/".join(parts)}" that ships with moeviz is missing (looked in {roots[0]} '
        f"and {roots[1]}); {_RESTORE}"
    )


def read_figures(name: str) -> dict[str, Any]:
    """The figures that an experiment wrote to runs/NAME.json. Raises as data_path does, and
    ValueError where the file is damaged."""
    path = data_path("runs", f"{name}.json")
    try:
        figures: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"the file {path} that ships with moeviz is damaged ({error}); {_RESTORE}"
        ) from None
    return figures


def user_folder() -> Path:
    """Where moeviz keeps files of its own: MOEVIZ_HOME, or in the user's cache, or among the
    temporary files of a user who has no home."""
    home = os.environ.get("MOEVIZ_HOME")
    try:
        return Path(home) if home else Path.home() / ".cache" / "moeviz"
    except RuntimeError:  # a user without a home, as in a container under a bare number
        user = str(os.getuid()) if hasattr(os, "getuid") else "user"
        return Path(tempfile.gettempdir()) / f"moeviz-{user}"


def autosave_folder(name: str) -> Path:
    """Where the live run called `name` keeps its checkpoints."""
    return user_folder() / "live" / name


def provenance(command: str) -> dict[str, Any]:
    """Commit, fingerprint of the code, command, device, versions and date of this moment.

    MOEVIZ_COMMIT names the commit of code that travels without its repository, or with another one.
    """
    return {
        "command": command,
        "commit": os.environ.get("MOEVIZ_COMMIT") or _commit(),
        "code": code_fingerprint(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "device": device_name(),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in ("moeviz", "torch", "numpy")},
    }


def code_fingerprint() -> str:
    """Of every Python file of the package and its kernels: equal only where the code is."""
    digest = hashlib.sha256()
    for folder in (_PACKAGE, _PACKAGE.parent / "kernels", _PACKAGE.parent / "moeviz_kernels"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _commit() -> str | None:
    """The commit of moeviz's own checkout, with '+' where tracked files differ from it; None where
    the package stands elsewhere, as in an environment inside another repository."""
    root = _PACKAGE.parent
    if not (root / ".git").exists():  # git itself would go on to look in the folders above
        return None

    def git(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True)

    try:
        if git("ls-files", "--error-unmatch", "moeviz/__init__.py").returncode:
            return None
        commit = git("rev-parse", "--short=12", "HEAD")
        dirty = git("diff", "--quiet", "HEAD").returncode
    except OSError:
        return None
    return None if commit.returncode else commit.stdout.strip() + ("+" if dirty else "")
