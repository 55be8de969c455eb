"""Exercises of 05_capacity: the stated solution passes, typical wrong answers are told apart."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from helpers.exercises import Contract, run_solution
from moeviz.exercises import EXERCISES, capacity
from moeviz.experiments.slots import placed, synthetic
from moeviz.records.metrics import expected_drop_rate
from moeviz.routing import Capacity

solved = partial(run_solution, np=np, math=math, expected_drop_rate=expected_drop_rate)


def largest(token_N, weight_N):
    best_T = np.zeros(token_N.max() + 1)
    np.maximum.at(best_T, token_N, weight_N)
    return best_T[token_N]


WRONG = {
    "05.1": [
        (156, "156.25 is rounded up"),
        (156.25, "a whole number of slots: round up."),
        (79, "each token asks for K = 2."),
        (1000 / 16 * 1.25, "each token asks for K = 2 experts"),
        (125, "the factor leaves room above it."),
        (2500, "one expert is asked for."),
    ],
    "05.2": [
        (0, "even on average is not even in every batch"),
        (0.5, "but that is one of two."),
        (25, "give a share between 0 and 1, not per cent."),
        (0.75, "that is the share that finds a slot."),
    ],
    "05.3": [
        ("choice", "first choices of later tokens are placed before second choices"),
        ("probability", "a later token with a larger weight takes an earlier one's slot."),
        ("batch", "under 'batch' a later token"),
        ("Position", "the answer is one of 'position', 'choice', 'probability', 'batch'."),
        (["position"], "the answer is one of 'position'"),
    ],
    "05.4": [
        (lambda t, k, w: -t, "that is the order of the text"),
        (lambda t, k, w: -k, "among them tokens go by position."),
        (lambda t, k, w: w, "that goes by each row's own weight"),
        (lambda t, k, w: largest(t, w), "a sure token's second choice goes before"),
        (lambda t, k, w: -largest(t, w) - 10 * k, "that drops the surest tokens"),
        (lambda t, k, w: t, "token 2's choice 0; batch prioritised routing does not."),
        (lambda t, k, w: largest(t, w)[:-1], "one number a row, shape (80,); this gave float64"),
        (lambda t, k, w: [None] * len(t), "one number a row"),
        (lambda t, k, w: w * np.nan, "this gave NaN or infinity"),
        ("batch", "the answer is a function of token_N, choice_N and weight_N."),
    ],
}  # fmt: skip


class TestContract(Contract):
    wrong, solved = WRONG, staticmethod(solved)


def test_the_numbers_asked_for():
    from moeviz.routing.capacity import capacity_of

    assert solved("05.1") == capacity_of(1.25 * 1000 * 2 / 16) == 157
    assert solved("05.2") == pytest.approx(expected_drop_rate([0.5, 0.5], 2, 1))


def test_the_causal_priority_is_the_one_that_the_router_declares():
    tokens = synthetic(64, skew=1.0)
    causal = {
        name: placed(tokens, top_k=2, capacity=Capacity(1.0, priority=name))
        for name in capacity.PRIORITIES
    }
    assert [name for name, d in causal.items() if d.causal] == ["position"]
    assert [name for name, d in causal.items() if not d.leaks.any()] == ["position"]


def test_a_rule_may_change_what_it_is_given():
    """The learner's function gets copies: the weights that the experts use stay as they are."""

    def spoils(token_N, choice_N, weight_N):
        found = solved("05.4")(token_N, choice_N, weight_N)
        token_N[:], weight_N[:] = 0, -1
        return found

    assert EXERCISES["05.4"].fault(spoils) is None
    tokens = synthetic(40, skew=1.0)
    own = placed(tokens, top_k=2, capacity=Capacity(1.0), priority=spoils)
    batch = placed(tokens, top_k=2, capacity=Capacity(1.0, priority="batch"))
    np.testing.assert_array_equal(own.weight, batch.weight)
    np.testing.assert_array_equal(own.dropped, batch.dropped)
    assert own.meta["own"] and not own.causal


def test_under_a_rule_of_ones_own_the_router_still_learns():
    from moeviz.experiments.slots import placing_router
    from moeviz.routing import RouteContext

    tokens = synthetic(24, skew=1.0)
    router = placing_router(tokens, 2, Capacity(1.0), solved("05.4"))
    out = router(tokens.x_TD, RouteContext(training=True))
    out.plan.weight.sum().backward()
    (gate_ED,) = router.parameters()
    assert gate_ED.grad.abs().sum() > 0
    assert torch.equal(out.stats.load + torch.bincount(out.plan.dropped[:, 1].long(), minlength=8),
                       out.stats.demand)  # fmt: skip
    free = router(tokens.x_TD, RouteContext(training=False))
    assert len(free.plan.dropped) == 0, "outside training no place is limited"
