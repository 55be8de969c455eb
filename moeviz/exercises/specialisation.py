"""Exercises of 07_specialisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.checks import brief
from moeviz.exercises.exercise import Wrong, exercise, function_asked
from moeviz.experiments.faults import CASES

# 07.1: lift.


def lift(count_DE):
    share_DE = count_DE / count_DE.sum(1, keepdims=True)
    return share_DE / share_DE.mean(0)


def _tables() -> list[tuple[np.ndarray]]:
    """Counts of domains of several sizes."""
    rng = np.random.default_rng(7)
    sizes = ((2, 3), (4, 6), (6, 8))
    return [
        ((rng.integers(5, 90, shape) * rng.integers(1, 9, (shape[0], 1))).astype(float),)
        for shape in sizes
    ]


def _table(given: Any) -> np.ndarray:
    try:
        found = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        found = np.zeros(0)
    if found.ndim != 2 or not found.size:
        raise Wrong(f"it must return a table [D, E], not {brief(given)}.")
    return found


function_asked(
    "07.1",
    "First make all domains equally large: divide each row by its sum.",
    "1 must mean no liking: compare each share with what the domains have on average.",
    difficulty=1,
    minutes=4,
    solution=lift,
    praise="It is the table that the panel shows; the sample may still be too small to believe it.",
    cases=_tables,
    mistakes=(
        (
            lambda n: n / n.sum(1, keepdims=True),
            "that is the share of a domain's tokens at an expert: compare it with the others'.",
        ),
        (
            lambda n: n / n.sum(1, keepdims=True) / (n.sum(0) / n.sum()),
            "the average must be over domains, and not over all tokens: there a long domain counts "
            "for more.",
        ),
        (
            lambda n: len(n) * n / n.sum(0),
            "the domains are not of one size yet: a long one seems to like every expert.",
        ),
    ),
    words="its first number must be {wanted[0][0]:.3f} for one of the tables, or another one is "
    "wrong; yours is {found[0][0]:.3f}.",
    read=_table,
)


# 07.2: the null.


def shuffled(domain_T, sequence_T, rng):
    first_G = np.unique(sequence_T, return_index=True)[1]
    return rng.permutation(domain_T[first_G])[sequence_T]


@exercise(
    "07.2",
    "What is dealt out anew is one label for each sequence, and not one for each token.",
    "np.unique(..., return_index=True) finds where each sequence begins; a token's label is its "
    "sequence's.",
    difficulty=2,
    minutes=8,
    solution=shuffled,
    praise="Tokens of one sequence are alike, so they keep one label: this null is as lumpy as the "
    "text is.",
    start="def shuffled(domain_T, sequence_T, rng):\n    return rng.permutation(domain_T)",
)
def null(answer: Any) -> str | None:
    length_G = np.array([3, 5, 2, 4, 6, 1, 3, 4, 5, 2, 3, 4])
    domain_G = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    sequence_T = np.repeat(np.arange(len(length_G)), length_G)
    domain_T = domain_G[sequence_T]
    seen = []
    for seed in range(20):
        given = answer(domain_T.copy(), sequence_T.copy(), np.random.default_rng(seed))
        labels_T = _labels(given, len(domain_T))
        parts = np.split(labels_T, length_G.cumsum()[:-1])
        if any(len(np.unique(part)) > 1 for part in parts):
            return "a sequence now has more than one domain: its tokens must keep one label."
        label_G = np.array([part[0] for part in parts])
        if not np.array_equal(np.bincount(label_G, minlength=3), np.bincount(domain_G)):
            return "the domains have another number of sequences than before: deal the labels out."
        seen.append(label_G.tolist())
    if seen.count(seen[0]) == len(seen):
        same = seen[0] == domain_G.tolist()
        return "nothing is shuffled." if same else "it is the same for every rng: let rng draw."
    again = answer(domain_T.copy(), sequence_T.copy(), np.random.default_rng(3))
    if _labels(again, len(domain_T)).tolist() != np.array(seen[3])[sequence_T].tolist():
        return "the same rng gives another order: draw with the rng that is given, and no other."
    return None


def _labels(given: Any, length: int) -> np.ndarray:
    """The domain of each token, 0 to 2."""
    try:
        labels_T = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        raise Wrong(f"it must return {length} whole numbers, not {brief(given)}.") from None
    if labels_T.shape != (length,) or not np.isin(labels_T, (0, 1, 2)).all():
        raise Wrong("it must return a domain for each token.")
    return labels_T.astype(int)


# 07.3: repeats by chance.


def chance(expert_T):
    share_E = np.bincount(expert_T) / len(expert_T)
    return (share_E**2).sum()


def _texts() -> list[tuple[np.ndarray]]:
    """Chosen experts of texts, all of them used, some often."""
    rng = np.random.default_rng(5)
    loads = ([0.6, 0.3, 0.1], [0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.1, 0.1, 0.3])
    return [
        (np.concatenate([np.arange(len(p)), np.sort(rng.choice(len(p), 60, p=p))]),) for p in loads
    ]


function_asked(
    "07.3",
    "Draw two tokens at random. How likely do both have expert 0? Expert 1?",
    "The share of an expert times itself, added up over the experts.",
    difficulty=1,
    minutes=4,
    solution=chance,
    praise="It is 1 / E only if the load is even: under a collapse tokens repeat by chance alone.",
    cases=_texts,
    mistakes=(
        (lambda e: 1 / len(np.unique(e)), "that is so only where all loads are even."),
        (
            lambda e: (e[1:] == e[:-1]).mean(),
            "that is what is observed; chance knows the loads alone.",
        ),
        (
            lambda e: (np.bincount(e) * (np.bincount(e) - 1.0)).sum() / len(e) / (len(e) - 1),
            "that draws two different tokens; where only the shares are known, both draws are "
            "alike.",
        ),
        (
            lambda e: (np.bincount(e) / len(e)).max(),
            "that is the share of the busiest expert; the others may repeat too.",
        ),
    ),
    words="for one of the texts it gives {found:.3f} instead of {wanted:.3f}.",
)


# 07.4: load and worth.


def rank_correlation(load_E, cost_E):
    load_rank, cost_rank = (np.argsort(np.argsort(values)) for values in (load_E, cost_E))
    return np.corrcoef(load_rank, cost_rank)[0, 1]


def _experts() -> list[tuple[np.ndarray, np.ndarray]]:
    """Loads and costs, one expert far above the others."""
    rng = np.random.default_rng(2)
    return [(rng.random(n), rng.random(n) ** 4) for n in (8, 8, 16)]


function_asked(
    "07.4",
    "Replace each number by its place in the order: 0 for the smallest.",
    "argsort says which expert is at each place; argsort of that says each expert's place.",
    difficulty=2,
    minutes=6,
    solution=rank_correlation,
    praise="It is Spearman's rank correlation, which one outlier cannot decide.",
    cases=_experts,
    mistakes=(
        (
            lambda a, b: np.corrcoef(a, b)[0, 1],
            "that is the correlation of the values; one outlier decides it. Take their places.",
        ),
        (
            lambda a, b: np.corrcoef(np.argsort(a), np.argsort(b))[0, 1],
            "argsort alone gives the experts in order, and not the place of each.",
        ),
        (lambda a, b: -rank_correlation(a, b), "the sign is turned around."),
    ),
    words="for one of the cases it gives {found:.3f} instead of {wanted:.3f}.",
)


# 07.5: two more faults.

ASKED = ("B", "C")


@exercise(
    "07.5",
    "kill_each(sabotaged(model, 'B'), corpus).cost has a value for each layer, expert and domain. "
    "Whom is the model better off without?",
    "A loss that falls without an expert is the sign. Take the lowest mean over domains.",
    difficulty=3,
    minutes=8,
    asks='a dictionary {"B": (layer, expert), "C": (layer, expert)}',
    solution=repr({letter: (CASES[letter].layer, CASES[letter].experts[-1]) for letter in ASKED}),
    praise="In B a row of the router is reversed, so an expert gets the tokens that suited it "
    "least; in C two experts of one layer have changed places.",
)
def diagnosis(answer: Any) -> str | None:
    if not isinstance(answer, dict) or {*map(str, answer)} != {*ASKED}:
        return 'the answer is a dictionary with a pair for each of "B" and "C".'
    for letter in ASKED:
        pair = answer[letter]
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            return f"{letter}: the answer is a pair, (layer, expert)."
        if any(isinstance(v, bool) or not isinstance(v, int | np.integer) for v in pair):
            return f"{letter}: layer and expert are whole numbers."
        if pair[0] != CASES[letter].layer:
            return f"{letter}: the fault is not in layer {pair[0]}."
        if pair[1] not in CASES[letter].experts:
            return f"{letter}: the layer is right, but the model needs expert {pair[1]}."
    return None
