"""Finer and shared experts at equal active and total FFN width (10 CPU minutes a seed).

Every expert of 16 is split into m of 1/m of its width, and a token chooses m times as many
(DeepSeekMoE, 2401.06066): 2,048 columns in all and 256 for each token, whatever m is. Of those,
one or two experts may be shared: every token visits them. What would make the comparison unfair,
and how it is closed:

1. Unequal cost. Experts cost the same; a router of more experts costs more. Declared FLOPs are
   0.8 % (m = 1) to 6 % (m = 8) above the dense twin's: the multiplier of compute counts them,
   and the multiplier of time has the seconds of a step, which grow too.
2. Another recipe. All arms have raw weights, a balance loss of 0.01 and no z-loss, the fair scale
   (a shared and a chosen expert start equally loud), the batches of their seed, and the
   rate that the family of token choice has in runs/routers.json. It was chosen with 16 experts;
   the finest arm is tried at three rates over two seeds of no final run, and the record says
   which did best.
3. Luck. Five seeds, differences paired, one table of verdicts a setting (Holm).
4. A verdict of the start of training, or of its end. Both lengths of `experiment routers` are
   recorded. A dense model with all the parameters at work stands beside them, and says whether
   more parameters help at all in that setting.
5. Shared experts that do nothing but take part. `left_out` says how that is tried.

m = 2 with and without a shared expert and the dense models are those of runs/routers.json: the
same function trained them with the same seeds and batches, and they are not trained again. Not
closed: the model is small, 1,200 steps draw 1.3 times as many tokens as its text has, nothing but
the rate is tuned.

runs/fine_grained.json; {mean, sd} are over the seeds:
    rate: of all arms; finest: what the finest arm does at three (routers_compared.best_rate)
    arms: facts before training: router_arms.facts_of, and "split" m, "router_flops": the router's
        share of the layer's FLOPs; "recorded_in": routers, where it was not trained here
    settings: by name ("fair 300", "fair 1200"): as in runs/routers.json, and "pairs": by arm its
        "base" and the difference to it: of more splitting (the base is m = 1) and of shared
        experts (the base is the same m without); one table
    dense_by_steps: as in runs/routers.json
    left_out: by arm with shared experts, after 1,200 steps, and by what is left out: "rise" of the
        loss, "by_domain" its means, "unevenness": its spread over domains, a share of the mean;
        and "pairs", verdicts of one table: see left_out.PAIRS
    timing: seconds of a step by arm in turns, one thread, and where they were measured
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from moeviz.experiments import Progress
from moeviz.experiments.left_out import left_out, losses_without
from moeviz.experiments.recording import collect, judged, means, write_trained
from moeviz.experiments.router_arms import (
    ACTIVE_WIDTH,
    DENSE,
    DENSE_ALL,
    FAIR,
    LONG,
    SETTINGS,
    TOTAL_WIDTH,
    Arm,
    Setting,
    arms,
    facts_of,
)
from moeviz.experiments.routers_compared import best_rate, setting_table, with_multipliers
from moeviz.experiments.routers_timed import time_steps
from moeviz.experiments.routers_trained import (
    GRID,
    GRID_SEEDS,
    run_arm,
    trained_figures,
    try_rate,
)
from moeviz.host import read_figures
from moeviz.model.layer import MoEConfig
from moeviz.text.corpus import load_corpus

WIDTH = 128  # of an expert before it is split
FAMILY = "token choice"
Figures = dict[str, Any]
# (m, shared experts) of the arms that are trained here, and of those that runs/routers.json has.
TRAINED = ((1, 0), (1, 1), (4, 0), (4, 1), (4, 2), (8, 0))
RECORDED = {
    (2, 0): "fine-grained",
    (2, 1): "shared and fine-grained (DeepSeekMoE)",
}
FINEST = (8, 0)
LENGTHS = (FAIR, LONG)


def name_of(split: int, shared: int) -> str:
    return f"split {split}" + (f", {shared} shared" if shared else "")


def split_arm(split: int, shared: int) -> Arm:
    """Experts of 1/split of the width, split times as many, of which some are shared."""
    width = WIDTH // split
    experts = MoEConfig(
        TOTAL_WIDTH // width - shared,
        ACTIVE_WIDTH // width - shared,
        width,
        options={"weighting": "raw"},
        num_shared=shared,
    )
    return Arm(FAMILY, experts, {"balance_weight": 0.01})


# One run.


def train(arm: Arm, setting: Setting, rate: float, look: bool, seed: int) -> Figures | None:
    """The figures of an arm as the head of routers_trained lists them; after a look also "without",
    the losses when experts are left out."""
    run = run_arm(arm, setting, rate, seed)
    if run is None:
        return None
    figures = trained_figures(*run, setting)
    return figures | ({"without": losses_without(run[0])} if look else {})


# All runs.


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Train and time the arms; runs/fine_grained.json under `out` is written again with each whole
    seed."""
    part, path = out / "runs" / "fine_grained.part", out / "runs" / "fine_grained.json"
    before = read_figures("routers")
    rate = before["rates"]["fair"][FAMILY]["chosen"]
    trained = {name_of(*key): split_arm(*key) for key in TRAINED}
    every = {DENSE: arms()[DENSE], DENSE_ALL: arms()[DENSE_ALL]}
    every |= {name_of(*key): split_arm(*key) for key in sorted((*TRAINED, *RECORDED))}
    facts = {name: _facts(arm) for name, arm in every.items()}
    for name in every.keys() - trained.keys():
        facts[name]["recorded_in"] = "routers"

    grid = {
        f"{tried:g}": partial(try_rate, split_arm(*FINEST), SETTINGS[FAIR], tried) for tried in GRID
    }
    tried = collect(part, meta, grid, len(GRID_SEEDS), on_step)
    figures: Figures = {
        "rate": rate,
        "finest": best_rate({float(tried_rate): losses for tried_rate, losses in tried.items()}),
        "arms": facts,
        "dense_by_steps": before["dense_by_steps"],
    }
    runs = {
        f"{length}, {name}": partial(
            train, arm, SETTINGS[length], rate, bool(arm.experts.num_shared) and length == LONG
        )
        for length in LENGTHS
        for name, arm in trained.items()
        if arm.experts is not None
    }

    def write(results: dict[str, list[Any]], timing: Figures | None = None) -> Figures:
        whole = compared(results, figures, before, timing)
        write_trained(path, meta, whole)
        return whole

    results = collect(part, meta, runs, seeds, on_step, write)
    timing = {"provenance": meta, "seconds": time_steps(every, on_step)}
    return means(write(results, timing)["settings"][LONG]["arms"], "loss")


