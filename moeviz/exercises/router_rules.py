"""Exercises 03.5 to 03.7: token choice, expert choice and Sinkhorn's transport, each written from
nothing and compared with the package's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moeviz.exercises.exercise import Wrong, exercise
from moeviz.exercises.weight_matrix import chosen_weights, package_weights

if TYPE_CHECKING:
    from torch import Tensor

D_MODEL = 12


def _tokens_and_gate(num_tokens: int, num_experts: int) -> tuple[Tensor, Tensor]:
    """x_TD and gate_ED, always the same."""
    import torch

    random = torch.Generator().manual_seed(num_tokens)
    x_TD = torch.randn(num_tokens, D_MODEL, generator=random) + 0.5
    return x_TD, 0.5 * torch.randn(num_experts, D_MODEL, generator=random)


def _matrix(given: Any, like_TE: Tensor, what: str) -> Tensor:
    """A learner's result, where it is a matrix as large as the scores."""
    import torch

    if not isinstance(given, torch.Tensor) or given.shape != like_TE.shape:
        found = list(given.shape) if isinstance(given, torch.Tensor) else repr(given)
        raise Wrong(f"it must return {what}, a tensor {list(like_TE.shape)}, not {found}.")
    if not torch.isfinite(given).all():
        raise Wrong(f"{what} holds numbers that are not finite.")
    return given


# 03.5


@exercise(
    "03.5",
    "Three steps: scores by a softmax, the choice, the weights. Each has one line.",
    "The chosen scores sum to less than 1; divide them by their sum, token by token.",
    difficulty=2,
    minutes=8,
    asks="a function top_k_router(x_TD, gate_ED, top_k)",
    solution="""
def top_k_router(x_TD, gate_ED, top_k):
    score_TE = (x_TD @ gate_ED.T).softmax(-1)
    best_TK, expert_TK = score_TE.topk(top_k)
    return expert_TK, best_TK / best_TK.sum(-1, keepdim=True)
""".strip(),
    praise="It chooses and weighs as the package's token_choice, whatever E and K are.",
)
def top_k_router(answer: Any) -> str | None:
    import torch

    from moeviz.routing import build_router

    for num_tokens, num_experts, top_k in ((9, 5, 2), (14, 8, 3), (6, 16, 4), (7, 3, 3)):
        x_TD, gate_ED = _tokens_and_gate(num_tokens, num_experts)
        router = build_router("token_choice", d_model=D_MODEL, num_experts=num_experts, top_k=top_k)
        router.weight_ED.data = gate_ED
        wanted_TE = package_weights(router, x_TD)
        found_TE = chosen_weights(
            answer(x_TD, router.weight_ED, top_k), num_tokens, num_experts, top_k
        )
        if torch.allclose(found_TE, wanted_TE, atol=1e-5):
            if not found_TE.requires_grad:
                return "the weights carry no gradient, so this router could not learn."
            continue
        case = f"with {num_tokens} tokens, {num_experts} experts and K = {top_k}"
        if not torch.equal(found_TE != 0, wanted_TE != 0):
            return f"{case} some tokens do not get the {top_k} experts with the largest scores."
        score_TE = (x_TD @ gate_ED.T).softmax(-1)
        if torch.allclose(found_TE, score_TE * (wanted_TE != 0), atol=1e-5):
            return f"{case} the weights are raw scores: renormalise them to sum to 1."
        if not torch.allclose(found_TE.sum(1), torch.ones(num_tokens), atol=1e-4):
            return f"{case} the weights of a token sum to {found_TE[0].sum():.2f}, not to 1."
        return f"{case} the weights sum to 1, but not in the ratio of the scores."
    return None


# 03.6


