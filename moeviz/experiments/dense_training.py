"""Trained dense, answering sparse (DS-MoE): what a mixture loses to top-K (3 minutes a seed).

A dense twin, a sparse model of 16 experts, and dense mixtures of 16 experts, STEPS steps each.
"narrow": all experts of a token together are as wide as the twin's FFN, so that the mixture has the
twin's parameters and FLOPs: DS-MoE's claim (Pan et al. 2024, 2404.05567) is that such a model keeps
up with the twin when 30 to 40 % of its parameters answer. "wide": the experts of the sparse model,
all of them trained for every token. Afterwards the same weights answer with the K best experts of a
token alone, K in CUTS; no training follows.

What would make the comparison unfair, and how it is closed:

1. How loud the FFN is at the start: the fair scale, for all (ModelConfig.ffn_scale).
2. How loud it is after a cut: the K weights are kept as they are ("raw", DS-MoE's sum over the K
   best), and divided by their sum ("renormalised"); both are recorded.
3. Losses. A mixture has DS-MoE's information loss or none. The weight that is best here is not
   known from the paper, so that 0.01 and 0.1 are both trained. The sparse model has the balancing
   loss, times 0.01.
4. One learning rate that suits one family: 16e-3 was the best of a grid for the dense twin, for
   token choice and for soft routers (`experiment routers`).
5. Choices made on what is reported: there are none; figures are of "reserve" windows.
6. Luck: models of one seed see the same batches, differences are paired. Each of the three tables
   of differences is corrected on its own (Holm).

Not closed: a step of the wide mixture costs 3.5 times the FLOPs of the others' at as many tokens;
DS-MoE's models are a thousand times larger, with 32 experts, and with experts in attention too.

runs/dense_training.json: "steps", "cuts", "arms" by name: each {parameters, gigaflops_per_step,
loss: as trained}; with experts also, each by K:
    active_parameters       of a token
    raw, renormalised       the loss; the sparse model has "renormalised" alone
    covered                 which share of its gate's weight a token's K best experts have
"minus_dense" by arm, rule and K: that loss minus the dense twin's. "rise" by mixture, rule and K:
that loss minus its own with all experts. "information" by K and weight of the information loss: the
loss of the narrow mixture, raw, minus that of the one without. Each is one table, judged
(recording.judged), its keys joined by ", ".
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch

from moeviz.experiments import Progress
from moeviz.experiments.killed_experts import losses
from moeviz.experiments.recording import (
    collect,
    figures_over,
    judged,
    means,
    small_model,
    write_trained,
)
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.text.corpus import Batch, load_corpus
from moeviz.training.config import TrainConfig
from moeviz.training.evaluation import FINAL_WINDOWS
from moeviz.training.trainer import Trainer

STEPS, RATE = 500, 16e-3
EXPERTS, TOP_K, WIDTH = 16, 2, 128
CUTS = (16, 8, 4, 2, 1)
DENSE, SPARSE = "dense", "sparse"
RULES = {"raw": "raw", "renormalised": "renormalise"}  # a token choice's weighting

Figures = dict[str, Any]


def mixture(width: int, information: float) -> MoEConfig:
    """Experts of this width that every token visits, with the information loss so weighted."""
    options = {"information_weight": information}
    return MoEConfig(EXPERTS, EXPERTS, width, router="dense_mixture", options=options)


NARROW = {0.0: "narrow, 0", 0.01: "narrow, 0.01", 0.1: "narrow, 0.1"}
WIDE = "wide, 0.1"
ARMS: dict[str, MoEConfig | None] = {
    DENSE: None,
    SPARSE: MoEConfig(EXPERTS, TOP_K, WIDTH),
    **{name: mixture(TOP_K * WIDTH // EXPERTS, weight) for weight, name in NARROW.items()},
    WIDE: mixture(WIDTH, 0.1),
}
MIXTURES = (*NARROW.values(), WIDE)


def answering(model: LanguageModel, top_k: int, weighting: str) -> LanguageModel:
    """The same weights where each token visits its top_k best experts alone, whose gate weights
    are "raw" or "renormalise"d."""
    moe = model.config.moe
    assert moe is not None
    # Nothing is trained any more, so weights that teach a gate nothing need no warning.
    options = {"weighting": weighting, "learning": "frozen"}
    moe = dataclasses.replace(moe, router="token_choice", top_k=top_k, options=options)
    with torch.random.fork_rng(devices=[]):
        cut = LanguageModel(dataclasses.replace(model.config, moe=moe))
    cut.load_state_dict(model.state_dict())
    return cut


@torch.no_grad()
def covered(model: LanguageModel, windows: Batch) -> dict[str, float]:
    """By K, the share of a token's gate weight that its K best experts have, mean over tokens and
    layers."""
    with model.evaluating():
        routes = model(torch.from_numpy(windows.tokens)[:, :-1]).routes
    scores_NE = torch.cat([route.scores for route in routes if route is not None])
    best_E = scores_NE.sort(descending=True).values.cumsum(-1).mean(0)
    return {str(k): float(best_E[k - 1]) for k in CUTS}


def train(arm: str, seed: int) -> Figures:
    """Train one arm, and let it answer with every K."""
    corpus, experts = load_corpus(), ARMS[arm]
    config = TrainConfig(steps=STEPS, seed=seed, learning_rate=RATE, validate_every=0, z_weight=0.0)
    trainer = Trainer(small_model(experts), config, corpus)
    for _ in trainer:
        pass
    model, length = trainer.model, config.seq_len
    windows = corpus.windows("reserve", seq_len=length, windows_per_domain=FINAL_WINDOWS)
    figures: Figures = {
        "parameters": model.num_parameters(),
        "gigaflops_per_step": trainer.flops_per_step / 1e9,
        "loss": float(losses(model, windows).mean()),
    }
    if experts is None:
        return figures
    rules = RULES if arm in MIXTURES else {"renormalised": RULES["renormalised"]}
    for rule, weighting in rules.items():
        cuts = {k: answering(model, k, weighting) for k in CUTS}
        figures[rule] = {str(k): float(losses(cut, windows).mean()) for k, cut in cuts.items()}
    figures["active_parameters"] = {str(k): cut.num_active_parameters() for k, cut in cuts.items()}
    some = corpus.windows("reserve", seq_len=length, windows_per_domain=8)
    return figures | {"covered": covered(model, some)}


def summary(runs: dict[str, list[Figures]]) -> Figures:
    """All arms over their seeds, and the three tables of differences."""
    dense = [run["loss"] for run in runs[DENSE]]
    cuts = {
        f"{arm}, {rule}, {k}": [run[rule][str(k)] for run in runs[arm]]
        for arm in (SPARSE, *MIXTURES)
        for rule in RULES
        if rule in runs[arm][0]
        for k in CUTS
    }

    def itself(label: str) -> list[float]:
        return [run["loss"] for run in runs[label.rsplit(", ", 2)[0]]]

    def with_loss(weight: float, k: int) -> tuple[list[float], list[float]]:
        return cuts[f"{NARROW[weight]}, raw, {k}"], cuts[f"{NARROW[0.0]}, raw, {k}"]

    weights = [weight for weight in NARROW if weight]
    return {
        "steps": STEPS,
        "seeds": list(range(len(dense))),
        "cuts": CUTS,
        "arms": {arm: figures_over(seeds) for arm, seeds in runs.items()},
        "minus_dense": judged({label: (values, dense) for label, values in cuts.items()}),
        "rise": judged(
            {
                label: (values, itself(label))
                for label, values in cuts.items()
                if not label.startswith(SPARSE) and not label.endswith(f", {EXPERTS}")
            }
        ),
        "information": judged(
            {f"{k}, {weight}": with_loss(weight, k) for k in CUTS for weight in weights}
        ),
    }


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Train every arm with every seed; write runs/dense_training.json under `out`, again with each
    whole seed."""

    def write(results: dict[str, list[Figures]]) -> Figures:
        figures = summary(results)
        write_trained(out / "runs" / "dense_training.json", meta, figures)
        return figures

    runs = {arm: partial(train, arm) for arm in ARMS}
    part = out / "runs" / "dense_training.part"
    figures = write(collect(part, meta, runs, seeds, on_step, write))
    return means(figures["arms"], "loss")
