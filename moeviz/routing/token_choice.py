"""Token choice: every token picks its K best experts by softmax score."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeviz.routing.balance import load_balancing_loss, z_loss
from moeviz.routing.plan import Plan, RouteContext, RouterOut, RouterStats

Weighting = Literal["renormalise", "raw"]


def topk_lower_index(scores_TE: Tensor, k: int) -> Tensor:
    """Indices int64 [T, k] of the k largest scores, best first; of equal scores the lower index.

    torch.topk leaves ties open, and an open tie is a different route on another machine. So each
    float32 score becomes an integer key of the same order with the index in its low bits.
    """
    bits_TE = scores_TE.detach().float().contiguous().view(torch.int32)
    bits_TE = bits_TE.masked_fill(scores_TE == 0, 0)  # -0.0 equals 0.0, but not in its bits
    # Negative floats order backwards as integers: flip all their bits but the sign.
    ordered_TE = bits_TE ^ ((bits_TE >> 31) & 0x7FFFFFFF)
    num_experts = scores_TE.shape[1]
    lower_first_E = torch.arange(num_experts - 1, -1, -1, device=scores_TE.device)
    return ((ordered_TE.long() << 32) | lower_first_E).topk(k, dim=1).indices


class TokenChoice(nn.Module):
    """Softmax top-K routing (Shazeer et al. 2017; Mixtral, Jiang et al. 2024; OLMoE, 2024).

    1. logits_TE = x W^T in float32, scores_TE = softmax(logits_TE)
    2. expert_TK = the K largest scores of each token, ties to the lower index
    3. weight_TK = those scores, "raw" (a token's weights sum to less than 1: OLMoE) or
       "renormalise"d to sum to 1 (Mixtral; the same as a softmax over the K chosen logits)

    With K = 1, renormalised weights are all 1 and the router gets no gradient from the task.
    Losses: "balance" (Switch) and "z" (ST-MoE).
    """

    causal: ClassVar[bool] = True

    def __init__(
        self, *, d_model: int, num_experts: int, top_k: int, weighting: Weighting = "renormalise"
    ) -> None:
        super().__init__()
        if num_experts < 1:
            raise ValueError(f"num_experts must be at least 1, got {num_experts}.")
        if not 1 <= top_k <= num_experts:
            raise ValueError(
                f"top_k must lie in 1..{num_experts}, the number of experts, got {top_k}."
            )
        if weighting not in get_args(Weighting):
            raise ValueError(
                f"weighting must be one of {', '.join(get_args(Weighting))}, got {weighting!r}."
            )
        self.num_experts, self.top_k, self.weighting = num_experts, top_k, weighting
        self.weight_ED = nn.Parameter(torch.empty(num_experts, d_model))
        nn.init.normal_(self.weight_ED, std=0.02)

    def forward(self, x_TD: Tensor, context: RouteContext) -> RouterOut:
        # In float32 whatever the rest runs in: rounding logits to bf16 destabilises the softmax
        # (Switch Transformers, table 2).
        with torch.autocast(x_TD.device.type, enabled=False):
            logits_TE = F.linear(x_TD.float(), self.weight_ED.float())
            scores_TE = logits_TE.softmax(dim=-1)
            expert_TK = topk_lower_index(logits_TE, self.top_k)
            weight_TK = scores_TE.gather(1, expert_TK)
            if self.weighting == "renormalise":
                weight_TK = weight_TK / weight_TK.sum(dim=-1, keepdim=True)
            plan = Plan.from_topk(expert_TK, weight_TK, num_experts=self.num_experts)
            load_E = plan.load().long()
            return RouterOut(
                logits=logits_TE,
                scores=scores_TE,
                plan=plan,
                losses={
                    "balance": load_balancing_loss(scores_TE, load_E),
                    "z": z_loss(logits_TE),
                },
                stats=RouterStats(load_E, load_E, scores_TE.detach().sum(0)),
            )

    def post_step(self, stats: RouterStats) -> None:
        """Nothing to do: this router keeps no state between steps."""
