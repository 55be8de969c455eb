"""Exercises of 14_many_models_in_one on growing: copies, what they share, neurons drawn anew."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.exercises.compression import swiglu
from moeviz.exercises.exercise import exercise, number_asked


def upcycle(w13_2FD, w2_DF, num_experts, total):
    w13_E2FD = np.stack([w13_2FD] * num_experts)
    w2_EDF = np.stack([w2_DF] * num_experts) / total
    return w13_E2FD, w2_EDF


@exercise(
    "14.5",
    "Each expert answers as the FFN does, and the weights of a token add up to `total`. What must "
    "an expert's answer be multiplied by?",
    "Stack num_experts copies of both matrices, and divide w2 by total. SwiGLU is not linear in "
    "w13: dividing that changes more than the size of the answer.",
    difficulty=1,
    minutes=6,
    solution=upcycle,
    praise="That is weight scaling. Where weights are renormalised, total is 1 and nothing is to "
    "be divided.",
)
def grown(answer: Any) -> str | None:
    rng = np.random.default_rng(145)
    for num_experts, top_k, total in ((4, 2, 1.0), (8, 2, 0.25), (6, 3, 2.5)):
        w13_2FD, w2_DF = rng.normal(size=(12, 5)), rng.normal(size=(5, 6))
        given = answer(w13_2FD.copy(), w2_DF.copy(), num_experts, total)
        try:
            w13_E2FD, w2_EDF = (np.asarray(each, dtype=float) for each in given)
        except (TypeError, ValueError):
            return "it must give two arrays: w13 and w2 of all experts."
        shapes = (num_experts, *w13_2FD.shape), (num_experts, *w2_DF.shape)
        if (w13_E2FD.shape, w2_EDF.shape) != shapes:
            return (
                f"the banks must be of the shapes {shapes[0]} and {shapes[1]}, not "
                f"{w13_E2FD.shape} and {w2_EDF.shape}."
            )
        x_TD = rng.normal(size=(20, 5))
        chosen_TK = np.argsort(rng.normal(size=(20, num_experts)), axis=1)[:, :top_k]
        weight_TK = rng.uniform(0.1, 1, size=chosen_TK.shape)
        weight_TK *= total / weight_TK.sum(1, keepdims=True)
        y_TD = np.zeros_like(x_TD)
        for e in range(num_experts):
            share_T1 = (weight_TK * (chosen_TK == e)).sum(1, keepdims=True)
            y_TD += share_T1 * swiglu(x_TD, w13_E2FD[e], w2_EDF[e])
        fault = _beside(y_TD, swiglu(x_TD, w13_2FD, w2_DF), top_k, total)
        if fault:
            return fault
    return None


def _beside(y_TD: np.ndarray, wanted_TD: np.ndarray, top_k: int, total: float) -> str | None:
    if np.allclose(y_TD, wanted_TD):
        return None
    if np.allclose(y_TD, total * wanted_TD):
        return f"a token whose weights sum to {total:g} gets {total:g} times the FFN's answer."
    if np.allclose(y_TD, total / top_k * wanted_TD):
        return "that divides by the number of chosen experts; their weights sum to total, not to K."
    return f"with weights that sum to {total:g} the layer does not answer as the FFN."


number_asked(
    "14.6",
    0.25,
    {
        0.5: "each keeps half of the neurons, but not the same half.",
        25: "that is in percent; the answer is a share, from 0 to 1.",
        0.75: "that is the share in which one at least was drawn anew.",
        0.0: "both keep half of the FFN's neurons, and some of these are the same ones.",
    },
    "A neuron is the same in both where neither of the two drew it anew.",
    "Each keeps a neuron with probability 1 - r, whatever the other does.",
    difficulty=1,
    minutes=3,
    solution="(1 - 0.5) ** 2",
    praise="It is (1 - r)², which is the cosine of two experts at the start, too, where weights "
    "have the mean 0.",
    tolerance=0.004,
)


def draw_anew(w13_2FD, w2_DF, chosen_f, rng):
    gate_FD, up_FD = np.split(w13_2FD, 2)
    drawn = []
    for part_FD in (gate_FD, up_FD, w2_DF.T):
        part_FD = part_FD.copy()
        old_fD = part_FD[chosen_f]
        part_FD[chosen_f] = rng.normal(old_fD.mean(), old_fD.std(), size=old_fD.shape)
        drawn.append(part_FD)
    return np.concatenate(drawn[:2]), drawn[2].T


NEURONS, MODEL_WIDTH = 3000, 4
PARTS = ("the gate's rows", "the up projection's rows", "the columns of w2")


@exercise(
    "14.7",
    "Neuron f is row f of the gate, row f of the up projection and column f of w2. Each of the "
    "three parts has a mean and a deviation of its own.",
    "Take the chosen rows of one part, and draw as many numbers with rng.normal(mean, deviation, "
    "size). The mean and the deviation are those of the chosen weights, before they are replaced.",
    difficulty=2,
    minutes=10,
    solution=draw_anew,
    praise="That is Drop-Upcycling's step for one expert. Each expert draws other neurons anew.",
)
def drawn_anew(answer: Any) -> str | None:
    rng = np.random.default_rng(147)
    chosen_f = rng.permutation(NEURONS)[: NEURONS // 2]
    chosen = np.isin(np.arange(NEURONS), chosen_f)
    # The chosen neurons differ from the others, and the three parts from each other.
    spread_F, shift_F = np.where(chosen, 0.5, 2.0), np.where(chosen, 1.0, -1.0)
    before = [
        part * shift_F[:, None] + spread_F[:, None] * rng.normal(size=(NEURONS, MODEL_WIDTH))
        for part in (1.0, 3.0, -5.0)
    ]
    w13_2FD, w2_DF = np.concatenate(before[:2]), before[2].T.copy()
    given = answer(w13_2FD.copy(), w2_DF.copy(), chosen_f.copy(), np.random.default_rng(0))
    try:
        w13, w2 = (np.asarray(each, dtype=float) for each in given)
    except (TypeError, ValueError):
        return "it must give two arrays: w13 and w2 of the expert."
    if w13.shape != w13_2FD.shape or w2.shape != w2_DF.shape:
        return f"w13 and w2 must keep their shapes, {w13_2FD.shape} and {w2_DF.shape}."
    for name, old_FD, new_FD in zip(PARTS, before, (*np.split(w13, 2), w2.T), strict=True):
        if not np.array_equal(old_FD[~chosen], new_FD[~chosen]):
            return f"{name} of neurons that are not chosen must stay as they are."
        old_fD, new_fD = old_FD[chosen], new_FD[chosen]
        if (old_fD == new_fD).any() or np.array_equal(np.sort(old_fD, None), np.sort(new_fD, None)):
            return f"{name} of the chosen neurons must be drawn anew, every weight of them."
        # Of 6,000 draws the mean errs by 0.0065 and the deviation by less.
        if abs(new_fD.mean() - old_fD.mean()) > 0.05 or abs(new_fD.std() - old_fD.std()) > 0.05:
            return (
                f"{name} must be drawn with the mean and the deviation of the weights they replace."
            )
    return None
