"""Made-up files of `experiment routers` and `experiment scale`, put together by the code that puts
together the recorded ones."""

import json
import math

from moeviz.experiments import output_scale
from moeviz.experiments.router_arms import (
    DENSE,
    FAIR,
    LONG,
    LONGER,
    LONGER_ARMS,
    SETTINGS,
    WRITTEN,
    arms,
)
from moeviz.experiments.routers_compared import compared, setting_table

PROVENANCE = {"device": '8 <cores> & "more"', "date": "2026-01-01"}
SECONDS = 0.04
SECOND_LOOK = 0.05  # what another pool costs


def routers(gaps, *, seeds=5, settings=(FAIR, WRITTEN, LONG), timed=True, noise=0.002, diverged=()):
    """gaps: by setting, or for all, each arm's loss minus the dense twin's, all others' 0. Seeds
    differ by `noise` in a fixed pattern of the arm. diverged: arms that do at the fair scale."""
    every = arms()
    by_setting = gaps if set(gaps) <= set(SETTINGS) else dict.fromkeys(settings, gaps)
    stages = {name: SETTINGS[name] for name in settings}
    results = {
        name: {
            arm: [
                None if name == FAIR and arm in diverged else
                run(arm, i, seed, by_setting[name].get(arm, 0.0), setting, noise)
                for seed in range(seeds)
            ]
            for i, arm in enumerate(every)
        }
        for name, setting in stages.items()
    }  # fmt: skip
    for steps in (150, 600, 2400):
        runs = [dense_run(steps, seed) for seed in range(seeds)]
        results.setdefault("dense by steps", {})[str(steps)] = runs
    facts = {arm: facts_of(arm) for arm in every}
    seconds = {arm: SECONDS * (1 + 0.25 * (arm != DENSE)) for arm in every}
    timing = {"provenance": PROVENANCE, "seconds": seconds} if timed else None
    figures = json.loads(json.dumps(compared(results, {}, facts, timing)))
    return {"provenance": PROVENANCE, **figures}


def routers_longer(gaps, *, seeds=3, noise=0.002):
    """As runs/routers_longer.json; gaps: each arm's loss minus the dense twin's."""
    results = {
        arm: [run(arm, i, seed, gaps.get(arm, 0.0), LONGER, noise) for seed in range(seeds)]
        for i, arm in enumerate((DENSE, *LONGER_ARMS))
    }
    return {"provenance": PROVENANCE, **json.loads(json.dumps(setting_table(LONGER, results)))}


def base_loss(steps):
    """The dense twin's: 3.6 at 300 steps, 0.4 less with each doubling."""
    return 3.6 - 0.4 * math.log2(steps / 300)


def dense_run(steps, seed):
    return {"loss": base_loss(steps) + 0.01 * seed, "gigaflops_per_step": 1.6}


def run(arm, place, seed, gap, setting, noise):
    """One seed of one arm, as routers_trained.train_arm gives it."""
    wobble = noise * ((place * 7 + seed * seed * 3) % 5 - 2) if arm != DENSE else 0.0
    dense = dense_run(setting.steps, seed)
    loss = dense["loss"] + gap + wobble
    curve = [loss + 1] * len(setting.curve_steps)
    figures = {**dense, "loss": loss, "domain_loss": [loss] * 6, "curve": curve}
    experts = arms()[arm].experts
    if experts is None:
        return figures
    router = experts.build_router(4)
    pools = {} if router.causal or router.substitute else {
        "domain": loss + SECOND_LOOK, "sequence": loss - SECOND_LOOK * seed
    }  # fmt: skip
    return {
        **figures, "max_violation": 0.5, "dead_experts": 1.0, "effective_experts": 9.0,
        "domain_information": 0.2, "drop_rate": 0.125, "evaluation_max_violation": [0.5, 0.25],
        "training_max_violation": [0.75, 1.5], "training_dead_experts": [0.0, 2.0],
        "active_experts": 2.0, "active_experts_evaluated": 2.0, "pools": pools,
    }  # fmt: skip


def facts_of(name):
    """As router_arms.declared, without a model."""
    arm = arms()[name]
    facts = {"family": arm.family, "parameters": 1_000_000, "gigaflops_per_step": 1.6}
    names = {"balance_weight": ["balance"], "z_weight": ["z"], "cv_weight": ["importance", "load"]}
    facts["losses"] = [[name, w] for key, w in arm.losses.items() if w for name in names[key]]
    if arm.experts is None:
        return facts | {"width": arm.width}
    router = arm.experts.build_router(4)
    return facts | {
        "router": arm.experts.router, "experts": arm.experts.num_experts,
        "top_k": arm.experts.top_k, "width": arm.experts.d_expert,
        "shared": arm.experts.num_shared, "causal": router.causal, "substitute": router.substitute,
    }  # fmt: skip


def scale(effect=0.05, *, seeds=5):
    """Losses in which each halving or doubling of the scale costs token choice `effect`; hash does
    not mind, and lies 0.1 below the dense twin."""
    losses = {}
    for place, arm in enumerate(output_scale.ARMS):
        for at in (*output_scale.SCALES, None):
            octaves = abs(math.log2(at or output_scale.written_scale(arm)))
            cost = effect * octaves * (place == 1) - 0.1 * (place == 2)
            losses[arm, at] = [
                3.5 + cost + 0.01 * s + 0.002 * ((s * s + place) % 3) for s in range(seeds)
            ]
    figures = json.loads(json.dumps(output_scale.summary(losses)))
    return {"provenance": PROVENANCE, **figures}
