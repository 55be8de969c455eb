"""Routers and whole layers against released code of others and against solvers.

Not stepped around, for the code they are in is not installed: `deepspeed`'s top1gating (use_rts
off) and Megatron's "position" drops use topk on a 0/1 mask, whose ties are in no order;
`deepspeed`'s top2gating changes the logits in place, multiplies the capacity by K and renormalises
after dropping.
"""

import importlib
import math
import os

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from helpers.oracles import (
    FF,
    D,
    E,
    K,
    T,
    check_plan,
    check_value,
    check_weights,
    inputs,
    layer,
    normal,
    relative,
    router,
    unit,
)
from helpers.routers import build, inner, visited
from moeviz.routing import Capacity, RouteContext, assignment
from moeviz.routing.assignment import balanced_assignment, transport

EVALUATE, TRAIN = RouteContext(), RouteContext(training=True)


@pytest.fixture(scope="module")
def modeling():
    """A family's module of transformers, of the version whose code was read."""
    os.environ.setdefault("USE_TF", "0")
    pytest.importorskip("transformers", minversion="5.23")
    return lambda family: importlib.import_module(f"transformers.models.{family}.modeling_{family}")


# --- transformers: whole blocks ---

GROUPS = dict(n_group=4, topk_group=2, n_routed_experts=12)
QWEN = dict(num_experts=E, norm_topk_prob=False, shared_expert_intermediate_size=2 * FF)
BLOCKS = {  # family: its configuration and block, its own sizes; our router, and our layer's
    "qwen2_moe": (
        ("Qwen2MoeConfig", "Qwen2MoeSparseMoeBlock", QWEN),
        ("token_choice", dict(weighting="raw"), dict(num_shared=2, shared_gate="sigmoid")),
    ),
    "mixtral": (
        ("MixtralConfig", "MixtralSparseMoeBlock", dict(intermediate_size=FF, num_experts=E)),
        ("token_choice", {}, {}),
    ),
    "deepseek_v2": (
        (
            "DeepseekV2Config",
            "DeepseekV2Moe",
            GROUPS
            | dict(n_shared_experts=2, routed_scaling_factor=1.5)
            | dict(topk_method="group_limited_greedy"),
        ),
        ("deepseek_v2", dict(scale=1.5), dict(num_shared=2, num_experts=12)),
    ),
    "deepseek_v3": (
        (
            "DeepseekV3Config",
            "DeepseekV3MoE",
            GROUPS | dict(n_shared_experts=1, routed_scaling_factor=2.5, norm_topk_prob=True),
        ),
        ("deepseek_v3", {}, dict(num_shared=1, num_experts=12)),
    ),
}


