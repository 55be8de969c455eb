"""Exercises of 10_efficiency_frontier: shares of quality, a fit, a law by hand, a verdict."""

import numpy as np
import pytest
import torch

from helpers.exercises import Contract, run_solution
from moeviz.costs import footprint
from moeviz.exercises import efficiency_frontier, other_ways
from moeviz.records.frontier import exponent
from moeviz.records.quality import Quality, shares_of_quality
from moeviz.text.tasks import Multiplication

WRONG = {
    "10.1": [
        (lambda a, d, u: (1, 1, 1), "for losses 3.0 (model), 2.9 (dense) and 6.0 (unigram)"),
        (lambda a, d, u: d / a, "(loss ratio, perplexity, gain over the unigram); this returned"),
    ],
    "10.2": [
        (lambda e, loss: 1.1 * efficiency_frontier.exponent(e, loss), "it must be "),
        (lambda e, loss: [1, 2], "it must give one number, not [1, 2]."),
    ],
    "10.3": [(7, "7 is of the right size, but it is not exact.")],
    "10.5": [
        (lambda a, b: a + b, "it must return four digits, ones first; this returned "),
        (lambda a, b: [6, 7, 7, 2], "for 5 and 4 it is 0, 2, 0, 0, not 6, 7, 7, 2."),
    ],
    "10.6": [(30_000, "30000 is of the right size")],
    "10.4": [("E", "'E' is none of the names to choose from: A, B, C, D.")],
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
    "10.1": [lambda a, d, u: [d / a, 1 / np.exp(a - d), (a - u) / (d - u)]],
    "10.2": [
        lambda e, loss: -np.polyfit(np.log(e), np.log(loss), 1)[0],
        lambda e, loss: np.array([exponent(e, loss[:, None]).mean]),
    ],
    "10.3": ["7.25", 7.2],
    "10.4": ["c"],
    "10.7": [lambda p, k: float(torch.tensor(p).topk(k).values.sum() / len(p))],
    "10.8": [lambda s, w, i: footprint(s, w, i).co2_grams],
    "10.5": [lambda a, b: [int(d) for d in Multiplication(3).line(8 * a + b - 2)[-4:]]],
    "10.6": ["25016", 25_020],
}


class TestContract(Contract):
    wrong, right = WRONG, RIGHT

    def solved(self, number):
        return run_solution(number, np=np)


def test_the_shares_are_the_librarys():
    for loss, dense, unigram in efficiency_frontier._losses():
        found = shares_of_quality(Quality(loss, 0.5), Quality(dense, 0.5), unigram)
        assert efficiency_frontier.shares(loss, dense, unigram) == pytest.approx(
            [*found.values()][:3]
        )


def test_an_even_gate_covers_its_share_and_a_sure_one_all():
    assert other_ways.covered(np.full((5, 8), 1 / 8), 2) == 0.25
    assert other_ways.covered(np.eye(8), 1) == 1


def test_what_fits_is_counted_in_the_recorded_model():
    from moeviz.experiments.memory_or_thinking import models
    from moeviz.model.transformer import LanguageModel

    model = LanguageModel(models()["MoE"])
    counted = model.num_parameters(), model.num_active_parameters()
    assert counted == (efficiency_frontier.PARAMETERS, efficiency_frontier.ACTIVE)
