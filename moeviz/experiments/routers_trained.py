"""Every router at equal active FLOPs, at fair scale and as written (half an hour a seed).

What would make the comparison unfair, and how it is closed:

1. How loud the FFN is at the start: weights near 1/E make it 8 to 16 times too quiet. At the fair
   scale all arms, the dense twin too, start with one variance (ModelConfig.ffn_scale). "As written"
   is a setting of its own, so that what the scale alone does can be read.
2. Unequal cost. Declared FLOPs are within 2 % of the dense twin's; every arm has beside them what
   it computed in training. That is less where assignments are dropped (GShard, ST-MoE, Switch):
   slots without a token cost nothing here. Parameters are more than the twin's: "dense, all
   parameters" has the experts' total width, at 3.5 times the FLOPs, as a second control.
3. Losses that a paper does not have. Each arm has its own paper's, by the paper's weights, and the
   recording lists them.
4. One learning rate that suits one family. Each family has the rate of the grid at which its
   representative has the lowest mean validation loss, over two seeds that are no final ones, at 300
   steps; in each setting again, so that neither scale trains at the other's rate.
5. Choices made on what is reported. Rates are chosen on "validation", final figures are of
   "reserve" windows.
6. Another pool than in training. Evaluation mixes the domains as training does; where decisions
   compare tokens, the loss with each other pool is recorded too.
7. Luck. Seeds draw the model, the batches and hash tables; arms of one seed see the same batches.
   Differences are paired; verdicts hold for a whole table (Holm).
8. A verdict of the start of training. 300 and 1,200 steps are recorded, each with its own cosine,
   and how far the two orders agree. Multipliers compare with the dense twin trained to the end of
   several lengths: a point on the way of a longer run is not yet cooled.

Not closed: the model is small and 1,200 steps draw 1.3 times as many tokens as its text has; rates
are of a family, not of an arm, chosen at 300 steps for all lengths; nothing else is tuned; BASE,
Sinkhorn, GShard, Switch and others evaluate by another rule than they train by, as their papers
have it.

runs/routers.json; figures are {mean, sd} over the seeds, and lists are means:
    rates: by scale ("fair", "as written") and family: its "arm", the "grid" of rates, their
        "losses" (None: diverged), the rate "chosen", and whether that lies "at_edge" of the grid
    arms: what each is before training (router_arms.declared)
    settings: by name ("fair 300", "as written 300", "fair 1200"), where a seed is whole: "steps",
        "scale", "seeds", "curve_steps", "diverged" (arms left out), and "arms" by name:
            loss, by seed; minus_dense: low, high, p, verdict over this table
            domain_loss [domains], curve [validation loss at curve_steps]
            pools {domain, sequence}: loss by seed, empty where a decision depends on no pool
            max_violation, dead_experts, effective_experts, domain_information: of the evaluation's
                load, in the worst layer; evaluation_max_violation [layers]
            training_max_violation, training_dead_experts [layers]: of the load summed over the last
                50 steps of training
            drop_rate (these steps), active_experts (training), active_experts_evaluated
            gigaflops_per_step: as measured over the whole training
            multipliers: {compute, wall_clock, why}: FLOPs and time that the dense twin needs for
                the same loss, over the arm's own; None where not measured, and why. interval: of
                compute, by that of minus_dense
    changes: by arm, fair minus as written at 300 steps (differences; one table)
    dense_by_steps: by steps: loss, gigaflops_per_step of the dense twin
    order: Spearman's rank correlation of 300 and 1,200 steps (fair): "all" and "upper_half" of the
        arms of equal FLOPs, each {rho, low, high}: 95 % of 2,000 draws of seeds
    timing: seconds of a step by arm, and where they were measured; by `experiment routers_timed`
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.recording import balance_figures, collect, finished, means, write_trained
from moeviz.experiments.router_arms import (
    DENSE,
    FAIR,
    FAMILIES,
    LONG,
    SETTINGS,
    WRITTEN,
    Arm,
    Setting,
    arms,
    declared,
)
from moeviz.experiments.routers_compared import best_rates, compared
from moeviz.records.metrics import dead_experts, max_violation, training_load
from moeviz.text.corpus import load_corpus
from moeviz.training.evaluation import FINAL_WINDOWS
from moeviz.training.trainer import NonFiniteLossError, Trainer

GRID = (8e-3, 16e-3, 32e-3)  # below, every family does worse at the fair scale
GRID_SEEDS = (1000, 1001)  # of no final run
# Lengths at which the dense twin is trained beside those of the settings, for the multipliers.
DENSE_STEPS = (150, 600, 2400)
BY_STEPS = "dense by steps"
# The stages in the order in which they are worth having.
ORDER = (FAIR, WRITTEN, BY_STEPS, LONG)

# One run.


def try_rate(arm: Arm, setting: Setting, rate: float, seed: int) -> float | None:
    """The validation loss that a rate leads to; None where training diverges."""
    trainer = arm.trainer(load_corpus(), setting, rate, GRID_SEEDS[seed])
    try:
        for _ in trainer:
            pass
    except NonFiniteLossError:
        return None
    return trainer.evaluate(FINAL_WINDOWS).loss


def run_arm(
    arm: Arm, setting: Setting, rate: float, seed: int
) -> tuple[Trainer, list[float]] | None:
    """One arm at the end of its training, and its validation loss at setting.curve_steps; None
    where training diverges."""
    trainer = arm.trainer(load_corpus(), setting, rate, seed)
    curve, due = [], set(setting.curve_steps)
    try:
        for result in trainer:
            if result.step in due:
                curve.append(trainer.evaluate().loss)
    except NonFiniteLossError:
        return None
    return trainer, curve


def train_arm(name: str, setting: Setting, rate: float, seed: int) -> dict[str, Any] | None:
    """Train one arm to the end: its figures, as the head of this file lists them; None where
    training diverges."""
    run = run_arm(arms()[name], setting, rate, seed)
    if run is None:
        return None
    return trained_figures(*run, setting)


def trained_figures(trainer: Trainer, curve: list[float], setting: Setting) -> dict[str, Any]:
    """What run_arm has trained in this setting, as the head of this file lists it."""
    final = trainer.evaluate(FINAL_WINDOWS, part="reserve")
    figures: dict[str, Any] = {
        "loss": final.loss,
        "domain_loss": final.domain_loss.tolist(),
        "curve": curve,
        "gigaflops_per_step": trainer.history.flops / 1e9 / setting.steps,
    }
    if not trainer.moe_layers:
        return figures
    load_LE = training_load(trainer.history.curve())
    router = trainer.model.routers()[0]
    compares = not router.causal and not router.substitute
    return {
        **figures,
        **balance_figures(trainer, final),
        "evaluation_max_violation": [max_violation(load_E) for load_E in final.load.sum(1)],
        "training_max_violation": [max_violation(load_E) for load_E in load_LE],
        "training_dead_experts": [dead_experts(load_E) for load_E in load_LE],
        "active_experts": _active_in_training(trainer),
        "active_experts_evaluated": float(final.active_experts.mean()),
        "pools": {
            pool: trainer.evaluate(FINAL_WINDOWS, part="reserve", pool=pool).loss
            for pool in (("domain", "sequence") if compares else ())
        },
    }


def _active_in_training(trainer: Trainer) -> float:
    """Experts that worked for a token on average over all steps, by the FLOPs that were counted."""
    per_token = trainer.history.flops / (3 * trainer.tokens_per_step * trainer.step)
    of_none, of_one = (
        trainer.flops_per_token(np.full(len(trainer.moe_layers), n)) for n in (0.0, 1.0)
    )
    return (per_token - of_none) / (of_one - of_none)


# All runs.

Runs = dict[str, Callable[[int], Any]]


def grid_runs(names: list[str], scale: str) -> Runs:
    """What the rates of a scale are chosen by, named by scale, family and rate."""
    setting = SETTINGS[FAIR if scale == "fair" else WRITTEN]
    every = arms()
    return {
        f"rate, {scale}, {family}, {rate:g}": partial(try_rate, every[arm], setting, rate)
        for family, arm in FAMILIES.items()
        if arm in names
        for rate in GRID
    }


def stage_runs(stage: str, names: list[str], rates: dict[str, Any]) -> Runs:
    """The final runs of a stage: those of a setting by arm, or those of the dense twin by steps."""
    families = {name: arm.family for name, arm in arms().items()}

    def trained(name: str, setting: Setting) -> Callable[[int], Any]:
        rate = rates[setting.scale][families[name]]["chosen"]
        return partial(train_arm, name, setting, rate)

    if stage == BY_STEPS:
        return {str(steps): trained(DENSE, Setting(steps)) for steps in DENSE_STEPS}
    return {name: trained(name, SETTINGS[stage]) for name in names}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Train every arm in every setting with every seed, at rates that are chosen before.
    runs/routers.json under `out` is written again with each whole seed, so that what there is may
    be read."""
    part, path = out / "runs" / "routers.part", out / "runs" / "routers.json"
    names = list(arms())
    corpus = load_corpus()
    facts = {name: declared(name, corpus) for name in names}
    labels = {stage: list(map(str, DENSE_STEPS)) if stage == BY_STEPS else names for stage in ORDER}
    rates: dict[str, Any] = {}
    done = 0
    total = sum(len(of_stage) for of_stage in labels.values()) * seeds
    total += 2 * len(grid_runs(names, "fair")) * len(GRID_SEEDS)

    def record(runs: Runs, seeds: int, on_seed: Callable[[Any], object]) -> dict[str, list[Any]]:
        nonlocal done
        before = done
        done += len(runs) * seeds
        return collect(part, meta, runs, seeds, lambda n, _: on_step(before + n, total), on_seed)

    def write(_: Any = None) -> dict[str, Any]:
        results = {}
        for stage, of_stage in labels.items():
            kept = finished(part, meta, [f"{stage}, {label}" for label in of_stage], seeds)
            results[stage] = {k.removeprefix(f"{stage}, "): runs for k, runs in kept.items()}
        timing = json.loads(path.read_text()).get("timing") if path.exists() else None
        figures = compared(results, rates, facts, timing)
        write_trained(path, meta, figures)
        return figures

    for stage in ORDER:
        scale = "as written" if stage == WRITTEN else "fair"
        if scale not in rates:
            rates |= best_rates(record(grid_runs(names, scale), len(GRID_SEEDS), lambda _: None))
        of_stage = stage_runs(stage, names, rates)
        record({f"{stage}, {label}": one for label, one in of_stage.items()}, seeds, write)
    figures = write()
    return {stage: means(table["arms"], "loss") for stage, table in figures["settings"].items()}
