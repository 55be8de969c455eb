"""Balancing, in parts to combine: losses on a router's scores, and bias rules between steps.

Losses are returned, unweighted, and added up by the trainer.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from moeviz.checks import check_choice, check_number
from moeviz.ops import count
from moeviz.routing.base import groups_of
from moeviz.routing.out import RouterStats

Scope = Literal["sequence", "batch", "none"]
BiasRule = Literal["none", "sign", "quantile"]


def load_balancing_loss(scores_TE: Tensor, load_E: Tensor) -> Tensor:
    """E * sum_e f_e P_e: f_e the share of assignments that expert e got, P_e its mean score.

    Switch Transformers (Fedus et al. 2021), eq. 4-6, with f normalised by all T*K assignments so
    that an even load gives 1.0 for every K. The gradient flows through P alone. 1.0 is the value
    at even load, not a minimum: P and f that lean different ways can go below it.
    """
    share_E = load_E.to(scores_TE.dtype) / load_E.sum().clamp(min=1)
    return scores_TE.shape[1] * (share_E * scores_TE.mean(0)).sum()


def sequence_balancing_loss(
    scores_TE: Tensor, chosen_TE: Tensor, sequence_T: Tensor | None
) -> Tensor:
    """The load-balancing loss of every sequence by itself, averaged (DeepSeek-V3, 2412.19437,
    eq. 17-20). It asks every single text to use all experts, and so erases experts for topics.

    chosen_TE: how often each token chose each expert.
    """
    group_T, num_groups = groups_of(sequence_T, len(scores_TE), scores_TE.device)
    shape = (num_groups, scores_TE.shape[1])
    load_GE = scores_TE.new_zeros(shape).index_add(0, group_T, chosen_TE.to(scores_TE.dtype))
    score_GE = scores_TE.new_zeros(shape).index_add(0, group_T, scores_TE)
    share_GE = load_GE / load_GE.sum(1, keepdim=True).clamp(min=1)
    tokens_G = count(group_T, num_groups)[:, None]
    return shape[1] * (share_GE * score_GE / tokens_G).sum(1).mean()


def z_loss(logits_TE: Tensor) -> Tensor:
    """mean_t logsumexp(logits_t)^2, which keeps router logits small (ST-MoE, Zoph et al. 2022,
    eq. 5). It bounds logits; it does not balance."""
    return torch.logsumexp(logits_TE, dim=-1).square().mean()


def cv_squared(values_E: Tensor) -> Tensor:
    """(standard deviation / mean)^2, with the sample variance: 0 when even (Shazeer et al. 2017,
    eq. 7 and 11). 0 for a single expert."""
    if values_E.numel() < 2:
        return values_E.new_zeros(())
    return values_E.var() / values_E.mean().square().clamp(min=1e-10)


class Bias(nn.Module):
    """A bias per expert that enters the choice and never the weight, and how steps change it."""

    bias_E: Tensor

    def __init__(self, num_experts: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("bias_E", torch.zeros(num_experts))

    def cut(self, scores_TE: Tensor, top_k: int) -> Tensor | None:
        """The statistic of the scores, [E], that its update goes by, if any."""
        return None

    def update(self, stats: RouterStats) -> None:
        raise NotImplementedError


class SignBias(Bias):
    """After each step b += rate * sign(mean count - count) (Wang et al. 2024, "Auxiliary-loss-free
    load balancing").

    The counts are those of the step before, so the rule is causal. rate is 1e-3 in the paper, for
    runs of 10^5 steps; a run of some hundred steps needs 1e-2.
    """

    def update(self, stats: RouterStats) -> None:
        count_E = stats.demand.to(self.bias_E.dtype)
        self.bias_E.add_(self.rate * torch.sign(count_E.mean() - count_E))


class QuantileBias(Bias):
    """A bias without a step size: the one under which the batch just seen would have been even
    (quantile balancing, J. Su 2025).

    1. a_t = the (K+1)-th largest of s_te + b_e: what an expert must beat to be chosen by token t
    2. b_e -= the (q+1)-th largest over t of s_te + b_e - a_t, q = K T / E: then q tokens choose e
    rate 1 takes the whole correction, less averages it over steps.
    """

    def cut(self, scores_TE: Tensor, top_k: int) -> Tensor | None:
        num_tokens, num_experts = scores_TE.shape
        if top_k == num_experts:
            return torch.zeros_like(self.bias_E)  # every expert is chosen whatever the bias
        biased_TE = scores_TE.detach() + self.bias_E
        bar_T = biased_TE.topk(top_k + 1, dim=1).values[:, -1:]
        rank = min(top_k * num_tokens // num_experts, num_tokens - 1)
        return (biased_TE - bar_T).topk(rank + 1, dim=0).values[-1]

    def update(self, stats: RouterStats) -> None:
        assert stats.cut is not None
        self.bias_E.sub_(self.rate * stats.cut.to(self.bias_E.dtype))


def build_bias(rule: BiasRule, num_experts: int, rate: float) -> Bias | None:
    """The bias rule by name; ValueError on an unknown one or a rate that is not positive."""
    if rule == "none":
        return None
    check_choice("bias", rule, get_args(BiasRule))
    check_number("bias_rate", rate, open_low=True)
    return SignBias(num_experts, rate) if rule == "sign" else QuantileBias(num_experts, rate)
