"""The exercises: what holds of all, and the oracles of single ones. Those of 12_kernels have a file
of their own."""

import dataclasses
import linecache
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch

from helpers.exercises import SOURCE_FOLDER, Contract, run_solution
from helpers.numerics import relative
from moeviz import costs, exercises
from moeviz.exercises import (
    EXERCISES,
    capacity,
    check,
    collapse,
    comparisons,
    dense_vs_moe,
    frontier,
    hardware,
    solution,
    start_here,
)
from moeviz.exercises.sabotaged_layers import SABOTAGED
from moeviz.experiments.cures import recorded as recorded_cures
from moeviz.experiments.recorded import recorded_trace
from moeviz.experiments.slots import placed, placing_router, synthetic
from moeviz.model import MoEConfig, apply_experts
from moeviz.model.experts import swiglu
from moeviz.pictures.training.cures import failing
from moeviz.records import metrics
from moeviz.records.routes import Trace
from moeviz.routing import Capacity, Plan, RouteContext
from moeviz.routing.assignment import transport
from moeviz.routing.balance import load_balancing_loss, z_loss
from moeviz.routing.capacity import capacity_of, limit_plan

SOURCES = sorted(SOURCE_FOLDER.glob("*.md"))
pytestmark = pytest.mark.usefixtures("no_tries_yet", "known")


def arm(fell, *losses):
    return {"collapsed": fell, "runs": 5} | {"reserve_loss": {"values": [*losses]}}


# Known answers, whatever is recorded: two cures that fail (one of them barely), two that do not.
KNOWN_CURES = {
    "arms": {
        "nothing": arm(5, 3.50, 3.52, 3.51), "z-loss 0.001": arm(5, 3.50, 3.53, 3.50),
        "noise 1": arm(3, 3.60, 3.62, 3.62), "shared expert": arm(2, 3.70, 3.72, 3.71),
        "hash": arm(0, 3.40, 3.42, 3.412), "hash, quiet": arm(0, 3.60, 3.62, 3.612),
    }
}  # fmt: skip


def make_trace():
    """The recorded text with choices of ours: expert 0 is the busiest of the first layer, 5 of the
    last with 25 assignments, then 4 with 24."""
    whole = recorded_trace(Trace, "start_here")
    first = [(0, 1 + place % 7) for place in range(62)]
    last = [(5, 4)] * 12 + [(5, place % 4) for place in range(13)]
    last += [(4, place % 4) for place in range(12)]
    last += [(6 + place % 2, place % 4) for place in range(25)]
    expert_TLK = np.array([first, last]).swapaxes(0, 1)
    score_TLE = np.full((62, 2, 8), 0.1 / 6, dtype=whole.score.dtype)
    np.put_along_axis(score_TLE, expert_TLK, np.array([0.6, 0.3], dtype=score_TLE.dtype), -1)
    weight_TLK = np.take_along_axis(score_TLE, expert_TLK, -1)
    expert_TLK = expert_TLK.astype(whole.expert.dtype)
    columns = {"expert": expert_TLK, "weight": weight_TLK, "score": score_TLE}
    return dataclasses.replace(whole, **columns, layers=(0, 1))


@pytest.fixture
def known(monkeypatch):
    trace = make_trace()
    monkeypatch.setattr(start_here, "recorded", lambda: trace)
    monkeypatch.setattr(collapse, "recorded", lambda: KNOWN_CURES)
    monkeypatch.setattr(comparisons, "recorded", lambda: KNOWN_CURES)


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


def both(found):
    weight_TK, expert_TK = found
    return expert_TK, normalised(weight_TK)


def by_prefixes(route, x_TD):
    """The probe that comes to mind first: the beginning of a text routed by itself."""
    whole_TE = route(x_TD)
    for cut in range(1, len(x_TD)):
        if not torch.allclose(route(x_TD[:cut]), whole_TE[:cut], atol=1e-6):
            return True
    return False


def by_item(scores_TE):
    """Exercise 03.4, token by token."""
    rows = []
    for score_E in scores_TE:
        first, second = sorted(range(len(score_E)), key=lambda e: -score_E[e].item())[:2]
        keep = [first, second] if score_E[second].item() > 0.25 else [first]
        row = torch.zeros_like(score_E)
        row[keep] = normalised(score_E[keep])
        rows.append(row)
    return torch.stack(rows)


def without_the_best(scores_TE):
    """Exercise 03.4, the bar held against both."""
    two_TE = careful(scores_TE, bar=0.0) > 0
    return normalised(scores_TE * two_TE * (scores_TE > 0.25))


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


def counted(expert_TK, num_experts, capacity):
    """Exercise 05.5, with a dictionary."""
    seen = Counter()
    kept = []
    for row in expert_TK.tolist():
        kept.append([seen[e] < capacity for e in row])
        seen.update(row)
    return kept


