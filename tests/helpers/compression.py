"""A recording of compression with known effects, as experiments.compression writes it."""

from __future__ import annotations

from moeviz.experiments.compression import REGIMES
from moeviz.experiments.compression_claims import BATCH, TUNED, TUNED_WHOLE, claims, tables
from moeviz.experiments.recipes import REAP, RECIPES, share_kept
from moeviz.experiments.recording import figures_over
from moeviz.experiments.start_here import MODEL

DOMAINS = ("python", "english", "c", "arithmetic", "hex", "brackets")
COSTS = {
    "int8": 0.0002, "int4": 0.012, "int3": 0.07, "int2": 1.2, "half": 0.6, "quarter": 1.7,
    "6": 0.4, "4": 1.2, "2": 2.6,
}  # fmt: skip
NOISE = (0.0, 0.01, -0.01, 0.02, -0.02)  # of the seeds, as shares


def made_compression(factors=None, seeds=5, of_regime=None, tuned=0.5):
    """factors: by recipe, how many times COSTS it takes; of_regime: the same by regime; tuned: the
    share of the cost that is left after the router was tuned."""
    factors, of_regime = factors or {}, of_regime or {}

    def cost(regime, recipe, amount, seed):
        noise = 1 + NOISE[seed] * (1 + len(recipe) % 3)
        return COSTS[amount] * factors.get(recipe, 1.0) * of_regime.get(regime, 1.0) * noise

    def run(regime, seed):
        rises = {
            r: {a: cost(regime, r, a, seed) for a in amounts} for r, amounts in RECIPES.items()
        }
        if regime == BATCH:
            rises[TUNED] = {"4": rises[REAP]["4"] * tuned}
            rises[TUNED_WHOLE] = {"8": -0.002 * (1 + NOISE[seed])}
            rises = {
                r: {a: {"loss": v, "domains": [v * d / 3.5 for d in range(1, 7)]}
                    for a, v in amounts.items()}
                for r, amounts in rises.items()
            }  # fmt: skip
        of_layers = {"mixture": 0.05, "merged": 0.4, "matched": 0.3, "pruned": 0.1}
        return {
            "unpacked": 3.0 + 0.01 * seed,
            "recipes": rises,
            "errors": {n: [v * (1 + 0.1 * seed), v, 2 * v] for n, v in of_layers.items()},
            "alike": {"prune by load": 0.3 + 0.01 * seed, "prune by REAP": 0.5 - 0.02 * seed},
            "balance": {"max_violation": 0.5, "dead_experts": 0.0, "effective_experts": 7.5,
                        "domain_information": 0.3, "drop_rate": 0.0, "active_experts": 2.0},
        }  # fmt: skip

    runs = {regime: [run(regime, seed) for seed in range(seeds)] for regime in REGIMES}
    regimes = {regime: figures_over(each) for regime, each in runs.items()}
    found = tables(runs)
    return {
        "provenance": {"device": "a machine", "date": "2026-01-01", "text": "abc"},
        "steps": 800,
        "domains_of_text": [*DOMAINS],
        "shares": {
            r: {a: share_kept(MODEL, r, a) for a in amounts} for r, amounts in RECIPES.items()
        },
        "regimes": regimes,
        "judged": found,
        "claims": claims(found, regimes[BATCH]["recipes"][REAP]["4"]["loss"]["mean"]),
        "shipped": runs[BATCH][0]
        | {"saliency": {"prune by ablation": [[0.1 * e for e in range(8)]] * 3}},
    }
