"""What adapting a small model to a new kind of text gives and costs, by what is trained (2 minutes
a seed).

Each seed trains the small model of 16 experts, two chosen, on four of the six domains. Then it is
adapted to each of TASKS, a domain that it never saw, in every way of records.adapting.WAYS. What
would make the comparison unfair, and how it is closed:

1. Size. Six ways train about as many numbers as LoRA of rank 1 on all experts: the fewer experts,
   the higher their rank. Three more ways train more, and stand apart.
2. Steps and batches. All take STEPS steps, with the batches of their seed.
3. The rate. Each way has its own on each task, of a grid of four, by the lowest loss on the task's
   validation text over GRID_SEEDS, models of no final run; where that is an end of the grid, the
   next rate beyond it is tried too (rates.settled_rates). The three choices of experts share one,
   that of the choice by gate. A rate that is good for the task may be bad for the rest, so the
   loss elsewhere is told at equal gain too.
4. Whether the choice of experts matters at all: as many experts are drawn by lot.
5. Text. Experts are chosen from the task's training text, rates from validation, every figure is of
   the reserve. The known domains are not trained on while adapting.
6. Luck. The seed draws the model, its batches, A's start and the lot; differences are paired, and
   each table is corrected for all of its comparisons (Holm).

Not closed: one seed chooses the rates; two tasks, both far from what the model knew; one top_p, one
RANK, one length; no α apart from the rate; balancing losses are off while adapting; "everything"
trains the router too, and no other way does.

runs/adapting.json; figures are {mean, sd, values} over the seeds:
    steps, measured, top_p, sample (tokens that the choice reads), known (the four domains)
    tasks: by task:
        before: the loss of the task's text before
        chosen: by score, how many experts of a layer; "common": the share of the gate's experts
            that the token share chooses too
        rates: by way: routers_compared.best_rate
        ways: by way: task, the loss of the task's held-out text; gain, how far it fell; elsewhere,
            how far the mean loss of the known domains rose; at_equal_gain, the same when the gain
            first reached the least final gain of all ways of that seed; numbers, those trained;
            bytes, of the adapter; rank; seconds of training (one thread, beside other runs);
            curve: gain and elsewhere at `measured`
        gaps: by measure and way, the difference to BASE; one table a measure for both tasks
"""

from __future__ import annotations

import time
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moeviz.experiments import Progress
from moeviz.experiments.killed_experts import losses
from moeviz.experiments.rates import looked_for
from moeviz.experiments.recording import (
    collect,
    figures_over,
    judged,
    means,
    untrained,
    write_trained,
)
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.records.adapting import (
    ALL,
    ALL_SMALL,
    ATTENTION,
    BASE,
    BY_GATE,
    BY_LOT,
    BY_TOKEN,
    EQUAL,
    EVERYTHING,
    MEASURES,
    ONE_FOR_ALL,
    WAYS,
    WHOLE,
    at_gain,
)
from moeviz.surgery.adapt import (
    AdapterTraining,
    Experts,
    adapted,
    important,
    rank_of_size,
    targets_of,
)
from moeviz.surgery.lora import num_trained
from moeviz.text.corpus import Batch, Corpus, load_corpus
from moeviz.text.split import Part
from moeviz.watch.domains import LENGTH

TASKS, KNOWN = ("c", "arithmetic"), ("python", "english", "hex", "brackets")
EXPERTS = MoEConfig(16, 2, 128, options={"weighting": "raw"})
BASE_STEPS, STEPS = 1000, 100
MEASURED = (10, 25, 50, 100)
RANK, TOP_P, SAMPLE = 4, 0.5, 8192  # RANK: of ALL
SEQUENCES = 32  # of each domain, for a figure
LORA_GRID, WHOLE_GRID = (3e-3, 1e-2, 3e-2, 1e-1), (1e-3, 3e-3, 1e-2, 3e-2)
GRID_SEEDS = (1000,)  # of no final run
# Of the ways that have a rate of their own: what is trained, and the grid.
OWN_RATE = {
    BY_GATE: ("experts", LORA_GRID),
    ALL_SMALL: ("experts", LORA_GRID),
    ONE_FOR_ALL: ("dense", LORA_GRID),
    ATTENTION: ("attention", LORA_GRID),
    ALL: ("experts", LORA_GRID),
    WHOLE: ("whole", WHOLE_GRID),
    EVERYTHING: ("all", WHOLE_GRID),
}
SAME_RATE = {BY_TOKEN: BY_GATE, BY_LOT: BY_GATE}

