"""Exercises of 03: who may choose, and routers written from nothing."""

import math

import numpy as np
import pytest
import torch

from helpers.exercises import Contract, biased, normalised, run_solution
from helpers.numerics import relative
from moeviz.exercises import verdicts
from moeviz.records import compare
from moeviz.routing.assignment import transport


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


def one_seed_at_a_time(losses, base_losses, t):
    """Exercise 03.10 without NumPy's statistics."""
    gaps = [float(a) - float(b) for a, b in zip(losses, base_losses, strict=True)]
    mean = sum(gaps) / len(gaps)
    square = sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)
    reach = t * math.sqrt(square / len(gaps))
    return [mean, mean - reach, mean + reach]


def one_p_at_a_time(p_values):
    """Exercise 03.11 with a loop."""
    found, largest = {}, 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        found[i] = largest
    return [found[i] for i in range(len(p_values))]


WRONG = {
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
    "03.9": [
        (0.2, "0.2 is of the right size, but it is not exact."),
        (50, "50 is much too large."),
    ],
    "03.10": [
        (lambda a, b, t: verdicts.paired(a + 0.01, b, t), "; it must be -0.0"),
        (lambda a, b, t: (a - b).mean(), "it must return three numbers (mean, low, high), not"),
        (lambda a, b, t: (1, 2, math.nan), "it returns numbers that are not finite."),
    ],
    "03.11": [
        (lambda p: p / 2, "for a table of p-values it gives [0.015 0.002 0.01 ]; it must be [0.0"),
        (lambda p: "1", "it must return one number for each p-value, not '1'."),
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
}
# As right as the stated solution, and not it.
RIGHT = {
    "03.1": [
        "switch, hash, expert threshold",
        np.array(["Hash", "Switch", "expert-threshold"]),
    ],
    "03.2": [
        np.int64(35),
    ],
    "03.3": [
        by_prefixes,
        lambda r, x: int(by_prefixes(r, x)),
        lambda r, x: np.bool_(by_prefixes(r, x)),
    ],
    "03.4": [
        by_item,
    ],
    "03.5": [
        lambda x, g, k: [v.flip(1) for v in biased(x, g, 0, k)],
        one_after_the_other,
    ],
    "03.6": [
        by_experts,
        lambda s, c: s * (s >= s.topk(c, dim=0).values[-1]),
    ],
    "03.7": [
        in_logarithms,
        lambda z: scaled(z.double()),
    ],
    "03.9": ["0.125", np.float64(0.125)],
    "03.10": [one_seed_at_a_time],
    "03.11": [one_p_at_a_time, lambda p: verdicts.holm(p).tolist()],
    "03.8": [
        {"Learning Rate", "output", "active flops", "final loss"},
    ],
}


def solved(number):
    return run_solution(number, torch=torch, np=np)


class TestContract(Contract):
    wrong, right, solved = WRONG, RIGHT, staticmethod(solved)


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


def test_the_interval_and_the_correction_asked_for_are_the_packages():
    for losses, base_losses, t in verdicts._losses():
        gap = compare.compare(losses, base_losses)
        assert verdicts.paired(losses, base_losses, t) == pytest.approx(
            (gap.mean, gap.low, gap.high), rel=1e-3, abs=1e-5
        )
    for (p_values,) in verdicts._tables():
        np.testing.assert_allclose(verdicts.holm(p_values), compare.holm(p_values))
