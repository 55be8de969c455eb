"""A GPU visit's results, put where the kernels, the panels and the notebooks look for them.

`python -m moeviz bench gpu --adopt DIR` does it, on any machine. Figures that do not say where they
come from are refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_table
import layer
import report
import train_runs
from moeviz.host import data_path
from moeviz.records.store import write_atomically
from moeviz_kernels import configs
from visit import load

# Without these in env.json nothing is adopted: of its provenance, of its versions, of its GPU.
NEEDED = ("date", "commit", "device")
NEEDED_VERSIONS = ("torch", "triton")
NEEDED_OF_GPU = ("name", "driver")
PHASES = ("check", "sweep", "layer", "train", "step")
SAME = ("commit", "code", "device")  # in all files of a visit
# What shows a GPU's figures, and is built anew when they are adopted.
NOTEBOOKS = ("01_dense_vs_moe", "04_collapse", "10_efficiency_frontier", "12_kernels")
BUILD = Path(__file__).resolve().parent.parent / "notebooks" / "build.py"


def adopt_and_build(out: Path) -> int:
    """Adopt a visit's results and build the notebooks that show them; 1 where one does not build.
    Raises ValueError as `adopt`."""
    lines = adopt(out, configs.PACKAGED, data_path("runs"), gpu_table.README)
    print(*lines, f"Building what shows them: {', '.join(NOTEBOOKS)}", sep="\n", flush=True)
    return subprocess.run([sys.executable, "-P", str(BUILD), *NOTEBOOKS]).returncode


def adopt(out: Path, tuned: Path, runs: Path, readme: Path) -> list[str]:
    """Put a visit's results where they are used, and say what went where.

    Raises ValueError where the files do not say where they come from; see `origin`.
    """
    provenance, gpu = origin(out)
    adopted, tables = [], {}
    table = load(out, "sweep").get("table", {"cuts": [], "heights": []})
    if table["cuts"]:
        write_atomically(tuned, merged(tuned, table, {**provenance, "gpu": gpu}))
        items = load(out, "sweep")["items"]
        path = runs / layer.default_file(gpu["name"]).name.replace("layer_", "sweep_")
        report.save({"provenance": provenance, "gpu": gpu, "items": items}, path)
        tables["paths"] = gpu_table.paths({"items": items})
        adopted.append(f"{len(table['cuts'])} cuts: {tuned}, with all their times: {path}")
    if load(out, "layer").get("cases"):
        path = runs / layer.default_file(gpu["name"]).name
        write_atomically(path, (out / "layer.json").read_bytes())
        tables["layer"] = gpu_table.overview(load(out, "layer"))
        adopted.append(f"the layer beside its peers: {path}, and the table of {readme}")
    for name, record in train_runs.records(load(out, "train"), provenance | {"gpu": gpu}).items():
        report.save(record, runs / f"{name}.json")
        adopted.append(f"training at a size for a GPU: {runs / name}.json")
    if (step := load(out, "step"))["items"]:
        path = runs / layer.default_file(gpu["name"]).name.replace("layer_", "step_")
        report.save({"provenance": provenance, "gpu": gpu, **step}, path)
        adopted.append(f"what a training step costs the host: {path}")
    for name, rows in tables.items():
        readme.write_text(gpu_table.renewed(readme.read_text("utf-8"), name, rows), "utf-8")
    if not adopted:
        raise ValueError(f"{out} holds nothing to adopt: no phase came to its first result.")
    return adopted


def origin(out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The provenance of a visit's figures, and its GPU.

    Raises ValueError where env.json does not say on which device, with which driver and versions,
    by which commit and when they came about, where they are a rehearsal's, and where a phase's file
    is another visit's.
    """
    where = load(out, "env")
    provenance, gpu = where.get("provenance", {}), where.get("gpu") or {}
    if where.get("rehearsal"):
        raise ValueError(f"{out} holds a rehearsal: its figures are no measurements.")
    if missing := unsaid(where):
        raise ValueError(
            f"{out}/env.json does not say {', '.join(missing)}: figures without their origin are "
            "not adopted."
        )
    for name in PHASES:
        left = load(out, name)
        own = left.get("provenance") or {}
        for what in SAME if left.get("items") or left.get("cases") else ():
            if own.get(what) != provenance.get(what):
                raise ValueError(
                    f"{out}/{name}.json has {own.get(what)} as its {what} and env.json "
                    f"{provenance.get(what)}: give each visit a folder of its own."
                )
    return provenance, gpu


def unsaid(where: dict[str, Any]) -> list[str]:
    """What an env.json does not say of where its visit's figures come from."""
    provenance, gpu = where.get("provenance", {}), where.get("gpu") or {}
    versions = provenance.get("versions") or {}
    missing = [name for name in NEEDED if not provenance.get(name)]
    missing += [f"the version of {name}" for name in NEEDED_VERSIONS if not versions.get(name)]
    return missing + [f"the GPU's {name}" for name in NEEDED_OF_GPU if not gpu.get(name)]


def merged(path: Path, table: dict[str, Any], origin: dict[str, Any]) -> bytes:
    """The table at `path` with new entries, which replace those for the same place."""
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {"cuts": [], "heights": []}
    for part, entries in table.items():
        new = {tuple(entry["for"]): entry | {"origin": origin} for entry in entries}
        old = {tuple(entry["for"]): entry for entry in known[part]}
        known[part] = list((old | new).values())
    return (json.dumps(known, indent=1) + "\n").encode()
