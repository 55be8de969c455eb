"""Exercises of 13_real_models: experts of a batch, a mystery router, tasks pooled, a capture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moeviz.checks import brief
from moeviz.exercises.answers import as_number
from moeviz.exercises.exercise import Wrong, exercise, function_asked

# 13.1


def touched(expert_TK, batch):
    whole = len(expert_TK) // batch
    batches = np.array_split(expert_TK[: whole * batch], whole)
    return sum(len(np.unique(ids)) for ids in batches) / whole


def _choices() -> Sequence[tuple[np.ndarray, int]]:
    """Texts whose neighbours choose alike, and that no batch divides evenly."""
    rng, cases = np.random.default_rng(0), []
    for tokens, experts, top_k, batch in ((50, 64, 6, 8), (37, 16, 2, 4), (23, 8, 1, 23)):
        liking_TE = rng.random((tokens, experts)).cumsum(0) + rng.random((tokens, experts))
        cases.append((np.argsort(-liking_TE, axis=1)[:, :top_k].copy(), batch))
    return cases


def _formula(expert_TK: np.ndarray, batch: int) -> float:
    experts, top_k = int(expert_TK.max()) + 1, expert_TK.shape[1]
    return experts * (1 - (1 - top_k / experts) ** batch)


function_asked(
    "13.1",
    "Cut the text into whole batches of neighbouring tokens; what is left over does not count.",
    "np.unique of the ids of a batch lists each expert once.",
    difficulty=1,
    minutes=4,
    solution=touched,
    praise="Measured on a real text this is what a device must read from memory for one layer.",
    cases=_choices,
    mistakes=(
        (lambda ids, n: len(np.unique(ids)), "these are the experts of the whole text."),
        (lambda ids, n: n * ids.shape[1], "that counts choices: an expert counts once a batch."),
        (lambda ids, n: len(np.unique(ids[:n])), "that is the first batch alone: take the mean."),
        (_formula, "that is the formula, which knows nothing of these ids: count them."),
    ),
    words="for a batch of {1} tokens it gives {found:.2f}; it must be {wanted:.2f}.",
)

# 13.2


def mystery() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What was captured of a router whose rule is not told: logits_TE, expert_TK, weight_TK."""
    logits_TE, expert_TK = _captured(0)
    return logits_TE, expert_TK, weigh(logits_TE, expert_TK)


