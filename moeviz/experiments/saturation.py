"""When the experts of a token are settled: the shipped configuration, watched as it trains
(2 minutes a seed).

1,200 steps of the shipped model's training (its learning rate falls to a tenth by then). At each of
CHECKPOINTS the routing of the same held-out sequences is kept, 16 of each domain.

runs/saturation.json, each a list by layer of lists by checkpoint, figures over seeds:
    settled         the share of a token's final experts that it has already
    settled_first   the share of tokens that have their final first expert already
    chance          settled, if choices were drawn anew by the two loads
    information     what experts tell of the domain, as a share of its entropy
first_minus_last: settled of the first layer minus that of the last, for each checkpoint, judged.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.killed_experts import SEQUENCES
from moeviz.experiments.recording import collect, figures_over, judged, write_trained
from moeviz.experiments.start_here import MODEL, TRAINING
from moeviz.records.routes import DomainTrace
from moeviz.records.specialisation import mutual_information_of_counts, saturation, visits
from moeviz.text.corpus import load_corpus
from moeviz.training.trainer import Trainer
from moeviz.watch.domains import route_domains

STEPS = 1200
CHECKPOINTS = (0, 10, 25, 50, 100, 200, 400, 600, 800, 1000, STEPS)
RUN = "shipped configuration"


def watch(seed: int) -> dict[str, Any]:
    """Train once; see the head of this file."""
    corpus = load_corpus()
    training = dataclasses.replace(TRAINING, steps=STEPS, seed=seed, validate_every=0)
    trainer = Trainer(MODEL, training, corpus)
    seen = [route_domains(trainer.model, corpus, sequences=SEQUENCES)]
    for result in trainer:
        if result.step in CHECKPOINTS:
            seen.append(route_domains(trainer.model, corpus, sequences=SEQUENCES))
    return of_checkpoints(seen) | {"loss": trainer.evaluate().loss}


def of_checkpoints(seen: list[DomainTrace]) -> dict[str, list[list[float]]]:
    """The figures of one run, from the routing of the same tokens at every checkpoint."""
    final, layers = seen[-1], range(len(seen[-1].layers))
    first = slice(0, 1)
    return {
        "settled": [[saturation(s.expert[:, n], final.expert[:, n]) for s in seen] for n in layers],
        "settled_first": [
            [saturation(s.expert[:, n, first], final.expert[:, n, first]) for s in seen]
            for n in layers
        ],
        "chance": [[_chance(s, final, n) for s in seen] for n in layers],
        "information": [
            [mutual_information_of_counts(s.load(n)) for s in seen] for n in layers
        ],
    }  # fmt: skip


def _chance(now: DomainTrace, final: DomainTrace, place: int) -> float:
    """Mean |S & S_final| / K of a token and another one drawn at random."""
    share_E, final_E = (
        visits(trace.expert[:, place], trace.num_experts).mean(0) for trace in (now, final)
    )
    return float((share_E * final_E).sum() / final_E.sum())


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Train with every seed; write runs/saturation.json under `out`."""
    part = out / "runs" / "saturation.part"
    runs = collect(part, meta, {RUN: watch}, seeds, on_step)[RUN]
    settled = np.array([run["settled"] for run in runs])  # [seeds, L, checkpoints]
    pairs = {
        str(step): (settled[:, 0, i].tolist(), settled[:, -1, i].tolist())
        for i, step in enumerate(CHECKPOINTS[:-1])
    }
    figures = figures_over(runs) | {
        "steps": STEPS,
        "checkpoints": list(CHECKPOINTS),
        "first_minus_last": judged(pairs),
    }
    write_trained(out / "runs" / "saturation.json", meta, figures)
    return {name: figures[name] for name in ("loss", "settled")}
