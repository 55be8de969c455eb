"""The answers of 11_compression, and that they are what the library does."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from helpers.exercises import Contract, run_solution
from moeviz.exercises.compression import low_rank, merge, round_groups, saliency
from moeviz.systems.quantisation import pack, unpack


def reap_token_by_token(gate_TE, chosen_TE, norm_TE):
    found = []
    for expert in range(gate_TE.shape[1]):
        worth = [
            gate_TE[t, expert] / gate_TE[t][chosen_TE[t]].sum() * norm_TE[t, expert]
            for t in range(len(gate_TE))
            if chosen_TE[t, expert]
        ]
        found.append(np.mean(worth))
    return found


def rounded_one_by_one(weight_RC, group):
    out = weight_RC.copy()
    for row in out:
        for start in range(0, len(row), group):
            part = row[start : start + group]
            scale = abs(part).max() / 7
            part[:] = np.round(part / scale) * scale
    return out


def svd_in_torch(weight_RC, share):
    rows, columns = weight_RC.shape
    rank = max(r for r in range(1, 99) if r * (rows + columns) <= share * weight_RC.size)
    u, value, v = torch.linalg.svd(torch.from_numpy(weight_RC), full_matrices=False)
    return (u[:, :rank] @ torch.diag(value[:rank]) @ v[:rank]).numpy()


def merged_the_other_way(w13_a, w2_a, w13_b, w2_b):
    """a is reordered to b: the same expert, its neurons in another order."""
    return merge(w13_b, w2_b, w13_a, w2_a)


def rows_alone(w13_a, w2_a, w13_b, w2_b):
    order = linear_sum_assignment(-w13_a @ w13_b.T)[1]
    return (w13_a + w13_b[order]) / 2, (w2_a + w2_b) / 2


def b_alone(w13_a, w2_a, w13_b, w2_b):
    """Its neurons in the order of a's: the mean of both is 1/2 of a and 1/2 of this."""
    w13, w2 = merge(w13_a, w2_a, w13_b, w2_b)
    return 2 * w13 - w13_a, 2 * w2 - w2_a


def mostly_a(w13_a, w2_a, w13_b, w2_b):
    w13, w2 = b_alone(w13_a, w2_a, w13_b, w2_b)
    return 0.9 * w13_a + 0.1 * w13, 0.9 * w2_a + 0.1 * w2


class TestCompression(Contract):
    wrong = {
        "11.1": [(lambda g, c, n: g.sum(0), "not the means over each expert's tokens")],
        "11.2": [(lambda w, group: w, "these are not the values")],
        "11.3": [(lambda w, share: w, "not the nearest matrix")],
        "11.4": [
            (lambda a, b, c, d: ((a + c) / 2, (b + d) / 2), "match by luck alone"),
            (rows_alone, "Do all three parts of a neuron move together?"),
            (lambda a, b, c, d: (a, b), "that is expert a alone"),
            (b_alone, "that is expert b alone"),
            (mostly_a, "is not the mean of the two: each counts half"),
            (lambda a, b, c, d: a, "two arrays"),
            (lambda a, b, c, d: (b, a), "must be of the shapes"),
        ],
        "11.5": [(5, "much too small"), (14, "of the right size")],
    }
    right = {
        "11.1": [reap_token_by_token],
        "11.2": [rounded_one_by_one],
        "11.3": [svd_in_torch],
        "11.4": [merged_the_other_way],
        "11.5": [15.12, np.float64(15.1)],
    }

    def solved(self, number):
        return run_solution(number, np=np, linear_sum_assignment=linear_sum_assignment)


def test_rounding_in_groups_is_the_packed_format_but_for_its_shorter_scale():
    weight_RC = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    kept = unpack(pack(weight_RC, "int4_g32"))
    assert np.allclose(round_groups(weight_RC.astype(float), 32), kept, rtol=2e-3, atol=1e-6)


def test_the_saliency_ignores_how_often_an_expert_is_chosen():
    gate_TE = np.tile([[0.5, 0.3, 0.2]], (6, 1))
    chosen_TE = np.array([[True, True, False]] * 5 + [[True, False, True]])
    found = saliency(gate_TE, chosen_TE, np.ones((6, 3)))
    assert np.allclose(found, [(5 * 5 / 8 + 5 / 7) / 6, 3 / 8, 2 / 7])


def test_the_factors_are_no_larger_than_the_share_and_one_rank_more_would_be():
    weight_RC = np.random.default_rng(1).normal(size=(48, 20))
    rank = np.linalg.matrix_rank(low_rank(weight_RC, 0.5))
    assert rank * 68 <= 0.5 * weight_RC.size < (rank + 1) * 68