Figures = dict[str, Any]


# One seed.


@lru_cache(maxsize=1)  # a process tries many rates on the same one
def base_model(seed: int) -> LanguageModel:
    """Trained on KNOWN. ValueError where this machine's text lacks one of them."""
    trainer = untrained(EXPERTS, seed, BASE_STEPS, load_corpus().only(*KNOWN))
    for _ in trainer:
        pass
    return trainer.model.eval()


def choices(model: LanguageModel, ids: np.ndarray, seed: int) -> dict[str, Experts | None]:
    """By way the experts of each layer that are trained; None: all, or none in particular."""
    sample = ids[:SAMPLE]
    gate = important(model, sample, score="gate", top_p=TOP_P)
    token = important(model, sample, score="token", top_p=TOP_P)
    rng = np.random.default_rng(seed)
    counts = [router.num_experts for router in model.routers().values()]
    lot = tuple(
        tuple(rng.permutation(count)[: len(layer)].tolist())
        for count, layer in zip(counts, gate, strict=True)
    )
    return dict.fromkeys(WAYS) | {BY_GATE: gate, WHOLE: gate, BY_TOKEN: token, BY_LOT: lot}


def training_of(
    model: LanguageModel,
    ids: np.ndarray,
    corpus: Corpus,
    way: str,
    chosen: dict[str, Experts | None],
    rate: float,
    seed: int,
) -> tuple[AdapterTraining, int]:
    """A way's training, and its rank (0: of no low rank)."""
    kind, _ = OWN_RATE[SAME_RATE.get(way, way)]
    rank = RANK
    if way in EQUAL:
        size = num_trained(model.state_dict(), targets_of(model, "experts", rank=1))
        rank = rank_of_size(model, kind, size, chosen[way])
    training = AdapterTraining(
        model, ids, corpus.tokenizer, kind, rank=rank, experts=chosen[way], steps=STEPS,
        learning_rate=rate, seed=seed,
    )  # fmt: skip
    return training, 0 if kind in ("whole", "all") else rank


class Measured:
    """Losses by domain on the same windows of a part."""

    def __init__(self, corpus: Corpus, part: Part, domains: tuple[str, ...]) -> None:
        windows = corpus.windows(part, seq_len=LENGTH, windows_per_domain=SEQUENCES)
        self.domains = domains
        self.index = [corpus.domains.index(name) for name in domains]
        rows = np.isin(windows.domain, self.index)
        self.windows = Batch(windows.tokens[rows], windows.domain[rows])

    def __call__(self, model: LanguageModel) -> np.ndarray:
        """float64 [domains], in the order that was given."""
        loss_W = losses(model, self.windows).astype(np.float64)
        return np.array([loss_W[self.windows.domain == index].mean() for index in self.index])


def try_rate(task: str, way: str, rate: float, place: int) -> float:
    """The loss of the task's validation text."""
    seed = GRID_SEEDS[place]
    corpus, model = load_corpus(), base_model(seed)
    ids, measure = corpus.tokens(task), Measured(corpus, "validation", (task,))
    chosen = choices(model, ids, seed)
    training = training_of(model, ids, corpus, way, chosen, rate, seed)[0]
    for _ in training:
        pass
    (loss,) = measure(adapted(model, training.adapter()))
    return float(loss)


def adapt_all(rates: dict[str, dict[str, float]], seed: int) -> Figures:
    """By task the figures of every way for one seed. rates: by task and way."""
    corpus, model = load_corpus(), base_model(seed)
    return {task: _task(model, corpus, task, rates[task], seed) for task in rates}


