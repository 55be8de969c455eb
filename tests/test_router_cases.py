"""Kinds of faults that practitioners reported of routers elsewhere, each by its smallest case."""

import math
import os
from types import SimpleNamespace

import pytest
import torch

from helpers.routers import build, context, normal
from moeviz import backend
from moeviz.ops import renormalised
from moeviz.routing import ROUTERS, RouteContext, build_router, leaking_tokens
from moeviz.routing.balance import cv_squared, load_balancing_loss
from moeviz.routing.deepseek import default_groups


def test_the_information_loss_has_a_finite_gradient_where_a_probability_is_zero():
    torch.manual_seed(0)
    made = build_router("dense_mixture", d_model=16, num_experts=8, top_k=2, temperature=1e-3)
    out = made(normal(40, 16), RouteContext(training=True))
    assert (out.scores == 0).any()
    out.losses["information"].backward()
    assert torch.isfinite(made.weight_ED.grad).all()


@pytest.mark.parametrize(
    ("name", "options", "scale"),
    [("deepseek_v3", {}, 2.5), ("token_choice", {"bias": "sign"}, 1.0)],
)
def test_a_bias_begins_with_the_figures_of_deepseek_v3(name, options, scale):
    """It moves by 0.001 a step (2412.19437, section 4.2); V3's weights are scaled by 2.5."""
    made = build_router(name, d_model=4, num_experts=8, top_k=2, **options)
    assert made.scale == scale
    made.post_step(made(normal(8, 4), RouteContext(training=True)).stats)
    moved_E = made.bias.bias_E.abs()
    assert moved_E.max() == pytest.approx(1e-3) and set(moved_E.tolist()) <= {
        0.0,
        float(moved_E.max()),
    }


def test_noise_that_is_no_number_is_refused_though_the_scores_are():
    made = build("noisy_topk", D=4)
    torch.nn.init.constant_(made.noise_ED, math.nan)
    made(normal(8, 4), context(8))
    with pytest.raises(ValueError, match="logits must be finite numbers, got nan for token 0"):
        made(normal(8, 4), context(8, True))


def test_null_experts_take_their_part_of_an_even_load():
    """Of 9 that a token may choose 6 have an FFN: of its two choices 4/3."""
    made = build_router(
        "null_experts", d_model=4, num_experts=6, top_k=2, zero=1, copy=1, constant=1
    )
    assert made.active_experts(8) == pytest.approx(4 / 3)


def test_a_constant_expert_costs_its_score_two_mixing_scores_and_its_vector():
    flops = [build_router("null_experts", d_model=6, num_experts=4, top_k=2, constant=c).flops(1)
             for c in (1, 2, 3)]  # fmt: skip
    assert [more - less for less, more in zip(flops, flops[1:], strict=False)] == 2 * [2 * 6 * 4]


def test_an_error_names_the_token_in_the_batch_not_among_the_real_ones():
    made = build_router("token_choice", d_model=4, num_experts=4, top_k=2)
    x_TD = normal(8, 4)
    x_TD[5] = math.nan
    mask_T = torch.arange(8) >= 3
    with pytest.raises(ValueError, match="got nan for token 5, expert 0"):
        made(x_TD, RouteContext(mask=mask_T))


@pytest.mark.parametrize(("name", "leaks"), [("token_choice", False), ("expert_choice", True)])
def test_the_probe_takes_padded_batches(name, leaks):
    x_TD = normal(30, 6)
    x_TD[24:] = math.nan
    leaks_T = leaking_tokens(build(name, K=1), x_TD, context(30, mask=torch.arange(30) < 24))
    assert leaks_T.any().item() == leaks and not leaks_T[24:].any()


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_a_killed_expert_is_dead_at_every_temperature(temperature, score):
    torch.manual_seed(0)
    made = build_router(
        "token_choice", d_model=16, num_experts=8, top_k=2, temperature=temperature, score=score
    )
    made.kill(3)
    out = made(100 * normal(4000, 16), RouteContext(training=True))
    assert out.stats.load[3] == 0 and not out.scores[:, 3].any()
    sum(out.losses.values()).backward()
    assert torch.isfinite(made.weight_ED.grad).all()


