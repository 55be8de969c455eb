"""How much each expert is worth keeping, float64 [L, E]: the larger, the sooner it is kept.

Values are compared within a layer. `seen`: what calibration.look saw of the L MoE layers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from moeviz.checks import LARGEST_SEED, check_whole
from moeviz.model.transformer import LanguageModel
from moeviz.surgery.calibration import Seen, check_experts, mean_loss


def load(seen: Sequence[Seen]) -> np.ndarray:
    """The share of the assignments that each expert takes."""
    visits_LE = np.array([layer.visits.sum(0).numpy() for layer in seen], np.float64)
    return visits_LE / visits_LE.sum(1, keepdims=True)


def reap(seen: Sequence[Seen], *, renormalised: bool = True) -> np.ndarray:
    """REAP (Lasby et al. 2025, 2510.13999): S_j is the mean of g_j(x) |f_j(x)| over the tokens x
    that visit expert j; an expert that no token visits has 0.

    g is the router's score: first as the paper's code had it, over all experts; renormalised (as
    the code has it since March 2026) over the K that the token visits, as a model weights them
    whose weights sum to 1. A bias that only steers the choice is no part of it.
    """
    return np.array([_reap(layer, renormalised) for layer in seen])


def _reap(seen: Seen, renormalised: bool) -> np.ndarray:
    gate_TE = seen.score.double() * seen.visits
    if renormalised:
        gate_TE = gate_TE / gate_TE.sum(1, keepdim=True)
    norm_TE = torch.linalg.vector_norm(seen.output.double(), dim=-1).T
    visits_E = seen.visits.sum(0)
    return ((gate_TE * norm_TE).sum(0) / visits_E.clamp(min=1)).numpy()


def ablation(model: LanguageModel, ids_GS: Tensor) -> np.ndarray:
    """The rise of the loss on a text, nats per token, when this expert alone is taken out and its
    tokens take their next best. Below 0 where the model is better off without it.

    ids_GS: token ids, int64 [G, S]. ValueError as calibration.check_experts, and for a model whose
    tokens need all of its experts.
    """
    check_experts(model)
    whole, rise_LE = mean_loss(model, ids_GS), []
    for layer, router in model.routers().items():
        for expert in range(router.num_experts):
            without = copy.deepcopy(model)
            without.routers()[layer].kill(expert)
            rise_LE.append(mean_loss(without, ids_GS) - whole)
    return np.reshape(rise_LE, (len(model.config.moe_layers), -1))


def chance(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Values drawn at random: what any choice must beat."""
    check_whole("seed", seed, low=0, high=LARGEST_SEED)
    return np.random.default_rng(seed).random(shape)
