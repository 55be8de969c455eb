"""Models that learned apart as experts of one; one set of experts for a text (4 minutes a seed).

Three dense models learn python, english and arithmetic, each a domain of its own, from one start
that has seen all three. Then they are put together (surgery.mix): as whole models, of which a
router picks or mixes by the first PROMPT tokens of a text; as experts of one MoE, whose other
weights are averaged (Branch-Train-MiX); as one model of averaged weights. Beside them stand one
dense model and one MoE that learned all three domains from the beginning. What would make this
unfair, and how it is closed:

1. Unequal compute. The controls train for as many FLOPs as all of Branch-Train-MiX: the start,
   three branches, and the training after they are put together. What others took is recorded as a
   share of that; whole models need no training together, and took less.
2. A head start. The dense control goes on from the same start, by the branches' recipe.
3. Cost of an answer. A mixture of whole models computes three models for every token, and a picked
   one computes one: FLOPs a token are recorded in models, and so are parameters held.
4. Another rate for each. The rates of the branches, of both controls and of the training together
   are the best of GRID, by validation loss with a seed of no final run; where that is an end of
   the grid, the next rate beyond it is tried too (rates.settled_rates). The start, which all but
   the MoE control share, has the rate that runs/routers.json chose.
5. A router that is told the answer. It never sees the name of a domain: it learns from what the
   models lose. The arm that is told stands beside it.
6. Foresight. Every choice is by the first PROMPT tokens, and every loss is of the tokens after
   them, "reserve" windows of all domains. "Best in hindsight" is no method, but a bound.
7. Luck. The seed draws weights, batches and routers; differences are paired, and verdicts hold for
   each table (Holm): domains that were learned, domains that nobody learned, pairs.

Not closed: the models are small, their domains lie far apart and repeat after 135 to 235 steps of a
branch; router and prompt have one size; the router learns from text that the branches have seen;
the start's rate falls before the branches begin, which hits all that go on from it.

runs/models_as_experts.json; {mean, sd, values} are over the seeds:
    seeds, prompt, seen, unseen; steps of each training; rates: by stage, as best_rate says
    arms: by name (records.models_as_experts): domains: loss by domain (a domain that was not
        learned has none where the arm must be told); seen, unseen: their means; training: share of
        the controls' FLOPs; answer: FLOPs a token over the dense model's; parameters
    matrix: loss of each model alone on every domain
    picked, by_prompt: shares of the windows of a domain for which each model is picked, by the
        router or by the prompt's loss; right: of windows of SEEN, the share for which that is the
        domain's model
    gaps: seen, unseen: each arm minus the dense control; pairs: of PAIRS; judged, a table each
    one_set: see experiments.one_set
    texts: of seed 0, what the models make of TEXTS (records.models_as_experts.MixedText)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress, one_set
from moeviz.experiments.models_measured import (
    TOGETHER,
    TOP_K,
    measured,
    moe_model,
    summary,
    windows,
)
from moeviz.experiments.rates import looked_for
from moeviz.experiments.recording import collect, small_model, write_trained
from moeviz.experiments.trained_apart import (
    RECORDED,
    SEQ_LEN,
    branches,
    common_start,
    read_text,
    routed,
    trained,
)
from moeviz.model.transformer import LanguageModel
from moeviz.records.models_as_experts import (
    DENSE_ALL,
    GATED,
    MOE_ALL,
    PROMPT,
    SEEN,
    SOUP,
    START,
    TEXTS,
    TUNED,
    UNSEEN,
)
from moeviz.surgery.mix import (
    as_experts,
    average,
    token_losses,
)
from moeviz.surgery.tune import tuned_router
from moeviz.text.corpus import load_corpus
from moeviz.text.tokenizer import Tokenizer

GRID = (4e-3, 8e-3, 16e-3)
GRID_SEED = 1000  # of no final run
# The stages that have rates; the last begins with models of the first.
APART, ALL, MOE, AFTER = "apart", "one dense model", "one MoE", "together"
# --- what is trained ------------------------------------------------------------------------------


def control_steps() -> dict[str, int]:
    """Steps of the controls: as many FLOPs as all of Branch-Train-MiX, the start included."""
    dense, moe = (model.flops_per_token(SEQ_LEN) for model in (small_model(None), moe_model()))
    flops = RECORDED.steps * dense + TOGETHER * moe
    return {DENSE_ALL: round(flops / dense) - RECORDED.start, MOE_ALL: round(flops / moe)}


def one_dense(start: LanguageModel, rate: float, seed: int) -> LanguageModel:
    corpus, steps = load_corpus().only(*SEEN), control_steps()[DENSE_ALL]
    return trained(start.config, corpus, steps, rate, seed + 100, start=start)


def one_moe(rate: float, seed: int) -> LanguageModel:
    corpus, steps = load_corpus().only(*SEEN), control_steps()[MOE_ALL]
    return trained(moe_model(), corpus, steps, rate, seed)


def tuned(mixed: LanguageModel, rate: float, seed: int) -> LanguageModel:
    """All of an MoE trained on all domains of SEEN, from the weights that it has."""
    corpus = load_corpus().only(*SEEN)
    return trained(mixed.config, corpus, TOGETHER, rate, seed + 200, start=mixed)


def loss_on(model: LanguageModel, *domains: str) -> float:
    """The validation loss after the prompt."""
    ids_WS = windows("validation", *domains)
    return float(token_losses(model, ids_WS)[:, PROMPT - 1 :].double().mean())


def try_apart(rate: float, _: int) -> float:
    models = branches(common_start(GRID_SEED, RECORDED.start), RECORDED.apart, rate, GRID_SEED)
    pairs = zip(models, SEEN, strict=True)
    return float(np.mean([loss_on(model, domain) for model, domain in pairs]))


def try_all(rate: float, _: int) -> float:
    start = common_start(GRID_SEED, RECORDED.start)
    return loss_on(one_dense(start, rate, GRID_SEED), *SEEN)


def try_moe(rate: float, _: int) -> float:
    return loss_on(one_moe(rate, GRID_SEED), *SEEN)


def try_after(apart: float, rate: float, _: int) -> float:
    """apart: the rate at which the models learned that are put together."""
    models = branches(common_start(GRID_SEED, RECORDED.start), RECORDED.apart, apart, GRID_SEED)
    mixed = as_experts(models, top_k=TOP_K, seed=GRID_SEED)
    return loss_on(tuned(mixed, rate, GRID_SEED), *SEEN)


def train_all(rates: dict[str, float], seed: int) -> dict[str, Any]:
    """Everything of one seed: losses by arm and domain, who was picked, and what the head lists."""
    start = common_start(seed, RECORDED.start)
    models = branches(start, RECORDED.apart, rates[APART], seed)
    apart = routed(start, models, RECORDED.texts, seed)
    mixed = as_experts(models, top_k=TOP_K, seed=seed)
    every = {
        START: start,
        SOUP: average(models),
        GATED: tuned_router(
            mixed, load_corpus().only(*SEEN), steps=TOGETHER, seq_len=SEQ_LEN, seed=seed + 200
        ),
        TUNED: tuned(mixed, rates[AFTER], seed),
        DENSE_ALL: one_dense(start, rates[ALL], seed),
        MOE_ALL: one_moe(rates[MOE], seed),
    }
    figures = measured(apart, every)
    if seed == 0:
        tokenizer = Tokenizer.default()
        figures["texts"] = {
            name: {"text": text} | read_text(apart, tokenizer, text).to_json()
            for name, text in TEXTS.items()
        }
    return figures


# --- all runs -------------------------------------------------------------------------------------


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Choose the rates, train everything with every seed; write runs/models_as_experts.json."""
    part = out / "runs" / "models_as_experts.part"
    tries: dict[str, Callable[[float, int], float]] = {APART: try_apart, ALL: try_all, MOE: try_moe}
    first = len(GRID) * len(tries)
    before = first + len(GRID)
    total = before + seeds * (1 + len(one_set.runs()))
    rates = looked_for(
        part, meta, dict.fromkeys(tries, GRID), lambda stage, rate: partial(tries[stage], rate), 1,
        lambda done, _: on_step(done, total),
    )  # fmt: skip
    after = partial(try_after, rates[APART]["chosen"])
    rates |= looked_for(
        part, meta, {AFTER: GRID}, lambda _, rate: partial(after, rate), 1,
        lambda done, _: on_step(first + done, total),
    )  # fmt: skip
    chosen = {stage: found["chosen"] for stage, found in rates.items()}
    runs = {"all": partial(train_all, chosen), **one_set.runs()}
    results = collect(part, meta, runs, seeds, lambda done, _: on_step(before + done, total))
    figures = {
        "seeds": list(range(seeds)),
        "prompt": PROMPT,
        "seen": SEEN,
        "unseen": UNSEEN,
        "steps": {"start": RECORDED.start, "apart": RECORDED.apart, "together": TOGETHER}
        | control_steps(),
        "rates": rates,
        **summary(results["all"]),
        "one_set": one_set.summary(results),
    }
    write_trained(out / "runs" / "models_as_experts.json", meta, figures)
    return {name: arm["seen"]["mean"] for name, arm in figures["arms"].items()}