def _captured(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits_TE = 1.5 * rng.standard_normal((6, 8))
    choice_TE = 1 / (1 + np.exp(-logits_TE)) + 0.2 * rng.standard_normal(8)  # a balancing bias
    return logits_TE, np.argsort(-choice_TE, axis=1)[:, :3].copy()


def weigh(logits_TE, expert_TK):
    score_TK = 1 / (1 + np.exp(-np.take_along_axis(logits_TE, expert_TK, axis=1)))
    return 2.5 * score_TK / score_TK.sum(1, keepdims=True)


def _softmax(logits: np.ndarray) -> np.ndarray:
    power = np.exp(logits - logits.max(1, keepdims=True))
    return power / power.sum(1, keepdims=True)


def _of_chosen(logits_TE: np.ndarray, expert_TK: np.ndarray, scale: float) -> np.ndarray:
    return scale * _softmax(np.take_along_axis(logits_TE, expert_TK, axis=1))


def _weights(given: Any) -> np.ndarray:
    """A learner's weights, where they are as many as the choices."""
    try:
        found = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        found = np.zeros(0)
    if found.shape != (6, 3):
        raise Wrong(f"it must return weights [6, 3], as the ids are, not {brief(given)}.")
    return found


function_asked(
    "13.2",
    "What do the weights of one token sum to? That gives the factor.",
    "The ratio of two weights of a token: does it change with the other logits? A softmax would "
    "give exp(difference); try 1 / (1 + exp(-logit)) too.",
    difficulty=3,
    minutes=10,
    solution=weigh,
    praise="It is DeepSeek-V3's rule. The bias that chose the experts is in no weight.",
    cases=lambda: [_captured(seed) for seed in (0, 1, 2)],
    mistakes=(
        (
            lambda logits, ids: weigh(logits, ids) / 2.5,
            "the ratios are right, but look at what a token's weights sum to.",
        ),
        (
            lambda logits, ids: 1 / (1 + np.exp(-np.take_along_axis(logits, ids, axis=1))),
            "the scores are right, but the weights of a token sum to the same in every row.",
        ),
        (
            lambda logits, ids: _of_chosen(logits, ids, 2.5),
            "the sums are right, but not the ratios: this is no softmax.",
        ),
        (
            lambda logits, ids: _of_chosen(logits, ids, 1.0),
            "neither the sums nor the ratios are those: this is no softmax.",
        ),
        (
            lambda logits, ids: np.take_along_axis(_softmax(logits), ids, axis=1),
            "that is a softmax over all experts, left raw: the captured weights are larger than 1.",
        ),
    ),
    words="the weights of its first token are {found[0]}; captured were {wanted[0]}.",
    read=_weights,
)

# 13.3


def balance(load_DE):
    violation_D = load_DE.max(1) / load_DE.mean(1) - 1
    pooled_E = load_DE.sum(0)
    return violation_D.mean(), pooled_E.max() / pooled_E.mean() - 1


def _loads() -> Sequence[tuple[np.ndarray]]:
    """Tasks of unequal sizes with favourites of their own, that hide each other when pooled."""
    rng = np.random.default_rng(6)
    return [
        (np.stack([rng.multinomial(n, rng.dirichlet(np.ones(experts))) for n in sizes]),)
        for sizes, experts in (((900, 300, 60), 8), ((500, 500), 16))
    ]


def _two(given: Any) -> np.ndarray:
    try:
        found = np.asarray([float(value) for value in given])
    except (TypeError, ValueError):
        found = np.zeros(0)
    if len(found) != 2 or not np.isfinite(found).all():
        raise Wrong(f"it must return two numbers, (mean of the tasks, pooled), not {brief(given)}.")
    return found


function_asked(
    "13.3",
    "MaxVio of one load is its largest over its mean, minus 1: first for each row.",
    "Pooled, the loads of all tasks are added expert by expert, and then MaxVio is taken once.",
    difficulty=2,
    minutes=5,
    solution=balance,
    praise="A log that pools its batches shows the second number; a server that serves one task "
    "at a time lives with the first.",
    cases=_loads,
    mistakes=(
        (lambda load: balance(load)[::-1], "the right numbers the other way round."),
        (lambda load: np.add(balance(load), 1), "MaxVio is 0 for an even load: subtract 1."),
        (
            lambda load: (balance(load)[0], balance(load / load.sum(1, keepdims=True))[1]),
            "there every task counts alike; pooled, every token does.",
        ),
        (
            lambda load: ((load.max(1) / load.mean(1) - 1).max(), balance(load)[1]),
            "the first is the worst task: take the mean of the tasks.",
        ),
    ),
    words="it gives {found[0]:.3f} and {found[1]:.3f}; it must be {wanted[0]:.3f} and "
    "{wanted[1]:.3f}.",
    read=_two,
)

# 13.4

Capture = tuple[np.ndarray, np.ndarray]


def captures() -> tuple[np.ndarray, np.ndarray, dict[int, Capture]]:
    """A layer and four records of it: out_ETD, what each expert makes of each token; y_TD, the
    layer's own output; and by number the captured expert_TK and weight_TK."""
    rng = np.random.default_rng(2)
    out_ETD = rng.standard_normal((8, 12, 16))
    logits_TE = 1.5 * rng.standard_normal((12, 8))
    score_TE = 1 / (1 + np.exp(-logits_TE))
    chosen_TK = np.argsort(-(score_TE + 0.3 * rng.standard_normal(8)), axis=1)[:, :2]
    largest_TK = np.argsort(-logits_TE, axis=1)[:, :2]

    def weighted(expert_TK: np.ndarray) -> Capture:
        weight_TK = np.take_along_axis(score_TE, expert_TK, axis=1)
        return expert_TK, weight_TK / weight_TK.sum(1, keepdims=True)

    expert_TK, weight_TK = weighted(chosen_TK)
    y_TD = (out_ETD[expert_TK, np.arange(12)[:, None]] * weight_TK[..., None]).sum(1)
    four = {
        1: (expert_TK, np.round(weight_TK * 256) / 256),
        2: (expert_TK[:, ::-1], weight_TK[:, ::-1]),
        3: weighted(largest_TK),
        4: (expert_TK, weight_TK),
    }
    return out_ETD, y_TD, four


RIGHT = "added up by its weights, its experts' outputs are the layer's output to rounding."
GOOD = {
    1: f"its weights are rounded to a byte, no more; {RIGHT}",
    2: f"its two choices stand in another order, which a sum does not see; {RIGHT}",
    4: RIGHT,
}


def _wrong_capture(answer: Any) -> str | None:
    number = as_number(answer)
    if number not in (1, 2, 3, 4):
        return f"the answer is the number of a tool, 1 to 4, not {brief(answer)}."
    return GOOD.get(int(number))


exercise(
    "13.4",
    "A capture is right if it gives the layer's own output again.",
    "out_ETD[expert_TK, np.arange(12)[:, None]] is [T, K, D]: weigh it, add over K, compare with "
    "y_TD by the norm.",
    difficulty=2,
    minutes=6,
    asks="one number",
    solution="3",
    mistakes=[*GOOD.items()],
    praise="Its ids are the largest logits, and this router's choice was corrected by a bias. "
    "Nothing in the ids alone would have told it.",
)(_wrong_capture)
