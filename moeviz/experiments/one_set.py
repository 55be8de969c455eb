"""One set of experts for a whole text ("the activation beacon") beside a choice for every token.

The models of `experiment routers`: two of 16 experts at the fair scale, and the dense twin, at the
rates recorded there. What a router may look at is the point: a choice by the whole text has seen
the tokens that it is to foretell, so that only the one by the prompt can write; losses of all are
those of the tokens after the prompt.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moeviz.experiments.recording import figures_over, judged
from moeviz.experiments.router_arms import DENSE, MIXTRAL, Arm, Setting, arms
from moeviz.experiments.trained_apart import SEQ_LEN
from moeviz.host import read_figures
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.records.models_as_experts import BY_START, BY_TEXT, BY_TOKEN, NO_EXPERTS, PROMPT
from moeviz.routing import Plan
from moeviz.surgery.calibration import AT_ONCE
from moeviz.surgery.mix import token_losses
from moeviz.text.corpus import load_corpus
from moeviz.training.evaluation import FINAL_WINDOWS

STEPS = 500
PAIRS = (
    (BY_TOKEN, NO_EXPERTS), (BY_START, NO_EXPERTS), (BY_TEXT, NO_EXPERTS), (BY_START, BY_TOKEN),
    (BY_TEXT, BY_START),
)  # fmt: skip


def contestants() -> dict[str, Arm]:
    """Dense, and three ways to choose."""
    named = arms()
    prompted = MoEConfig(16, 2, 128, router="sequence_level", options={"prompt": PROMPT})
    return {
        NO_EXPERTS: named[DENSE],
        BY_TOKEN: named[MIXTRAL],
        BY_START: Arm("token choice", prompted),
        BY_TEXT: named["one set a sequence"],
    }


def train(name: str, seed: int) -> dict[str, Any]:
    """One of them at the end of its training: its loss, and how many experts a text meets."""
    arm = contestants()[name]
    rate = read_figures("routers")["rates"]["fair"][arm.family]["chosen"]
    trainer = arm.trainer(load_corpus(), Setting(STEPS), rate, seed)
    for _ in trainer:
        pass
    windows = load_corpus().windows("reserve", seq_len=SEQ_LEN, windows_per_domain=FINAL_WINDOWS)
    ids_BS = torch.from_numpy(windows.tokens)
    model = trainer.model
    figures: dict[str, Any] = {"loss": float(token_losses(model, ids_BS)[:, PROMPT - 1 :].mean())}
    return figures | ({} if arm.experts is None else {"experts_a_text": met(model, ids_BS[:, :-1])})


@torch.no_grad()
def met(model: LanguageModel, ids_BS: Tensor) -> float:
    """The experts of a layer that the tokens of one text visit together; mean of texts and
    layers."""
    counts = []
    with model.evaluating():
        for ids_bS in ids_BS.split(AT_ONCE):
            for route in model(ids_bS).routes:
                assert route is not None and isinstance(route.plan, Plan)
                text_N = route.plan.token.long() // ids_bS.shape[1]
                pairs = (text_N * route.plan.num_experts + route.plan.expert).unique()
                counts.append(len(pairs) / len(ids_bS))
    return float(np.mean(counts))


def runs() -> dict[str, Any]:
    """What is trained with every seed, by the name of its result."""
    return {f"one set, {name}": partial(train, name) for name in contestants()}


def summary(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """ "steps"; by contestant loss and experts_a_text; and "gaps" of PAIRS, judged as one table."""
    of = {name: results[f"one set, {name}"] for name in contestants()}
    loss = {name: [run["loss"] for run in seeds] for name, seeds in of.items()}
    gaps = judged({f"{a} minus {b}": (loss[a], loss[b]) for a, b in PAIRS})
    return {
        "steps": STEPS,
        "arms": {name: figures_over(seeds) for name, seeds in of.items()},
        "gaps": gaps,
    }
