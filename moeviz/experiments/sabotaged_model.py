"""The shipped model with one thing wrong: what 07_specialisation finds from outside.

Weights alone are changed, after the training; nothing else tells that anything is wrong.
"""

from __future__ import annotations

import copy

import torch

from moeviz.experiments.faults import CASES, NEGATED, REVERSED, Fault
from moeviz.model.transformer import LanguageModel


@torch.no_grad()
def sabotaged(model: LanguageModel, letter: str) -> LanguageModel:
    """A copy of the model with the fault of this letter."""
    spoilt = copy.deepcopy(model)
    spoil(spoilt, CASES[letter])
    return spoilt


@torch.no_grad()
def spoil(model: LanguageModel, fault: Fault) -> None:
    """Put a fault into the model itself; each of them, put in a second time, mends it."""
    ffn, experts = model.blocks[fault.layer].ffn, list(fault.experts)
    if fault.name == NEGATED:
        ffn.w2_EDF[experts] *= -1
    elif fault.name == REVERSED:
        ffn.router.weight_ED[experts] *= -1
    else:
        for weights in (ffn.w13_E2FD, ffn.w2_EDF):
            weights[experts] = weights[experts[::-1]]
