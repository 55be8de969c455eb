"""Exercises of 11_compression: whom to keep, groups of weights, a rank, aligned neurons."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from moeviz.exercises.exercise import exercise, function_asked, number_asked

TRIES = 8


def as_array(value: Any) -> np.ndarray:
    """What a function gave as numbers; NaN where it is none, which equals nothing."""
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return np.array(np.nan)


def saliency(gate_TE, chosen_TE, norm_TE):
    kept_TE = gate_TE * chosen_TE
    weight_TE = kept_TE / kept_TE.sum(1, keepdims=True)
    return (weight_TE * norm_TE).sum(0) / chosen_TE.sum(0)


def _raw(gate_TE: np.ndarray, chosen_TE: np.ndarray, norm_TE: np.ndarray) -> np.ndarray:
    return (gate_TE * chosen_TE * norm_TE).sum(0) / chosen_TE.sum(0)


def _over_all(gate_TE: np.ndarray, chosen_TE: np.ndarray, norm_TE: np.ndarray) -> np.ndarray:
    return saliency(gate_TE, chosen_TE, norm_TE) * chosen_TE.mean(0)


def _sum(gate_TE: np.ndarray, chosen_TE: np.ndarray, norm_TE: np.ndarray) -> np.ndarray:
    return saliency(gate_TE, chosen_TE, norm_TE) * chosen_TE.sum(0)


def _routed() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Softmax gates of tokens that choose two of six experts, and how large each output is."""
    rng = np.random.default_rng(111)
    cases = []
    for _ in range(TRIES):
        gate_TE = np.exp(rng.normal(size=(40, 6)))
        gate_TE /= gate_TE.sum(1, keepdims=True)
        chosen_TE = gate_TE >= np.sort(gate_TE, axis=1)[:, -2:-1]
        cases.append((gate_TE, chosen_TE, rng.lognormal(size=(40, 6))))
    return cases


function_asked(
    "11.1",
    "Which weight does a chosen expert really get? It is not the gate of the softmax over all.",
    "Divide each token's gates by their sum over its chosen experts. Then take the mean over the "
    "tokens that chose the expert, and over no others.",
    difficulty=2,
    minutes=8,
    solution=saliency,
    praise="That is REAP's saliency as its code has it since March 2026.",
    cases=_routed,
    read=as_array,
    mistakes=(
        (_raw, "that takes the gates over all experts; the layer divides by those of the chosen."),
        (_over_all, "that divides by all tokens: an expert that few choose would look worthless."),
        (_sum, "that is a sum over tokens; REAP takes the mean, so that load does not count."),
        (
            lambda gate, chosen, norm: saliency(gate, chosen, np.ones_like(norm)),
            "the size of the expert's output plays no part in it.",
        ),
    ),
    words="for 40 tokens and 6 experts these are not the means over each expert's tokens.",
)


def round_groups(weight_RC, group):
    rows = weight_RC.reshape(-1, group)
    scale = np.abs(rows).max(1, keepdims=True) / 7
    return (np.round(rows / scale) * scale).reshape(weight_RC.shape)


def _one_scale(weight_RC: np.ndarray, group: int) -> np.ndarray:
    scale = np.abs(weight_RC).max() / 7
    return np.round(weight_RC / scale) * scale


def _by_row(weight_RC: np.ndarray, group: int) -> np.ndarray:
    return round_groups(weight_RC, weight_RC.shape[1])


def _down(weight_RC: np.ndarray, group: int) -> np.ndarray:
    return round_groups(np.ascontiguousarray(weight_RC.T), group).T


def _matrices() -> list[tuple[np.ndarray, int]]:
    """Matrices with a few large weights, which spoil the scale of all that share it."""
    rng = np.random.default_rng(112)
    cases = []
    for group in (8, 16, 32) * 2:
        weight_RC = rng.normal(size=(32, 64))
        weight_RC[rng.integers(32, size=4), rng.integers(64, size=4)] *= 20
        cases.append((weight_RC, group))
    return cases


