"""Edges of routers that a mutation of the code showed no other test to hold."""

import subprocess
import sys

import pytest
import torch

from helpers.numerics import relative
from moeviz.routing import RouteContext, build_router
from moeviz.routing.balance import cv_squared
from moeviz.routing.capacity import capacity_of
from moeviz.routing.deepseek import default_groups


def tokens(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("num_experts", "top_k", "groups"),
    [(8, 2, (4, 2)), (16, 6, (4, 2)), (10, 2, (1, 1)), (4, 2, (1, 1)), (8, 7, (4, 4))],
)
def test_groups_by_default(num_experts, top_k, groups):
    assert default_groups(num_experts, top_k, None, None) == groups


def test_the_logits_of_a_hierarchy_are_those_of_its_two_levels():
    """log P(group) + the expert's own logit, so that its z-loss bounds both."""
    router = build_router("hierarchical", d_model=6, num_experts=6, top_k=2).double()
    x_TD = tokens(5, 6).double()
    out = router(x_TD, RouteContext(training=True))
    group_TG, own_TE = x_TD @ router.group_GD.T, x_TD @ router.weight_ED.T
    groups, width = router.num_groups, 6 // router.num_groups
    want_TE = torch.empty_like(own_TE)
    for t in range(5):
        total = sum(group_TG[t, g].exp() for g in range(groups))
        for e in range(6):
            want_TE[t, e] = own_TE[t, e] + (group_TG[t, e // width].exp() / total).log()
    assert relative(out.logits, want_TE) < 1e-12
    z = sum(want_TE[t].exp().sum().log() ** 2 for t in range(5)) / 5
    assert abs(out.losses["z"] - z) < 1e-10


def test_a_group_of_one_expert_scores_by_it_alone():
    """The two best of a group of one are one."""
    both = [
        build_router(
            "token_choice",
            d_model=6,
            num_experts=4,
            top_k=2,
            num_groups=4,
            top_groups=2,
            group_score=score,
            score="sigmoid",
        )  # fmt: skip
        for score in ("max", "top2")
    ]
    both[1].load_state_dict(both[0].state_dict())
    plans = [router(tokens(9, 6), RouteContext()).plan for router in both]
    assert torch.equal(plans[0].expert, plans[1].expert)


def test_even_counts_of_nothing_vary_by_nothing():
    assert cv_squared(torch.zeros(4)) == 0
    assert cv_squared(torch.tensor([1.0, -1.0])) > 1e9  # a mean of 0 is guarded, not ignored


@pytest.mark.parametrize("rate", [0.0, -1e-3, float("nan")])
def test_a_bias_rate_is_above_zero(rate):
    with pytest.raises(ValueError, match="bias_rate must be a finite number above 0"):
        build_router("token_choice", d_model=4, num_experts=4, top_k=2, bias="sign", bias_rate=rate)


def test_an_expert_has_a_slot_however_small_its_share():
    assert [capacity_of(share) for share in (1e-12, 0.3, 1.0, 1.0 + 1e-12, 1.1)] == [1, 1, 1, 1, 2]


def test_hash_takes_one_expert_and_any_vocabulary_by_default():
    from moeviz.routing.hashing import Hash

    router = Hash(d_model=4, num_experts=3, vocab_size=1)
    assert router.top_k == 1
    router(tokens(2, 4), RouteContext(token_ids=torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(ValueError, match="token_ids must lie in 0..0.*got 0 to 7"):
        router(tokens(2, 4), RouteContext(token_ids=torch.tensor([0, 7])))


def test_a_mixture_of_tokens_of_many_choices_has_groups_of_one():
    assert build_router("mixture_of_tokens", d_model=4, num_experts=4, top_k=3).group_size == 1
    assert build_router("mixture_of_tokens", d_model=4, num_experts=8, top_k=2).group_size == 4


def test_the_interpreter_is_asked_for_where_there_is_no_gpu():
    code = (
        "import os; os.environ.pop('TRITON_INTERPRET', None)\n"
        "from moeviz.backend import kernels_anywhere; print(kernels_anywhere().interpreted())"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "True", run.stderr
