"""Losses on a router's scores: they are returned, unweighted, and added up by the trainer."""

from __future__ import annotations

import torch
from torch import Tensor


def load_balancing_loss(scores_TE: Tensor, load_E: Tensor) -> Tensor:
    """E * sum_e f_e P_e: f_e the share of assignments that expert e got, P_e its mean score.

    Switch Transformers (Fedus et al. 2021), eq. 4-6, with f normalised by all T*K assignments so
    that an even load gives 1.0 for every K. The gradient flows through P alone. 1.0 is the value
    at even load, not a minimum: P and f that lean different ways can go below it.
    """
    share_E = load_E.to(scores_TE.dtype) / load_E.sum().clamp(min=1)
    return scores_TE.shape[1] * (share_E * scores_TE.mean(0)).sum()


def z_loss(logits_TE: Tensor) -> Tensor:
    """mean_t logsumexp(logits_t)^2, which keeps router logits small (ST-MoE, Zoph et al. 2022,
    eq. 5). It bounds logits; it does not balance."""
    return torch.logsumexp(logits_TE, dim=-1).square().mean()
