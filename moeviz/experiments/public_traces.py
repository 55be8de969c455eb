"""Where public routing traces lie and come from, how those of DeepSeek are read, and what the
experiments on them share.

They are other people's data: they do not ship, and stand in the folder that MOEVIZ_TRACES names,
else in ../shared/traces of a checkout.
- deepseek_v2_lite_esft.npz: of each task TASK_ids uint8 [T, 26, 6], TASK_w float16 [T, 26, 6] and
  TASK_len, the lengths of the sequences that T is made of; ESFT's text files, parsed
- olmoe_domains.json: as MoELens published it
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.records.imports.build import build_trace, by_weight, reading
from moeviz.records.routes import Trace

DEEPSEEK, OLMOE = "deepseek_v2_lite_esft.npz", "olmoe_domains.json"
SOURCES = {
    "deepseek_v2_lite": {
        "model": "DeepSeek-V2-Lite class: 26 MoE layers, 64 routed experts, top-6, 2 shared",
        "from": "github.com/deepseek-ai/ESFT, results/expert_scores/*/expert_weights_*.txt",
        "commit": "579a771",
        "licence": "MIT (code licence)",
        "file": DEEPSEEK,
    },
    "olmoe": {
        "model": "OLMoE-1B-7B: 16 MoE layers, 64 experts, top-8",
        "from": "github.com/Resource-Efficient-AI-Lab/MoELens, "
        "public/data/OLMoE/domain_specialization.json",
        "commit": "bc7352a",
        "licence": "MIT",
        "file": OLMOE,
    },
}
NUM_EXPERTS = 64
POOLED = "pooled"  # all tasks as one text


def traces_folder() -> Path:
    """Where the public traces lie; FileNotFoundError where they do not."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "traces"
    folder = Path(os.environ.get("MOEVIZ_TRACES") or beside)
    missing = [name for name in (DEEPSEEK, OLMOE) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"There is no {missing[0]} in {folder}; the public traces do not ship, so set "
            "MOEVIZ_TRACES to the folder that holds them."
        )
    return folder


def read_tasks(path: Path) -> dict[str, list[Trace]]:
    """Each task's sequences; ValueError where the file is another one, or its sizes disagree."""
    with reading(path, "a .npz file of arrays"), np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    tasks = [name.removesuffix("_ids") for name in arrays if name.endswith("_ids")]
    if not tasks:
        raise ValueError(f"{path} has no array TASK_ids; give {DEEPSEEK}.")
    traces = {}
    for task in tasks:
        with reading(path, f"whole: of {task} it lacks an array"):
            ids, weight, length = (arrays[f"{task}_{name}"] for name in ("ids", "w", "len"))
        if ids.ndim != 3 or ids.shape != weight.shape or length.sum() != len(ids):
            raise ValueError(
                f"{path}: the ids, weights and lengths of {task} disagree, {ids.shape}, "
                f"{weight.shape} and {length.sum()}; fetch the file again."
            )
        expert_TLK, weight_TLK = by_weight(ids.astype(np.int64), weight.astype(float))
        ends = np.cumsum(length)
        traces[task] = [
            build_trace(
                f"{path}, sequence {number} of {task}",
                expert_TLK[end - size : end],
                num_experts=NUM_EXPERTS,
                weight_TLK=weight_TLK[end - size : end],
                layers=range(1, ids.shape[1] + 1),  # block 0 is dense
                meta={"format": "ESFT", "domain": task, "sequence": number},
            )
            for number, (end, size) in enumerate(zip(ends, length, strict=True))
        ]
    return traces


def shared_start(traces: list[Trace]) -> int:
    """How many first tokens all sequences of a task have in common, as far as the first MoE layer
    tells: there they all choose the same experts."""
    shortest = min(len(trace.expert) for trace in traces)
    first = np.sort([trace.expert[:shortest, 0] for trace in traces], axis=2)
    alike_S = (first == first[0]).all(axis=(0, 2))
    return int(np.cumprod(alike_S).sum())


def plain(figures: Any) -> Any:
    """The figures in JSON values: six decimals, None for NaN."""
    if isinstance(figures, dict):
        return {name: plain(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [plain(value) for value in figures]
    if isinstance(figures, float | np.floating):
        return None if math.isnan(figures) else round(float(figures), 6)
    return figures