def one_after_the_other(x_TD, gate_ED, top_k):
    """Exercise 03.5 without topk: the best, then the best of the others."""
    score_TE = torch.softmax(x_TD @ gate_ED.T, 1)
    left_TE, experts = score_TE.detach().clone(), []
    for _ in range(top_k):
        experts.append(left_TE.argmax(1))
        left_TE[torch.arange(len(x_TD)), experts[-1]] = -1
    expert_TK = torch.stack(experts, 1)
    return expert_TK, normalised(score_TE.gather(1, expert_TK))


def evenly(expert_TK, weight_TK):
    return expert_TK, 0 * weight_TK + 1 / weight_TK.shape[1]


def by_experts(scores_TE, capacity, best=True):
    """Exercise 03.6, expert by expert."""
    weight_TE = torch.zeros_like(scores_TE)
    for e, score_T in enumerate(scores_TE.T):
        taken = score_T.argsort(descending=best)[:capacity]
        weight_TE[taken, e] = score_T[taken]
    return weight_TE


def scaled(logits_TE, rounds=300, stable=True):
    """Exercise 03.7; the rows come last."""
    num_tokens, num_experts = logits_TE.shape
    plan_TE = (logits_TE - stable * logits_TE.max()).exp()
    for _ in range(rounds):
        plan_TE = plan_TE * (num_tokens / num_experts) / plan_TE.sum(0)
        plan_TE = normalised(plan_TE)
    return plan_TE


def in_logarithms(logits_TE):
    """The same, with numbers for rows and columns instead of a plan."""
    column_E = torch.zeros(logits_TE.shape[1])
    share = math.log(len(logits_TE) / len(column_E))
    for _ in range(300):
        row_T = -(logits_TE + column_E).logsumexp(1)
        column_E = share - (logits_TE + row_T[:, None]).logsumexp(0)
    return (logits_TE + row_T[:, None] + column_E).exp()


def diagnosed(**others):
    return SABOTAGED | others


def biased(x_TD, gate_ED, bias_E, top_k, within=0.0, norm=True):
    """Exercise 04.7; within: a bias in the weights."""
    scores_TE = (x_TD @ gate_ED.T).softmax(-1)
    expert_TK = (scores_TE + bias_E).topk(top_k).indices
    weight_TK = (scores_TE + within).gather(1, expert_TK)
    return expert_TK, normalised(weight_TK) if norm else weight_TK


def tampered(route, x_TD, rows):
    """A probe that changes other rows than those behind a cut, and looks at the others."""
    changed_TD = x_TD.clone()
    changed_TD[rows] *= -2
    same_T = (changed_TD == x_TD).all(1)
    return not route(changed_TD)[same_T].equal(route(x_TD)[same_T])


def careful(scores_TE, keep=2, bar=0.25, norm=True, above=torch.gt):
    """Exercise 03.4, with its usual mistakes."""
    best_TE, expert_TE = scores_TE.sort(dim=1, descending=True, stable=True)
    best_TK, expert_TK = best_TE[:, :keep], expert_TE[:, :keep]
    best_TK = torch.cat((best_TK[:, :1], best_TK[:, 1:] * above(best_TK[:, 1:], bar)), dim=1)
    if norm is None:
        best_TK = (best_TK > 0) / (best_TK > 0).sum(-1, keepdim=True) + 0 * best_TK
    elif norm:
        best_TK = normalised(best_TK)
    return torch.zeros_like(scores_TE).scatter(1, expert_TK, best_TK)


def sign(rate):
    return lambda bias_E, load_E: bias_E + rate * torch.sign(load_E.mean() - load_E)


def switch(scores_TE, expert_T):
    load_E = expert_T.bincount(minlength=scores_TE.shape[1])
    return load_balancing_loss(scores_TE, load_E)


def of_counts(scores_TE, expert_T):
    share_E = expert_T.bincount(minlength=8) / len(expert_T)
    return 8 * share_E.square().sum()


def through_the_maximum(scores_TE, expert_T):
    """The right value, its gradient through the largest score of each token alone."""
    best_T = scores_TE.max(-1).values
    return switch(scores_TE, expert_T).detach() + (best_T - best_T.detach()).mean()


def spoiling(token_N, choice_N, weight_N):
    """A rule that changes what it is given."""
    found = capacity.sure_first(token_N, choice_N, weight_N)
    token_N[:], weight_N[:] = 0, -1
    return found


def unstable(score_E):
    """Stable up to 16 numbers, as NumPy's default sort is."""
    if len(score_E) <= 16:
        return np.argsort(-score_E, kind="stable")
    return np.argsort(score_E, kind="stable")[::-1]