@pytest.mark.parametrize("level", [0.0, -50.0, -80.0, -100.0, -300.0])
def test_renormalised_sigmoids_sum_to_one_however_small(level):
    made = build_router("token_choice", d_model=2, num_experts=4, top_k=2, score="sigmoid")
    with torch.no_grad():
        made.weight_ED[:] = torch.tensor([[level, 0.0], [level, 1.0], [level, 2.0], [level, 3.0]])
    x_TD = torch.tensor([[1.0, 0.1], [1.0, 0.2]])
    out = made(x_TD, RouteContext(training=True))
    assert out.plan.dense_weights().sum(1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    (out.plan.dense_weights() * normal(2, 4)).sum().backward()
    assert torch.isfinite(made.weight_ED.grad).all()


def test_saturated_sigmoids_are_chosen_by_their_logits():
    """sigmoid(20) and sigmoid(40) are both 1 in float32."""
    made = build("token_choice", torch.tensor([[20.0, 40.0, 30.0]]), 1, score="sigmoid")
    assert made(torch.eye(1), context(1)).plan.expert.tolist() == [1]


def test_an_expert_takes_no_more_tokens_than_there_are():
    """In float32, whose top-k refuses more; that of float64 gives what there is."""
    for name in ("expert_choice", "expert_threshold"):
        made = build(name, torch.zeros(5, 4), 2, capacity_factor=50.0)
        stats = made(torch.eye(5), context(5)).stats
        assert stats.load.tolist() == [5] * 4


def test_no_coin_is_tossed_for_a_first_choice():
    """With four choices a first one may weigh less than a half."""
    made = build("gshard", torch.zeros(200, 4), 4, capacity_factor=9.0)
    plan = made(torch.eye(200), context(200, True)).plan
    assert (plan.choice == 0).sum() == 200 and len(plan.token) < 700


@pytest.mark.parametrize(
    ("num_experts", "top_k", "groups"),
    [(8, 2, (4, 2)), (16, 6, (4, 2)), (10, 2, (1, 1)), (4, 2, (1, 1)), (8, 7, (4, 4))],
)
def test_groups_by_default(num_experts, top_k, groups):
    assert default_groups(dict(num_experts=num_experts, top_k=top_k), None, None) == groups
    assert default_groups(dict(num_experts=12, top_k=2), 6, None) == (6, 3)


def test_a_group_of_one_expert_scores_by_it_alone():
    """The two best of a group of one are one."""
    options = dict(num_groups=4, top_groups=2, score="sigmoid")
    plans = [
        build("token_choice", group_score=score, **options)(normal(9, 6), context(9)).plan
        for score in ("max", "top2")
    ]
    assert torch.equal(plans[0].expert, plans[1].expert)


def test_deepseek_v3_scores_a_group_by_its_two_best():
    options = dict(d_model=6, num_experts=8, top_k=2, top_groups=1)
    scores = [build_router("deepseek_v3", num_groups=n, **options).group_score for n in (1, 2, 4)]
    assert scores == ["max", "top2", "top2"]


def test_at_most_all_experts_a_token_is_no_limit():
    plans = [
        build("expert_choice", max_experts=most)(normal(9, 6), context(9)).plan
        for most in (None, 4)
    ]
    assert torch.equal(plans[0].expert, plans[1].expert)
    assert torch.equal(plans[0].token, plans[1].token)


def test_nothing_is_shared_out_evenly():
    """Where all is zero, and where a mean is."""
    assert cv_squared(torch.zeros(4)) == cv_squared(torch.ones(1)) == 0
    assert cv_squared(torch.tensor([1.0, -1.0])) > 1e9
    assert load_balancing_loss(torch.ones(6, 3), torch.zeros(3, dtype=torch.int64)) == 0
    assert renormalised(torch.zeros(3, 2)).tolist() == [[0.5, 0.5]] * 3


@pytest.mark.parametrize("name", ["soft_moe", "mixture_of_tokens"])
def test_a_soft_router_starts_at_logits_of_unit_scale(name):
    weight, *_ = build_router(name, d_model=64, num_experts=64, top_k=1).parameters()
    assert weight.std().item() == pytest.approx(1 / 8, rel=0.1)


@pytest.mark.parametrize("init_scale", [1.0, 5.0])
def test_a_threshold_starts_where_a_token_gets_k_experts_on_average(init_scale):
    """Whatever the logits' own spread."""
    torch.manual_seed(1)  # not 0, which is that of the tokens
    sizes = dict(d_model=64, num_experts=256, top_k=8)
    made = build_router("expert_threshold", **sizes, init_scale=init_scale)
    assert made(normal(500, 64), context(500)).stats.load.sum() / 500 == pytest.approx(8, rel=0.1)


def test_equal_scores_still_fill_every_expert_and_no_token_gets_one_twice():
    made = build("base", torch.zeros(10, 4), 3)
    out = made(torch.eye(10), context(10, True))
    assert out.stats.load.max() <= 9 and (out.plan.dense_weights() > 0).sum(1).tolist() == [3] * 10


def test_a_switch_has_the_limit_that_is_asked_for_or_its_own():
    limits = [ROUTERS["switch"].limit(factor, top_k=1, share=3.0) for factor in (None, 2.0)]
    assert limits == [{}, {"capacity_factor": 2.0}]


def test_a_mixture_of_tokens_costs_a_token_k_experts_by_default():
    for sizes, group_size in ((dict(E=4, K=3), 1), (dict(E=8, K=2), 4)):
        assert build("mixture_of_tokens", **sizes).group_size == group_size


@pytest.mark.parametrize("gpu", [False, True])
def test_the_interpreter_is_asked_for_where_there_is_no_gpu(gpu, monkeypatch):
    """Before the kernels are imported: they are defined for it, or for a GPU."""
    asked, loaded = [], SimpleNamespace(device_refusal=lambda device: None)
    monkeypatch.setenv("TRITON_INTERPRET", "")  # is put back afterwards
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    def imported():
        asked.append(os.environ.get("TRITON_INTERPRET"))
        return loaded

    monkeypatch.setattr(backend, "kernels", imported)
    assert backend.kernels_anywhere() is loaded
    assert asked == [None if gpu else "1"] * len(asked) and asked


# What balancing rules keep between steps.


@pytest.mark.parametrize("cast", ["bfloat16", "half", "double", "float"])
@pytest.mark.parametrize("name", ROUTERS)
def test_a_cast_leaves_the_state_in_float32(name, cast):
    router = build_router(name, d_model=8, num_experts=8, top_k=2)
    before = {k: v + 1 / 3 for k, v in router.named_buffers() if v.is_floating_point()}
    router.load_state_dict(before, strict=False)  # thirds: 16 bits would round them
    getattr(router, cast)()
    for key, value in before.items():
        held = router.get_buffer(key)
        assert held.dtype == torch.float32 and torch.equal(held, value), key
