"""Exercises of 05_capacity."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.exercises.exercise import Exercise, number_near

PRIORITIES = ("position", "choice", "probability", "batch")


def _slots(answer: Any) -> str | None:
    return number_near(
        answer,
        157,
        {
            156: "156.25 is rounded up: an expert has whole slots, and the factor is a promise.",
            156.25: "an expert has a whole number of slots: round up.",
            79: "that is one slot's worth of choices; each token asks for K = 2.",
            78.125: "each token asks for K = 2 experts, and a number of slots is whole.",
            125: "that is the even share; the factor leaves room above it.",
            2500: "that is room for all experts together; one expert is asked for.",
        },
    )


def _two_tokens(answer: Any) -> str | None:
    return number_near(
        answer,
        0.25,
        {
            0.0: "even on average is not even in every batch: both tokens may choose one expert.",
            0.5: "in half of all batches one token is dropped, but that is one of two.",
            25.0: "give a share between 0 and 1, not per cent.",
            0.75: "that is the share that finds a slot.",
        },
        tolerance=1e-9,
    )


def _causal(answer: Any) -> str | None:
    if answer == "position":
        return None
    wrong = {
        "choice": "first choices of later tokens are placed before second choices of earlier ones.",
        "probability": "a later token with a larger weight takes an earlier one's slot.",
        "batch": "a later token with a larger weight takes an earlier one's slot.",
    }
    if isinstance(answer, str) and answer in wrong:
        return f"under {answer!r} {wrong[answer]}"
    return f"the answer is one of {', '.join(map(repr, PRIORITIES))}."


def _priority(answer: Any) -> str | None:
    if not callable(answer):
        return "the answer is a function of token_N, choice_N and weight_N."
    for num_tokens, top_k, seed in ((40, 2, 1), (57, 3, 2), (64, 1, 3)):
        mine, others = _lost(answer, num_tokens, top_k, seed)
        if mine == others["batch"]:
            continue
        for name, explanation in MISTAKES.items():
            if mine == others[name]:
                return explanation
        (t, k) = sorted(mine ^ others["batch"])[0]
        lost = "drops" if (t, k) in mine else "keeps"
        return (
            f"for {num_tokens} tokens with K = {top_k} it {lost} token {t}'s choice {k}; batch "
            "prioritised routing does not."
        )
    return None


MISTAKES = {
    "position": "that is the order of the text: the drops all fall on its end.",
    "reverse": "that drops the surest tokens: the largest number is placed first.",
    "choice": "first choices do come first, but among them tokens go by position.",
    "unordered choices": "a sure token's second choice goes before an unsure one's first: all "
    "first choices come before any second one.",
    "probability": "that goes by each row's own weight; a token's largest weight places all its "
    "rows.",
}


def _largest(token_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """For every row the largest weight of its token."""
    best_T = np.zeros(token_N.max() + 1)
    np.maximum.at(best_T, token_N, weight_N)
    return best_T[token_N]


# Rules that a wrong answer may be, besides the named ones.
RULES = {
    "reverse": lambda token_N, choice_N, weight_N: -_largest(token_N, weight_N) - 10 * choice_N,
    "unordered choices": lambda token_N, choice_N, weight_N: _largest(token_N, weight_N),
}


def _lost(
    answer: Any, num_tokens: int, top_k: int, seed: int
) -> tuple[set[tuple[int, int]], dict[str, set[tuple[int, int]]]]:
    """(token, choice) of all that the real limit drops: under the answer, and under other rules."""
    from moeviz.experiments.slots import placing_router
    from moeviz.routing import Capacity
    from moeviz.watch.routers import synthetic_tokens

    # Scattered widely: some tokens are sure, some are not.
    tokens = synthetic_tokens(num_tokens, 8, skew=1.0, spread=0.8, seed=seed)

    def lost(capacity: Capacity, priority: Any = None) -> set[tuple[int, int]]:
        router = placing_router(tokens, top_k, capacity, priority)
        dropped = router(tokens.x_TD, tokens.context).plan.dropped
        return {(int(t), int(k)) for t, _, k in dropped}

    capacity = Capacity(0.75, eval_factor=0.75)
    others = {
        name: lost(Capacity(0.75, eval_factor=0.75, priority=name))  # type: ignore[arg-type]
        for name in PRIORITIES
    }
    others |= {name: lost(capacity, rule) for name, rule in RULES.items()}
    return lost(capacity, answer), others


SLOTS = Exercise(
    _slots,
    ("The even share is T · K / E.", "math.ceil(1.25 * 1000 * 2 / 16)"),
    "math.ceil(1.25 * 1000 * 2 / 16)",
    "Per expert, whole, and with all K choices counted.",
)
TWO_TOKENS = Exercise(
    _two_tokens,
    (
        "There are four batches, all as likely: 00, 01, 10, 11. How many drops has each?",
        "expected_drop_rate([0.5, 0.5], 2, 1) says it too.",
    ),
    "0.5 * 1 / 2",
    "A perfectly balanced router drops a quarter here; the closed form gives the same.",
)
CAUSAL = Exercise(
    _causal,
    (
        "Which rule can place a token before it has seen the next one?",
        'The panel\'s last sentence tells; try K = 2, where "choice" and "position" differ.',
    ),
    '"position"',
    "Who comes first is served first: nothing that follows can take the slot away.",
)
PRIORITY = Exercise(
    _priority,
    (
        "np.maximum.at(best_T, token_N, weight_N) collects each token's largest weight.",
        "Weights lie in 0 to 1: take 10 off for each later choice.",
    ),
    "def sure_first(token_N, choice_N, weight_N):\n"
    "    best_T = np.zeros(token_N.max() + 1)\n"
    "    np.maximum.at(best_T, token_N, weight_N)\n"
    "    return best_T[token_N] - 10 * choice_N",
    "It dropped what V-MoE's batch prioritised routing drops, row by row.",
)