hidden = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
WRONG = {
    "00.1": [
        (0, "expert 0 is the busiest of the first layer; the last layer is asked for."),
        (4, "expert 4 takes 24 assignments in the last layer; another takes more."),
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
    "03.1": [
        (["switch", "hash"], "one that can is missing: there, its thresholds come from earlier"),
        (("hash", "expert_threshold"), "one that can is missing: there, first come, first served"),
        (["switch", "hash", "expert threshold", "GShard"], "gshard cannot: all first choices are"),
        ({"expert_choice"}, "expert_choice cannot: an expert ranks all tokens of the text"),
        (["soft_moe"], "soft_moe cannot: every slot is a mixture of all tokens"),
        (["Swiss"], "'Swiss' is none of the names to choose from: switch, hash, expert_thresh"),
        (["expert"], "'expert' may be each of expert_threshold, expert_choice: write it in full."),
    ],
    "03.2": [
        (34, "that is the worst case where the scores of a token sum to 1"),
        (36, "36 is of the right size, but it is not exact."),
    ],
    "03.3": [
        (lambda r, x: False, "expert choice sees later tokens, and this did not catch it"),
        (lambda r, x: True, "token choice was accused, though no token there knows of another"),
        (lambda r, x: not r(x).equal(r(-2 * x)), "only rows before the cut may be compared."),
        (lambda r, x: tampered(r, x, slice(0, 5)), "tokens so far was accused, though it knows"),
        (lambda r, x: tampered(r, x, slice(-1, None)), "this did not catch it"),
        (lambda r, x: r(x), "it must return True or False, not a Tensor."),
        (lambda r, x: "yes", "it must return True or False, not a str."),
    ],
    "03.4": [
        (lambda s: careful(s, bar=0.0), "a second expert was taken, at a score of "),
        (lambda s: careful(s, bar=1.0), "must be taken too: its score is above 0.25."),
        (lambda s: careful(s, above=torch.ge), "at a score of 0.250, which is not above 0.25."),
        (lambda s: careful(1 - s), "the best, must be taken."),
        (without_the_best, "no finite numbers: is there a token without any?"),
        (lambda s: careful(s, norm=False), "the weights sum to "),
        (lambda s: careful(s, norm=None), "the weights sum to 1, but not in the ratio"),
        (lambda s: careful(s.flip(1)).flip(1), "the lower number wins a tie: [0], not [3]."),
        (lambda s: careful(s, keep=3), "it took 3 experts; two are the most."),
        (lambda s: careful(s).detach(), "the weights carry no gradient"),
        (lambda s: s.topk(2), "it must return a tensor of weights [40, 6], as its scores are."),
    ],
    "03.5": [
        (lambda x, g, k: biased(x, g, 0, k, norm=False), "are raw scores: renormalise them"),
        (lambda x, g, k: biased(-x, g, 0, k), "do not get the 2 experts with the largest scores."),
        (lambda x, g, k: biased(x, g, 0, 2), "expert_TK must be a tensor [14, 3], not [14, 2]."),
        (lambda x, g, k: biased(x, g.detach(), 0, k), "the weights carry no gradient"),
        (lambda x, g, k: evenly(*biased(x, g, 0, k)), "sum to 1, but not in the ratio of the sco"),
        (lambda x, g, k: biased(x, g, 0, k, within=0.1, norm=False), "weights of a token sum to"),
        (lambda x, g, k: biased(x, g, 0, k)[::-1], "are they swapped?"),
    ],
    "03.6": [
        (lambda s, c: by_experts(s.T, 2).T, "do the experts choose?"),
        (lambda s, c: by_experts(s, c - 1), "expert 0 takes 2 tokens: do the experts choose?"),
        (lambda s, c: by_experts(s, c, best=False), "misses a token with a larger score."),
        (lambda s, c: (by_experts(s, c) > 0).float(), "their weights are the scores as they are."),
        (lambda s, c: by_experts(s.detach(), c), "the weights carry no gradient"),
        (lambda s, c: s.topk(c, dim=0).values, "weight_TE, a tensor [12, 4], not [3, 4]."),
    ],
    "03.7": [
        (lambda z: z.softmax(1), "the rows sum to 1, but column 0 to "),
        (lambda z: z.softmax(0) * len(z) / z.shape[1], "the columns are right, but row "),
        (lambda z: scaled(z, rounds=2), "rows and columns in turn, and more rounds."),
        (lambda z: scaled(z) / len(z), "the whole plan sums to 1: here each row must"),
        (lambda z: 2 * scaled(z), "neither the rows sum to 1 nor the columns to T / E = 3."),
        (lambda z: scaled(0 * z), "what the tokens prefer is lost."),
        (lambda z: scaled(2 * z), "what the tokens prefer is lost."),
        (lambda z: scaled(z, stable=False), "the plan holds numbers that are not finite."),
    ],
    "03.8": [
        (["router"], "'router' is what the comparison asks about: it must differ."),
        (["steps"], "'steps' is the same in both runs."),
        (["machine"], "'machine' differs, but losses are compared, not seconds."),
        (["expert backend"], "the backends agree to rounding"),
        (["output scale", "learning rate"], "2 more settings matter."),
        ("output scale, learning rate, final loss", "1 more setting matters."),
        (["weather"], "'weather' is none of the names to choose from: router, experts"),
    ],
    "04.2": [
        (["z-loss 0.001"], "1 more of the cures fails as often."),
        ([], "2 more of the cures fail as often."),
        (["z-loss 0.001", "noise 1", "hash"], "under 'hash' 0 of 5 runs collapsed, not half."),
        (["shared expert"], "under 'shared expert' 2 of 5 runs collapsed, not half."),
        (["nothing", "noise 1"], "'nothing' is no cure"),
        (["Z loss"], "1 more of the cures fails as often."),
        (["weight decay"], "'weight decay' is none of the names to choose from: nothing, z-loss"),
    ],
    "04.3": [
        (lambda b, load: b * 1, "MaxVio stays where it was: 3."),
        (sign(-0.01), "the busy get busier. Mind the sign."),
        (sign(0.1), "the load swings from batch to batch"),
        (lambda b, load: b + load.mean() - load, "the load swings from batch to batch"),
        (sign(0.0005), "it is on its way, but too slow: MaxVio 3."),
        (lambda b, load: 0.01 * torch.sign(load.mean() - load), "MaxVio stays where it was"),
        (lambda b, load: b.mean(), "update must return the new bias, a tensor [16], not []."),
        (lambda b, load: b / 0 * 0, "the bias it returns holds numbers that are not finite."),
    ],
    "04.4": [
        (of_counts, "it carries no gradient: counts have none"),
        (lambda s, e: switch(s, e) / 8, "with even scores it must give 1, this gives 0.125."),
        (lambda s, e: 8 * s.mean(0).square().sum(), "both the counts and the scores belong"),
        (lambda s, e: switch(s, s.argmax(-1)), "both the counts and the scores belong"),
        (lambda s, e: switch(s.detach(), e), "it carries no gradient"),
        (through_the_maximum, "its value is right, its gradient is not."),
        (lambda s, e: s.mean(0), "it must return one number, as a tensor."),
    ],
    "04.5": [
        (lambda z: z.exp().sum(1).log().square().mean(), "exp is too large there."),
        (lambda z: z.detach().logsumexp(1).square().mean(), "it carries no gradient"),
        (lambda z: 2 * z.logsumexp(1).square().mean(), "with logits of about 1 it gives"),
        (lambda z: z.logsumexp(1).square(), "it must return one number, as a tensor."),
    ],
    "04.6": [
        (diagnosed(B="detached"), "B is not 'detached weights': detached weights leave the"),
        (diagnosed(A="bias in the weights"), "A is not 'bias in the weights': with the bias in"),
        (diagnosed(E="outputs without weights"), "E is not 'outputs without weights': two experts"),
        (diagnosed(C="sign"), "C is not 'sign of the balancing loss': with the wrong sign"),
        (diagnosed(D="old tokens"), "D is not 'old tokens': if it looked at old tokens, every"),
        (diagnosed(D="softmax over tokens"), "D is not 'softmax over tokens': with a softmax over"),
        (diagnosed(D="tired"), "D: 'tired' is none of the names to choose from: detached weights"),
        (diagnosed(D=["old tokens", "sign"]), "D has one fault."),
        ({"A": "sign"}, "a dictionary with a name for each of"),
    ],
    "04.7": [
        (lambda x, g, b, k: biased(x, g, 0 * b, k), "the choice ignores the bias"),
        (lambda x, g, b, k: biased(x, g, -b, k), "not those with the largest score plus bias."),
        (lambda x, g, b, k: biased(x, g, b, k, within=b), "weights are not those of the scores al"),
        (lambda x, g, b, k: biased(x, g, b, k, norm=False), "do not sum to 1: renormalise them."),
        (lambda x, g, b, k: biased(x, g.detach(), b, k), "the weights carry no gradient"),
        (lambda x, g, b, k: biased(x, g, b, k)[::-1], "are they swapped?"),
        (lambda x, g, b, k: biased(x, g, b, k)[0], "it must return (expert_TK, weight_TK)."),
        (lambda x, g, b, k: biased(x, g, b, k + 1), "expert_TK must be a tensor [20, 2], not [20,"),
    ],
    "04.8": [
        (("hash", "nothing"), "there hash wins: its loss minus the other's is -0.099 nats ("),
        (("hash, quiet", "noise 1"), "there it is open: hash's loss minus the other's is -0.003"),
        (("nothing", "hash, quiet"), "first a setting of hash, then one of another router."),
        (("hash", "hash, quiet"), "first a setting of hash, then one of another router."),
        (("hash", "sleep"), "'sleep' is none of the names to choose from: nothing"),
    ],
    "05.3": [
        ("choice", "first choices of later tokens are placed before second choices"),
        ("probability", "a later token with a larger weight takes an earlier one's slot."),
        (["Batch"], "a later token with a larger weight"),
        ("first", "'first' is none of the names to choose from: position, choice, probability, b"),
    ],
    "05.4": [
        (lambda t, k, w: t, "it drops token 2's choice 0; batch prioritised routing does not."),
        (lambda t, k, w: w[:-1], "one number a row, shape (80,); this gave float32"),
        (lambda t, k, w: w * np.nan, "this gave NaN or infinity"),
    ],
    "05.5": [
        (lambda e, n, c: e < 2, "with 3 slots for each of 4 experts it "),
        (lambda e, n, c: e, "it must give True or False for each choice, an array [12, 2]"),
        (lambda e, n, c: (e < n)[:, 0], "this gave bool of shape [12]."),
    ],
    "08.1": [(5, "5 is of the right size, but it is not exact.")],
    "08.2": [
        (lambda *a: 1.01 * hardware.experts_touched(*a), "for E = 8, K = 2, B = 1 it must be 2"),
        (lambda *a: np.nan, "it must give one number, not nan."),
        (lambda *a: round(hardware.experts_touched(*a)), "that is rounded to whole numbers"),
        (lambda *a: math.ceil(hardware.experts_touched(*a)), "that is rounded to whole numbers"),
    ],
    "08.3": [(lambda *a: 2 * hardware.step_seconds(*a), "experts touched it must be ")],
    "08.4": [
        (lambda d, f, e, k: 2.5 * hardware.layer_flops(d, f, e, k), "for d_model 4096, d_expert"),
        (lambda d, f, e, k: (1, 2), "it must give one number, not (1, 2)."),
    ],
    "09.1": [(600, "600 is of the right size, but it is not exact.")],
    "09.2": [
        (lambda *a: 3, "two numbers, (all, active); this returned 3."),
        (lambda *a: (1, 1), "for d_model 4096"),
        (lambda *a: np.array([1, 2, 3]), "two numbers, (all, active); this returned array([1, 2,"),
    ],
    "09.3": [(lambda *a: 0, "it is 70,272 bytes, not 0")],
}


def solved(number):
    """The stated solution, as a learner would run it in the notebook."""
    dense, moe = dense_vs_moe.recorded()[:2]
    return run_solution(
        number, np=np, torch=torch, math=math, metrics=metrics, dense=dense, moe=moe,
        recorded=collapse.recorded if number == "04.2" else start_here.recorded(), failing=failing,
        hash_loses=comparisons.hash_loses,
    )  # fmt: skip


class TestContract(Contract):
    wrong, solved = WRONG, staticmethod(solved)


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        ("00.1", np.array([5])),
        ("00.1", " 5 "),
        ("00.2", torch.tensor(124)),
        ("00.3", lambda s: torch.from_numpy(s).sort(descending=True, stable=True).indices[:2]),
        ("00.3", lambda s: (np.argsort(-s, kind="stable")[:2], s.sort())[0]),  # it has a copy
        ("01.1", "256"),
        ("01.2", np.float32(0.365)),
        ("01.3", lambda d, m, axis: np.float32(metrics.gap(d, m, axis))),
        ("02.1", (0.63, 0.37)),
        ("02.1", torch.tensor([0.625, 0.375])),
        ("02.2", ["Raw"]),
        ("02.3", router(lambda self, x: both(self.gate(x).softmax(1).topk(self.top_k)))),
        ("02.4", package_layer),
        ("02.4", row_by_row),
        ("03.1", "switch, hash, expert threshold"),
        ("03.1", np.array(["Hash", "Switch", "expert-threshold"])),
        ("03.2", np.int64(35)),
        ("03.3", by_prefixes),
        ("03.3", lambda r, x: int(by_prefixes(r, x))),
        ("03.3", lambda r, x: np.bool_(by_prefixes(r, x))),
        ("03.4", by_item),
        ("03.5", lambda x, g, k: [v.flip(1) for v in biased(x, g, 0, k)]),
        ("03.5", one_after_the_other),
        ("03.6", by_experts),
        ("03.6", lambda s, c: s * (s >= s.topk(c, dim=0).values[-1])),
        ("03.7", in_logarithms),
        ("03.7", lambda z: scaled(z.double())),
        ("03.8", {"Learning Rate", "output", "active flops", "final loss"}),
        ("04.1", torch.tensor([7])),
        ("04.2", {"Noise 1", "z-loss"}),
        ("04.3", sign(0.001)),
        ("04.3", lambda b, load: b.add_(0.01 * torch.sign(load.mean() - load))),  # it too
        ("04.3", lambda b, load: b + 5e-4 * (load.mean() - load)),  # as the paper's appendix
        ("04.4", switch),
        ("04.4", lambda s, e: switch(s, e) + 3 * (s.sum(-1).mean() - 1)),  # softmax feels no sum
        ("05.1", 157.0),
        ("05.2", "0.25"),
        ("05.3", ("Position",)),
        ("05.4", spoiling),
        ("04.5", lambda z: (z.amax(1) + (z - z.amax(1, True)).exp().sum(1).log()).pow(2).mean()),
        ("04.6", ["softmax", "bias", "Old Tokens", "detached", "sign"]),
        ("04.7", lambda *a: [values.flip(1) for values in biased(*a)]),
        ("04.8", ["Hash, quiet", "z-loss"]),
        ("05.4", lambda t, k, w: [1e3 * v for v in capacity.sure_first(t, k, w)]),
        ("05.5", counted),
        ("08.1", "4"),
        ("08.2", lambda e, k, b: sum((k / e) * (1 - k / e) ** i for i in range(b)) * e),
        ("08.3", lambda *a: np.array([hardware.step_seconds(*a)])),
        ("08.4", lambda *a: float(hardware.layer_flops(*a))),
        ("09.1", 554.4),
        ("09.2", lambda *a: np.array(frontier.layer_parameters(*a))),
        ("09.2", lambda *a: torch.tensor(frontier.layer_parameters(*a))),
        ("09.3", lambda *a: np.float64(frontier.latent_cache_bytes(*a))),
    ],
)
def test_other_answers_that_are_right_too(number, answer):
    assert EXERCISES[number].fault(answer) is None
    assert EXERCISES[number].fault(answer) is None, "nor has it spoilt the next try"