@pytest.mark.parametrize("family", BLOCKS)
def test_a_block_and_its_gradients_equal_transformers(modeling, family):
    """Traps: config._experts_implementation must be "eager", for None warns and a whole model may
    choose a fused path; the peer's weights are created empty or zero and must all be set. Its
    routers compute their softmax in float32 whatever they are given, so float32 is compared."""
    (config_name, block_name, own), (name, options, settings) = BLOCKS[family]
    ours = layer(name, options=options, dtype=torch.float32, **settings)
    sizes = dict(hidden_size=D, num_experts_per_tok=K, vocab_size=8, num_hidden_layers=1)
    sizes |= dict(num_attention_heads=1, num_key_value_heads=1, moe_intermediate_size=FF)
    module = modeling(family)
    config = getattr(module, config_name)(**sizes | own)
    config._experts_implementation = "eager"
    block = getattr(module, block_name)(config).eval()
    shared = getattr(block, "shared_experts", getattr(block, "shared_expert", None))
    pairs = [
        (ours.router.weight_ED, block.gate.weight),
        (ours.w13_E2FD, block.experts.gate_up_proj),
        (ours.w2_EDF, block.experts.down_proj),
    ]
    if shared is not None:
        pairs.append((ours.shared.w2_DF, shared.down_proj.weight))
    if ours.shared_gate_GD is not None:
        pairs.append((ours.shared_gate_GD, block.shared_expert_gate.weight))
    with torch.no_grad():
        for mine, theirs in pairs:
            theirs.copy_(mine)
        if shared is not None:
            gate_2FD, up_2FD = ours.shared.w13_2FD.chunk(2)
            shared.gate_proj.weight.copy_(gate_2FD)
            shared.up_proj.weight.copy_(up_2FD)
        if family == "deepseek_v3":
            # Large enough to overrule scores, and negative where a mask of 0 would win.
            ours.router.bias.bias_E.copy_(normal(12, seed=5) - 1.0)
            block.gate.e_score_correction_bias.copy_(ours.router.bias.bias_E)
    x_TD = inputs(dtype=torch.float32)
    peer_TD = x_TD.detach().clone().requires_grad_()
    y_TD, route = ours(x_TD, EVALUATE)
    logits_TE, weight_TK, expert_TK = block.gate(peer_TD)
    want_TE = torch.zeros_like(route.scores).scatter(1, expert_TK, weight_TK)
    assert relative(route.logits, logits_TE) < 1e-6
    check_plan(route.plan, want_TE, 1e-6)
    want_TD = block(peer_TD[None])[0]
    check_value(y_TD, want_TD, [*pairs, (x_TD, peer_TD)], 2e-6)


# --- capacity ---


@pytest.mark.parametrize("B,S,C", [(3, 13, 3), (1, 39, 6), (5, 8, 1)])
def test_switch_drops_and_losses_equal_transformers(modeling, B, S, C):
    """The peer counts places per sequence; jitter would change its input in place, so it is off.
    Its load_balancing_loss_func is the mean over sequences, our scope "sequence"; it counts in
    float32."""
    peer = modeling("switch_transformers")
    config = peer.SwitchTransformersConfig(
        num_experts=E, hidden_size=D, d_model=D, expert_capacity=C, router_jitter_noise=0.0
    )
    gate = unit(peer.SwitchTransformersTop1Router(config)).eval()
    limit = Capacity(eval_factor=C * E / S, pool="sequence")
    ours = router("switch", top_k=1, capacity=limit).float()
    scoped = router("token_choice", top_k=1, weighting="raw", scope="sequence").float()
    with torch.no_grad():
        for made in (ours, scoped):
            inner(made).weight_ED.copy_(gate.classifier.weight)
    x_TD = inputs(B * S, dtype=torch.float32)
    peer_TD = x_TD.detach().clone().requires_grad_()
    context = RouteContext(sequence=torch.arange(B).repeat_interleave(S))
    out = ours(x_TD, context)
    dispatch_BSE, weight_BS1, logits_BSE = gate(peer_TD.view(B, S, D))
    leaves = [(inner(ours).weight_ED, gate.classifier.weight), (x_TD, peer_TD)]
    check_weights(out.plan, (dispatch_BSE * weight_BS1).flatten(0, 1), leaves, 1e-6)
    assert out.stats.capacity == C
    assert 0 < B * S - int(dispatch_BSE.sum()) == len(out.plan.dropped)
    probs_BSE = logits_BSE.softmax(-1)
    leaves = [(scoped.weight_ED, gate.classifier.weight), (x_TD, peer_TD)]
    want = peer.load_balancing_loss_func(probs_BSE, probs_BSE.argmax(-1))
    losses = scoped(x_TD, context).losses
    check_value(losses["balance"], want, leaves, 2e-6)
    check_value(losses["z"], peer.router_z_loss_func(logits_BSE), leaves, 2e-6)


