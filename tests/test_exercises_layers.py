"""Exercises of 00, 01 and 02: a trace to read, a race to judge, a layer to write."""

import dataclasses

import numpy as np
import pytest
import torch

from helpers.exercises import Contract, normalised, run_solution
from moeviz.exercises import (
    EXERCISES,
    dense_vs_moe,
    start_here,
)
from moeviz.experiments.recorded import recorded_trace
from moeviz.model import apply_experts
from moeviz.model.experts import swiglu
from moeviz.records import metrics
from moeviz.records.routes import Trace
from moeviz.routing import Plan


def make_trace():
    """The recorded text with choices of ours: expert 7 gets the fewest assignments of the first
    layer; of the last it is expert 3 with 2, then 2 with 3, and 5 gets the most."""
    whole = recorded_trace(Trace, "start_here")
    first = [(0, 1 + place % 7) for place in range(62)]
    last = [(5, 4)] * 12 + [(5, place % 2) for place in range(13)]
    last += [(4, place % 2) for place in range(12)]
    last += [(6 + place % 2, (3, 3, 2, 2, 2, *(0, 1) * 10)[place]) for place in range(25)]
    expert_TLK = np.array([first, last]).swapaxes(0, 1)
    score_TLE = np.full((62, 2, 8), 0.1 / 6, dtype=whole.score.dtype)
    np.put_along_axis(score_TLE, expert_TLK, np.array([0.6, 0.3], dtype=score_TLE.dtype), -1)
    weight_TLK = np.take_along_axis(score_TLE, expert_TLK, -1)
    expert_TLK = expert_TLK.astype(whole.expert.dtype)
    columns = {"expert": expert_TLK, "weight": weight_TLK, "score": score_TLE}
    return dataclasses.replace(whole, **columns, layers=(0, 1))


@pytest.fixture(autouse=True)
def known(monkeypatch):
    trace = make_trace()
    monkeypatch.setattr(start_here, "recorded", lambda: trace)


def router(forward):
    """The class of exercise 02.3 with another forward."""

    class Router(torch.nn.Module):
        def __init__(self, d_model, num_experts, top_k):
            super().__init__()
            self.gate = torch.nn.Linear(d_model, num_experts, bias=False)
            self.top_k = top_k

    Router.forward = forward
    return Router


def best(self, x_TD):
    return self.gate(x_TD).softmax(-1).topk(self.top_k)


def both(found):
    weight_TK, expert_TK = found
    return expert_TK, normalised(weight_TK)


def package_layer(x_TD, gate_ED, w13_E2FD, w2_EDF, top_k):
    """Exercise 02.4 by the package's own parts."""
    scores_TK, expert_TK = (x_TD @ gate_ED.T).softmax(-1).topk(top_k)
    plan = Plan.from_topk(expert_TK, normalised(scores_TK), num_experts=len(gate_ED))
    return apply_experts(x_TD, plan, w13_E2FD, w2_EDF)


def row_by_row(x_TD, gate_ED, w13_E2FD, w2_EDF, top_k):
    """The same, token by token."""
    rows = []
    for x_D in x_TD:
        score_E = torch.softmax(gate_ED @ x_D, 0)
        chosen = score_E.argsort(descending=True)[:top_k]
        outputs = [
            score_E[e] / score_E[chosen].sum() * (w2_EDF[e] @ swiglu(w13_E2FD[e] @ x_D))
            for e in chosen
        ]
        rows.append(sum(outputs))
    return torch.stack(rows)


def unstable(score_E):
    """Stable up to 16 numbers, as NumPy's default sort is."""
    if len(score_E) <= 16:
        return np.argsort(-score_E, kind="stable")
    return np.argsort(score_E, kind="stable")[::-1]


hidden = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