def test_what_is_recorded_has_the_answers_that_are_stated(monkeypatch):
    monkeypatch.setattr(start_here, "recorded", lambda: recorded_trace(Trace, "start_here"))
    monkeypatch.setattr(collapse, "recorded", recorded_cures)
    for number in ("00.1", "00.2", "00.3", "04.2"):
        assert EXERCISES[number].fault(solved(number)) is None, number


def test_of_two_equally_busy_experts_either_is_right():
    expert_TK = start_here.recorded().expert[:, -1]
    expert_TK[tuple(np.argwhere(expert_TK == 5)[0])] = 7
    assert [n for n in range(8) if EXERCISES["00.1"].fault(n) is None] == [4, 5]


def test_exercises_are_counted_apart(capsys):
    check("01.1", 1)
    check("02.2", "no")
    check("01.1", 2)
    check("01.1", 2)  # the same cell again
    assert capsys.readouterr().out.count("Hint:") == 2, "it stays"
    tries = {number: record.tries for number, record in exercises._records.items()}
    assert tries == {"01.1": 2, "02.2": 1}


@pytest.mark.parametrize("call", [lambda n: check(n, 1), solution])
@pytest.mark.parametrize("number", ["00.9", "3", 1.1, ""])
def test_an_unknown_number_is_refused_in_one_sentence(call, number):
    with pytest.raises(
        ValueError, match=rf"^There is no exercise '{number}'; there is 00.1, .*\.$"
    ):
        call(number)