@pytest.mark.parametrize(("name", "top_k"), [("gshard", 2), ("st_moe", 2), ("st_moe", 3)])
def test_places_equal_those_of_st_moe_pytorch(name, top_k):
    """Trap: it keeps later choices at random, also outside training, unless their thresholds are 0.
    It rounds the capacity down, and up to at least 4: it is chosen whole. The later choices queue
    behind all earlier ones."""
    gates = pytest.importorskip("st_moe_pytorch.st_moe_pytorch")
    S, C = 31, 3 * top_k
    gate = gates.TopNGating(
        D,
        E,
        top_n=top_k,
        threshold_eval=(0.0,) * (top_k - 1),
        capacity_factor_eval=C * E / S + 1e-6,
    ).double()
    made = router(name, top_k=top_k, eval_capacity_factor=C * E / (top_k * S))
    with torch.no_grad():
        gate.to_gates.weight.copy_(inner(made).weight_ED)
    x_TD = inputs(S)
    out = made(x_TD, EVALUATE)
    want_TEC = gate.eval()(x_TD[None])[1][0]
    leaves = [(inner(made).weight_ED, gate.to_gates.weight), x_TD]
    check_weights(out.plan, want_TEC.sum(-1), leaves)
    assert out.stats.capacity == C and len({*out.plan.dropped[:, 2].tolist()}) > 1
    # The order in an expert's buffer.
    place_N = want_TEC[out.plan.token.long(), out.plan.expert.long()].argmax(-1)
    assert torch.equal(place_N, out.plan.slot.long())


# --- experts choose ---


def linear_program(scores_TE, room, cap):
    """max <S, A> under the caps, by HiGHS; its corners are whole, for it is a transport problem."""
    num_tokens, num_experts = scores_TE.shape
    solution = linprog(
        -scores_TE.numpy().ravel(),
        A_eq=np.kron(np.ones(num_tokens), np.eye(num_experts)),
        b_eq=np.full(num_experts, room),
        A_ub=np.kron(np.eye(num_tokens), np.ones(num_experts)),
        b_ub=np.full(num_tokens, cap),
        bounds=(0, 1),
    )
    assert solution.status == 0
    return -solution.fun


@pytest.mark.parametrize(
    "tokens,experts,factor,cap,gap,free",
    [(23, 5, 1.5, 2, 0.002, 0), (37, 7, 2.0, 3, 0.002, 0), (35, 7, 2.0, 2, 0.03, 1)],
)
def test_capped_expert_choice_is_near_the_linear_program(tokens, experts, factor, cap, gap, free):
    """No token exceeds its cap, and the sum of scores is within 0.2 % of the optimum that HiGHS
    finds, every place taken. Where no token may be left out (cap = factor) it is within 3 %, and an
    expert may leave one place free."""
    over = optimal = 0
    for seed in range(10):
        logits_TE = normal(tokens, experts, seed=seed)
        made = build("expert_choice", logits_TE, 1, capacity_factor=factor, max_experts=cap)
        scores_TE, room = logits_TE.softmax(-1), math.ceil(factor * tokens / experts)
        plan = made(torch.eye(tokens, dtype=torch.float64), TRAIN).plan
        taken_TE = visited(plan)
        check_plan(plan, scores_TE * taken_TE)
        uncapped_TE = scores_TE >= scores_TE.sort(dim=0, descending=True).values[room - 1]
        over += int((uncapped_TE.sum(1) > cap).sum())
        assert taken_TE.sum(1).max() <= cap and taken_TE.sum(0).max() <= room
        assert 0 <= experts * room - int(taken_TE.sum()) <= free
        ratio = (taken_TE * scores_TE).sum().item() / linear_program(scores_TE, room, cap)
        assert 1 - gap < ratio < 1 + 1e-9
        optimal += ratio > 1 - 1e-9
    assert over >= 5  # tokens that the cap is there for
    assert optimal >= 1 or free


# --- assignment ---