WRONG = {
    "00.1": [
        (7, "expert 7 takes the fewest of layer 0; the last layer is asked for."),
        (5, "expert 5 takes the most of the last layer; the fewest are asked for."),
        (2, "expert 2 takes 3 assignments in the last layer; another takes fewer."),
        (8, "the answer is the number of an expert, 0 to 7."),
        (-1, "the answer is the number of an expert, 0 to 7."),
    ],
    "00.2": [
        (62, "that is the number of tokens; each goes to 2 experts."),
        (np.int64(248), "that counts all layers; one layer is asked for."),
        (62 * 8, "a token does not go to every expert."),
        (123, "123 is of the right size, but it is not exact."),
        (12, "12 is much too small."),
        ("1,240", "1240 is much too large."),
        (np.nan, "the answer is one number, not nan."),
        ("many", "the answer is one number, not 'many'."),
        (True, "the answer is one number, not True."),
    ],
    "00.3": [
        (lambda s: [0, 1], "for [0.1, 0.6, 0.3] it must be [1, 2], not [0, 1]."),
        (lambda s: np.argsort(s)[-2:], "for [0.1, 0.6, 0.3] the best expert comes first"),
        (lambda s: np.argsort(s)[::-1][:2], "the lower number wins a tie: [0, 1], not [3, 2]."),
        (lambda s: np.argsort(-(s**2), kind="stable")[:2], "for [-3.0, -1.0, -2.0] it must be"),
        (lambda s: [1, 2] if len(s) == 3 else [0, 1], "for [0.1, 0.4, 0.1, 0.4]"),
        (lambda s: unstable(s)[:2], "the lower number wins a tie: [0, 1], not [39, 38]."),
        (lambda s: np.argsort(-s, kind="stable")[:3], "it must be [1, 2], not [1, 2, 0]."),
        (lambda s: start_here.pick(s if len(s) != 8 else -s), "disagrees with the real router"),
        (lambda s: 1 / 0, "Your code raised ZeroDivisionError: division by zero."),
    ],
    "01.2": [
        (0.125, "that is K / E: it leaves out what every token uses"),
        (1 / 0.365, "that is total over active; turn it around."),
        (36.5, "give a share between 0 and 1, not per cent."),
    ],
    "01.3": [
        (lambda d, m, axis: d.validation[0] - m.validation[0], "it gave NaN: not every point"),
        (lambda d, m, axis: metrics.gap(d, m, "step"), "compares the two ends"),
        (lambda d, m, axis: 1.0, "for one recorded race at equal step it gave 1.0000; it is 0.0"),
    ],
    "02.1": [
        ([0.5, 0.3], "those are the raw weights, which sum to 0.8."),
        ([0.375, 0.625], "the better expert comes first."),
        ([0.6, 0.3], "renormalised weights sum to 1, these to 0.900."),
        ([0.6, 0.4], "the first is 1.50 times the second; 0.5 is 1.67 times 0.3."),
        (np.array([1.0, 0.0]), "the first is inf times the second"),
    ],
    "02.2": [("renormalise", "with K = 1 a renormalised weight is score / score = 1")],
    "02.3": [
        (
            router(lambda self, x: both(best(self, hidden))),
            "7 tokens and K = 2 both must be [7",
        ),
        (router(lambda self, x: both(self.gate(x).softmax(-1).topk(2))), "and K = 3 both must be"),
        (router(lambda self, x: both(best(self, hidden.repeat(2, 1)[:7]))), "not the 2 best"),
        (router(lambda self, x: both(self.gate(-x).softmax(-1).topk(2))), "not the 2 best"),
        (router(lambda self, x: best(self, x)[::-1]), "the chosen scores, renormalised to sum"),
        (router(lambda self, x: both([v.detach() for v in best(self, x)])), "carry no gradient"),
        (router(lambda self, x: best(self, x)[1]), "must return (expert_TK, weight_TK)."),
        (router(lambda self, x: both(best(self, x))[::-1]), "not the 2 best"),
        (router(lambda self, x: both(best(self, x)))(8, 5, 2), "a class of torch.nn.Module, not"),
    ],
    "02.4": [
        (lambda *a: package_layer(*a).detach(), "it carries no gradient: nothing would learn."),
        (
            lambda x, gate, *a: package_layer(x, gate.detach(), *a),
            "the output is right, but the gradient that reaches gate_ED is not.",
        ),
        (lambda *a: 2 * package_layer(*a), "with 11 tokens, 6 experts and K = 2 the output of tok"),
        (lambda *a: package_layer(*a)[:-1], "it must return y_TD, a tensor [11, 8] as x_TD is, no"),
        (lambda *a: None if len(a) < 5 else 3, "as x_TD is, not 3."),
    ],
}
# As right as the stated solution, and not it.
RIGHT = {
    "00.1": [
        np.array([3]),
        " 3 ",
    ],
    "00.2": [
        torch.tensor(124),
    ],
    "00.3": [
        lambda s: torch.from_numpy(s).sort(descending=True, stable=True).indices[:2],
        lambda s: (np.argsort(-s, kind="stable")[:2], s.sort())[0],  # it has a copy
    ],
    "01.1": [
        "256",
    ],
    "01.2": [
        np.float32(0.365),
    ],
    "01.3": [
        lambda d, m, axis: np.float32(metrics.gap(d, m, axis)),
    ],
    "02.1": [
        (0.63, 0.37),
        torch.tensor([0.625, 0.375]),
    ],
    "02.2": [
        ["Raw"],
    ],
    "02.3": [
        router(lambda self, x: both(self.gate(x).softmax(1).topk(self.top_k))),
    ],
    "02.4": [
        package_layer,
        row_by_row,
    ],
}


def solved(number):
    dense, moe = dense_vs_moe.recorded()[:2]
    return run_solution(
        number, np=np, torch=torch, metrics=metrics, dense=dense, moe=moe,
        recorded=start_here.recorded(),
    )  # fmt: skip


class TestContract(Contract):
    wrong, right, solved = WRONG, RIGHT, staticmethod(solved)


def test_of_two_experts_with_the_fewest_assignments_either_is_right():
    expert_TK = start_here.recorded().expert[:, -1]
    expert_TK[tuple(np.argwhere(expert_TK == 2)[0])] = 0
    assert [n for n in range(8) if EXERCISES["00.1"].fault(n) is None] == [2, 3]


def test_what_is_recorded_has_the_answers_that_are_stated(monkeypatch):
    monkeypatch.setattr(start_here, "recorded", lambda: recorded_trace(Trace, "start_here"))
    for number in ("00.1", "00.2", "00.3"):
        assert EXERCISES[number].fault(solved(number)) is None, number
    for load_E in start_here.recorded().load()[:-1]:  # who looks at another layer is not right
        assert EXERCISES["00.1"].fault(load_E.argmin()) and EXERCISES["00.1"].fault(load_E.argmax())
