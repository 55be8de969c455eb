"""What recorded runs share: means with spread, curves small enough to ship, figures of one run."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from moeviz.experiments import Progress
from moeviz.host import cores, data_path
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.records.compare import compare, verdicts
from moeviz.records.metrics import (
    RECENT,
    dead_experts,
    effective_experts,
    max_violation,
    over_seeds,
)
from moeviz.records.runs import Curve, Snapshot
from moeviz.records.specialisation import mutual_information_of_counts
from moeviz.records.store import write_atomically
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.text.tokenizer import Tokenizer
from moeviz.training.config import TrainConfig
from moeviz.training.evaluation import Evaluation
from moeviz.training.trainer import Trainer
from moeviz.watch.text import load_model

Key = TypeVar("Key", bound=Hashable)
# Points of a recorded curve: more than a picture's width shows.
POINTS = 100


def mean_sd(values: Sequence[float]) -> dict[str, Any]:
    """over_seeds, in four decimals."""
    mean, sd, each = over_seeds(values).values()
    four = [round(value, 4) for value in each]
    return {"mean": round(mean, 4), "sd": sd if sd is None else round(sd, 4), "values": four}


def small_model(
    experts: MoEConfig | None, *, ffn_scale: float | None = 1.0, d_ff: int = 256
) -> ModelConfig:
    """The model of all training experiments, as small as their effects allow: at the fair scale
    unless told otherwise (None: as written); without experts a dense one of width d_ff."""
    return ModelConfig(
        d_model=64, num_layers=2, num_heads=4, d_ff=d_ff, moe=experts, ffn_scale=ffn_scale
    )


def untrained(
    experts: MoEConfig, seed: int, steps: int, corpus: Corpus, *, dense: bool = False,
    **training: Any,
) -> Trainer:  # fmt: skip
    """The model with these experts, or its dense twin, ready to be compared with others of it, at
    a rate that suits both (`experiment routers` looks for it)."""
    model = small_model(experts)
    train = TrainConfig(steps=steps, seed=seed, learning_rate=16e-3, validate_every=0, **training)
    return Trainer(model.dense_twin() if dense else model, train, corpus)


def resumed(path: Path, model: ModelConfig, train: TrainConfig, corpus: Corpus) -> Trainer | None:
    """The training that was interrupted and saved there; None where there is none, or it is of
    another model, training or text, or damaged."""
    try:
        trainer = Trainer.resume(path, corpus)
    except (OSError, ValueError):
        return None
    return trainer if (trainer.model_config, trainer.config) == (model, train) else None


def recorded_model() -> tuple[LanguageModel, Tokenizer]:
    """The small model that ships, and its tokenizer."""
    tokenizer = Tokenizer.default()
    return load_model(data_path("models", "start_here.safetensors"), tokenizer), tokenizer


def compact(snapshot: Snapshot) -> Snapshot:
    """The snapshot with at most POINTS points, neighbours averaged, in single precision. A point
    with a validation loss stands at the step of that loss."""
    curve = snapshot.curve
    ends = np.linspace(0, len(curve), min(POINTS, len(curve)) + 1).round().astype(int)[1:]
    for measured in np.flatnonzero(~np.isnan(curve.validation)) + 1:
        ends[np.abs(ends[:-1] - measured).argmin() if measured < len(curve) else -1] = measured
    groups = np.split(np.arange(len(curve)), np.unique(ends)[:-1])
    columns = {}
    for name, column in vars(curve).items():
        if name in ("step", "seconds", "flops"):
            columns[name] = column[[group[-1] for group in groups]]
        elif name == "validation":  # the last one measured in each group
            columns[name] = np.array([_last_measured(column[group]) for group in groups])
        else:
            means = [column[group].mean(0) for group in groups]
            columns[name] = np.array(means, dtype=np.float32)
    return dataclasses.replace(snapshot, curve=Curve(**columns))


def _last_measured(values: np.ndarray) -> float:
    measured = values[~np.isnan(values)]
    return float(measured[-1]) if len(measured) else float("nan")


def packed(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as JSON values: `collect` keeps what is finished as text."""
    arrays, values = snapshot.take_apart()
    columns = {name: (str(array.dtype), array.tolist()) for name, array in arrays.items()}
    return values | {"columns": columns}


def unpacked(kept: dict[str, Any]) -> Snapshot:
    """The snapshot that `packed` took apart, to the last bit."""
    values = {name: value for name, value in kept.items() if name != "columns"}
    arrays = {name: np.array(rows, kind) for name, (kind, rows) in kept["columns"].items()}
    return Snapshot.put_together(arrays, values)


def figures_over(seeds: Sequence[Any]) -> Any:
    """One arm's figures over its seeds: of a number mean_sd, of lists and groups that of each
    part."""
    first = seeds[0]
    if isinstance(first, dict):
        return {name: figures_over([run[name] for run in seeds]) for name in first}
    if isinstance(first, list):
        return [figures_over(parts) for parts in zip(*seeds, strict=True)]
    return mean_sd(seeds)


def judged(
    pairs: Mapping[Key, tuple[Sequence[float], Sequence[float]]],
) -> dict[Key, dict[str, Any]]:
    """A table of paired differences, the first of two minus the second, seed by seed: mean_sd,
    "low" and "high" of the 95 % interval (None for one seed), p, and the "verdict" of
    records.compare, corrected for the whole table."""
    gaps = {name: compare(*two) for name, two in pairs.items()}
    found = verdicts(gaps)
    return {
        name: {
            **mean_sd(gap.values),
            "low": round(gap.low, 4) if np.isfinite(gap.low) else None,
            "high": round(gap.high, 4) if np.isfinite(gap.high) else None,
            "p": float(f"{gap.p:.3g}"),
            "verdict": found[name],
        }
        for name, gap in gaps.items()
    }


