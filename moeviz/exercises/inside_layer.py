"""Exercises of 02_inside_a_layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.exercises.exercise import exercise


@exercise(
    "02.1",
    "Divide each of the two by their sum.",
    "0.5 / (0.5 + 0.3) is the first.",
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
    if np.allclose(weight_K, [0.625, 0.375], atol=1e-3):
        return None
    if np.allclose(weight_K, [0.5, 0.3], atol=1e-3):
        return "those are the raw weights, which sum to 0.8."
    if np.allclose(weight_K, [0.375, 0.625], atol=1e-3):
        return "the better expert comes first."
    if not np.isclose(weight_K.sum(), 1, atol=1e-3):
        return f"renormalised weights sum to 1, these to {weight_K.sum():.3f}."
    return "they sum to 1, but their ratio is not that of 0.5 to 0.3."


@exercise(
    "02.2",
    "What is the one weight, in each case, as a function of the logits?",
    "A weight that is always 1 has no gradient.",
    solution="'raw'",
    praise="Switch Transformers keep the raw probability for this reason.",
)
def top_one(answer: Any) -> str | None:
    sentences = {
        "raw": None,
        "renormalise": "with K = 1 a renormalised weight is score / score = 1, whatever the router "
        "says.",
    }
    if isinstance(answer, str) and answer in sentences:
        return sentences[answer]
    return "the answer is 'raw' or 'renormalise'."


@exercise(
    "02.3",
    "Which tensor does each line of forward read? One of them is not an argument.",
    "Replace hidden, the notebook's global, by x_TD.",
    solution="# Inside the class:\n"
    "def forward(self, x_TD):\n"
    "    score_TE = self.gate(x_TD).softmax(-1)\n"
    "    best_TK, expert_TK = score_TE.topk(self.top_k)\n"
    "    return expert_TK, best_TK / best_TK.sum(-1, keepdim=True)",
    praise="It routes whatever it is given.",
)
def router_class(answer: Any) -> str | None:
    import torch

    if not (isinstance(answer, type) and issubclass(answer, torch.nn.Module)):
        return "the answer is a class of torch.nn.Module, not an instance."
    torch.manual_seed(0)
    router = answer(8, 5, 2)
    for seed in (1, 2):
        x_TD = torch.randn(7, 8, generator=torch.Generator().manual_seed(seed))
        out = router(x_TD)
        if not (isinstance(out, tuple) and len(out) == 2):
            return "forward must return (expert_TK, weight_TK)."
        expert_TK, weight_TK = out
        if tuple(expert_TK.shape) != (7, 2) or tuple(weight_TK.shape) != (7, 2):
            return (
                f"for 7 tokens both must be [7, 2], got {list(expert_TK.shape)} and "
                f"{list(weight_TK.shape)}: is the router looking at its own argument?"
            )
        score_TE = router.gate(x_TD).softmax(-1)
        best_TK, choice_TK = score_TE.topk(2)
        if not torch.equal(expert_TK, choice_TK):
            return "these are not the two best experts of the tokens it was given."
        if not torch.allclose(weight_TK, best_TK / best_TK.sum(-1, keepdim=True), atol=1e-5):
            return "the weights must be the chosen scores, renormalised to sum to 1."
    if router(x_TD)[1].grad_fn is None:
        return "the weights carry no gradient, so this router could not learn."
    return None