# The stated answers are what the package itself says.


def test_the_numbers_asked_for():
    assert solved("05.1") == capacity_of(1.25 * 1000 * 2 / 16)
    assert solved("05.2") == pytest.approx(metrics.expected_drop_rate([0.5, 0.5], 2, 1))
    size = costs.weight_bytes(costs.model("Mixtral 8x22B").architecture, "bf16").total
    assert solved("08.1") == math.ceil(size / 80e9) and round(320 - size / 1e9) == 39
    assert solved("09.1") * 1e9 == costs.evaluate("gpt4_flops").value


def test_the_functions_asked_for():
    for case in hardware._batches():
        wanted = costs.distinct_experts(*case).total
        assert hardware.experts_touched(*case) == pytest.approx(wanted, rel=1e-12)
    for d_model, width, num_experts, top_k, shared in frontier._layers():
        one = int(shared > 0)
        layer = costs.MoE(num_experts, top_k, width, shared_experts=one, shared_width=shared)
        weights = [*layer.weights(d_model)]
        wanted = sum(w.count for w in weights), sum(w.active for w in weights)
        assert frontier.layer_parameters(d_model, width, num_experts, top_k, shared) == wanted
    for layers, rank, rope, tokens, bits in frontier._caches():
        mixer = costs.LatentAttention(2, kv_rank=rank, rope_dim=rope, nope_dim=4, value_dim=4)
        shape = costs.Architecture("one", 8, 8, (costs.Layer(mixer, None),) * layers)
        wanted = costs.kv_cache_bytes(shape, tokens, bits=bits).total
        assert frontier.latent_cache_bytes(layers, rank, rope, tokens, bits) == wanted