function_asked(
    "11.2",
    "Your function of 08.7 rounds one group. How do you give it every stretch of `group` weights?",
    "reshape(-1, group) makes each stretch a row. Each row has a scale of its own: its largest "
    "magnitude gets the code 7.",
    difficulty=2,
    minutes=6,
    solution=round_groups,
    praise="One outlier now spoils its own group alone, and no more.",
    cases=_matrices,
    read=as_array,
    mistakes=(
        (_one_scale, "that is one scale for the whole matrix: an outlier spoils all of it."),
        (_by_row, "that is one scale a row; a row holds several groups."),
        (_down, "that takes its groups down the columns; a group lies along a row."),
        (
            lambda w, group: np.round(
                w.reshape(-1, group) / (np.abs(w.reshape(-1, group)).max(1, keepdims=True) / 7)
            ).reshape(w.shape),
            "those are the codes; what do they stand for?",
        ),
    ),
    words="with groups of {1} these are not the values that the nearest codes stand for.",
)


def low_rank(weight_RC, share):
    rows, columns = weight_RC.shape
    rank = int(share * rows * columns / (rows + columns))
    u, value, v = np.linalg.svd(weight_RC, full_matrices=False)
    return u[:, :rank] * value[:rank] @ v[:rank]


def _rank_of_sides(weight_RC: np.ndarray, share: float) -> np.ndarray:
    return _at_rank(weight_RC, int(share * min(weight_RC.shape)))


def _one_more(weight_RC: np.ndarray, share: float) -> np.ndarray:
    rows, columns = weight_RC.shape
    return _at_rank(weight_RC, int(share * rows * columns / (rows + columns)) + 1)


def _at_rank(weight_RC: np.ndarray, rank: int) -> np.ndarray:
    u, value, v = np.linalg.svd(weight_RC, full_matrices=False)
    return (u[:, :rank] * value[:rank]) @ v[:rank]


def _smallest(weight_RC: np.ndarray, share: float) -> np.ndarray:
    rows, columns = weight_RC.shape
    rank = int(share * rows * columns / (rows + columns))
    u, value, v = np.linalg.svd(weight_RC, full_matrices=False)
    return (u[:, -rank:] * value[-rank:]) @ v[-rank:]


def _thin() -> list[tuple[np.ndarray, float]]:
    rng = np.random.default_rng(113)
    shapes = ((64, 24), (24, 64), (40, 40))
    return [(rng.normal(size=shape), share) for shape in shapes for share in (0.5, 0.25, 0.8)]


function_asked(
    "11.3",
    "A matrix of rank r is a product of two: one has r columns, the other has r rows. How many "
    "numbers are in both?",
    "r (rows + columns) numbers may be at most share × rows × columns: round r down. "
    "numpy.linalg.svd gives the singular values in falling order.",
    difficulty=2,
    minutes=8,
    solution=low_rank,
    praise="No other matrix of that rank is nearer, in the sum of squares.",
    cases=_thin,
    read=as_array,
    mistakes=(
        (
            _rank_of_sides,
            "that is `share` of the full rank; the two factors together are then too large.",
        ),
        (_one_more, "its factors take one rank more than the share allows: round down."),
        (_smallest, "that keeps the smallest singular values; the largest hold the most."),
    ),
    words="at a share of {1} that is not the nearest matrix whose factors are small enough.",
)


def merge(w13_a, w2_a, w13_b, w2_b):
    gate_a, up_a = np.split(w13_a, 2)
    gate_b, up_b = np.split(w13_b, 2)
    likeness = gate_a @ gate_b.T + up_a @ up_b.T + w2_a.T @ w2_b
    _, order = linear_sum_assignment(-likeness)
    aligned13 = np.concatenate([gate_b[order], up_b[order]])
    return (w13_a + aligned13) / 2, (w2_a + w2_b[:, order]) / 2


