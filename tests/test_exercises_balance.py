"""Exercises of 04 and 05: balance, five sabotaged layers, and who gets a slot."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from helpers.exercises import Contract, biased, run_solution
from moeviz.exercises import (
    EXERCISES,
    capacity,
    collapse,
    comparisons,
)
from moeviz.exercises.sabotaged_layers import SABOTAGED
from moeviz.experiments.cures import recorded as recorded_cures
from moeviz.experiments.slots import placed, placing_router, synthetic
from moeviz.pictures.training.cures_told import failing
from moeviz.records import metrics
from moeviz.routing import Capacity, Plan, RouteContext
from moeviz.routing.balance import load_balancing_loss, z_loss
from moeviz.routing.capacity import capacity_of, limit_plan


def arm(fell, *losses):
    return {"collapsed": fell, "runs": 5} | {"reserve_loss": {"values": [*losses]}}


# Known answers, whatever is recorded: two cures that fail (one of them barely), two that do not.
KNOWN_CURES = {
    "arms": {
        "nothing": arm(5, 3.50, 3.52, 3.51), "z-loss 0.001": arm(5, 3.50, 3.53, 3.50),
        "noise 1": arm(3, 3.60, 3.62, 3.62), "shared expert": arm(2, 3.70, 3.72, 3.71),
        "hash": arm(0, 3.40, 3.42, 3.412), "hash, quiet": arm(0, 3.60, 3.62, 3.612),
        "nothing, warm restarts": arm(5, 3.20, 3.22, 3.212),
    }
}  # fmt: skip


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(collapse, "recorded", lambda: KNOWN_CURES)
    monkeypatch.setattr(comparisons, "recorded", lambda: KNOWN_CURES)


def diagnosed(**others):
    return SABOTAGED | others


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


def counted(expert_TK, num_experts, capacity):
    """Exercise 05.5, with a dictionary."""
    seen = Counter()
    kept = []
    for row in expert_TK.tolist():
        kept.append([seen[e] < capacity for e in row])
        seen.update(row)
    return kept


def spoiling(token_N, choice_N, weight_N):
    """A rule that changes what it is given."""
    found = capacity.sure_first(token_N, choice_N, weight_N)
    token_N[:], weight_N[:] = 0, -1
    return found


WRONG = {
    "04.2": [
        (["z-loss 0.001"], "1 more of the cures has at least half of the runs collapsed."),
        ([], "2 more of the cures have at least half of the runs collapsed."),
        (
            ["z-loss 0.001", "noise 1", "hash"],
            "under 'hash' 0 of 5 runs collapsed: fewer than",
        ),
        (["shared expert"], "under 'shared expert' 2 of 5 runs collapsed: fewer than half."),
        (["nothing", "noise 1"], "'nothing' is no cure"),
        (
            ["z-loss 0.001", "noise 1", "nothing, warm restarts"],
            "'nothing, warm restarts' is none of the names to choose from: nothing, z-loss",
        ),
        (["Z loss"], "1 more of the cures has at least half of the runs collapsed."),
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
        (("hash, quiet", "nothing, warm restarts"), "has another schedule of the learning rate"),
        (("hash", "hash, quiet"), "first a setting of hash, then one of another router."),
        (("hash", "sleep"), "'sleep' is none of the names to choose from: nothing"),
    ],
    "05.3": [
        ("choice", "first choices of later tokens are placed before second choices"),
        ("probability", "a later token with a larger weight takes an earlier one's slot."),
        (["Batch"], "a later token with a larger weight"),
        ("first", "'first' is none of the names to choose from: batch, choice, position, prob"),
        (1, 'the answer is one of "position", "choice", "probability" and "batch".'),
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
}
# As right as the stated solution, and not it.
RIGHT = {
    "04.1": [
        torch.tensor([7]),
    ],
    "04.2": [
        {"Noise 1", "z-loss"},
    ],
    "04.3": [
        sign(0.001),
        lambda b, load: b.add_(0.01 * torch.sign(load.mean() - load)),  # it too
        lambda b, load: b + 5e-4 * (load.mean() - load),  # as the paper's appendix
    ],
    "04.4": [
        switch,
        lambda s, e: switch(s, e) + 3 * (s.sum(-1).mean() - 1),  # softmax feels no sum
    ],
    "05.1": [
        157.0,
    ],
    "05.2": [
        "0.25",
    ],
    "05.3": [
        ("Position",),
    ],
    "05.4": [
        spoiling,
        lambda t, k, w: [1e3 * v for v in capacity.sure_first(t, k, w)],
    ],
    "04.5": [
        lambda z: (z.amax(1) + (z - z.amax(1, True)).exp().sum(1).log()).pow(2).mean(),
    ],
    "04.6": [
        ["softmax", "bias", "Old Tokens", "detached", "sign"],
    ],
    "04.7": [
        lambda *a: [values.flip(1) for values in biased(*a)],
    ],
    "04.8": [
        ["Hash, quiet", "z-loss"],
    ],
    "05.5": [
        counted,
    ],
}


def solved(number):
    return run_solution(
        number, np=np, math=math, recorded=collapse.recorded, failing=failing,
        hash_loses=comparisons.hash_loses,
    )  # fmt: skip


class TestContract(Contract):
    wrong, right, solved = WRONG, RIGHT, staticmethod(solved)


def test_what_is_recorded_has_the_answers_that_are_stated(monkeypatch):
    monkeypatch.setattr(collapse, "recorded", recorded_cures)
    assert EXERCISES["04.2"].fault(solved("04.2")) is None


def test_hash_loses_only_where_it_is_quiet_and_the_table_says_so():
    lost = comparisons.hash_loses()
    assert lost and all(one == "hash, quiet" for one, _ in lost)
    assert not [pair for pair in lost if pair[1] in ("noise 1", "shared expert")]


def test_made_hash_lose_in_what_is_recorded(monkeypatch):
    monkeypatch.setattr(comparisons, "recorded", recorded_cures)
    pairs = comparisons.hash_against_others()
    assert pairs and "nothing, warm restarts" not in {other for _, other in pairs}
    assert EXERCISES["04.8"].fault(solved("04.8")) is None


def test_before_final_losses_are_recorded_the_exercise_says_so(monkeypatch):
    monkeypatch.setattr(comparisons, "recorded", lambda: {"arms": {"hash": {}, "nothing": {}}})
    assert "no final losses yet" in EXERCISES["04.8"].fault(("hash", "nothing"))


def test_the_numbers_asked_for():
    assert solved("05.1") == capacity_of(1.25 * 1000 * 2 / 16)
    assert solved("05.2") == pytest.approx(metrics.expected_drop_rate([0.5, 0.5], 2, 1))


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

    each, together = collapse.simulate(watch)
    assert [load.sum() for load in loads] == [1024] * 300 and min(each) > 2 and together > 2
    np.testing.assert_allclose(each, [metrics.max_violation(load) for load in loads])
