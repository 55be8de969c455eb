"""Exercises of 05_capacity."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from moeviz.exercises.exercise import (
    Wrong,
    exercise,
    function_fault,
    name_asked,
    number_asked,
)

number_asked(
    "05.1",
    157,
    {
        156: "156.25 is rounded up: with 156 slots an expert would have less than the factor says.",
        156.25: "an expert has a whole number of slots: round up.",
        79: "that counts one choice for each token; each makes K = 2.",
        78.125: "each token asks for K = 2 experts, and a number of slots is whole.",
        125: "that is the even share; the factor leaves room above it.",
        2500: "that is room for all experts together; one expert is asked for.",
    },
    "The even share is T · K / E.",
    "How many choices do all tokens make, what is an expert's even share of them, and what makes "
    "it whole?",
    difficulty=1,
    minutes=2,
    solution="math.ceil(1.25 * 1000 * 2 / 16)",
    praise="Per expert, whole, and with all K choices counted.",
)
number_asked(
    "05.2",
    0.25,
    {
        0.0: "even on average is not even in every batch: both tokens may choose one expert.",
        0.5: "in half of all batches one token is dropped, but that is one of two.",
        25.0: "give a share between 0 and 1, not per cent.",
        0.75: "that is the share that finds a slot.",
    },
    "There are four batches, all as likely: 00, 01, 10, 11. How many drops has each?",
    "The share is of assignments: average over the four batches how many of the two are dropped.",
    difficulty=2,
    minutes=3,
    solution="0.5 * 1 / 2",
    praise="A perfectly balanced router drops a quarter here; the closed form gives the same.",
    tolerance=1e-9,
)


LATER_TAKES = "a later token with a larger weight takes an earlier one's slot."

name_asked(
    "05.3",
    "position",
    {
        "choice": "first choices of later tokens are placed before second choices of earlier ones.",
        "probability": LATER_TAKES,
        "batch": LATER_TAKES,
    },
    "Which rule can place a token before it has seen the next one?",
    "The panel's last sentence tells it for the chosen priority; try all four at K = 2.",
    difficulty=2,
    minutes=3,
    asks='one of "position", "choice", "probability" and "batch"',
    solution='"position"',
    praise="Who comes first is served first: nothing that follows can take the slot away.",
)


def sure_first(token_N, choice_N, weight_N):
    best_T = np.zeros(token_N.max() + 1)
    np.maximum.at(best_T, token_N, weight_N)
    return best_T[token_N] - 10 * choice_N


MISTAKES = (
    (lambda t, k, w: -t, "that is the order of the text: the drops all fall on its end."),
    (
        lambda t, k, w: -sure_first(t, -k, w),
        "that drops the surest tokens: the largest number is placed first.",
    ),
    (lambda t, k, w: -k, "first choices do come first, but among them tokens go by position."),
    (
        lambda t, k, w: sure_first(t, 0 * k, w),
        "a sure token's second choice goes before an unsure one's first: all first choices come "
        "before any second one.",
    ),
    (
        lambda t, k, w: w,
        "that goes by each row's own weight; a token's largest weight places all its rows.",
    ),
)


@exercise(
    "05.4",
    "np.maximum.at collects each token's largest weight; every row of a token then has it.",
    "Weights lie between 0 and 1: what may be taken off a later choice, so that it comes behind "
    "every first one?",
    difficulty=3,
    minutes=12,
    solution=sure_first,
    praise="It dropped what V-MoE's batch prioritised routing drops, row by row.",
    mistakes=MISTAKES,
    start="def sure_first(token_N, choice_N, weight_N):\n    return -token_N",
)
def priority(answer: Any) -> str | None:
    def say(case: tuple[int, int, int], found_TK: np.ndarray, wanted_TK: np.ndarray) -> str:
        (t, k) = np.argwhere(found_TK != wanted_TK)[0]
        lost = "drops" if found_TK[t, k] else "keeps"
        return (
            f"for {case[0]} tokens with K = {case[1]} it {lost} token {t}'s choice {k}; batch "
            "prioritised routing does not."
        )

    cases = ((40, 2, 1), (57, 3, 2), (64, 1, 3))
    mistakes = [(partial(_lost, rule), sentence) for rule, sentence in MISTAKES]
    return function_fault(partial(_lost, answer), partial(_lost, sure_first), cases, mistakes, say)


def _lost(rule: Any, num_tokens: int, top_k: int, seed: int) -> np.ndarray:
    """Which choices, bool [T, K], the real limit drops under a rule of one's own."""
    from moeviz.experiments.slots import placing_router
    from moeviz.routing import Capacity
    from moeviz.watch.routers import synthetic_tokens

    # Scattered widely: some tokens are sure, some are not.
    tokens = synthetic_tokens(num_tokens, 8, skew=1.0, spread=0.8, seed=seed)
    router = placing_router(tokens, top_k, Capacity(0.75, eval_factor=0.75), rule)
    token_M, _, choice_M = router(tokens.x_TD, tokens.context).plan.dropped.long().T
    lost_TK = np.zeros((num_tokens, top_k), bool)
    lost_TK[token_M, choice_M] = True
    return lost_TK


