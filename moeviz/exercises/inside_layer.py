"""Exercises of 02_inside_a_layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.exercises.exercise import exercise, name_asked


@exercise(
    "02.1",
    "Renormalised weights keep their ratio and sum to 1.",
    "By which number must both be divided, so that they sum to 1?",
    difficulty=1,
    minutes=2,
    asks="a list of two numbers",
    solution="[0.5 / 0.8, 0.3 / 0.8]",
    praise="The ratio stays, the sum becomes 1.",
)
def renormalised(answer: Any) -> str | None:
    try:
        weight_K = np.asarray(answer, dtype=float)
    except (TypeError, ValueError):
        return "the answer is a list of two numbers."
    if weight_K.shape != (2,):
        return f"the answer is a list of two numbers, this has shape {weight_K.shape}."
    if np.allclose(weight_K, [0.625, 0.375], atol=6e-3):  # two digits are enough
        return None
    if np.allclose(weight_K, [0.5, 0.3], atol=1e-3):
        return "those are the raw weights, which sum to 0.8."
    if np.allclose(weight_K, [0.375, 0.625], atol=6e-3):
        return "the better expert comes first."
    if not np.isclose(weight_K.sum(), 1, atol=6e-3):
        return f"renormalised weights sum to 1, these to {weight_K.sum():.3f}."
    ratio = weight_K[0] / weight_K[1] if weight_K[1] else np.inf
    return f"they sum to 1, but the first is {ratio:.2f} times the second; 0.5 is 1.67 times 0.3."


name_asked(
    "02.2",
    "raw",
    {
        "renormalise": "with K = 1 a renormalised weight is score / score = 1, whatever the router "
        "says.",
    },
    "What is the one weight, in each case, as a function of the logits?",
    "A weight that is always the same number has no gradient.",
    difficulty=2,
    minutes=2,
    asks='"raw" or "renormalise"',
    solution='"raw"',
    praise="Switch Transformers, whose K is 1, keep the raw probability.",
)


BEGUN = """
class TopKRouter(torch.nn.Module):
    def __init__(self, d_model, num_experts, top_k):
        super().__init__()
        self.gate = torch.nn.Linear(d_model, num_experts, bias=False)
        self.top_k = top_k

    def forward(self, x_TD):
        score_TE = self.gate(hidden).softmax(-1)
        best_TK, expert_TK = score_TE.topk(self.top_k)
        return expert_TK, best_TK / best_TK.sum(-1, keepdim=True)
""".strip()


@exercise(
    "02.3",
    "Which tensors does each line of forward read?",
    "One of them is neither an argument nor made from one.",
    difficulty=2,
    minutes=5,
    asks="a class TopKRouter",
    solution=BEGUN.replace("hidden", "x_TD"),
    praise="It routes whatever it is given.",
    start=BEGUN,
)
def router_class(answer: Any) -> str | None:
    import torch

    if not (isinstance(answer, type) and issubclass(answer, torch.nn.Module)):
        return "the answer is a class of torch.nn.Module, not an instance."
    torch.manual_seed(0)
    for seed, (num_experts, top_k) in enumerate([(5, 2), (6, 3)]):
        router = answer(8, num_experts, top_k)
        x_TD = torch.randn(7, 8, generator=torch.Generator().manual_seed(seed))
        out = router(x_TD)
        if not (isinstance(out, tuple) and len(out) == 2):
            return "forward must return (expert_TK, weight_TK)."
        expert_TK, weight_TK = out
        if tuple(expert_TK.shape) != (7, top_k) or tuple(weight_TK.shape) != (7, top_k):
            return (
                f"for 7 tokens and K = {top_k} both must be [7, {top_k}], got "
                f"{list(expert_TK.shape)} and {list(weight_TK.shape)}: is the router looking at "
                "its own arguments?"
            )
        score_TE = router.gate(x_TD).softmax(-1)
        best_TK, choice_TK = score_TE.topk(top_k)
        if not torch.equal(expert_TK, choice_TK):
            return f"these are not the {top_k} best experts of the tokens it was given."
        if not torch.allclose(weight_TK, best_TK / best_TK.sum(-1, keepdim=True), atol=1e-5):
            return "the weights must be the chosen scores, renormalised to sum to 1."
        if not weight_TK.requires_grad:
            return "the weights carry no gradient, so this router could not learn."
    return None
