"""Collapse and its cures, at equal scale (4 minutes a seed on two cores).

What 04_collapse shows. What would make the comparison unfair, and how it is closed:

1. How loud the FFN is at the start. Top-1 routing weighs its expert by a probability near 1/16, a
   hash by 1. So every setting starts at the fair scale (ModelConfig.ffn_scale), the dense twin
   too. What the papers write is recorded beside it, as settings of its own, and so is a hash as
   quiet as top-1 routing as written: the scale's effect is not taken for the router's.
2. No yardstick. A cure can only show quality where experts are worth something: the dense twin
   stands beside, and every loss is given minus the dense twin's and minus that without a cure.
3. Whose load. "training": of the last 50 steps together, the load that hardware meets, layer by
   layer, for not all layers collapse. "held_out": of the evaluation, with its own rules (Sinkhorn
   chooses plainly there). The two are never mixed.
4. The text. The final figures are measured on windows ("reserve") that no choice has seen, in
   batches that mix the domains as training does.
5. Luck. All settings of a seed see the same batches. Differences are taken seed by seed, with a
   95 % interval of Student's t, and the verdicts are Holm's over the whole table. Not closed: what
   is drawn after a layer's gate differs between settings, as their gates do.
6. The learning rate. 1e-3, held constant, and the same for all: chosen to show collapse, and not
   for the loss. A schedule with warm restarts is a setting of its own,
   whose loss may not be compared: only what happens to its balance at each restart.
7. A router that stays. A frozen matrix is not a frozen choice: the tokens below it change. How many
   tokens of the same held-out windows keep their experts from the first step to the last is
   measured for every setting, the learned ones too.

runs/collapse.json. arms: by the names of cures.SETTINGS:
    runs, collapsed, collapsed_by_layer     counts
    reserve_loss, validation_loss, and the figures of balance_figures (reserve, least even layer)
    training, held_out                      {max_violation, dead_experts, effective_experts}, each a
                                            list by layer
    kept_experts                            share of tokens, a list by layer
    loss_minus_dense, loss_minus_nothing    see recording.differences
    curves                                  step, loss, balance_loss, z_loss, and by layer
                                            max_violation: means over seeds, unweighted losses
restarts: of "nothing" and its warm restarts, for each restart: step, and before and after it
    {max_violation, dead_experts, effective_experts}, lists by layer, of 25 steps together
busy_experts: see measure_busy. "Balance is not quality" is read off max_violation and
loss_minus_nothing of one arm.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress, busy_experts
from moeviz.experiments.balance_of_runs import (
    around,
    by_layer,
    curves_of,
    fallen_layers,
    kept,
    visits,
)
from moeviz.experiments.cures import BASE, DENSE, SETTINGS, Cures, Setting
from moeviz.experiments.larger import SMALL, at_size
from moeviz.experiments.recording import (
    balance_figures,
    collect,
    compact,
    differences,
    figures_over,
    means,
    packed,
    resumed,
    small_model,
    unpacked,
    write_trained,
)
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.records.metrics import RECENT, noise_floor
from moeviz.records.runs import Snapshot, save_snapshots
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig
from moeviz.training.evaluation import FINAL_WINDOWS
from moeviz.training.trainer import StepResult, Trainer

ACTIVE_WIDTH = 256
STEPS = 300
RESTART_EVERY = 75
RESTARTED = "nothing, warm restarts"
BUSY = "busy experts"


def collapse_model(cures: Cures) -> ModelConfig:
    """Two layers of 16 experts, at the fair scale: as small as the effect allows."""
    return small_model(collapse_experts(cures, ACTIVE_WIDTH))


def collapse_experts(cures: Cures, active_width: int) -> MoEConfig:
    """The experts of a layer under these cures."""
    width = active_width // (cures.top_k + cures.shared)
    options: dict[str, Any] = {}
    if cures.router != "hash":
        options = {"noise": cures.noise, "learning": cures.learning}
    if cures.router == "token_choice":
        options |= {"weighting": "raw", "bias": cures.bias, "scope": cures.scope}
    if cures.bias != "none":
        options["bias_rate"] = 0.01 if cures.bias == "sign" else 1.0
    return MoEConfig(
        num_experts=cures.num_experts,
        top_k=cures.top_k,
        d_expert=width,
        router=cures.router,
        options=options,
        num_shared=int(cures.shared),
    )


def collapse_training(cures: Cures, seed: int, steps: int = STEPS) -> TrainConfig:
    """A low learning rate, chosen to show collapse, held constant."""
    return TrainConfig(
        steps=steps,
        seed=seed,
        learning_rate=1e-3,
        schedule="constant",
        balance_weight=cures.aux,
        z_weight=cures.z,
        validate_every=25,
    )


def build_collapse(cures: Cures, seed: int, steps: int = STEPS, size: str = SMALL) -> Trainer:
    """The model under these cures, ready to train on the embedded corpus."""
    training = collapse_training(cures, seed, steps)
    return Trainer(*at_size(size, collapse_model(cures), training), load_corpus())


def resume_collapse(path: Path, cures: Cures, seed: int, size: str = SMALL) -> Trainer | None:
    """The training that was interrupted and saved there; None where there is none, or it is of
    other cures, another seed, size or text, or damaged."""
    pair = at_size(size, collapse_model(cures), collapse_training(cures, seed))
    return resumed(path, *pair, load_corpus())


def build_setting(setting: Setting, seed: int) -> Trainer:
    """The model of one recorded setting, ready to train."""
    cures = setting.cures or Cures()
    model = dataclasses.replace(collapse_model(cures), ffn_scale=setting.ffn_scale)
    if setting.cures is None:
        model = model.dense_twin()
    training = collapse_training(cures, seed)
    if setting.schedule == "restarts":
        training = dataclasses.replace(training, schedule="restarts", restart_every=RESTART_EVERY)
    return Trainer(model, training, load_corpus())


# One run.


def train_setting(name: str, seed: int) -> dict[str, Any]:
    """Train one setting to the end; its snapshot, packed, with all figures in its meta."""
    trainer = build_setting(SETTINGS[name], seed)
    before_LTE = visits(trainer)
    results = list(trainer)
    figures = figures_of(trainer, results, before_LTE)
    snapshot = trainer.snapshot(name)
    meta = snapshot.meta | {"figures": figures, "curves": curves_of(results)}
    if name in (BASE, RESTARTED):
        meta["restarts"] = [around(results, step) for step in restarts_of(trainer.config)]
    return packed(compact(dataclasses.replace(snapshot, meta=meta)))


def figures_of(
    trainer: Trainer, results: list[StepResult], before_LTE: np.ndarray
) -> dict[str, Any]:
    """The figures of a finished run: numbers, lists by layer, and groups of such lists."""
    evaluation = trainer.evaluate(FINAL_WINDOWS, part="reserve")
    figures: dict[str, Any] = {
        "reserve_loss": evaluation.loss,
        "validation_loss": trainer.evaluate(FINAL_WINDOWS).loss,
    }
    if not trainer.moe_layers:
        return figures
    recent_LE = np.sum([result.load for result in results[-RECENT:]], axis=0)
    return figures | {
        **balance_figures(trainer, evaluation),
        "training": by_layer(recent_LE),
        "held_out": by_layer(evaluation.load.sum(1)),
        "kept_experts": kept(before_LTE, visits(trainer)),
    }


def restarts_of(config: TrainConfig) -> list[int]:
    """The steps after which a schedule with warm restarts begins anew, whatever this one is."""
    return list(range(config.warmup + RESTART_EVERY, config.steps, RESTART_EVERY))


def measure_busy(seed: int) -> dict[str, float]:
    """busy_experts.figures without a cure, in the layer that collapses: of one early step
    ("step_…"), and of the first fifty ("run_…")."""
    result: dict[str, float] = {}
    for name, before, steps in (("step", 10, 1), ("run", 0, busy_experts.STEPS)):
        trainer = build_collapse(Cures(), seed)
        for _ in range(before):
            next(trainer)
        found = busy_experts.figures(busy_experts.learning_of_experts(trainer, 1, steps))
        result |= {f"{name}_{key}": value for key, value in found.items()}
    return result


# All runs.


def summary(runs: list[Snapshot]) -> dict[str, Any]:
    """Every setting's figures over seeds: see the head of this file."""
    by_name = {name: [run for run in runs if run.label == name] for name in SETTINGS}
    losses = {
        name: [run.meta["figures"]["reserve_loss"] for run in of_name]
        for name, of_name in by_name.items()
    }
    against = {base: differences(losses, base) for base in (DENSE, BASE)}
    arms = {}
    for name, of_name in by_name.items():
        fallen = [fallen_layers(run.curve) for run in of_name]
        arms[name] = {
            "runs": len(of_name),
            "collapsed": sum(map(any, fallen)),
            "collapsed_by_layer": [sum(column) for column in zip(*fallen, strict=True)],
            **figures_over([run.meta["figures"] for run in of_name]),
            "loss_minus_dense": against[DENSE][name],
            "loss_minus_nothing": against[BASE][name],
            "curves": mean_curves([run.meta["curves"] for run in of_name]),
        }
    train = collapse_training(Cures(), 0)
    restarts = {
        name: [
            {"step": step, **figures_over([run.meta["restarts"][i] for run in by_name[name]])}
            for i, step in enumerate(restarts_of(train))
        ]
        for name in (BASE, RESTARTED)
    }
    floor = noise_floor(train.batch_size * train.seq_len, 16, 1)
    return {
        "steps": STEPS,
        "noise_floor_of_a_batch": round(floor, 3),
        "arms": arms,
        "restarts": restarts,
    }


def mean_curves(curves: list[dict[str, list[Any]]]) -> dict[str, Any]:
    return {name: np.mean([c[name] for c in curves], 0).round(4).tolist() for name in curves[0]}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Train every setting with every seed; write runs/collapse under `out`."""
    runs = {name: partial(train_setting, name) for name in SETTINGS}
    part = out / "runs" / "collapse.part"
    results = collect(part, meta, runs | {BUSY: measure_busy}, seeds, on_step)
    snapshots = [unpacked(results[name][seed]) for seed in range(seeds) for name in SETTINGS]
    figures = summary(snapshots) | {"busy_experts": figures_over(results[BUSY])}
    save_snapshots(out / "runs" / "collapse.safetensors", snapshots, meta)
    write_trained(out / "runs" / "collapse.json", meta, figures)
    return means(figures["arms"], "reserve_loss", "max_violation", "dead_experts")