def test_the_steps_asked_for_are_bound_by_memory_and_by_compute():
    steps = hardware._steps()
    computes = sum(hardware.step_seconds(*step) == step[0] * step[5] / step[7] for step in steps)
    assert 3 <= computes <= len(steps) - 3
    assert steps == hardware._steps(), "the same for everyone"


def test_what_09_says_is_what_is_counted():
    """The figures in its text, beside those that its panels show."""
    v3 = costs.model("DeepSeek-V3 / R1").architecture
    met, every = costs.active_parameters(v3), costs.parameters(v3)
    assert met.total / every.total == pytest.approx(0.056, abs=0.0005)
    assert met.part("attention") / met.total == pytest.approx(0.30, abs=0.005)
    experts = sum(every.part(p) for p in ("routed_experts", "shared_experts", "router"))
    assert experts / every.total == pytest.approx(0.98, abs=0.005), "the praise of 09.2"
    bare = met.total - met.part("routed_experts")
    assert every.total / bare == pytest.approx(39, abs=0.5)
    assert costs.evaluate("unselected_not_loaded").value == pytest.approx(163, abs=0.5)
    ratio = costs.evaluate("cost_per_trillion", llama_usd_per_hour=2).value
    assert (round(costs.evaluate("cost_per_trillion").value, 1), round(ratio, 1)) == (15.7, 10.5)
    gpt = costs.model("gpt-oss-120b").architecture
    oss = costs.active_parameters(gpt, "ex_input_embedding").total
    flops = 2.1e6 * 3600 * costs.DEVICES["H100 SXM"].bf16_flops_per_s * 0.4
    assert flops / costs.six_n_d_flops(oss, 1).total == pytest.approx(97e12, rel=0.01)


