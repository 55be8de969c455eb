"""Exercises 04.6 and 04.7: what is wrong with a layer, seen from its figures; and one to mend."""

from __future__ import annotations

from typing import Any

from moeviz.exercises.answers import as_names
from moeviz.exercises.exercise import exercise
from moeviz.exercises.sabotaged_layers import (
    DETACHED,
    FOLDED,
    SABOTAGED,
    SIGN,
    STALE,
    TOKENS,
    UNSCALED,
)
from moeviz.exercises.weight_matrix import chosen_weights, package_weights

# Which figure speaks against each fault where it is not there.
AGAINST = {
    DETACHED: "detached weights leave the output at the start as large as the healthy layer's, and "
    "the gate without a gradient of the task.",
    FOLDED: "with the bias in its weights its output would change when all biases rise alike.",
    SIGN: "with the wrong sign its load would be far less even than the healthy layer's.",
    TOKENS: "with a softmax over tokens the earlier outputs would change with the later tokens.",
    STALE: "if it looked at old tokens, every place would keep its experts, whatever token came.",
    UNSCALED: "two experts' outputs added up without weights are larger than the healthy layer's.",
}


@exercise(
    "04.6",
    "Compare each column with the healthy one, row by row. Which row differs most?",
    "Ask of each fault which figure it must change, and which it cannot. A layer may train well "
    "and still be wrong.",
    difficulty=3,
    minutes=12,
    asks='a dictionary {"A": name, ..., "E": name}, or the five names in order',
    solution=repr(SABOTAGED),
    praise="B is the one that no loss curve shows: its bias, meant for the choice alone, changes "
    "what the experts say.",
)
def diagnosis(answer: Any) -> str | None:
    if isinstance(answer, list | tuple) and len(answer) == len(SABOTAGED):
        answer = dict(zip(SABOTAGED, answer, strict=True))
    if not isinstance(answer, dict) or {*map(str, answer)} != {*SABOTAGED}:
        return 'the answer is a dictionary with a name for each of "A" to "E".'
    for letter, fault in SABOTAGED.items():
        names = as_names(answer[letter], AGAINST)
        if isinstance(names, str):
            return f"{letter}: {names}"
        if len(names) != 1:
            return f"{letter} has one fault."
        if names[0] != fault:
            return f"{letter} is not '{names[0]}': {AGAINST[names[0]]}"
    return None


# 04.7: the layer B.

BEGUN = """
def route(x_TD, gate_ED, bias_E, top_k):
    score_TE = (x_TD @ gate_ED.T).softmax(-1)
    best_TK, expert_TK = (score_TE + bias_E).topk(top_k)
    return expert_TK, best_TK / best_TK.sum(-1, keepdim=True)
""".strip()


@exercise(
    "04.7",
    "topk returns two things. Which of them may know the bias?",
    "The experts are found with the bias; their weights come from the scores without it.",
    difficulty=2,
    minutes=5,
    asks="a function route(x_TD, gate_ED, bias_E, top_k)",
    solution="""
def route(x_TD, gate_ED, bias_E, top_k):
    score_TE = (x_TD @ gate_ED.T).softmax(-1)
    expert_TK = (score_TE + bias_E).topk(top_k).indices
    best_TK = score_TE.gather(1, expert_TK)
    return expert_TK, best_TK / best_TK.sum(-1, keepdim=True)
""".strip(),
    praise="Choice and weights are those of the package's router with a bias.",
    start=BEGUN,
)
def mended(answer: Any) -> str | None:
    import torch

    from moeviz.routing import build_router

    for num_experts, top_k in ((8, 2), (6, 3), (9, 4)):
        random = torch.Generator().manual_seed(num_experts)
        x_TD = torch.randn(20, 16, generator=random)
        router = build_router(
            "token_choice", d_model=16, num_experts=num_experts, top_k=top_k, bias="sign"
        )
        gate_ED = router.weight_ED
        gate_ED.data = 0.2 * torch.randn(num_experts, 16, generator=random)
        router.bias.bias_E.copy_(0.2 * torch.randn(num_experts, generator=random))
        given = answer(x_TD, gate_ED, router.bias.bias_E.clone(), top_k)
        found_TE = chosen_weights(given, len(x_TD), num_experts, top_k)
        wanted_TE = package_weights(router, x_TD)
        if torch.allclose(found_TE, wanted_TE, atol=1e-5):
            if not found_TE.requires_grad:
                return "the weights carry no gradient, so this router could not learn."
            continue
        case = f"with {num_experts} experts and K = {top_k}"
        if not torch.equal(found_TE != 0, wanted_TE != 0):
            unbiased_TK = (x_TD @ gate_ED.T).topk(top_k).indices
            if (found_TE.gather(1, unbiased_TK) != 0).all():
                return f"{case} the choice ignores the bias: then nothing balances the load."
            return f"{case} the experts are not those with the largest score plus bias."
        if not torch.allclose(found_TE.sum(1), torch.ones(len(x_TD)), atol=1e-4):
            return f"{case} the weights of a token do not sum to 1: renormalise them."
        return f"{case} the experts are right, and their weights are not those of the scores alone."
    return None
