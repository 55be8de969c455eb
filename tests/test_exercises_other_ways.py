"""Exercises of 10_efficiency_frontier: what K experts of a dense mixture keep, and grams of CO2."""

import numpy as np
import torch

from helpers.exercises import Contract, run_solution
from moeviz.costs import footprint
from moeviz.exercises import other_ways

WRONG = {
    "10.7": [
        (lambda p, k: 0.93, "it gives 0.9300; it must be "),
        (lambda p, k: p, "it must give one number, not "),
    ],
    "10.8": [
        (lambda s, w, i: s, "for 90.0 s at 45.0 W and 0.713 kg a kWh it gives 90; it must be "),
        (lambda s, w, i: "much", "it must give one number, not 'much'."),
    ],
}
# As right as the stated solution, and not it.
RIGHT = {
    "10.7": [lambda p, k: float(torch.tensor(p).topk(k).values.sum() / len(p))],
    "10.8": [lambda s, w, i: footprint(s, w, i).co2_grams],
}


class TestContract(Contract):
    wrong, right = WRONG, RIGHT

    def solved(self, number):
        return run_solution(number, np=np)


def test_an_even_gate_covers_its_share_and_a_sure_one_all():
    assert other_ways.covered(np.full((5, 8), 1 / 8), 2) == 0.25
    assert other_ways.covered(np.eye(8), 1) == 1