def compared(
    results: dict[str, list[Any]], figures: Figures, before: Figures, timing: Figures | None
) -> Figures:
    """All of runs/fine_grained.json but its provenance, from what is known before (figures), from
    runs/routers.json (before), and the results by "length, arm" and seed."""
    by_length: dict[str, dict[str, list[Any]]] = {length: {} for length in LENGTHS}
    for label, of_seeds in results.items():
        length, _, name = label.partition(", ")
        by_length[length][name] = of_seeds
    tables = {length: _table(length, runs, before) for length, runs in by_length.items()}
    looked = {
        name: [run["without"] for run in of_seeds]
        for name, of_seeds in by_length[LONG].items()
        if all(run is not None and "without" in run for run in of_seeds)
    }
    return with_multipliers({**figures, "settings": tables, "left_out": left_out(looked)}, timing)


def _facts(arm: Arm) -> Figures:
    facts = facts_of(arm, load_corpus())
    if arm.experts is None:
        return facts
    d_model = 64
    router = arm.experts.build_router(d_model).flops(1)
    share = router / arm.experts.flops_per_token(d_model, 1)
    return facts | {"split": WIDTH // arm.experts.d_expert, "router_flops": round(share, 4)}


def _table(length: str, trained: dict[str, list[Any]], before: Figures) -> Figures:
    """The table of a setting: what was trained here, with the arms of runs/routers.json, of which
    the first seeds count where fewer were trained here."""
    seeds = len(next(iter(trained.values())))
    known = before["settings"][length]["arms"]
    sources = {DENSE: DENSE, DENSE_ALL: DENSE_ALL}
    sources |= {name_of(*key): name for key, name in RECORDED.items()}
    runs: dict[str, list[Any]] = {
        name: [
            {"loss": loss, "gigaflops_per_step": known[source]["gigaflops_per_step"]["mean"]}
            for loss in known[source]["loss"]["values"][:seeds]
        ]
        for name, source in sources.items()
    }
    for name, of_seeds in trained.items():
        kept = [run and {k: v for k, v in run.items() if k != "without"} for run in of_seeds]
        runs[name] = kept
    table = setting_table(SETTINGS[length], runs)
    for name, source in sources.items():
        table["arms"][name] = known[source] | table["arms"][name]
    table["pairs"] = _pairs(table["arms"])
    return table


def _pairs(of_arms: Figures) -> Figures:
    """By arm the loss minus that of its base, judged as one table."""
    bases = {}
    for split, shared in sorted((*TRAINED, *RECORDED)):
        base = name_of(split if shared else 1, 0)
        if (split, shared) != (1, 0) and {name_of(split, shared), base} <= of_arms.keys():
            bases[name_of(split, shared)] = base
    losses = {name: arm["loss"]["values"] for name, arm in of_arms.items()}
    gaps = judged({name: (losses[name], losses[base]) for name, base in bases.items()})
    return {name: {"base": bases[name], **gap} for name, gap in gaps.items()}
