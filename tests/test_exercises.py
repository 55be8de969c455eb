"""The exercises of notebooks 00 to 03, and what holds of all; later ones have their own files."""

import re

import numpy as np
import pytest
import torch

from helpers.exercises import SOURCE_FOLDER, Contract, run_solution
from moeviz import exercises
from moeviz.exercises import EXERCISES, check, dense_vs_moe, solution, start_here
from moeviz.records import metrics
from moeviz.records.routes import Trace
from moeviz.records.runs import Curve, Snapshot

SOURCES = sorted(SOURCE_FOLDER.glob("*.md"))
pytestmark = pytest.mark.usefixtures("no_tries_yet")


# Recordings small enough to know every answer; the shipped ones may be recorded anew.


def make_trace():
    """5 tokens, 3 layers, 4 experts, 2 choices: expert 1 is busiest first, expert 2 at the end."""
    score = np.full((5, 3, 4), 0.05, dtype=np.float32)
    score[:, 0, 1], score[:3, 0, 0], score[3:, 0, 2] = 0.5, 0.4, 0.4
    score[:, 1, 3], score[:, 1, 0] = 0.5, 0.4
    score[:, 2, 2], score[:3, 2, 3], score[3:, 2, 0] = 0.5, 0.4, 0.4
    expert = np.argsort(-score, axis=-1, kind="stable")[..., :2].astype(np.int16)
    weight = np.take_along_axis(score, expert.astype(np.int64), -1)
    return Trace(tuple("abcde"), expert, weight, score, (0, 1, 2))


def make_races():
    """MoE learns more a step and is slower, so that it depends on the axis who is ahead."""
    step = np.arange(1, 9, dtype=np.float64)
    measured = step % 2 == 0
    measured[-1] = False  # a curve does not end with a measurement
    found = []
    for seed in range(2):
        for label, pace, gain in (("dense", 1.0, 0.0), ("MoE", 2.5, 0.2 + seed)):
            loss = 4 - 0.3 * step - gain
            curve = Curve(
                step=step, seconds=step * pace, flops=step * (1e9 + 1e8 * (label == "MoE")),
                loss=loss, load=np.zeros((8, 0, 0)), validation=np.where(measured, loss, np.nan),
            )  # fmt: skip
            found.append(Snapshot(label, 8, 8, 8 * pace, 100.0, 1_000_000, 300_000, curve))
    return found


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(start_here, "recorded", make_trace)
    monkeypatch.setattr(dense_vs_moe, "recorded", make_races)


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


def normalised(weight_TK):
    return weight_TK / weight_TK.sum(-1, keepdim=True)


def solved(number):
    """The stated solution, as a learner would run it in the notebook."""
    names = {"np": np, "torch": torch, "metrics": metrics, "recorded": start_here.recorded()}
    names["dense"], names["moe"] = dense_vs_moe.recorded()[:2]
    answer = run_solution(number, **names)
    return router(answer) if number == "02.3" else answer


