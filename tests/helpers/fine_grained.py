"""A recording of finer and shared experts with known effects."""

import functools

import numpy as np

from helpers.recorded_routers import PROVENANCE
from moeviz.experiments import fine_grained, left_out
from moeviz.experiments.fine_grained import LENGTHS, RECORDED, TRAINED, name_of, split_arm
from moeviz.experiments.router_arms import DENSE, DENSE_ALL, LONG
from moeviz.host import read_figures

RISES = {
    left_out.NOTHING: 0.0, left_out.SHARED: 0.5, left_out.REPLACED: 0.4, left_out.DRAWN: 0.2,
    left_out.FIRST: 0.7, left_out.SAME: 0.01, left_out.BUSIEST: 0.05,
}  # fmt: skip


@functools.cache
def known():
    return read_figures("routers")


def facts(split, shared):
    experts = split_arm(split, shared).experts
    share = experts.num_experts / (experts.num_experts + 768)
    return {
        "experts": experts.num_experts, "top_k": experts.top_k, "width": experts.d_expert,
        "shared": shared, "split": split, "router_flops": round(share, 4),
    }  # fmt: skip


def made_fine_grained(seeds=5, *, finer=0.0, shared=0.0, timed=True, looked=True):
    """Each further split adds `finer` to the loss, shared experts add `shared`; without what was
    looked for, or the clock, where told."""
    rng = np.random.default_rng(0)
    results = {}
    for length in LENGTHS:
        dense = known()["settings"][length]["arms"]["fine-grained"]["loss"]["values"]
        for key in TRAINED:
            gap = finer * (np.log2(key[0]) - 1) + shared * (key[1] > 0)
            of_seeds = []
            for seed in range(seeds):
                loss = dense[seed] + gap + 0.002 * rng.standard_normal()
                run = {"loss": loss, "gigaflops_per_step": 1.7}
                if key[1] and length == LONG and looked:
                    slope_D = np.linspace(0.5, 1.5, 6)
                    run["without"] = {
                        name: (loss + rise * slope_D * (1 + 0.1 * rng.random())).tolist()
                        for name, rise in RISES.items()
                    }
                of_seeds.append(run)
            results[f"{length}, {name_of(*key)}"] = of_seeds
    arms = {name_of(*key): facts(*key) for key in sorted((*TRAINED, *RECORDED))}
    figures = {
        "rate": 16e-3,
        "finest": {"grid": [8e-3, 16e-3], "losses": [3.3, 3.2], "chosen": 16e-3, "at_edge": True},
        "arms": {DENSE: {}, DENSE_ALL: {}} | arms,
        "dense_by_steps": known()["dense_by_steps"],
    }
    seconds = dict.fromkeys(figures["arms"], 0.05)
    timing = {"provenance": PROVENANCE, "seconds": seconds} if timed else None
    return {"provenance": PROVENANCE} | fine_grained.compared(results, figures, known(), timing)
