"""What experts buy: facts remembered, or a rule worked out (3 minutes a seed).

"Mixture of Parrots" (Jelassi and others, 2410.19034) says beforehand: with the active parameters
fixed, more experts raise what a model memorises, nearly as far as the same parameters would in a
dense model, and soon stop to help where a model must reason, which asks for width. Here:

    phone book   a name and its number, both random: the share of the book that is recalled. By the
                 paper the MoE should beat the dense model of its active parameters, and stay close
                 to the dense model of all its parameters.
    multiplication
                 of pairs that training never shows: the share of products with every digit right.
                 By the paper the MoE should not beat the dense model of its active parameters by
                 much, and the dense model of all its parameters should beat the MoE.

Three models: "MoE", two of 16 experts of width 16, raw weights, balance loss 0.01 and z-loss 0.001;
"dense", as wide as two experts; "dense, all parameters", as wide as all 16. What would make the
comparison unfair, and how it is closed:

1. How loud the FFN is at the start: all begin at the fair scale (ModelConfig.ffn_scale).
2. One learning rate that suits one of them: each has its own on each task, the one of GRID with the
   lowest mean loss on "validation" at one size (OF_RATES), over seeds that are no final ones; where
   that is an end of the grid, the next rate beyond it is tried too (rates.settled_rates).
3. Unequal practice: all see the same examples in the same order, for as many steps. A larger book
   is read fewer times in them: what is measured is what is learned in the time, and no limit of
   what fits.
4. Answers that leak: products are measured on "reserve" pairs, which neither training nor the
   choice of rates saw, in either order. Of the phone book all is asked that was read; the books of
   GRID_SEEDS are others.
5. Tasks that tell nothing: where all models are right, or none, there is no difference to see, and
   where width brings nothing, there is none that experts could bring. So larger books were taken
   when a first recording with the same seeds had shown those of 500 and 1,000 entries learned by
   all. Products took the place of sums, which were learned in late jumps, by trials of one seed
   that is no final one; of sorted digits a wide FFN learned no more than a narrow one.
6. Luck: the seed draws the model, the book or the held-out pairs, and the batches. Differences are
   paired, and verdicts hold for all of them together (Holm).

Not closed: the models share attention, embedding and model width, and differ in their FFNs alone,
so the paper's bound on the model's width is not tested; both tasks are small, STEPS steps, at one
depth; multiplication is one rule of many; the dense model of all parameters takes more FLOPs.

runs/memory_or_thinking.json; figures are {mean, sd, values} over the seeds:
    steps, seeds, curve_steps
    rates: by task ("phone book", "multiplication") and model: grid, losses, chosen, at_edge
    tasks: by task and size (entries, or digits), as text:
        models: by model: right, the share of answers right; tokens, that of their tokens; loss,
            nats per token of an answer; curve, means of right on "validation" at curve_steps;
            parameters, active_parameters, gigaflops_per_step
        gaps: by "A minus B": the difference of right (recording.judged; one table of all)
runs/memory_or_thinking.safetensors: seed 0 of each task, size and model, in this order.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.rates import looked_for
from moeviz.experiments.recorded import recorded_figures
from moeviz.experiments.recording import (
    collect,
    compact,
    judged,
    mean_sd,
    packed,
    small_model,
    unpacked,
    write_json,
)
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.records.answers import DENSE, DENSE_ALL, MODELS, MOE
from moeviz.records.runs import save_snapshots
from moeviz.text.tasks import BOOK, PRODUCTS, SIZES, Task, make_task, task_name
from moeviz.training.answers import RIGHT, AnswerTrainer
from moeviz.training.config import TrainConfig
from moeviz.training.trainer import NonFiniteLossError

OF_RATES = {BOOK: 2000, PRODUCTS: 3}  # the size whose rates are those of all
ROWS = 128  # examples of a batch
EXPERTS, TOP_K, EXPERT_WIDTH = 16, 2, 16
STEPS, MEASURE_EVERY = 600, 50
QUESTIONS = 1000  # of a final figure
GRID = (4e-3, 8e-3, 16e-3)
GRID_SEEDS = (1000,)  # of no final run
PAIRS = ((MOE, DENSE), (MOE, DENSE_ALL), (DENSE_ALL, DENSE))
Setting = tuple[str, int]  # a task and its size


def settings() -> list[Setting]:
    """Every task and size, in the order of the recording."""
    return [(task, size) for task, sizes in SIZES.items() for size in sizes]


def models() -> dict[str, ModelConfig]:
    """The three models, at the fair scale, over single bytes."""
    experts = MoEConfig(EXPERTS, TOP_K, EXPERT_WIDTH, options={"weighting": "raw"})
    made = {
        DENSE: small_model(None, d_ff=TOP_K * EXPERT_WIDTH),
        MOE: small_model(experts),
        DENSE_ALL: small_model(None, d_ff=EXPERTS * EXPERT_WIDTH),
    }
    return {name: dataclasses.replace(model, vocab_size=256) for name, model in made.items()}


def training(task: Task, rate: float, seed: int) -> TrainConfig:
    """The rate falls to a tenth by the last step: what counts is what is learned by then."""
    return TrainConfig(
        steps=STEPS, batch_size=ROWS, seq_len=task.seq_len, learning_rate=rate, seed=seed,
        validate_every=MEASURE_EVERY,
    )  # fmt: skip


def trainer(model: str, task: str, size: int, rate: float, seed: int) -> AnswerTrainer:
    """One model, ready to learn one task."""
    made = make_task(task, size, seed)
    return AnswerTrainer(models()[model], training(made, rate, seed), made)


def live_rates(task: str) -> dict[str, float]:
    """The rates of a live run: those that the recording chose, or the grid's middle one."""
    recorded = recorded_figures("memory_or_thinking")
    if recorded is None:
        return dict.fromkeys(MODELS, GRID[1])
    return {model: found["chosen"] for model, found in recorded["rates"][task].items()}