# 05.5: who keeps a slot, by position.


def keep(expert_TK, num_experts, capacity):
    flat_N = expert_TK.reshape(-1)
    one_hot_NE = flat_N[:, None] == np.arange(num_experts)
    number_N = (one_hot_NE.cumsum(0) * one_hot_NE).sum(1)
    return (number_N <= capacity).reshape(expert_TK.shape)


def _numbers(expert_TK: np.ndarray, num_experts: int, *, choice_first: bool = False) -> np.ndarray:
    """How many assignments to the same expert come before each, token by token or choice by
    choice."""
    rows = expert_TK.T if choice_first else expert_TK
    one_hot_NE = rows.reshape(-1, 1) == np.arange(num_experts)
    number = ((one_hot_NE.cumsum(0) - 1) * one_hot_NE).sum(1).reshape(rows.shape)
    return number.T if choice_first else number


def _choices() -> list[tuple[np.ndarray, int, int]]:
    """expert_TK, num_experts, capacity: crowded, with room for all, and with one choice."""
    rng = np.random.default_rng(5)
    cases = []
    for tokens, experts, top_k, capacity in (
        (12, 4, 2, 3), (9, 3, 1, 2), (20, 5, 3, 7), (8, 4, 2, 8), (16, 6, 2, 1),
    ):  # fmt: skip
        skewed_TE = rng.random((tokens, experts)) + np.linspace(0.6, 0, experts)
        cases.append((np.argsort(-skewed_TE)[:, :top_k], experts, capacity))
    return cases


def _mask(kept_TK: Any, shape: tuple[int, ...]) -> np.ndarray:
    kept_TK = np.asarray(kept_TK)
    if kept_TK.shape != shape or not np.isin(kept_TK, (0, 1)).all():
        raise Wrong(
            f"it must give True or False for each choice, an array {list(shape)}; this gave "
            f"{kept_TK.dtype} of shape {list(kept_TK.shape)}."
        )
    return kept_TK.astype(bool)


KEEP_MISTAKES = (
    (
        lambda e, n, c: _numbers(e, n) <= c,
        "every expert takes one too many: the first one has the number 0, or count from 1.",
    ),
    (
        lambda e, n, c: _numbers(e, n) < c - 1,
        "every expert takes one too few: count those before, without the choice itself.",
    ),
    (
        lambda e, n, c: _numbers(e, n, choice_first=True) < c,
        "that serves all first choices before any second one; here tokens come in their order, "
        "each with all its choices.",
    ),
    (
        lambda e, n, c: np.broadcast_to(np.arange(len(e))[:, None] < c, e.shape),
        "that keeps the first tokens, whatever expert they chose: count for each expert apart.",
    ),
    (lambda e, n, c: _numbers(e, n) >= c, "those are the choices that are dropped."),
    (lambda e, n, c: np.ones(e.shape, bool), "nothing is dropped, though experts are full."),
)


@exercise(
    "05.5",
    "For each choice count how many before it, in the order of the text, ask for the same expert.",
    "With one column for each expert, a cumsum down the choices counts for all experts at once.",
    difficulty=2,
    minutes=8,
    solution=keep,
    praise="It drops what the package's limit drops by position, row by row.",
    mistakes=KEEP_MISTAKES,
)
def capacity_mask(answer: Any) -> str | None:
    def say(case: tuple[np.ndarray, int, int], found: np.ndarray, wanted: np.ndarray) -> str:
        t, k = np.argwhere(found != wanted)[0]
        verb = "keeps" if found[t, k] else "drops"
        return (
            f"with {case[2]} slots for each of {case[1]} experts it {verb} choice {k} of token "
            f"{t}, expert {case[0][t, k]}; it must not."
        )

    return function_fault(
        lambda e, n, c: _mask(answer(e, n, c), e.shape), keep, _choices(), KEEP_MISTAKES, say
    )