def _task(
    model: LanguageModel,
    corpus: Corpus,
    task: str,
    rates: dict[str, float],
    seed: int,
) -> Figures:
    ids, measure = corpus.tokens(task), Measured(corpus, "reserve", (task, *KNOWN))
    chosen, before = choices(model, ids, seed), measure(model)
    ways = {}
    for way in WAYS:
        rate = rates[SAME_RATE.get(way, way)]
        training, rank = training_of(model, ids, corpus, way, chosen, rate, seed)
        curve, seconds = [], 0.0
        while training.step < STEPS:
            start = time.perf_counter()
            next(training)
            seconds += time.perf_counter() - start
            if training.step in MEASURED:
                curve.append(measure(adapted(model, training.adapter())) - before)
        changes = np.array(curve)
        adapter = training.adapter()
        ways[way] = {
            "task": before[0] + changes[-1, 0],
            "gain": -changes[-1, 0],
            "elsewhere": changes[-1, 1:].mean(),
            "numbers": num_trained(model.state_dict(), adapter.targets),
            "bytes": adapter.num_bytes,
            "rank": rank,
            "seconds": seconds,
            "curve": {"gain": (-changes[:, 0]).tolist(),
                      "elsewhere": changes[:, 1:].mean(1).tolist()},
        }  # fmt: skip
    least = min(figures["gain"] for figures in ways.values())
    for figures in ways.values():
        figures["at_equal_gain"] = at_gain(least, **figures["curve"])
    gate, token = chosen[BY_GATE], chosen[BY_TOKEN]
    assert gate is not None and token is not None
    common = sum(len({*a} & {*b}) for a, b in zip(gate, token, strict=True))
    return {
        "before": before[0],
        "chosen": {
            "gate": float(np.mean([len(layer) for layer in gate])),
            "token": float(np.mean([len(layer) for layer in token])),
            "common": common / sum(map(len, gate)),
        },
        "ways": ways,
    }


# All seeds.


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Choose the rates, adapt with every seed; write runs/adapting.json under `out`."""
    torch.set_num_threads(1)
    part = out / "runs" / "adapting.part"
    grids = {f"{task}; {way}": grid for task in TASKS for way, (_, grid) in OWN_RATE.items()}
    before = len(GRID_SEEDS) * sum(map(len, grids.values()))
    total = before + seeds

    def try_at(name: str, rate: float) -> partial[float]:
        task, _, way = name.partition("; ")
        return partial(try_rate, task, way, rate)

    tried = looked_for(
        part, meta, grids, try_at, len(GRID_SEEDS), lambda done, _: on_step(done, total)
    )
    found = {task: {way: tried[f"{task}; {way}"] for way in OWN_RATE} for task in TASKS}
    rates = {task: {way: of["chosen"] for way, of in ways.items()} for task, ways in found.items()}
    arms = {"adapt": partial(adapt_all, rates)}
    runs = collect(part, meta, arms, seeds, lambda done, _: on_step(before + done, total))["adapt"]
    figures = compared(runs, found)
    write_trained(out / "runs" / "adapting.json", meta, figures)
    return {task: means(of["ways"], "gain", "elsewhere") for task, of in figures["tasks"].items()}


def compared(runs: list[Figures], rates: Figures) -> Figures:
    """All of runs/adapting.json but its provenance, from the results of adapt_all by seed."""
    tasks = figures_over(runs)
    gaps = {measure: _gaps(runs, measure) for measure in MEASURES}
    for task, of_task in tasks.items():
        of_task["rates"] = rates[task]
        of_task["gaps"] = {
            measure: {way: gap for (of, way), gap in table.items() if of == task}
            for measure, table in gaps.items()
        }
    return {
        "steps": STEPS, "measured": list(MEASURED), "top_p": TOP_P,
        "sample": SAMPLE, "known": list(KNOWN), "tasks": tasks,
    }  # fmt: skip


def _gaps(runs: list[Figures], measure: str) -> dict[tuple[str, str], Figures]:
    """One table: by task and way, the measure minus that of BASE."""

    def values(task: str, way: str) -> list[float]:
        return [run[task]["ways"][way][measure] for run in runs]

    return judged(
        {
            (task, way): (values(task, way), values(task, BASE))
            for task in runs[0]
            for way in WAYS
            if way != BASE
        }
    )
