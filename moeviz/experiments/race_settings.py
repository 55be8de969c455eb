"""Dense against MoE at other numbers of experts and choices, one race each (a minute a race).

What each button of 01_dense_vs_moe's panel shows at once: seed 0, in turns of one step as the races
of `experiment race` are. One seed is no verdict; those are of `experiment race` alone.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from moeviz.experiments import Progress
from moeviz.experiments.race import NUM_EXPERTS, TOP_K, build_race
from moeviz.experiments.recording import collect, compact, packed, unpacked
from moeviz.records.runs import save_snapshots

# Experts and choices, but for those that `experiment race` has.
SETTINGS = tuple(two for two in product((4, 16, 32), (1, 2, 4)) if two != (NUM_EXPERTS, TOP_K))


def race_at(num_experts: int, top_k: int, seed: int) -> list[dict[str, Any]]:
    """Race to the end, in turns of one step: the snapshots of dense and MoE, packed."""
    learners = build_race(num_experts, top_k, seed)
    for _ in zip(*learners.values(), strict=True):
        pass
    return [packed(compact(trainer.snapshot(label))) for label, trainer in learners.items()]


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Seed 0 of every setting, whatever `seeds` is; writes runs/race_settings under `out`: dense
    and MoE in turn. Returns the last validation loss of both."""
    runs = {f"E = {e}, K = {k}": partial(race_at, e, k) for e, k in SETTINGS}
    results = collect(out / "runs" / "race_settings.part", meta, runs, 1, on_step)
    races = {name: [unpacked(kept) for kept in race] for name, (race,) in results.items()}
    snapshots = [one for race in races.values() for one in race]
    save_snapshots(out / "runs" / "race_settings.safetensors", snapshots, meta)
    return {
        name: {one.label: float(one.curve.validation[-1]) for one in race}
        for name, race in races.items()
    }