@exercise(
    "03.6",
    "Each expert looks down its own column and takes its largest scores.",
    "topk has an argument for the dimension; a matrix of zeros and scatter put the scores back in "
    "their places.",
    difficulty=2,
    minutes=8,
    asks="a function each_expert_takes(scores_TE, capacity)",
    solution="""
def each_expert_takes(scores_TE, capacity):
    best_CE, token_CE = scores_TE.topk(capacity, dim=0)
    return torch.zeros_like(scores_TE).scatter(0, token_CE, best_CE)
""".strip(),
    praise="It is the package's expert_choice: every load is even, and nobody asked the tokens.",
)
def expert_choice(answer: Any) -> str | None:
    import torch

    from moeviz.routing import build_router

    for num_tokens, num_experts, top_k in ((12, 4, 1), (20, 5, 2), (9, 6, 2)):
        x_TD, gate_ED = _tokens_and_gate(num_tokens, num_experts)
        router = build_router(
            "expert_choice", d_model=D_MODEL, num_experts=num_experts, top_k=top_k
        )
        router.weight_ED.data = gate_ED
        wanted_TE = package_weights(router, x_TD)
        scores_TE = (x_TD @ router.weight_ED.T).softmax(-1)
        capacity = router.room(num_tokens)
        found_TE = _matrix(answer(scores_TE, capacity), scores_TE, "weight_TE")
        if torch.allclose(found_TE, wanted_TE, atol=1e-5):
            if not found_TE.requires_grad:
                return "the weights carry no gradient, so this router could not learn."
            continue
        case = f"with {num_tokens} tokens, {num_experts} experts and a capacity of {capacity}"
        load_E = (found_TE != 0).sum(0)
        if not (load_E == capacity).all():
            e = int((load_E != capacity).nonzero()[0])
            return f"{case} expert {e} takes {int(load_E[e])} tokens: do the experts choose?"
        if not torch.equal(found_TE != 0, wanted_TE != 0):
            return f"{case} the load is even, but an expert misses a token with a larger score."
        return f"{case} the right tokens are taken; their weights are the scores as they are."
    return None


# 03.7

TOLERANCE = 0.01  # of a row's or a column's sum


@exercise(
    "03.7",
    "Start from exp(logits). Divide each row by its sum; then scale each column to its share; then "
    "the rows again.",
    "A row's largest logit may be subtracted first: the division takes it out again, and exp stays "
    "finite. How many rounds are enough shows in the sums.",
    difficulty=3,
    minutes=12,
    asks="a function transport(logits_TE)",
    solution="""
def transport(logits_TE):
    num_tokens, num_experts = logits_TE.shape
    plan_TE = (logits_TE - logits_TE.amax(1, keepdim=True)).exp()
    for _ in range(200):
        plan_TE = plan_TE / plan_TE.sum(0) * num_tokens / num_experts
        plan_TE = plan_TE / plan_TE.sum(1, keepdim=True)
    return plan_TE
""".strip(),
    praise="Rows and columns have their sums, and the preferences of the tokens are kept: that is "
    "the optimal transport which the package's Sinkhorn router ranks by.",
)
def sinkhorn(answer: Any) -> str | None:
    import torch

    random = torch.Generator().manual_seed(0)
    for num_tokens, num_experts, lean, shift in (
        (12, 4, 1.0, 0),
        (30, 6, 2.0, 0),
        (8, 8, 0.5, 200),
    ):
        logits_TE = torch.randn(num_tokens, num_experts, generator=random)
        logits_TE[:, 0] += lean  # a favourite of all
        logits_TE += shift
        plan_TE = _matrix(answer(logits_TE.clone()), logits_TE, "the plan").double()
        if fault := _marginal_fault(plan_TE):
            return f"with {num_tokens} tokens and {num_experts} experts {fault}"
        if (plan_TE <= 0).any():
            return "every token keeps a positive share of every expert: nothing may be 0 or below."
        # The logarithm of u_t exp(logit) v_e, without the logit, is a sum of a row's and a
        # column's number: no more is left once both means are taken off.
        rest_TE = plan_TE.log() - logits_TE.double()
        rest_TE = rest_TE - rest_TE.mean(0)
        rest_TE = rest_TE - rest_TE.mean(1, keepdim=True)
        if rest_TE.abs().max() > 0.05:
            return (
                "the sums are right, but more was done to exp(logits) than to scale whole rows and "
                "whole columns: what the tokens prefer is lost."
            )
    return None


def _marginal_fault(plan_TE: Tensor) -> str | None:
    """Which sums are not what they must be."""
    num_tokens, num_experts = plan_TE.shape
    share = num_tokens / num_experts
    rows_T, columns_E = plan_TE.sum(1), plan_TE.sum(0)
    rows_wrong = (rows_T - 1).abs().max() > TOLERANCE
    columns_wrong = (columns_E / share - 1).abs().max() > TOLERANCE
    if abs(float(plan_TE.sum()) - 1) < TOLERANCE < num_tokens - 1:
        return "the whole plan sums to 1: here each row must, and each column to T / E."
    if rows_wrong and columns_wrong:
        return f"neither the rows sum to 1 nor the columns to T / E = {share:g}."
    if columns_wrong:
        e = int((columns_E - share).abs().argmax())
        return (
            f"the rows sum to 1, but column {e} to {columns_E[e]:.3f} instead of {share:g}: rows "
            "and columns in turn, and more rounds."
        )
    if rows_wrong:
        t = int((rows_T - 1).abs().argmax())
        return f"the columns are right, but row {t} sums to {rows_T[t]:.3f} instead of 1."
    return None
