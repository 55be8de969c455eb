"""Named, seeded experiments: what ships in data/ is made by them and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]


def _tokenizer(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """The tokenizer that ships, from the natural domains of the embedded corpus."""
    from moeviz.text.tokenizer import build_default

    built = build_default(out / "tokenizer")
    return {"vocab_size": built.vocab_size, "sha256": built.sha256}


def _start_here(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """The small MoE model that ships, and the recordings that notebooks open on (3 minutes)."""
    from moeviz.experiments.start_here import record

    return record(out, meta, on_step)


def _race(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Dense against MoE at equal active parameters, seed by seed (1 minute a seed)."""
    from moeviz.experiments.race import run, summary
    from moeviz.experiments.recording import write_json
    from moeviz.records.runs import save_snapshots

    snapshots = []
    for seed in range(seeds):
        snapshots += run(seed)
        on_step(seed + 1, seeds)
    figures = summary(snapshots)
    save_snapshots(out / "runs" / "race.safetensors", snapshots, meta)
    write_json(out / "runs" / "race.json", meta, figures)
    return figures


def _routers(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Every router at equal active FLOPs (5 minutes a seed on two cores)."""
    from functools import partial

    from moeviz.experiments.recording import collect, write_json
    from moeviz.experiments.routers_trained import DENSE, arms, run, summary, time_steps

    runs = {name: partial(run, name) for name in (DENSE, *arms())}
    results = collect(out / "runs" / "routers.part.json", meta, runs, seeds, on_step)
    figures = summary(results, time_steps())
    write_json(out / "runs" / "routers.json", meta, figures)
    return _means(figures["arms"], ("validation_loss", "max_violation", "dead_experts"))


def _collapse(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Collapse and its cures (4 minutes a seed)."""
    from moeviz.experiments.collapse import ARMS, summary, train_arm
    from moeviz.experiments.recording import write_json
    from moeviz.records.runs import save_snapshots

    snapshots = []
    for seed in range(seeds):
        for done, arm in enumerate(ARMS, start=1):
            snapshots.append(train_arm(arm, seed))
            on_step(seed * len(ARMS) + done, seeds * len(ARMS))
    save_snapshots(out / "runs" / "collapse.safetensors", snapshots, meta)
    summed = summary(snapshots)
    write_json(out / "runs" / "collapse.json", meta, summed)
    return _means(summed["arms"], ("validation_loss", "max_violation", "dead_experts"))


def _capacity(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Capacity factors; expert choice's look ahead (2 minutes a seed on two cores)."""
    from functools import partial

    from moeviz.experiments.capacity import (
        CAPACITY_ARMS,
        LEAK_ARMS,
        TOKEN_CHOICE,
        run_capacity,
        run_leak,
        summary,
    )
    from moeviz.experiments.recording import collect, write_json

    limits = {arm: partial(run_capacity, arm) for arm in CAPACITY_ARMS}
    leaks = {arm: partial(run_leak, arm) for arm in (TOKEN_CHOICE, *LEAK_ARMS)}
    results = collect(out / "runs" / "capacity.part.json", meta, limits | leaks, seeds, on_step)
    figures = summary({a: results[a] for a in limits}, {a: results[a] for a in leaks})
    write_json(out / "runs" / "capacity.json", meta, figures)
    return _means(figures["limits"], ("validation_loss", "drop_rate")) | _means(
        figures["leaks"], ("loss_with_later_tokens", "loss_from_prefixes")
    )


def _routing(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """What every router decides for one text in the small model: what 03_routing opens on."""
    from moeviz.experiments.routers_on_a_text import record

    return record(out, meta)


def _seats(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """The two decisions under a capacity that 05_capacity opens on."""
    from moeviz.experiments.seats import record

    return record(out, meta)


def _kernels(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Two batches through the kernels, which 12_kernels opens on; the backends timed here."""
    from moeviz.experiments.dispatch import record

    return record(out, meta, on_step)


def _means(arms: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """What is worth telling on a terminal."""
    return {
        arm: {name: figures[name]["mean"] for name in names if name in figures}
        for arm, figures in arms.items()
    }


EXPERIMENTS = {
    "tokenizer": _tokenizer,
    "start_here": _start_here,
    "race": _race,
    "routing": _routing,
    "routers": _routers,
    "collapse": _collapse,
    "capacity": _capacity,
    "seats": _seats,
    "kernels": _kernels,
}
