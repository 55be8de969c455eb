"""What a small model loses when its experts are quantised, factored, pruned or merged (3 minutes
a seed).

Each seed trains the shipped model's configuration, STEPS steps, under each of REGIMES, and then
compresses its routed experts by every one of RECIPES; everything else stays in float32. Nothing is
trained afterwards, but for the router in TUNED.

What would make this unfair, and what is done about it
1. Bytes: recipes are compared at equal bytes of the routed experts, as a share of what they take at
   16 bits a weight: half (INT8, low rank, 4 of 8 experts), and a quarter (INT4, low rank, 2 of 8).
   INT4 and INT8 carry their scales (25.8 and 50.8 %); low rank takes the largest ranks that fit.
2. Text: experts are chosen, clustered and calibrated on validation text; the router is tuned on
   training text in an order of its own; every figure is of the reserve, which no choice has seen.
3. Calibration: pruning and merging read text and plain rounding does not, which favours them. Low
   rank is there both ways.
4. Luck: pruning by chance is the mean of DRAWS draws of each seed.
5. Tuning the router trains the model longer. The whole model gets the same tuning, and its gain is
   taken off.
6. Balancing: the regimes differ in how the router is balanced alone. Scores stay a softmax, the
   z-loss stays on, seeds have the same start and batches.
   "batch" is what ships. "sequence" asks every single text to use all experts, so that they have no
   topics. "bias" balances the load without a loss that pulls at the scores.
Not closed: no regime without any balancing; short training (the model that ships, trained ten times
as long, stands beside it, one run); one size of model (3 layers, 8 experts, top-2), a loss and no
task; one shape of low rank (gate and up projection as one matrix), rounding without calibration
(GPTQ, AWQ), and factors computed in float32 though counted at 16 bits (bf16 costs experts 0.0001,
runs/quantised.json).

What decides, written down before the first run: verdicts of records.compare over paired seeds, in
the regime "batch" unless told otherwise; every table is corrected for all of its comparisons.
    a criterion is worth it   with 4 experts kept its loss is lower than that of chance
    REAP beats load           with 4 kept lower, with 6 and 2 not higher
    renormalising helps REAP  with 4 kept lower than its first form
    merging beats pruning     with 4 kept one of MERGES is lower than pruning by REAP, and with 6 it
                              is not higher
    tuning the router mends   it takes away half of what pruning to 4 by REAP costs, or more, and
                              more than it gives the whole model, with a verdict
    quantise, do not prune    INT4, with a quarter of the bytes, has a lower loss than every recipe
                              with half of them but INT8
    balancing decides         in another regime pruning to 4 by REAP costs more or less than under
                              "batch", by a tenth of it at least, and with a verdict

runs/compression.json: steps; domains_of_text; shares: of the bytes, by recipe and amount;
regimes: by name, figures over seeds:
    unpacked   the held-out loss of the model as it was trained, nats per token
    recipes    by recipe and amount, the rise of that loss; under "batch" {"loss", "domains"}
    balance    see recording.balance_figures
    errors     by layer, as shares of the mean square of its output: what it costs to save one
               expert; means over all pairs of experts. "mixture": merge.mixture_errors; "merged",
               "matched": merge.merge_errors without and with neurons matched; "pruned": the cheaper
               of the two taken out
    alike      mean over layers of Spearman's correlation of every criterion with "ablation"
judged: tables of paired differences, by recipe and amount: "chance", "load", "merging", "bytes"
(others minus INT4), "tuning"; and "regimes", by regime and recipe. claims: what of the above holds.
shipped: regimes' figures of the model that ships (one run of 4,000 steps), and by criterion the
"saliency", [L, E]
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moeviz.experiments import Progress
from moeviz.experiments.compression_claims import BATCH, TUNED, TUNED_WHOLE, claims, tables
from moeviz.experiments.quantised import by_domain
from moeviz.experiments.recipes import (
    ABLATION,
    CHANCE,
    FIRST_REAP,
    LOAD,
    REAP,
    RECIPES,
    SEQUENCES,
    Calibrated,
    share_kept,
)
from moeviz.experiments.recording import (
    balance_figures,
    collect,
    figures_over,
    recorded_model,
    write_trained,
)
from moeviz.experiments.start_here import MODEL, TRAINING
from moeviz.model.transformer import LanguageModel
from moeviz.surgery import merge
from moeviz.surgery.prune import subset_error
from moeviz.surgery.tune import tuned_router
from moeviz.text.corpus import load_corpus
from moeviz.training.trainer import Trainer

STEPS = 400
TUNE_STEPS = 100
DRAWS = 3
# Name -> options of the router. Softmax scores move by 0.01 a step under the bias: see router_arms.
REGIMES: dict[str, dict[str, Any]] = {
    BATCH: {},
    "sequence": {"scope": "sequence"},
    "bias": {"bias": "sign", "bias_rate": 0.01, "scope": "none"},
}

Figures = dict[str, Any]


def rises(calibrated: Calibrated, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """By recipe and amount, how far the loss of each domain rises, [domains]."""
    before_D = by_domain(calibrated.model, calibrated.corpus)

    def rise(recipe: str, amount: str) -> np.ndarray:
        draws = range(DRAWS * seed, DRAWS * (seed + 1)) if recipe == CHANCE else (seed,)
        each = [
            by_domain(calibrated.compressed(recipe, amount, draw), calibrated.corpus)
            for draw in draws
        ]
        return np.mean(each, 0) - before_D

    return {
        recipe: {amount: rise(recipe, amount) for amount in amounts}
        for recipe, amounts in RECIPES.items()
    }


def tuned_rises(calibrated: Calibrated, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """As rises, with the router tuned: of the model that kept 4 experts, and of the whole one."""
    before_D = by_domain(calibrated.model, calibrated.corpus)

    def rise(model: LanguageModel) -> np.ndarray:
        batches = 1000 + seed  # of no training
        tuned = tuned_router(model, calibrated.corpus, steps=TUNE_STEPS, seed=batches)
        return by_domain(tuned, calibrated.corpus) - before_D

    whole = str(calibrated.load_LE.shape[1])
    return {
        TUNED: {"4": rise(calibrated.compressed(REAP, "4"))},
        TUNED_WHOLE: {whole: rise(calibrated.model)},
    }


def errors(calibrated: Calibrated) -> dict[str, list[float]]:
    """What saving one expert costs each layer's output; see the head of this file."""
    found: dict[str, list[float]] = {"mixture": [], "merged": [], "matched": [], "pruned": []}
    for seen in calibrated.seen:
        router, experts = calibrated.model.routers()[seen.layer], range(len(seen.output))
        output_TD = torch.einsum("te,etd->td", seen.weight, seen.output)
        square = float(output_TD.square().sum(1).mean())
        pairs = np.triu_indices(len(experts), 1)
        alone_E = [subset_error(router, seen, [e for e in experts if e != one]) for one in experts]
        for name, error_EE in (
            ("mixture", merge.mixture_errors(seen)),
            ("merged", merge.merge_errors(calibrated.model, seen, align=False)),
            ("matched", merge.merge_errors(calibrated.model, seen, align=True)),
            ("pruned", np.minimum.outer(alone_E, alone_E)),
        ):
            found[name].append(float(error_EE[pairs].mean()) / square)
    return found