def test_the_transport_asked_for_is_the_packages():
    logits_TE = torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
    plan_TE = run_solution("03.7", torch=torch)(logits_TE)
    wanted_TE = len(logits_TE) * transport(logits_TE).exp()  # whose entries sum to 1
    assert relative(plan_TE, wanted_TE) < 1e-3


def test_the_worst_case_of_expert_choice_is_reached_with_sigmoids():
    """Five tokens that all experts rank first leave 35 of 40 without one."""
    logits_TE = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    logits_TE[:5] += 10
    taken_TE = by_experts(logits_TE.sigmoid(), 5) > 0
    assert (taken_TE.sum(1) == 0).sum() == solved("03.2")


def test_hash_loses_only_where_it_is_quiet_and_the_table_says_so():
    lost = comparisons.hash_loses()
    assert lost and all(one == "hash, quiet" for one, _ in lost)
    assert not [pair for pair in lost if pair[1] in ("noise 1", "shared expert")]


def test_made_hash_lose_in_what_is_recorded(monkeypatch):
    monkeypatch.setattr(comparisons, "recorded", recorded_cures)
    if not comparisons.hash_against_others():
        pytest.skip("the recorded runs hold no final losses yet")
    assert EXERCISES["04.8"].fault(comparisons.hash_loses()[0]) is None


def test_before_final_losses_are_recorded_the_exercise_says_so(monkeypatch):
    monkeypatch.setattr(comparisons, "recorded", lambda: {"arms": {"hash": {}, "nothing": {}}})
    assert "no final losses yet" in EXERCISES["04.8"].fault(("hash", "nothing"))


def test_the_layers_flops_are_the_packages():
    for d_model, d_expert, num_experts, top_k in hardware._layers():
        layer = MoEConfig(num_experts, top_k, d_expert)
        wanted = layer.flops_per_token(d_model, seq_len=16)
        assert hardware.layer_flops(d_model, d_expert, num_experts, top_k) == wanted


def test_the_mask_asked_for_is_the_packages_limit():
    for expert_TK, num_experts, slots in capacity._choices():
        num_tokens, top_k = expert_TK.shape
        weight_TK = torch.full(expert_TK.shape, 1 / top_k)
        plan = Plan.from_topk(torch.from_numpy(expert_TK), weight_TK, num_experts=num_experts)
        per_token = slots / num_tokens
        limited, most = limit_plan(plan, per_token, Capacity(priority="position"), None)
        assert most == slots
        kept_TK = np.ones(expert_TK.shape, bool)
        token_M, _, choice_M = limited.dropped.long().T.numpy()
        kept_TK[token_M, choice_M] = False
        np.testing.assert_array_equal(capacity.keep(expert_TK, num_experts, slots), kept_TK)
    assert sum(capacity.keep(*case).all() for case in capacity._choices()) == 1, "one has room"


def test_the_z_loss_asked_for_is_the_packages():
    logits_TE = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(collapse.z_loss(logits_TE), z_loss(logits_TE))


