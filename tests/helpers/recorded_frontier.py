"""A made-up file of `experiment frontier`, put together by the code that puts together the recorded
one."""

import json
import math
from functools import cache

import numpy as np

from moeviz.experiments import frontier

PROVENANCE = {"device": '8 <cores> & "more"', "date": "2026-01-01", "text": "0000"}
TABLES = 300_000  # all parameters but the FFN's


@cache
def facts():
    """By arm, as frontier.declared, without a model."""
    return {name: _facts(arm) for name, arm in frontier.arms().items()}


def _facts(arm):
    experts = arm.experts
    of_one = 6 * 64 * (experts.d_expert if experts else arm.width)
    there, at_work = (experts.num_experts, experts.top_k) if experts else (1, 1)
    return {
        "kind": arm.family,
        "experts": experts and experts.num_experts,
        "top_k": experts and experts.top_k,
        "width": experts.d_expert if experts else arm.width,
        "parameters": TABLES + there * of_one,
        "active_parameters": TABLES + at_work * of_one,
        "ffn_active_share": at_work / there,
        "gigaflops_per_step": 1.0 + at_work * of_one / 1e5,
    }


def made_frontier(*, seeds=5, fall=0.03, hashed=0.05, noise=0.003, timed=True, missing=()):
    """Dense losses fall by 0.1 with each doubling of the width, from 3.1 at width 256; learned ones
    by `fall` with each fourfold of the experts, from the twin's at one expert, and hash's lie by
    `hashed` lower still. Seeds differ by 0.02, and by `noise` between arms."""
    runs = {}
    for place, (name, fact) in enumerate(facts().items()):
        if name in missing:
            continue
        loss = 3.1 - 0.1 * math.log2(fact["width"] / 256)
        if fact["experts"]:
            loss = 3.1 - fall * math.log(fact["experts"], 4) - hashed * (fact["kind"] == "hash")
        runs[name] = [_run(fact, loss, place, seed, noise) for seed in range(seeds)]
    table = json.loads(json.dumps(frontier.summary(facts(), runs)))
    for arm in table["arms"].values():
        of_ffn = arm["parameters"] - TABLES
        arm["seconds_per_step"] = 0.03 + of_ffn / 1e8 if timed else None
    grid = [0.008, 0.016, 0.032]
    rates = {
        name: {"grid": grid, "losses": [4.0, arm["loss"]["mean"] + 0.3, None], "chosen": 0.016,
               "at_edge": False}
        for name, arm in table["arms"].items()
    }  # fmt: skip
    return {
        "provenance": PROVENANCE,
        "steps": 1200,
        "seeds": [*range(seeds)],
        "curve_steps": [600, 1200],
        "unigram": 6.0,
        "rates": rates,
        **table,
    }


def _run(fact, loss, place, seed, noise):
    loss += 0.02 * seed + noise * np.random.default_rng((place, seed)).standard_normal()
    figures = {
        "loss": loss, "accuracy": 0.9 - loss / 6, "domain_loss": [loss] * 6, "curve": [4, loss],
    }  # fmt: skip
    if fact["experts"]:
        figures |= {
            "max_violation": 1.5, "dead_experts": 2.0, "effective_experts": fact["experts"] / 2,
            "domain_information": 0.2, "drop_rate": 0.0, "active_experts": 2.0,
        }  # fmt: skip
    return figures
