"""Exercises of 06_shared_and_fine_grained: sets of experts, exact pieces, what is left out."""

import itertools

import torch

from helpers.exercises import Contract, run_solution
from moeviz.exercises import fine_grained
from moeviz.surgery.split import split_bank


def by_units(w13_2FD, w2_DF, m):
    """Piece p has every m-th hidden unit, as good as neighbours."""
    width = w2_DF.shape[1]
    rows = [torch.arange(p, width, m) for p in range(m)]
    return [(w13_2FD[torch.cat([r, width + r])], w2_DF[:, r]) for r in rows]


def of_the_library(w13_2FD, w2_DF, m):
    return [*zip(*split_bank(w13_2FD[None], w2_DF[None], m), strict=True)]


WRONG = {
    "06.1": [(lambda e, k, m: fine_grained.sets(e, k, m) + 1, "it must be 28.")],
    "06.2": [
        (lambda w13, w2, m: [(w13, w2)], "a list of m = 2 pieces"),
        (lambda w13, w2, m: [w13] * m, "two tensors, (w13, w2)"),
        (lambda w13, w2, m: [(w13, w2)] * m, "has the shape [12, 8]"),
        (
            lambda w13, w2, m: [(-a, b) for a, b in by_units(w13, w2, m)],
            "with 4 experts, K = 2 and m = 2 the output of token",
        ),
    ],
    "06.3": [(8, "8 is much too large.")],
    "06.4": [
        ("E", "'E' is none of the names to choose from: A, B, C, D."),
        (2, "the answer is one of A, B, C and D, in quotes."),
    ],
}
# As right as the stated solution, and not it.
RIGHT = {
    "06.1": [lambda e, k, m: len([*itertools.combinations(range(m * e), m * k)])
             if m * e < 17 else fine_grained.sets(e, k, m)],
    "06.2": [by_units, of_the_library],
    "06.3": [1.0, "1"],
    "06.4": ["b"],
}  # fmt: skip


class TestContract(Contract):
    wrong, right = WRONG, RIGHT

    def solved(self, number):
        return run_solution(number, torch=torch, math=__import__("math"))