hidden = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
WRONG = {
    "00.1": [
        (1, "expert 1 is the busiest of the first layer; the last layer is asked for."),
        (0, "expert 0 takes 2 assignments in the last layer; another takes more."),
        (3, "expert 3 takes 3 assignments in the last layer; another takes more."),
        (4, "the answer is the number of an expert, 0 to 3."),
        (-1, "the answer is the number of an expert, 0 to 3."),
        ("2", "the answer is the number of an expert, 0 to 3."),
        (np.array([0, 2]), "the answer is the number of an expert, 0 to 3."),
        (True, "the answer is the number of an expert, 0 to 3."),
        (np.nan, "the answer is the number of an expert, 0 to 3."),
    ],
    "00.2": [
        (5, "that is the number of tokens; each goes to 2 experts."),
        (np.int64(30), "that counts all layers; one layer is asked for."),
        (20, "a token does not go to every expert."),
        (9, "9 is too small."),
        (11.0, "11 is too large."),
        ("ten", "the answer is one number, not 'ten'."),
        (True, "the answer is one number, not True."),
        (float("nan"), "the answer is one number, not nan."),
    ],
    "00.3": [
        (lambda s: [0, 1], "for [0.1, 0.6, 0.3] it must be [1, 2], not [0, 1]."),
        (lambda s: np.argsort(s)[-2:], "for [0.1, 0.6, 0.3] the best expert comes first"),
        (lambda s: np.argsort(s)[::-1][:2], "the lower number wins a tie: [0, 1], not [3, 2]."),
        (lambda s: np.argsort(-s**2, kind="stable")[:2], "for [-3.0, -1.0, -2.0] it must be"),
        (lambda s: [1, 2] if len(s) == 3 else [0, 1], "for [0.1, 0.4, 0.1, 0.4]"),
        ([1, 2], "the answer is a function of one array of scores."),
        (lambda s: 1 / 0, "Your code raised ZeroDivisionError: division by zero."),
        (lambda: [0, 1], "Your code raised TypeError: "),
        (lambda s: None, "Your code raised TypeError: "),
    ],
    "01.1": [
        (2048, "that is what all 32 experts hold; only 4 of them see a token."),
        (64, "that is one expert; a token visits 4."),
        (32, "that is the number of experts."),
    ],
    "01.2": [
        (0.125, "that is K / E: it leaves out what every token uses"),
        (1 / 0.3, "that is total over active; turn it around."),
        (30, "give a share between 0 and 1, not per cent."),
    ],
    "01.3": [
        (lambda d, m, axis: d.validation[-1] - m.validation[-1], "it gave NaN: not every point"),
        (lambda d, m, axis: -metrics.gap(d, m, axis), "the sign is turned around"),
        (lambda d, m, axis: last(d) - last(m), "compares the two ends, which stand at different"),
        (lambda d, m, axis: metrics.gap(d, m, "step"), "compares the two ends"),
        (lambda d, m, axis: 1.0, "for one recorded race at equal step it gave 1.0000; it is 0.2"),
        (0.2, "the answer is a function ahead(dense, moe, axis)."),
    ],
    "02.1": [
        ([0.5, 0.3], "those are the raw weights, which sum to 0.8."),
        ([0.375, 0.625], "the better expert comes first."),
        ([0.6, 0.3], "renormalised weights sum to 1, these to 0.900."),
        ([0.6, 0.4], "they sum to 1, but their ratio is not that of 0.5 to 0.3."),
        ([0.5, 0.3, 0.1, 0.1], "the answer is a list of two numbers, this has shape (4,)."),
        (0.625, "the answer is a list of two numbers, this has shape ()."),
        ("raw", "the answer is a list of two numbers."),
    ],
    "02.2": [
        ("renormalise", "with K = 1 a renormalised weight is score / score = 1"),
        ("Raw", "the answer is 'raw' or 'renormalise'."),
        (1, "the answer is 'raw' or 'renormalise'."),
    ],
    "02.3": [
        (router(lambda self, x: both(best(self, hidden))), "for 7 tokens both must be [7, 2], got"),
        (router(lambda self, x: both(best(self, hidden.repeat(2, 1)[:7]))), "not the two best"),
        (router(lambda self, x: both(self.gate(-x).softmax(-1).topk(2))), "not the two best"),
        (router(lambda self, x: best(self, x)[::-1]), "the chosen scores, renormalised to sum"),
        (router(lambda self, x: both([v.detach() for v in best(self, x)])), "carry no gradient"),
        (router(lambda self, x: best(self, x)[1]), "must return (expert_TK, weight_TK)."),
        (router(lambda self, x: both(best(self, x))[::-1]), "not the two best"),
        (router(lambda self, x: both(best(self, x)))(8, 5, 2), "a class of torch.nn.Module, not"),
        (lambda x: x, "the answer is a class of torch.nn.Module"),
        (dict, "the answer is a class of torch.nn.Module"),
    ],
    "03.1": [
        (["switch", "hash"], "one that can is missing: there, its thresholds come from earlier"),
        (("hash", "expert_threshold"), "one that can is missing: there, first come, first served"),
        (["switch", "hash", "expert_threshold", "gshard"], "gshard cannot: all first choices are"),
        ({"expert_choice"}, "expert_choice cannot: an expert ranks all tokens of the text"),
        (["soft_moe"], "soft_moe cannot: every slot is a mixture of all tokens"),
        (["Switch"], "'Switch' is none of the six names."),
        ("switch", "the answer is a list of names, each in quotes."),
        ([1], "the answer is a list of names, each in quotes."),
    ],
    "03.2": [
        (0, "every expert is filled, but nothing says that every token is taken."),
        (5, "that is how many are served in the worst case."),
        (32, "all experts may agree on the very same tokens: count those that are left then."),
        (40, "every expert takes 5 tokens, so some are served."),
    ],
    "03.3": [
        (lambda r, x: False, "expert choice sees later tokens, and this did not catch it"),
        (lambda r, x: True, "token choice was accused, though no token there knows of another"),
        (lambda r, x: not r(x).equal(r(-2 * x)), "only rows before the cut may be compared."),
        (lambda r, x: tampered(r, x, slice(0, 5)), "tokens so far was accused, though it knows"),
        (lambda r, x: tampered(r, x, slice(-1, None)), "this did not catch it"),
        (lambda r, x: r(x), "it must return True or False, not a Tensor."),
        (True, "the answer is a function sees_later(route, x_TD)."),
    ],
    "03.4": [
        (lambda s: careful(s, bar=0.0), "a second expert was taken, at a score of "),
        (lambda s: careful(s, bar=1.0), "must be taken too: its score is above 0.3."),
        (lambda s: careful(1 - s), "the best, must be taken."),
        (lambda s: normalised(s * (s > 0.3)), "no finite numbers: is there a token without any?"),
        (lambda s: careful(s, norm=False), "the weights sum to "),
        (lambda s: careful(s, norm=None), "the weights sum to 1, but not in the ratio"),
        (lambda s: careful(s.flip(1)).flip(1), "the lower number wins a tie: [0], not [3]."),
        (lambda s: careful(s, keep=3, bar=0.3), "it took 3 experts; two are the most."),
        (lambda s: careful(s).detach(), "the weights carry no gradient"),
        (lambda s: s.topk(2), "it must return a tensor of weights [40, 6], as its scores are."),
        (0.3, "the answer is a function careful(scores_TE)."),
    ],
}  # fmt: skip


