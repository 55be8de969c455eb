"""Named, seeded experiments: what ships in data/ is made by them and by nothing else."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]
# run(out, meta, seeds, on_step): writes its recordings, which name meta as their provenance, under
# `out`, and returns the figures worth telling on a terminal. Some take `seconds` to fit into.
Run = Callable[..., dict[str, Any]]

# Name -> module, which has such a `run`; the first line of its docstring is the help.
EXPERIMENTS = {
    "tokenizer": "tokenizer",
    "start_here": "start_here",
    "race": "race",
    "race_settings": "race_settings",
    "loud_and_quiet": "loud_and_quiet",
    "routing": "routers_on_a_text",
    "routers": "routers_trained",
    "routers_timed": "routers_timed",
    "routers_longer": "routers_longer",
    "fine_grained": "fine_grained",
    "frontier": "frontier",
    "frontier_short": "frontier_short",
    "scale": "output_scale",
    "collapse": "collapse",
    "capacity": "capacity",
    "slots": "slots",
    "specialisation": "specialisation",
    "saturation": "saturation",
    "dense_training": "dense_training",
    "hybrids": "hybrids",
    "memory_or_thinking": "memory_or_thinking",
    "upcycling": "upcycling",
    "models_as_experts": "models_as_experts",
    "loaded_experts": "loaded_experts",
    "kernels": "dispatch",
    "real_traces": "real_traces",
    "placement": "placement",
    "caches": "caches",
    "offloaded": "offloaded",
    "exchanged": "exchanged",
    "quantised": "quantised",
    "packed_files": "packed_files",
    "compression": "compression",
    "adapting": "adapting",
    "esft_selection": "esft_selection",
    "own_expert": "own_expert",
    "gpu_race": "gpu_race",
    "gpu_experts": "gpu_experts",
    "gpu_collapse": "gpu_collapse",
}


def run_of(name: str) -> Run:
    """What runs an experiment."""
    run: Run = importlib.import_module(f"{__name__}.{EXPERIMENTS[name]}").run
    return run


def help_of(name: str) -> str:
    """An experiment in one line, read without importing it: that would import torch."""
    source = Path(__file__).with_name(f"{EXPERIMENTS[name]}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
