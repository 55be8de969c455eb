"""Which rule makes a router's weights, told from what it did and not from what it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax over all experts": lambda logits: logits.softmax(-1),
    "sigmoid of each expert": torch.sigmoid,
    "square root of softplus": lambda logits: F.softplus(logits).sqrt(),
}
PROBABILITIES = "the router's own probabilities"
OWN = "a rule of its own"
OPEN = "a rule that these tokens do not tell"
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Rule:
    """How a layer weights its chosen experts.

    score: what the weights are made of; renormalised: whether a token's chosen scores are divided
    by their sum; scale: what they are then multiplied by; by_score: the share of tokens that visit
    the K experts of the highest scores. Less than 1 tells of a correction: a balancing bias, or a
    choice among groups of experts. after: what the layer multiplies the chosen experts' sum by.
    """

    score: str
    renormalised: bool
    scale: float
    by_score: float
    after: float = 1.0

    def __str__(self) -> str:
        after = "" if self.after == 1 else f", and the experts' sum times {self.after:.3g}"
        if self.score in (OWN, OPEN):
            return f"{self.score}{after}"
        kept = "the chosen divided by their sum" if self.renormalised else "the chosen as they are"
        times = "" if self.scale == 1 else f", times {self.scale:.3g}"
        return f"{self.score}, {kept}{times}{after}"


def rule_of(logits_TE: Tensor | None, expert_TK: Tensor, weight_TK: Tensor) -> tuple[Rule, Tensor]:
    """The simplest rule that gives these weights, and each expert's score by it, float32 [T, E],
    rows of sum 1. Where none gives them: the softmax of the logits, or, without logits, the
    weights themselves. A scale is fitted, so where the tokens are one or all alike several rules
    give their weights: then one without a scale is taken, and none where they all need one."""
    tolerance = TOLERANCE.get(weight_TK.dtype, 1e-4)
    served_TK, weight_TK = expert_TK >= 0, weight_TK.double()
    if logits_TE is None:
        num_experts = int(expert_TK.max()) + 1
        score_TE = torch.zeros(len(expert_TK), num_experts, dtype=torch.float64)
        score_TE.scatter_add_(1, expert_TK.clamp(min=0), weight_TK * served_TK)
        return Rule(OWN, False, 1.0, 1.0), _shares(score_TE)
    logits_TE = logits_TE.double()
    scores = {name: score(logits_TE) for name, score in SCORES.items()}
    if bool((logits_TE >= 0).all()) and bool(((logits_TE.sum(-1) - 1).abs() < 1e-2).all()):
        scores = {PROBABILITIES: logits_TE}
    by_score = _by_score(logits_TE, expert_TK, served_TK)
    rules: list[tuple[float, Rule]] = []
    for renormalised in (False, True):
        for name, score_TE in scores.items():
            made_TK = score_TE.gather(1, expert_TK.clamp(min=0)) * served_TK
            if renormalised:
                made_TK = made_TK / made_TK.sum(-1, keepdim=True).clamp(min=1e-20)
            scale = float(weight_TK.sum() / made_TK.sum().clamp(min=1e-20))
            error = float((made_TK * scale - weight_TK).norm() / weight_TK.norm().clamp(min=1e-20))
            if error < tolerance:
                scale = 1.0 if abs(scale - 1) < tolerance else scale
                rules.append((error, Rule(name, renormalised, scale, by_score)))
    plain = [(error, rule) for error, rule in rules if rule.scale == 1] or rules
    _, rule = min(plain, key=lambda one: one[0], default=(0.0, Rule(OWN, False, 1.0, by_score)))
    shown = scores.get(rule.score, next(iter(scores.values())))
    if rule.scale != 1 and len(rules) > 1:
        rule = Rule(OPEN, False, 1.0, by_score)
    return rule, _shares(shown)


def _by_score(logits_TE: Tensor, expert_TK: Tensor, served_TK: Tensor) -> float:
    """The share of fully served tokens whose experts are the K of the largest logits. Of equal
    logits, frequent in 16 bits, any may be chosen: logits are compared, not experts."""
    best_TK = logits_TE.topk(expert_TK.shape[1]).values
    chosen_TK = logits_TE.gather(1, expert_TK.clamp(min=0)).sort(-1, descending=True).values
    same_T = (best_TK == chosen_TK).all(-1)[served_TK.all(-1)]
    return float(same_T.double().mean()) if len(same_T) else 1.0


def _shares(score_TE: Tensor) -> Tensor:
    return (score_TE / score_TE.sum(-1, keepdim=True).clamp(min=1e-20)).float()