def alike(calibrated: Calibrated) -> dict[str, float]:
    """How much each criterion orders the experts as ablation does: Spearman, mean over layers."""
    from scipy.stats import spearmanr

    found = {}
    for criterion in (LOAD, FIRST_REAP, REAP):
        pairs = zip(calibrated.saliency(criterion), calibrated.ablation_LE, strict=True)
        found[criterion] = float(np.mean([spearmanr(*pair).statistic for pair in pairs]))
    return found


def measured(calibrated: Calibrated, seed: int, *, whole: bool) -> Figures:
    """Figures of one model. whole: with domains, and with the router tuned."""
    found = rises(calibrated, seed) | (tuned_rises(calibrated, seed) if whole else {})

    def told(rise_D: np.ndarray) -> Any:
        mean = float(rise_D.mean())
        return {"loss": mean, "domains": rise_D.tolist()} if whole else mean

    return {
        "unpacked": float(by_domain(calibrated.model, calibrated.corpus).mean()),
        "recipes": {
            recipe: {amount: told(rise_D) for amount, rise_D in amounts.items()}
            for recipe, amounts in found.items()
        },
        "errors": errors(calibrated),
        "alike": alike(calibrated),
    }


def train(regime: str, seed: int) -> Figures:
    """Train once, and compress the model in every way."""
    corpus = load_corpus()
    assert MODEL.moe is not None
    moe = dataclasses.replace(MODEL.moe, options=MODEL.moe.options | REGIMES[regime])
    training = dataclasses.replace(TRAINING, steps=STEPS, seed=seed, validate_every=0)
    trainer = Trainer(dataclasses.replace(MODEL, moe=moe), training, corpus)
    for _ in trainer:
        pass
    evaluation = trainer.evaluate(SEQUENCES, part="reserve")
    balance = balance_figures(trainer, evaluation)
    calibrated = Calibrated(trainer.model.eval(), corpus)
    return measured(calibrated, seed, whole=regime == BATCH) | {"balance": balance}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Train under every regime with every seed; write runs/compression.json under `out`."""
    part = out / "runs" / "compression.part"
    arms = {regime: partial(train, regime) for regime in REGIMES}
    runs = collect(part, meta, arms, seeds, on_step)
    corpus = load_corpus()
    shipped = Calibrated(recorded_model()[0], corpus)
    regimes = {regime: figures_over(each) for regime, each in runs.items()}
    found = tables(runs)
    held = claims(found, regimes[BATCH]["recipes"][REAP]["4"]["loss"]["mean"])
    figures = {
        "steps": STEPS,
        "domains_of_text": list(corpus.domains),
        "shares": {
            recipe: {amount: round(share_kept(MODEL, recipe, amount), 4) for amount in amounts}
            for recipe, amounts in RECIPES.items()
        },
        "regimes": regimes,
        "judged": found,
        "claims": held,
        "shipped": _rounded(measured(shipped, 0, whole=True) | _saliencies(shipped)),
    }
    write_trained(out / "runs" / "compression.json", meta, figures)
    return held


def _saliencies(calibrated: Calibrated) -> Figures:
    criteria = (LOAD, ABLATION, FIRST_REAP, REAP)
    return {"saliency": {one: calibrated.saliency(one).tolist() for one in criteria}}


def _rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _rounded(value) for name, value in values.items()}
    if isinstance(values, list):
        return [_rounded(value) for value in values]
    return round(values, 4)