def differences(losses: Mapping[str, Sequence[float]], base: str) -> dict[str, dict[str, Any]]:
    """Every arm's losses minus those of the base arm, judged as one table; the base's own are
    zeros, and no part of it."""
    itself = judged({base: (losses[base], losses[base])})
    others = {arm: (values, losses[base]) for arm, values in losses.items() if arm != base}
    return itself | judged(others)


def balance_figures(trainer: Trainer, evaluation: Evaluation) -> dict[str, float]:
    """Balance at the end of a run, in the worst MoE layer: of the evaluation's load, and the share
    of assignments dropped over the last fifty training steps (all layers)."""
    load_LDE = evaluation.load
    if not load_LDE.shape[0]:
        return {}
    load_LE = load_LDE.sum(1)
    worst = int(np.argmax([max_violation(load_E) for load_E in load_LE]))
    curve = trainer.history.curve()  # of a long run, whose points are merged
    dropped = curve.dropped[curve.step > curve.step[-1] - RECENT]
    return {
        "max_violation": max_violation(load_LE[worst]),
        "dead_experts": dead_experts(load_LE[worst]),
        "effective_experts": effective_experts(load_LE[worst]),
        "domain_information": float(
            np.mean([mutual_information_of_counts(load_DE) for load_DE in load_LDE])
        ),
        "drop_rate": float(dropped.mean()),
        "active_experts": float(evaluation.active_experts.mean()),
    }


def collect(
    path: Path,
    meta: dict[str, Any],
    runs: Mapping[str, Callable[[int], Any]],
    seeds: int,
    on_step: Progress,
    on_seed: Callable[[dict[str, list[Any]]], object] = lambda results: None,
) -> dict[str, list[Any]]:
    """Every run with every seed, results by name; as many at a time as there are cores, each in a
    process and with a thread of its own.

    What is finished stays in `path`, beside the results of other runs, so that a recording goes on
    where it was: interrupted, or asked for more seeds. It begins anew with other code or other
    libraries, whatever the commit is called (a changed file has none of its own). on_seed is told
    the results of all whole seeds, each time that there is one more.
    """
    results = _kept(path, meta)
    keys = {(seed, name): f"{seed} {name}" for seed in range(seeds) for name in runs}
    pending = [place for place, key in keys.items() if key not in results]
    whole = _whole_seeds(results, runs, seeds)
    # Spawned: a forked process would inherit torch's threads half alive.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(cores(), context, initializer=_start_worker)
    try:
        futures = {pool.submit(runs[name], seed): keys[seed, name] for seed, name in pending}
        for number, future in enumerate(as_completed(futures), len(keys) - len(pending) + 1):
            results[futures[future]] = future.result()
            kept = {"made_by": _made_by(meta), "results": results}
            write_atomically(path, json.dumps(kept).encode())
            on_step(number, len(keys))
            before, whole = whole, _whole_seeds(results, runs, seeds)
            if whole > before:
                on_seed(_by_name(results, runs, whole))
    finally:  # an interruption does not wait for what has not begun
        pool.shutdown(wait=False, cancel_futures=True)
    return _by_name(results, runs, seeds)


def finished(
    path: Path, meta: dict[str, Any], runs: Iterable[str], seeds: int
) -> dict[str, list[Any]]:
    """What `collect` has kept of these runs: results by name, of the whole seeds that there are."""
    results = _kept(path, meta)
    return _by_name(results, runs, _whole_seeds(results, runs, seeds))


def _made_by(meta: dict[str, Any]) -> dict[str, Any]:
    return {name: meta[name] for name in ("code", "versions")}


def _kept(path: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """The finished results of the same code and libraries."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    results: dict[str, Any] = kept["results"] if kept.get("made_by") == _made_by(meta) else {}
    return results


def _whole_seeds(results: dict[str, Any], runs: Iterable[str], seeds: int) -> int:
    """How many seeds, from 0 on, have every run."""
    missing = (s for s in range(seeds) if any(f"{s} {name}" not in results for name in runs))
    return next(missing, seeds)


def _by_name(results: dict[str, Any], runs: Iterable[str], seeds: int) -> dict[str, list[Any]]:
    return {name: [results[f"{seed} {name}"] for seed in range(seeds)] for name in runs}


def _start_worker() -> None:
    """One thread; and an end when the recording ends, were it by a kill."""
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def means(arms: dict[str, Any], *names: str) -> dict[str, Any]:
    """Of each arm the means of these figures, where it has them."""
    return {
        arm: {name: figures[name]["mean"] for name in names if name in figures}
        for arm, figures in arms.items()
    }


# A list of numbers alone, one a line as json writes it.
_NUMBERS = re.compile(r"\[\s+([-+.\deEnul,\s]+?)\s+\]")


def write_trained(path: Path, meta: dict[str, Any], figures: dict[str, Any]) -> None:
    """Figures of models that were trained on the embedded text, whose fingerprint is told with
    their provenance: a class compares losses of one text."""
    write_json(path, meta | {"text": load_corpus().manifest.fingerprint}, figures)


def write_json(path: Path, meta: dict[str, Any], figures: dict[str, Any]) -> None:
    """Figures with their provenance, as text; a list of numbers takes one line."""
    text = json.dumps({"provenance": meta, **figures}, indent=1)
    text = _NUMBERS.sub(lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text)
    write_atomically(path, (text + "\n").encode())
