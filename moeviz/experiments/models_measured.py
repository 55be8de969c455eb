"""What models that learned apart lose, put together in every way, and what each way costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from moeviz.experiments.recording import figures_over, judged, small_model
from moeviz.experiments.trained_apart import RECORDED, SEQ_LEN, Apart
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.records.models_as_experts import (
    ARMS,
    BY_PROMPT,
    DENSE_ALL,
    EVEN,
    GATED,
    HINDSIGHT,
    MIXED,
    MOE_ALL,
    ONE_SET,
    PICKED,
    PROMPT,
    SEEN,
    SOUP,
    START,
    TOLD,
    TUNED,
    UNSEEN,
)
from moeviz.surgery.mix import (
    as_experts,
    best_alone,
    by_prompt_loss,
    mixed_loss,
    send_all_to,
    token_losses,
)
from moeviz.text.corpus import load_corpus
from moeviz.training.evaluation import FINAL_WINDOWS

TOGETHER = 200  # steps after the models are put together as experts
BATCH = 16  # sequences of a step
TOP_K = 2
PAIRS = (
    (PICKED, TOLD), (MIXED, TOLD), (MIXED, PICKED), (MIXED, EVEN), (MIXED, BY_PROMPT),
    (TUNED, MIXED), (TUNED, ONE_SET), (TUNED, MOE_ALL),
)  # fmt: skip


def moe_model() -> ModelConfig:
    """What the three become as experts, and the MoE control."""
    return small_model(MoEConfig(len(SEEN), TOP_K, small_model(None).d_ff))


def windows(part: Any, *domains: str) -> Tensor:
    """Ids [W, SEQ_LEN + 1], as many of each domain."""
    corpus = load_corpus().only(*domains)
    found = corpus.windows(part, seq_len=SEQ_LEN, windows_per_domain=FINAL_WINDOWS)
    return torch.from_numpy(found.tokens)


@torch.no_grad()
def measured(apart: Apart, every: dict[str, LanguageModel]) -> dict[str, Any]:
    """Of one seed: loss by arm and domain, and what the head of this file calls matrix, picked,
    by_prompt and right. every: the arms that are one model."""
    domains = (*SEEN, *UNSEEN)
    ids_WS = windows("reserve", *domains)
    loss_MWS = apart.losses(ids_WS).double()
    after_MWS = loss_MWS[:, :, PROMPT - 1 :]
    router_WM = apart.router(ids_WS[:, :PROMPT]).double()
    prompt_WM = by_prompt_loss(loss_MWS[:, :, : PROMPT - 1])
    weights = {
        PICKED: best_alone(router_WM),
        MIXED: router_WM,
        BY_PROMPT: prompt_WM,
        EVEN: torch.full_like(router_WM, -float(np.log(len(SEEN)))),
        HINDSIGHT: best_alone(-after_MWS.mean(2).T),
    }
    losses = {name: mixed_loss(after_MWS, weight_WM) for name, weight_WM in weights.items()}
    losses |= {name: token_losses(m, ids_WS)[:, PROMPT - 1 :] for name, m in every.items()}
    losses[ONE_SET] = one_expert(apart, ids_WS, router_WM.argmax(1))[:, PROMPT - 1 :]
    by_domain = {name: _by_domain(loss_WS.mean(1)) for name, loss_WS in losses.items()}
    matrix = [_by_domain(loss_WS.mean(1)) for loss_WS in after_MWS]
    by_domain[TOLD] = [matrix[m][m] for m in range(len(SEEN))]
    picks = {"picked": router_WM.argmax(1), "by_prompt": prompt_WM.argmax(1)}
    shares = {
        name: [_by_domain((pick_W == m).double()) for m in range(len(SEEN))]
        for name, pick_W in picks.items()
    }
    right = {
        name: float(np.mean([share[m][m] for m in range(len(SEEN))]))
        for name, share in shares.items()
    }
    return {"loss": by_domain, "matrix": matrix, **shares, "right": right}


def one_expert(apart: Apart, ids_WS: Tensor, expert_W: Tensor) -> Tensor:
    """Losses [W, S] of the models as experts, untrained together: all tokens of a window visit the
    expert that is its own."""
    mixed = as_experts(apart.models, top_k=1, router="hash")
    loss_WS = torch.empty(len(ids_WS), ids_WS.shape[1] - 1)
    for expert in range(len(SEEN)):
        send_all_to(mixed, expert)
        own_W = expert_W == expert
        if own_W.any():
            loss_WS[own_W] = token_losses(mixed, ids_WS[own_W])
    return loss_WS


def _by_domain(value_W: Tensor) -> list[float]:
    """Means of as many windows each, in the order of SEEN and UNSEEN."""
    return value_W.view(-1, FINAL_WINDOWS).double().mean(1).tolist()


def costs() -> dict[str, dict[str, float]]:
    """Of every arm: training, answer and parameters, as the head of this file lists them."""
    config, moe = small_model(None), moe_model()
    dense, sparse = (model.flops_per_token(SEQ_LEN) for model in (config, moe))
    one, experts = (LanguageModel(model).num_parameters() for model in (config, moe))
    whole, n = len(SEEN) * one, len(SEEN)
    all_of = RECORDED.steps * dense + TOGETHER * sparse
    apart = RECORDED.steps * dense
    # The router of texts learned from what each model loses: a third of a training step's FLOPs.
    looked = n * RECORDED.texts * dense / (3 * BATCH)
    facts = {
        START: (RECORDED.start * dense, 1, one),
        TOLD: (apart, 1, whole),
        PICKED: (apart + looked, 1, whole),
        MIXED: (apart + looked, n, whole),
        BY_PROMPT: (apart, n, whole),
        EVEN: (apart, n, whole),
        HINDSIGHT: (apart, n, whole),
        SOUP: (apart, 1, one),
        ONE_SET: (apart + looked, 1, experts),
        GATED: (all_of, sparse / dense, experts),
        TUNED: (all_of, sparse / dense, experts),
        DENSE_ALL: (all_of, 1, one),
        MOE_ALL: (all_of, sparse / dense, experts),
    }
    return {
        name: {"training": round(flops / all_of, 3), "answer": round(answer, 3), "parameters": held}
        for name, (flops, answer, held) in facts.items()
    }


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """What the head of this file calls arms, matrix, picked, by_prompt, right, gaps and texts."""
    domains, known = (*SEEN, *UNSEEN), len(SEEN)
    loss = {name: np.array([run["loss"][name] for run in seeds]) for name in ARMS}
    facts = costs()
    arms: dict[str, Any] = {}
    for name, loss_ND in loss.items():
        columns = zip(domains, loss_ND.T, strict=False)
        by = {domain: figures_over(list(values)) for domain, values in columns}
        arms[name] = {"domains": by, "seen": figures_over(list(loss_ND[:, :known].mean(1)))}
        if loss_ND.shape[1] > known:
            arms[name]["unseen"] = figures_over(list(loss_ND[:, known:].mean(1)))
        arms[name] |= facts[name]

    def gap(where: str, a: str, b: str) -> tuple[list[float], list[float]]:
        return arms[a][where]["values"], arms[b][where]["values"]

    others = [name for name in ARMS if name not in (START, HINDSIGHT, DENSE_ALL)]
    gaps = {
        where: judged({n: gap(where, n, DENSE_ALL) for n in others if where in arms[n]})
        for where in ("seen", "unseen")
    }
    gaps["pairs"] = judged({f"{a} minus {b}": gap("seen", a, b) for a, b in PAIRS})
    over = {
        name: figures_over([run[name] for run in seeds])
        for name in ("matrix", "picked", "by_prompt", "right")
    }
    return {"arms": arms, **over, "gaps": gaps, "texts": seeds[0]["texts"]}