def test_the_causal_priority_is_the_one_that_the_router_declares():
    tokens = synthetic(64, skew=1.0)
    found = {
        name: placed(tokens, top_k=2, capacity=Capacity(1.0, priority=name))
        for name in ("position", "choice", "probability", "batch")
    }
    assert [name for name, d in found.items() if d.causal] == [solved("05.3")]
    assert [name for name, d in found.items() if not d.leaks.any()] == [solved("05.3")]


@pytest.mark.parametrize("rule", [capacity.sure_first, spoiling])
def test_the_priority_asked_for_is_batch_prioritised_routing(rule):
    """Whatever the rule does to what it is given: the weights that the experts use are not it."""
    for num_tokens, top_k in ((40, 2), (57, 3), (64, 1)):
        tokens = synthetic(num_tokens, skew=1.0)
        own = placed(tokens, top_k=top_k, capacity=Capacity(1.0), priority=rule)
        batch = placed(tokens, top_k=top_k, capacity=Capacity(1.0, priority="batch"))
        np.testing.assert_array_equal(own.weight, batch.weight)
        np.testing.assert_array_equal(own.dropped, batch.dropped)
        assert own.meta["own"] and own.dropped.any() and not own.causal


def test_under_a_rule_of_ones_own_the_router_still_learns():
    tokens = synthetic(24, skew=1.0)
    router = placing_router(tokens, 2, Capacity(1.0), capacity.sure_first)
    out = router(tokens.x_TD, RouteContext(training=True))
    out.plan.weight.sum().backward()
    (gate_ED,) = router.parameters()
    assert gate_ED.grad.abs().sum() > 0
    lost_E = torch.bincount(out.plan.dropped[:, 1].long(), minlength=8)
    assert torch.equal(out.stats.load + lost_E, out.stats.demand)
    free = router(tokens.x_TD, RouteContext(training=False))
    assert len(free.plan.dropped) == 0, "outside training no place is limited"


def test_the_simulation_is_the_packages_router_and_collapses_without_a_rule():
    loads = []

    def watch(bias_E, load_E):
        loads.append(load_E.numpy())
        return bias_E

    each, together = collapse.simulate(watch, steps=60)
    assert [load.sum() for load in loads] == [1024] * 60 and min(each) > 2 and together > 2
    np.testing.assert_allclose(each, [metrics.max_violation(load) for load in loads])


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
    # A chapter in parts (03, 03b, …) counts on.
    assert all(n.startswith(f"{number[:2]}.") and f"**{n}**" in text for n, _ in found)
    pieces = [name for _, name in found if re.search(rf"^(?:def|class) {name}\b", text, re.M)]
    assert pieces, "no exercise has the learner write a function or a class"


CELL = re.compile(r"```\{code-cell\} ipython3\n(.*?)```", re.S)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_run_as_it_stands_counts_no_try(path, capsys):
    """Its exercise cells are stubs that the check knows, and it says how hard each one is."""
    text = path.read_text("utf-8")
    names = dict(np=np, torch=torch, math=math, metrics=metrics, check=check)
    dense, moe = dense_vs_moe.recorded()[:2]
    names |= dict(recorded=[dense, moe])
    if path.stem.startswith("12"):
        triton = pytest.importorskip("triton")
        names |= dict(triton=triton, tl=triton.language)
    asked = 0
    for cell in CELL.findall(text):
        numbers = re.findall(r'^check\("([^"]+)"', cell, re.M)
        if not numbers:
            continue
        name = f"<exercise {numbers[0]}>"  # Triton reads a kernel's source
        linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)
        exec(compile(cell, name, "exec"), names)
        out = capsys.readouterr().out
        for number in numbers:
            asked += 1
            assert f"○ {number} " in out and "✘" not in out, out
            assert f"**{number}** ({EXERCISES[number].effort})\n" in text
    assert asked >= 3 and not any(record.tries for record in exercises._records.values())


def test_progress_is_of_the_notebook_that_runs_and_can_be_copied():
    check("01.1", 1)
    check("01.1", 32)
    check("01.1", 256)
    check("01.1", 7)  # what comes after is no longer counted
    check("01.3", ...)
    solution("01.2")
    table = exercises.progress()
    assert table.caption == "1 of 3 exercises are solved."
    assert [(row[0], *row[2:]) for row in table.rows] == [
        ("01.1", "answer", 3, "solved"),
        ("01.2", "answer", 0, "not tried yet, solution seen"),
        ("01.3", "code", 0, "not tried yet"),
    ]
    assert table.csv.splitlines()[1] == "01.1,★☆☆ · 1 min,answer,3,solved"


def test_progress_before_anything_is_tried_lists_all_of_them():
    assert [row[0] for row in exercises.progress().rows] == sorted(EXERCISES)