@pytest.mark.parametrize("tokens", [35, 37, 5])
def test_base_finds_the_optimum_that_pot_finds(tokens):
    """Network simplex against our assignment solver: values, for an optimum need not be unique.
    Where E does not divide T, an expert may have up to ceil(T/E) tokens: an idle token beside the
    real ones, at no cost, takes the places that stay free. fairseq's auction, only approximate,
    is no oracle."""
    ot = pytest.importorskip("ot")
    open_TE, room = normal(tokens, E, seed=9), -(-tokens // E)
    expert_TK = balanced_assignment(open_TE, 2)
    assert open_TE.gather(1, expert_TK[:, :1]).sum() < open_TE.amax(1).sum() - 0.1
    idle = E * room - tokens
    mass_T = np.append(np.ones(tokens), idle) if idle else np.ones(tokens)
    for expert_T1 in expert_TK.split(1, dim=1):
        cost_TE = np.vstack((-open_TE.numpy(), np.zeros((int(idle > 0), E))))
        value = -ot.emd2(mass_T, np.full(E, float(room)), cost_TE)
        assert open_TE.gather(1, expert_T1).sum().item() == pytest.approx(value, rel=1e-9)
        # The second round goes without the pairs of the first.
        open_TE = open_TE.scatter(1, expert_T1, -1e3)


@pytest.mark.parametrize("num_experts", range(1, 7))
@pytest.mark.parametrize("num_tokens", range(1, 12))
def test_an_assignment_repeats_no_pair_and_keeps_within_its_places(num_tokens, num_experts):
    room = -(-num_tokens // num_experts)
    for top_k in range(1, num_experts + 1):
        for seed in range(3):
            expert_TK = balanced_assignment(normal(num_tokens, num_experts, seed=seed), top_k)
            assert all(len({*row}) == top_k for row in expert_TK.tolist())
            assert max(round_T.bincount().max() for round_T in expert_TK.T) <= room


def sinkhorn(logits_TE, **options):
    """POT's transport plan between uniform marginals."""
    ot = pytest.importorskip("ot")
    tokens, experts = logits_TE.shape
    marginals = np.full(tokens, 1 / tokens), np.full(experts, 1 / experts)
    return torch.from_numpy(ot.sinkhorn(*marginals, -logits_TE.numpy(), reg=1.0, **options))


def test_the_transport_equals_pot_whatever_row_and_column_constants(monkeypatch):
    """exp(200) is no float32: with constants of that size the plan is what it was without. Until
    float64 has no more to give, instead of 100 rounds or a tolerance of 1e-4."""
    monkeypatch.setattr(assignment, "SINKHORN_ROUNDS", 3000)
    monkeypatch.setattr(assignment, "SINKHORN_TOLERANCE", 1e-14)
    logits_TE = 2 * normal(T, E)
    want_TE = sinkhorn(logits_TE, stopThr=1e-14, numItermax=3000)
    assert relative(transport(logits_TE).exp(), want_TE) < 1e-10
    shifted_TE = logits_TE + 200 * normal(T, 1, seed=4) + 200 * normal(E, seed=5)
    assert shifted_TE.abs().max() > 400
    assert relative(transport(shifted_TE).exp(), want_TE) < 1e-9
    single_TE = transport(logits_TE.float() + 200.0).exp()
    assert torch.isfinite(single_TE).all() and relative(single_TE, want_TE) < 1e-5


@pytest.mark.parametrize("top_k", [1, 3])
def test_sinkhorn_routes_by_pots_plan_and_weighs_by_its_logits(top_k):
    made, x_TD = router("sinkhorn", top_k=top_k), inputs()
    logits_TE = x_TD @ made.weight_ED.T
    score_TE = logits_TE.sigmoid() if top_k == 1 else logits_TE.softmax(1)
    masks = []
    for context, ranked_TE in ((TRAIN, sinkhorn(logits_TE.detach())), (EVALUATE, logits_TE)):
        expert_TK = ranked_TE.topk(top_k).indices
        masks.append(torch.zeros(T, E, dtype=torch.bool).scatter(1, expert_TK, True))
        out = made(x_TD, context)
        check_weights(out.plan, score_TE * masks[-1], [x_TD, made.weight_ED])
        assert relative(out.scores, score_TE) < 1e-12
    assert not torch.equal(*masks)
