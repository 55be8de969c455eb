"""DeepSeek's routers: experts in groups (one a node), and balance without a loss."""

from __future__ import annotations

from typing import Unpack

from moeviz.routing.balance import BiasRule
from moeviz.routing.gate import Basics
from moeviz.routing.token_choice import TokenChoice


class DeepSeekV2(TokenChoice):
    """DeepSeek-V2 (2405.04434): a token may use experts of its `top_groups` best groups only, so
    that it travels to few nodes; a group's score is that of its best expert. Weights are raw
    softmax scores times `scale`. The paper has 8 groups of 20 experts, 3 groups, K = 6."""

    title = "DeepSeek-V2"
    rule = "the K best of the better half of the groups"
    paper = "DeepSeek-AI 2024, 2405.04434"

    def __init__(
        self,
        *,
        num_groups: int | None = None,
        top_groups: int | None = None,
        scale: float = 1.0,
        **basics: Unpack[Basics],
    ) -> None:
        num_groups, top_groups = default_groups(basics, num_groups, top_groups)
        super().__init__(
            weighting="raw", scale=scale, num_groups=num_groups, top_groups=top_groups, **basics
        )


class DeepSeekV3(TokenChoice):
    """DeepSeek-V3 (2412.19437): sigmoid scores; a bias that steers the choice and no weight
    (auxiliary-loss-free balancing); a group's score is the sum of its two best; weights are
    renormalised over the chosen, times `scale`. The paper has 8 groups of 32 experts, 4 groups,
    K = 8. Its balancing loss, over each sequence, is a safeguard with a weight of 1e-4."""

    title = "DeepSeek-V3"
    rule = "as V2 on sigmoid scores, with a balancing bias"
    paper = "DeepSeek-AI 2024, 2412.19437"
    waits = "always"
    waits_for = "the number of sequences, which its loss needs"

    def __init__(
        self,
        *,
        num_groups: int | None = None,
        top_groups: int | None = None,
        scale: float = 2.5,
        bias: BiasRule = "sign",
        bias_rate: float = 1e-3,
        **basics: Unpack[Basics],
    ) -> None:
        num_groups, top_groups = default_groups(basics, num_groups, top_groups)
        super().__init__(
            score="sigmoid",
            scale=scale,
            bias=bias,
            bias_rate=bias_rate,
            num_groups=num_groups,
            top_groups=top_groups,
            group_score="top2" if num_groups > 1 else "max",
            scope="sequence",
            **basics,
        )


class QuantileBalanced(TokenChoice):
    """Sigmoid scores balanced by balance.QuantileBias (J. Su 2025): a bias without a step size."""

    title = "Quantile bias"
    rule = "K best sigmoid scores, with a balancing bias"
    paper = "J. Su 2025"

    def __init__(self, *, bias_rate: float = 1.0, **basics: Unpack[Basics]) -> None:
        super().__init__(
            score="sigmoid", bias="quantile", bias_rate=bias_rate, scope="none", **basics
        )


def default_groups(
    basics: Basics, num_groups: int | None, top_groups: int | None
) -> tuple[int, int]:
    """Four groups where they are of two experts or more (else one), and half of them, or as many
    more as K experts need."""
    num_experts, top_k = basics["num_experts"], basics["top_k"]
    if num_groups is None:
        num_groups = 4 if num_experts >= 8 and num_experts % 4 == 0 else 1
    if top_groups is None:
        needed = -(-top_k * num_groups // num_experts)
        top_groups = max(-(-num_groups // 2), needed)
    return num_groups, top_groups
