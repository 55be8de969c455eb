"""Exercises of 07: lift, its null, chance, load and worth, and two sabotaged models."""

import numpy as np
import pytest
import scipy.stats

from helpers.exercises import Contract, run_solution
from moeviz.experiments.faults import CASES
from moeviz.experiments.killed_experts import held_out, losses, losses_changed
from moeviz.experiments.recording import recorded_model
from moeviz.experiments.sabotaged_model import sabotaged, spoil
from moeviz.records.locality import repeat_rate
from moeviz.records.specialists import domain_lift
from moeviz.text.corpus import load_corpus
from moeviz.watch.intervene import kill


def by_sequence(domain_T, sequence_T, rng, labels=None):
    first_G = np.unique(sequence_T, return_index=True)[1]
    given = domain_T[first_G] if labels is None else labels(domain_T[first_G])
    return rng.permutation(given)[sequence_T]


WRONG = {
    "07.1": [
        (lambda n: n, "its first number must be "),
        (lambda n: n.sum(1), "it must return a table [D, E], not "),
    ],
    "07.2": [
        (lambda d, s, rng: rng.permutation(d) + 0, "a sequence now has more than one domain"),
        (lambda d, s, rng: d.copy(), "nothing is shuffled."),
        (lambda d, s, rng: by_sequence(d, s, np.random.default_rng(1)), "the same for every rng"),
        (lambda d, s, rng: by_sequence(d, s, np.random.default_rng()), "the same rng gives anoth"),
        (lambda d, s, rng: by_sequence(d, s, rng, lambda g: g * 0), "another number of sequences"),
        (lambda d, s, rng: d[:3], "it must return a domain for each token."),
    ],
    "07.3": [(lambda e: 0.5, "it gives 0.500 instead of")],
    "07.4": [(lambda a, b: 0.25, "it gives 0.250 instead of")],
    "07.5": [
        ({"B": (1, 3), "C": (0, 2)}, "B: the fault is not in layer 1."),
        ({"B": (2, 3), "C": (0, 7)}, "C: the layer is right, but the model needs expert 7."),
        ({"B": 3, "C": (0, 2)}, "B: the answer is a pair, (layer, expert)."),
        ({"B": (2, "3"), "C": (0, 2)}, "B: layer and expert are whole numbers."),
        ((2, 3), 'a dictionary with a pair for each of "B" and "C"'),
    ],
}
RIGHT = {
    "07.1": [domain_lift],
    "07.2": [lambda d, s, rng: by_sequence(d, s, rng).tolist()],
    "07.3": [lambda e: repeat_rate(e[:, None], int(e.max()) + 1).chance],
    "07.4": [lambda a, b: scipy.stats.spearmanr(a, b).statistic],
    "07.5": [{"B": [2, 3], "C": (0, 5)}, {"C": (0, 2), "B": (2, 3)}],
}


def solved(number):
    return run_solution(number, np=np)


class TestContract(Contract):
    wrong, right, solved = WRONG, RIGHT, staticmethod(solved)


@pytest.mark.parametrize("letter", CASES)
def test_a_sabotaged_model_is_better_off_without_the_expert_that_is_meant(letter):
    """And the fault, put in once more, mends it: nothing else was changed."""
    (model, _), windows = recorded_model(), held_out(load_corpus(), 2)
    spoilt, fault = sabotaged(model, letter), CASES[letter]
    before, healthy = losses(spoilt, windows), losses(model, windows)
    assert before.mean() > healthy.mean() + 0.1
    for expert in fault.experts:
        without = losses_changed(spoilt, windows, kill(expert), (fault.layer,))
        assert without.mean() < before.mean()
        missed = losses_changed(model, windows, kill(expert), (fault.layer,))
        assert missed.mean() > healthy.mean()
    spoil(spoilt, fault)
    assert (losses(spoilt, windows) == healthy).all()