def both(found):
    weight_TK, expert_TK = found
    return expert_TK, normalised(weight_TK)


def tampered(route, x_TD, rows):
    """A probe that changes other rows than those behind a cut, and looks at the others."""
    changed_TD = x_TD.clone()
    changed_TD[rows] *= -2
    same_T = (changed_TD == x_TD).all(1)
    return not route(changed_TD)[same_T].equal(route(x_TD)[same_T])


def careful(scores_TE, keep=2, bar=0.3, norm=True):
    """Exercise 03.4, with its usual mistakes."""
    best_TE, expert_TE = scores_TE.sort(dim=1, descending=True, stable=True)
    best_TK, expert_TK = best_TE[:, :keep], expert_TE[:, :keep]
    best_TK = torch.cat((best_TK[:, :1], best_TK[:, 1:] * (best_TK[:, 1:] > bar)), dim=1)
    if norm is None:
        best_TK = (best_TK > 0) / (best_TK > 0).sum(-1, keepdim=True) + 0 * best_TK
    elif norm:
        best_TK = normalised(best_TK)
    return torch.zeros_like(scores_TE).scatter(1, expert_TK, best_TK)


def last(curve):
    return curve.validation[~np.isnan(curve.validation)][-1]


@pytest.mark.usefixtures("known")
class TestContract(Contract):
    wrong, solved = WRONG, staticmethod(solved)


@pytest.mark.parametrize("number", WRONG)
def test_the_stated_solution_passes_on_what_is_shipped(number):
    assert EXERCISES[number].fault(solved(number)) is None


def test_of_two_equally_busy_experts_either_is_right(monkeypatch, capsys):
    trace = make_trace()
    trace.expert[0, 2, 1] = trace.expert[1, 2, 1] = 2  # 7 for expert 2, then as many for expert 0
    trace.expert[:, 2][trace.expert[:, 2] != 2] = 0
    trace.expert[3:, 2] = 0
    monkeypatch.setattr(start_here, "recorded", lambda: trace)
    assert trace.load()[-1].tolist() == [5, 0, 5, 0]
    for answer in (0, 2):
        check("00.1", answer)
    assert capsys.readouterr().out.count("right.") == 2


def test_exercises_are_counted_apart(known, capsys):
    check("01.1", 1)
    check("02.2", "no")
    check("01.1", 2)
    assert capsys.readouterr().out.count("Hint:") == 1
    assert exercises._wrong == {"01.1": 2, "02.2": 1}


@pytest.mark.parametrize("call", [lambda n: check(n, 1), solution])
@pytest.mark.parametrize("number", ["00.9", "3", 1.1, ""])
def test_an_unknown_number_is_refused_in_one_sentence(call, number):
    with pytest.raises(
        ValueError, match=rf"^There is no exercise '{number}'; there is 00.1, .*\.$"
    ):
        call(number)


def test_an_array_given_by_the_learner_is_not_changed(known):
    """pick() may sort in place: it gets a copy, or the next case would be another one."""

    def sorts_in_place(scores):
        order = np.argsort(-scores, kind="stable")[:2]
        scores.sort()
        return order

    assert EXERCISES["00.3"].fault(sorts_in_place) is None
    assert EXERCISES["00.3"].fault(sorts_in_place) is None


# The notebooks.


def test_notebooks_and_exercises_name_each_other():
    found = [
        n for path in SOURCES for n in re.findall(r'check\("([^"]+)"', path.read_text("utf-8"))
    ]
    assert sorted(set(found)) == sorted(EXERCISES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_has_three_exercises_and_has_one_piece_written(path):
    text = path.read_text("utf-8")
    number = path.stem.partition("_")[0]
    found = re.findall(r'^check\("([\d.]+)", (\S+)\)', text, flags=re.M)
    assert len({n for n, _ in found}) >= 3
    assert all(n.startswith(f"{number}.") and f"**{n}**" in text for n, _ in found)
    pieces = [name for _, name in found if re.search(rf"^(?:def|class) {name}\b", text, re.M)]
    assert pieces, "no exercise has the learner write a function or a class"
