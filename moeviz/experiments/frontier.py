"""What experts buy that a token does not use: 2 of 4 to 2 of 256 (10 minutes a seed).

Every sparse arm has the layer of the other experiments, two experts of width 128 for a token, and
only the number of experts grows: of 256, two are 0.8 % of the FFN's parameters. Dense models of
several widths stand beside them, one as wide as what is active, one as wide as 16 experts.

What would make the comparison unfair, and how it is closed:

1. How loud the FFN is at the start: all arms begin at the fair scale (ModelConfig.ffn_scale).
2. One learning rate that suits one size. Each arm has its own: that of GRID at which its mean
   validation loss is the lowest, over two seeds that are no final ones, at 300 steps. Where that is
   an end of the grid, the next rate beyond it is tried too (rates.settled_rates).
3. Unequal cost. Declared FLOPs, parameters, and the measured seconds of a step stand beside each
   loss. A router's matrix grows with the experts, so FLOPs and active parameters do a little too.
4. Losses that others do not have: learned arms have a balance loss and a z-loss (OLMoE's), which
   train the router alone; the loss that is compared is that of the text.
5. Choices made on what is reported: rates are chosen on "validation", figures are of "reserve".
6. Luck. Seeds draw the model, the batches and hash tables; arms of one seed see the same batches.
   Differences are paired, and verdicts hold for all of them together (Holm).

Not closed: 1,200 steps read the text about once, so an expert of 256 sees 8 tokens of a batch and
10,000 in all; what many experts need more of is just that. Rates are chosen at a quarter of the
steps, and `experiment frontier_short` trains all arms so long. Width 128 and two experts are one
choice of many.

runs/frontier.json; figures are {mean, sd} over the seeds:
    steps, seeds, curve_steps; unigram: nats a token of a model that knows frequencies alone
    rates: by arm: grid, losses (None: diverged), chosen, at_edge
    arms: by name:
        kind ("learned", "hash", "dense"); experts, top_k (None: dense); width, of an expert or the
        FFN; parameters, active_parameters, ffn_active_share (1: dense), gigaflops_per_step
        loss, by seed too; accuracy, of the next token; domain_loss and curve, lists of means
        seconds_per_step (one thread, median in turns; its machine is that of the provenance)
        sparse arms: max_violation, dead_experts, effective_experts, domain_information
    gaps: by "A minus B": the difference of losses (recording.judged; one table): every arm minus
        the dense twin, each number of experts minus the one before, learned minus hash
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.rates import Losses, label, settled_rates
from moeviz.experiments.recording import (
    balance_figures,
    collect,
    judged,
    mean_sd,
    means,
    write_trained,
)
from moeviz.experiments.router_arms import ACTIVE_WIDTH, FAIR, LONG, SETTINGS, Arm, Setting
from moeviz.experiments.routers_compared import over
from moeviz.experiments.routers_timed import time_steps
from moeviz.experiments.routers_trained import GRID, GRID_SEEDS, run_arm, try_rate
from moeviz.model.layer import MoEConfig
from moeviz.records.quality import unigram_loss
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.training.evaluation import FINAL_WINDOWS
from moeviz.watch.quality import quality

SETTING, SHORT = SETTINGS[LONG], SETTINGS[FAIR]  # rates are chosen in the short one
EXPERTS = (4, 16, 64, 256)
DENSE_WIDTHS = (128, ACTIVE_WIDTH, 512, 1024, 2048)
ROUTER_LOSSES = {"balance_weight": 0.01, "z_weight": 1e-3}

Figures = dict[str, Any]


def learned(experts: int) -> str:
    return f"learned, {experts} experts"


def hashed(experts: int) -> str:
    return f"hash, {experts} experts"


def dense(width: int) -> str:
    return f"dense, width {width}"


TWIN = dense(ACTIVE_WIDTH)


def arms() -> dict[str, Arm]:
    """Every contestant by name."""
    raw = {"weighting": "raw"}
    sparse: dict[str, Arm] = {}
    for number in EXPERTS:
        choice = MoEConfig(number, 2, 128, router="token_choice", options=raw)
        sparse[learned(number)] = Arm("learned", choice, ROUTER_LOSSES)
        sparse[hashed(number)] = Arm("hash", MoEConfig(number, 2, 128, router="hash"))
    return {dense(width): Arm("dense", None, width=width) for width in DENSE_WIDTHS} | sparse


def pairs() -> dict[str, tuple[str, str]]:
    """What is compared with what, by the name of the difference."""
    against_twin = [(arm, TWIN) for arm in arms() if arm != TWIN]
    grown = [
        (kind(more), kind(fewer)) for kind in (learned, hashed) for fewer, more in pairwise(EXPERTS)
    ]
    choosers = [(learned(number), hashed(number)) for number in EXPERTS]
    return {f"{a} minus {b}": (a, b) for a, b in against_twin + grown + choosers}


def declared(name: str, corpus: Corpus) -> dict[str, Any]:
    """What an arm is before any training."""
    arm = arms()[name]
    trainer = arm.trainer(corpus, Setting(1), GRID[0], 0)
    experts = arm.experts
    return {
        "kind": arm.family,
        "experts": experts and experts.num_experts,
        "top_k": experts and experts.top_k,
        "width": experts.d_expert if experts else arm.width,
        "parameters": trainer.model.num_parameters(),
        "active_parameters": trainer.model.num_active_parameters(),
        "ffn_active_share": experts.top_k / experts.num_experts if experts else 1.0,
        "gigaflops_per_step": round(trainer.flops_per_step / 1e9, 4),
    }


def train(name: str, setting: Setting, rate: float, seed: int) -> Figures | None:
    """Train one arm to the end; None where training diverges."""
    run = run_arm(arms()[name], setting, rate, seed)
    if run is None:
        return None
    trainer, curve = run
    final = trainer.evaluate(FINAL_WINDOWS, part="reserve")
    windows = trainer.corpus.windows(
        "reserve", seq_len=trainer.config.seq_len, windows_per_domain=FINAL_WINDOWS
    )
    return {
        "loss": final.loss,
        "accuracy": quality(trainer.model, windows.tokens).accuracy,
        "domain_loss": final.domain_loss.tolist(),
        "curve": curve,
        **balance_figures(trainer, final),
    }


def unigram(corpus: Corpus, seq_len: int) -> float:
    """Nats a token of the same held-out windows, from how often each token stands in the text of
    training, where every domain is drawn as often."""
    windows = corpus.windows("reserve", seq_len=seq_len, windows_per_domain=FINAL_WINDOWS)
    held_out = windows.tokens[:, 1:].ravel()
    streams = [corpus.tokens(domain) for domain in corpus.domains]
    size = max(int(held_out.max()), *(int(stream.max()) for stream in streams)) + 1
    seen_V = np.zeros(size)
    for stream in streams:
        seen_V += np.bincount(stream, minlength=size) * (max(map(len, streams)) / len(stream))
    return unigram_loss(seen_V, np.bincount(held_out, minlength=size))


def looked_for(part: Path, meta: dict[str, Any], tried: Losses) -> dict[str, Figures]:
    """The rates of all arms, further out where the best of those tried is an end of its grid."""
    every = arms()
    return settled_rates(
        tried,
        lambda name, rate: partial(try_rate, every[name], SHORT, rate),
        lambda runs: collect(part, meta, runs, len(GRID_SEEDS), lambda *_: None),
    )


def summary(
    facts: dict[str, dict[str, Any]], runs: dict[str, list[dict[str, Any] | None]]
) -> dict[str, Any]:
    """The arms with their figures over seeds, and all differences; an arm of which a seed diverged
    is left out."""
    whole = {arm: [run for run in seeds if run] for arm, seeds in runs.items() if all(seeds)}
    losses = {arm: [run["loss"] for run in seeds] for arm, seeds in whole.items()}
    compared = {
        name: (losses[a], losses[b])
        for name, (a, b) in pairs().items()
        if a in losses and b in losses
    }
    every: dict[str, Any] = {}
    for arm, seeds in whole.items():
        every[arm] = facts[arm] | {name: over([run[name] for run in seeds]) for name in seeds[0]}
        every[arm]["loss"] = mean_sd(losses[arm])
    return {"arms": every, "gaps": judged(compared)}


def record(
    path: Path, meta: dict[str, Any], setting: Setting, rates: dict[str, Figures], seeds: int,
    on_step: Progress,
) -> Figures:  # fmt: skip
    """Train every arm with every seed at its rate, and time a step of each; `path` is written again
    with each whole seed."""
    corpus, every = load_corpus(), arms()
    facts = {name: declared(name, corpus) for name in every}
    seq_len = every[TWIN].trainer(corpus, setting, GRID[0], 0).config.seq_len

    def write(results: dict[str, Any], seconds: dict[str, float]) -> Figures:
        table = summary(facts, results)
        for name, of_arm in table["arms"].items():
            of_arm["seconds_per_step"] = seconds.get(name)
        figures = {
            "steps": setting.steps,
            "seeds": list(range(len(results[TWIN]))),
            "curve_steps": setting.curve_steps,
            "unigram": round(unigram(corpus, seq_len), 4),
            "rates": rates,
            **table,
        }
        write_trained(path, meta, figures)
        return figures

    runs = {name: partial(train, name, setting, rates[name]["chosen"]) for name in every}
    part = path.with_suffix(".part")
    results = collect(part, meta, runs, seeds, on_step, lambda results: write(results, {}))
    figures = write(results, time_steps(every, lambda *_: None))
    return means(figures["arms"], "loss")


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Choose each arm's rate, train every arm with every seed, time a step of each;
    runs/frontier.json under `out` is written again with each whole seed."""
    path, every = out / "runs" / "frontier.json", arms()
    grid = {
        label(name, rate): partial(try_rate, arm, SHORT, rate)
        for name, arm in every.items()
        for rate in GRID
    }
    before = len(grid) * len(GRID_SEEDS)
    total = before + len(every) * seeds
    part = path.with_suffix(".part")
    tried = collect(part, meta, grid, len(GRID_SEEDS), lambda n, _: on_step(n, total))
    rates = looked_for(part, meta, tried)
    return record(path, meta, SETTING, rates, seeds, lambda n, _: on_step(before + n, total))
