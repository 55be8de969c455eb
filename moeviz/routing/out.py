"""What a router says of one batch: logits, scores, the plan, losses and counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moeviz.routing.plan import Plan, SoftPlan


@dataclass(frozen=True)
class RouterStats:
    """Counts of one call, detached; what a router's rules between steps are made of.

    load: assignments each expert takes, int64 [E]; demand: those asked for, before any were
    dropped, int64 [E]; importance: summed scores, float [E]; entropy: mean over tokens of
    H(scores) / ln E, a scalar: 1 undecided, 0 certain; tokens: real tokens; capacity: slots in
    each expert's buffer, None where there is no limit; cut: float [E], whatever statistic of the
    scores the router's own rule asked for.
    """

    load: Tensor
    demand: Tensor
    importance: Tensor
    entropy: Tensor
    tokens: int
    capacity: int | None = None
    cut: Tensor | None = None


@dataclass(frozen=True)
class RouterOut:
    """All that a router says of one batch.

    logits, scores: float32 [T, E] (float64 where the input is); losses: unweighted scalars by name;
    "balance" is 1.0 where the load is even. bypass: float [T, D], what experts without an FFN add
    (null_experts.py), None where there are none.
    """

    logits: Tensor
    scores: Tensor
    plan: Plan | SoftPlan
    losses: dict[str, Tensor]
    stats: RouterStats
    bypass: Tensor | None = None

    @staticmethod
    def of(
        logits_TE: Tensor,
        scores_TE: Tensor,
        plan: Plan | SoftPlan,
        losses: dict[str, Tensor] | None = None,
        *,
        cut_E: Tensor | None = None,
        bypass_TD: Tensor | None = None,
    ) -> RouterOut:
        """With the counts of a plan of which nothing is dropped yet."""
        load_E, share_TE = plan.load().long(), scores_TE.detach()
        num_tokens, num_experts = share_TE.shape
        tiny = torch.finfo(share_TE.dtype).tiny
        share_TE = share_TE / share_TE.sum(-1, keepdim=True).clamp(min=tiny)
        entropy = -torch.xlogy(share_TE, share_TE).sum(-1).mean() / math.log(max(num_experts, 2))
        importance_E = scores_TE.detach().sum(0)
        stats = RouterStats(load_E, load_E, importance_E, entropy, num_tokens, cut=cut_E)
        return RouterOut(logits_TE, scores_TE, plan, losses or {}, stats, bypass_TD)
