"""Exercises of 04_collapse: the stated solution passes, typical wrong answers are told apart."""

import numpy as np
import pytest
import torch

from helpers.exercises import Contract, run_solution
from moeviz.exercises import EXERCISES, collapse
from moeviz.pictures.training.cures import failing
from moeviz.records.metrics import max_violation


def arm(fell):
    return {"collapsed": fell, "runs": 5}


# Known answers, whatever is recorded: nothing, two that fail (one of them barely), two that do not.
KNOWN = {
    "arms": {
        "nothing": arm(5),
        "z-loss 0.001": arm(5),
        "noise 1": arm(3),
        "shared expert": arm(2),
        "hash": arm(0),
    }
}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(collapse, "recorded", lambda: KNOWN)


def sign(rate):
    return lambda bias_E, load_E: bias_E + rate * torch.sign(load_E.mean() - load_E)


def switch(scores_TE, expert_T):
    num_experts = scores_TE.shape[1]
    share_E = expert_T.bincount(minlength=num_experts) / len(expert_T)
    return num_experts * (share_E * scores_TE.mean(0)).sum()


def of_counts(scores_TE, expert_T):
    share_E = expert_T.bincount(minlength=8) / len(expert_T)
    return 8 * share_E.square().sum()


def through_the_maximum(scores_TE, expert_T):
    """The right value, its gradient through the largest score of each token alone."""
    value = switch(scores_TE, expert_T)
    best_T = scores_TE.max(-1).values
    return value.detach() + (best_T - best_T.detach()).mean()


WRONG = {
    "04.1": [
        (8, "that is the largest load over the mean load"),
        (2, "that is how many experts are in effect."),
        (0, "the two are even among themselves"),
        (15, "that is one expert taking all"),
    ],
    "04.2": [
        (["z-loss 0.001"], "1 more of the cures fails as often."),
        ([], "2 more of the cures fail as often."),
        (["z-loss 0.001", "noise 1", "hash"], "under 'hash' 0 of 5 runs collapsed, not half."),
        (["shared expert"], "under 'shared expert' 2 of 5 runs collapsed, not half."),
        (["nothing", "noise 1"], "'nothing' is no cure"),
        (["z-loss"], "no recorded setting is called 'z-loss'."),
        ("noise 1", "the answer is a list of names"),
        ([1, 2], "the answer is a list of names"),
    ],
    "04.3": [
        (lambda b, load: b, "MaxVio stays where it was: 3."),
        (sign(-0.01), "the busy get busier. Mind the sign."),
        (sign(0.1), "the load swings from batch to batch"),
        (lambda b, load: b + load.mean() - load, "the load swings from batch to batch"),
        (sign(0.0005), "it is on its way, but too slow: MaxVio 3."),
        (lambda b, load: 0.01 * torch.sign(load.mean() - load), "MaxVio stays where it was"),
        (lambda b, load: None, "update must return the new bias, a tensor [16], not None."),
        (lambda b, load: b.mean(), "update must return the new bias, a tensor [16], not []."),
        (lambda b, load: b / 0 * 0, "the bias it returns holds numbers that are not finite."),
        (0.01, "the answer is a function update(bias_E, load_E)."),
    ],
    "04.4": [
        (of_counts, "it carries no gradient: counts have none"),
        (lambda s, e: switch(s, e) / 8, "with even scores it must give 1, this gives 0.125."),
        (lambda s, e: 8 * s.mean(0).square().sum(), "both the counts and the scores belong"),
        (lambda s, e: switch(s, s.argmax(-1)), "both the counts and the scores belong"),
        (lambda s, e: switch(s.detach(), e), "it carries no gradient"),
        (through_the_maximum, "its value is right, its gradient is not."),
        (lambda s, e: 1.0, "it must return one number, as a tensor."),
        (lambda s, e: s.mean(0), "it must return one number, as a tensor."),
        (lambda s, e: s[e], "it must return one number, as a tensor."),
        (1, "the answer is a function balance(scores_TE, expert_T)."),
    ],
}


class TestContract(Contract):
    wrong = WRONG

    def solved(self, number):
        return run_solution(number, torch=torch, failing=failing, recorded=collapse.recorded)


@pytest.mark.parametrize(
    "rule",
    [
        sign(0.001),
        lambda b, load: b.add_(0.01 * torch.sign(load.mean() - load)),  # in place: it has a copy
        lambda b, load: b + 5e-4 * (load.mean() - load),  # proportional, as the paper's appendix
    ],
)
def test_other_rules_that_balance_are_right_too(rule):
    assert EXERCISES["04.3"].fault(rule) is None


def test_the_simulation_is_the_packages_router_and_collapses_without_a_rule():
    each, together = collapse.simulate(lambda bias_E, load_E: bias_E, steps=60)
    assert len(each) == 60 and min(each) > 2 and together > 2
    loads = []

    def watch(bias_E, load_E):
        loads.append(load_E.numpy())
        return bias_E

    each, _ = collapse.simulate(watch, steps=3)
    assert [load.sum() for load in loads] == [1024] * 3
    np.testing.assert_allclose(each, [max_violation(load) for load in loads])