def swiglu(x_TD: np.ndarray, w13_2FD: np.ndarray, w2_DF: np.ndarray) -> np.ndarray:
    """What an expert answers, float [T, D]."""
    gate, up = np.split(x_TD @ w13_2FD.T, 2, axis=1)
    return np.asarray(gate / (1 + np.exp(-gate)) * up @ w2_DF.T)


@exercise(
    "11.4",
    "Neuron i of an expert is row i of the gate, row i of the up projection and column i of w2. "
    "They move together.",
    "Make a table of how alike each neuron of a is to each of b: the dot product of all that they "
    "are. scipy.optimize.linear_sum_assignment finds the best one-to-one match (give it the "
    "negative). Reorder b, then take the mean.",
    difficulty=3,
    minutes=15,
    solution=merge,
    praise="That is the alignment of M-SMoE. Without it, neurons that have nothing to do with each "
    "other are averaged.",
)
def merged(answer: Any) -> str | None:
    rng = np.random.default_rng(114)
    for trial, (d_model, width) in enumerate(((6, 10), (8, 16), (5, 7))):
        w13_a, w2_a = rng.normal(size=(2 * width, d_model)), rng.normal(size=(d_model, width))
        order = rng.permutation(width)
        rows = np.concatenate([order, width + order])
        w13_b, w2_b = w13_a[rows], w2_a[:, order]
        given = answer(w13_a.copy(), w2_a.copy(), w13_b.copy(), w2_b.copy())
        try:
            w13, w2 = (np.asarray(each, dtype=float) for each in given)
        except (TypeError, ValueError):
            return "it must give two arrays: w13 and w2 of the merged expert."
        if w13.shape != w13_a.shape or w2.shape != w2_a.shape:
            return (
                f"the merged expert must be of the shapes {w13_a.shape} and {w2_a.shape}, not "
                f"{w13.shape} and {w2.shape}."
            )
        if np.allclose(w13, (w13_a + w13_b) / 2) and np.allclose(w2, (w2_a + w2_b) / 2):
            return "that is the mean of neurons as they are numbered, which match by luck alone."
        x_TD = rng.normal(size=(20, d_model))
        if not np.allclose(swiglu(x_TD, w13, w2), swiglu(x_TD, w13_a, w2_a)):
            return (
                "b was a with its neurons in another order, so the merged expert must do what a "
                "does, and it does not. Do all three parts of a neuron move together?"
            )
        if trial == 0:  # b differs a little, so that to give one of the two back is not enough
            near13, near2 = (w + 0.1 * rng.normal(size=w.shape) for w in (w13_b, w2_b))
            given = answer(w13_a.copy(), w2_a.copy(), near13.copy(), near2.copy())
            y_TD = swiglu(x_TD, *(np.asarray(each, dtype=float) for each in given))
            if np.allclose(y_TD, swiglu(x_TD, *merge(w13_a, w2_a, near13, near2))):
                continue
            for name, alone in (("a", (w13_a, w2_a)), ("b", (near13, near2))):
                if np.allclose(y_TD, swiglu(x_TD, *alone)):
                    return f"that is expert {name} alone; both are to be part of the mean."
            return (
                "the neurons match, but where b differs a little from a, the merged expert is not "
                "the mean of the two: each counts half."
            )
    return None


number_asked(
    "11.5",
    15.1,
    {
        1.66: "that counts all parameters; one token reads the active ones alone.",
        1.9: "a byte has 8 bits: 2.7 bits are 0.34 bytes.",
        8.0: "that is what was measured; what is the bound?",
    },
    "Which bytes must be read for one token? Only the active parameters.",
    "3.35 billion parameters of 2.7 bits are how many GB? How often are they read in a second?",
    difficulty=1,
    minutes=3,
    solution="17.1 / (3.35 * 2.7 / 8)  # GB/s over GB a token: 15.1",
    praise="About 8 tokens/s were measured, half of the bound.",
    tolerance=0.1,
)