def build(name: str, seed: int) -> dict[str, AnswerTrainer]:
    """All three, ready to learn the same examples of a task by its name (tasks.task_name)."""
    task, size = next(setting for setting in settings() if task_name(*setting) == name)
    rates = live_rates(task)
    return {model: trainer(model, task, size, rates[model], seed) for model in MODELS}


def resume(folder: Path, name: str, seed: int) -> dict[str, AnswerTrainer]:
    """All three as an interrupted run left them in a folder; none where one is not of this run."""
    found: dict[str, AnswerTrainer] = {}
    for model, fresh in build(name, seed).items():
        try:
            kept = AnswerTrainer.resume(folder / f"{model}.safetensors", fresh.corpus)
        except (OSError, ValueError):
            return {}
        if (kept.model_config, kept.config) != (fresh.model_config, fresh.config):
            return {}
        found[model] = kept
    return found


def learned(learner: AnswerTrainer) -> bool:
    """Train to the end; whether the loss stayed finite."""
    try:
        for _ in learner:
            pass
    except NonFiniteLossError:
        return False
    return True


def try_rate(model: str, task: str, rate: float, seed: int) -> float | None:
    """The validation loss that a rate leads to; None where training diverges."""
    learner = trainer(model, task, OF_RATES[task], rate, GRID_SEEDS[seed])
    return learner.answered("validation", QUESTIONS).loss if learned(learner) else None


def train(model: str, task: str, size: int, rate: float, seed: int) -> dict[str, Any]:
    """One model at the end of its training: its figures and, of seed 0, its snapshot."""
    learner = trainer(model, task, size, rate, seed)
    if not learned(learner):
        raise ValueError(f"{model} diverged on {task} {size} with seed {seed} at rate {rate:g}.")
    final = learner.answered("reserve", QUESTIONS)
    return {
        **dataclasses.asdict(final),
        "curve": [share for _, share in learner.notes[RIGHT]],
        "parameters": learner.model.num_parameters(),
        "active_parameters": learner.model.num_active_parameters(),
        "gigaflops_per_step": round(learner.flops_per_step / 1e9, 4),
        "snapshot": packed(compact(learner.snapshot(model))) if seed == 0 else None,
    }


def name_of(model: str, task: str, size: int) -> str:
    return f"{task} {size}, {model}"


def rates_by_task(part: Path, meta: dict[str, Any], on_step: Progress) -> dict[str, dict[str, Any]]:
    """By task and model what the grid found, and beyond it; see best_rate."""

    def try_at(name: str, rate: float) -> partial[float | None]:
        task, _, model = name.partition("; ")
        return partial(try_rate, model, task, rate)

    names = [f"{task}; {model}" for task, model in product(SIZES, MODELS)]
    grids = dict.fromkeys(names, GRID)
    found = looked_for(part, meta, grids, try_at, len(GRID_SEEDS), on_step)
    return {task: {model: found[f"{task}; {model}"] for model in MODELS} for task in SIZES}


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The tasks with the models' figures over seeds and all differences, judged as one table.
    runs: by name_of, the results of `train` by seed."""
    right = {name: [run["right"] for run in seeds] for name, seeds in runs.items()}
    gaps = judged(
        {
            (task, size, a, b): (right[name_of(a, task, size)], right[name_of(b, task, size)])
            for (task, size), (a, b) in product(settings(), PAIRS)
        }
    )
    tasks: dict[str, dict[str, Any]] = {}
    for task, size in settings():
        tasks.setdefault(task, {})[str(size)] = {
            "models": {model: _over(runs[name_of(model, task, size)]) for model in MODELS},
            "gaps": {f"{a} minus {b}": gaps[task, size, a, b] for a, b in PAIRS},
        }
    return tasks


def _over(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        name: mean_sd([run[name] for run in seeds]) for name in ("right", "tokens", "loss")
    }
    curve = np.mean([run["curve"] for run in seeds], axis=0)
    figures["curve"] = [round(float(share), 4) for share in curve]
    same = ("parameters", "active_parameters", "gigaflops_per_step")
    return figures | {name: seeds[0][name] for name in same}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Choose the rates, train every model on every task with every seed; write
    runs/memory_or_thinking under `out`."""
    part = out / "runs" / "memory_or_thinking.part"
    before = len(SIZES) * len(MODELS) * len(GRID) * len(GRID_SEEDS)
    total = before + len(settings()) * len(MODELS) * seeds
    rates = rates_by_task(part, meta, lambda done, _: on_step(done, total))
    runs = {
        name_of(model, task, size): partial(train, model, task, size, rates[task][model]["chosen"])
        for (task, size), model in product(settings(), MODELS)
    }
    results = collect(part, meta, runs, seeds, lambda done, _: on_step(before + done, total))
    tasks = summary(results)
    figures = {
        "steps": STEPS,
        "seeds": list(range(seeds)),
        "curve_steps": list(range(MEASURE_EVERY, STEPS + 1, MEASURE_EVERY)),
        "rates": rates,
        "tasks": tasks,
    }
    write_json(out / "runs" / "memory_or_thinking.json", meta, figures)
    snapshots = [unpacked(of_seeds[0]["snapshot"]) for of_seeds in results.values()]
    save_snapshots(out / "runs" / "memory_or_thinking.safetensors", snapshots, meta)
    return {
        f"{task} {size}": {m: of["right"]["mean"] for m, of in told["models"].items()}
        for task, sizes in tasks.items()
        for size, told in sizes.items()
    }
