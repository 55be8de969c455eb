"""Every router against an oracle: released code of others, a solver, or the paper in plain loops.

Not stepped around, for the code they are in is not installed: `deepspeed`'s top1gating (use_rts
off) and Megatron's "position" drops use topk on a 0/1 mask, whose ties are in no order (trap 2);
`deepspeed`'s top2gating changes the logits in place, multiplies the capacity by K and renormalises
after dropping (trap 3).
"""

import dataclasses
import functools
import importlib
import math
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from scipy.special import logsumexp
from scipy.stats import entropy, norm
from torch import nn

from helpers import routers
from helpers.numerics import relative
from helpers.routers import visited as chosen
from moeviz.model.layer import MoEConfig, MoEFFN
from moeviz.routing import Capacity, RouteContext, WithCapacity, assignment, build_router
from moeviz.routing.assignment import balanced_assignment, transport
from moeviz.routing.balance import sequence_balancing_loss, z_loss
from moeviz.routing.noisy import chosen_probability
from moeviz.routing.switch import CoinTossTopK

EVALUATE, TRAIN = RouteContext(), RouteContext(training=True)
T, D, E, K, FF = 37, 11, 7, 3, 10  # FF: width of an expert; F is torch's
DOUBLE = 1e-12  # relative error of the same formula in float64, in another order of addition
STATE = 1e-6  # of what a router keeps between steps, which stays in float32


normal = functools.partial(routers.normal, dtype=torch.float64)


def unit(module, seed=1):
    """Weights that make logits and outputs of unit scale: what routers start with is too small to
    be a hard case."""
    with torch.no_grad():
        for i, weight in enumerate(module.parameters()):
            fan_in = weight.shape[-1] if weight.ndim else 1
            weight.copy_(normal(*weight.shape, seed=seed + 97 * i) / fan_in**0.5)
    return module


def router(name, *, num_experts=E, top_k=K, seed=1, **options):
    """A router in float64, so that an error of 1e-12 shows."""
    made = build_router(name, d_model=D, num_experts=num_experts, top_k=top_k, **options)
    return unit(made.double(), seed)


def layer(name, *, num_experts=E, top_k=K, dtype=torch.float64, backend="reference", **config):
    options = config.pop("options", {})
    config = MoEConfig(
        num_experts, top_k, FF, router=name, options=options, backend=backend, **config
    )
    return unit(MoEFFN(D, config).to(dtype))


def inputs(tokens=T, seed=9, dtype=torch.float64):
    return normal(tokens, D, seed=seed, dtype=dtype).requires_grad_()


def expert_ffn(made, e, x_nD):
    """Expert e of a layer, alone."""
    gate_nF, up_nF = (x_nD @ made.w13_E2FD[e].T).chunk(2, dim=-1)
    return (F.silu(gate_nF) * up_nF) @ made.w2_EDF[e].T


def check_plan(plan, want_TE, limit=DOUBLE):
    """The same decisions, and the same weights."""
    assert torch.equal(chosen(plan), want_TE != 0)
    assert 0 < plan.token.numel() and relative(plan.dense_weights(), want_TE) < limit


def check_gradients(got, want, leaves, limit=DOUBLE):
    """Of two scalars, or of two tensors under the same random weights; leaves: what both were
    computed from, or pairs (ours, the oracle's)."""
    probe = normal(*got.shape, seed=77, dtype=got.dtype)
    pairs = [leaf if isinstance(leaf, tuple) else (leaf, leaf) for leaf in leaves]
    ours, theirs = zip(*pairs, strict=True)
    got_grads = torch.autograd.grad((got * probe).sum(), ours, retain_graph=True)
    want_grads = torch.autograd.grad((want * probe).sum(), theirs, retain_graph=True)
    for i, (a, b) in enumerate(zip(got_grads, want_grads, strict=True)):
        assert b.norm() > 1e-6, f"leaf {i} has no gradient to compare"
        assert relative(a, b) < limit, i


def check_weights(plan, want_TE, leaves, limit=DOUBLE):
    check_plan(plan, want_TE, limit)
    check_gradients(plan.dense_weights(), want_TE, leaves, limit)


def check_loss(got, want, leaves, limit=DOUBLE):
    assert relative(got, want) < limit
    check_gradients(got, want, leaves, limit)


def best(values, k):
    """Indices of the k largest, best first; sorted() is stable: the lower index wins."""
    values = values.tolist() if torch.is_tensor(values) else values
    return sorted(range(len(values)), key=lambda i: -values[i])[:k]


def share_times_score(scores_TE, count_E):
    """E sum_e (share of the count) (mean score), added up one by one."""
    count_E, num_experts = [float(c) for c in count_E], scores_TE.shape[1]
    total = sum(count_E)
    parts = [count_E[e] / total * scores_TE[:, e].mean() for e in range(num_experts)]
    return num_experts * sum(parts)


# --- transformers: whole blocks ---


@pytest.fixture(scope="module")
def models():
    """transformers.models, of the version whose code was read."""
    os.environ.setdefault("USE_TF", "0")
    transformers = pytest.importorskip("transformers", minversion="5.23")
    return transformers.models


# name: (number of experts, our layer's settings)
V2 = dict(num_groups=4, top_groups=2, scale=1.5)
V3 = dict(num_groups=4, top_groups=2)
BLOCKS = {  # name: our router, its options and the layer's
    "qwen2_moe": ("token_choice", dict(weighting="raw"), dict(num_shared=2, shared_gate="sigmoid")),
    "qwen2_moe normed": ("token_choice", {}, dict(num_shared=1, shared_gate="sigmoid")),
    "qwen3_moe": ("token_choice", dict(weighting="raw"), {}),
    "qwen3_moe normed": ("token_choice", {}, {}),
    "granitemoe": ("token_choice", {}, {}),
    "mixtral": ("token_choice", {}, {}),
    "olmoe": ("token_choice", dict(weighting="raw"), {}),
    "olmoe normed": ("token_choice", {}, {}),
    "deepseek_v2 greedy": ("deepseek_v2", dict(num_groups=1, scale=1.5), dict(num_shared=2)),
    "deepseek_v2": ("deepseek_v2", V2, dict(num_shared=2)),
    "deepseek_v3": ("deepseek_v3", V3, dict(num_shared=1)),
}
PEERS = {  # family: its configuration, its block, its own sizes
    "qwen2_moe": ("Qwen2MoeConfig", "Qwen2MoeSparseMoeBlock", {}),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeSparseMoeBlock", {}),
    "mixtral": ("MixtralConfig", "MixtralSparseMoeBlock", dict(intermediate_size=FF)),
    "olmoe": ("OlmoeConfig", "OlmoeSparseMoeBlock", dict(intermediate_size=FF)),
    "granitemoe": ("GraniteMoeConfig", "GraniteMoeMoE", dict(intermediate_size=FF)),
    "deepseek_v2": (
        "DeepseekV2Config",
        "DeepseekV2Moe",
        dict(n_shared_experts=2, n_group=4, topk_group=2, routed_scaling_factor=1.5),
    ),
    "deepseek_v3": (
        "DeepseekV3Config",
        "DeepseekV3MoE",
        dict(n_shared_experts=1, n_group=4, topk_group=2, routed_scaling_factor=2.5),
    ),
}


def peer_block(models, name, num_experts, num_shared):
    """(router, experts, the whole block, its shared FFN or None)."""
    family, _, variant = name.partition(" ")
    config_name, block_name, own = PEERS[family]
    count = "num_experts" if "qwen" in family or family == "olmoe" else "num_local_experts"
    sizes = dict(hidden_size=D, num_experts_per_tok=K, vocab_size=8, num_hidden_layers=1)
    sizes |= dict(num_attention_heads=1, num_key_value_heads=1, moe_intermediate_size=FF)
    sizes |= {"n_routed_experts" if "deepseek" in family else count: num_experts} | own
    if family == "deepseek_v2":
        sizes["topk_method"] = "greedy" if variant else "group_limited_greedy"
    elif family != "mixtral" and family != "granitemoe":
        sizes["norm_topk_prob"] = variant == "normed" or family == "deepseek_v3"
    if family == "qwen2_moe":
        sizes["shared_expert_intermediate_size"] = num_shared * FF
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    config = getattr(getattr(models, family), config_name)(**sizes)
    config._experts_implementation = "eager"
    block = getattr(module, block_name)(config).eval()
    gate = block.router if family == "granitemoe" else block.gate
    shared = getattr(block, "shared_experts", getattr(block, "shared_expert", None))
    return gate, block.experts, block, shared


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_and_its_gradients_equal_transformers(models, name):
    """Traps: config._experts_implementation must be "eager", for None warns and a whole model may
    choose a fused path (trap 6); the peer's weights are created empty or zero and must all be set;
    norm_topk_prob is False by default even where the released model has True (qwen3_moe). Its
    routers compute their softmax in float32 whatever they are given, so float32 is compared."""
    made, options, settings = BLOCKS[name]
    num_experts, num_shared = 12 if "deepseek" in made else E, settings.get("num_shared", 0)
    settings = settings | dict(options=options, dtype=torch.float32)
    ours = layer(made, num_experts=num_experts, **settings)
    gate, experts, block, shared = peer_block(models, name, num_experts, num_shared)
    pairs = [
        (ours.router.weight_ED, gate.weight),
        (ours.w13_E2FD, experts.gate_up_proj),
        (ours.w2_EDF, experts.down_proj),
    ]
    if shared is not None:
        pairs.append((ours.shared.w2_DF, shared.down_proj.weight))
        up_projections = torch.cat((shared.gate_proj.weight, shared.up_proj.weight))
        assert up_projections.shape == ours.shared.w13_2FD.shape
    if ours.shared_gate_GD is not None:
        pairs.append((ours.shared_gate_GD, block.shared_expert_gate.weight))
    with torch.no_grad():
        for mine, theirs in pairs:
            theirs.copy_(mine)
        if shared is not None:
            gate_2FD, up_2FD = ours.shared.w13_2FD.chunk(2)
            shared.gate_proj.weight.copy_(gate_2FD)
            shared.up_proj.weight.copy_(up_2FD)
        if name == "deepseek_v3":
            # Large enough to overrule scores, and negative where a mask of 0 would win.
            ours.router.bias.bias_E.copy_(normal(num_experts, seed=5) - 1.0)
            gate.e_score_correction_bias.copy_(ours.router.bias.bias_E)
    x_TD = inputs(dtype=torch.float32)
    peer_TD = x_TD.detach().clone().requires_grad_()
    y_TD, route = ours(x_TD, EVALUATE)
    logits_TE, weight_TK, expert_TK = gate(peer_TD)
    want_TE = torch.zeros(T, num_experts).scatter(1, expert_TK, weight_TK)
    assert relative(route.logits, logits_TE) < 1e-6
    check_plan(route.plan, want_TE, 1e-6)
    want_TD = block(peer_TD[None])[0]
    assert relative(y_TD, want_TD) < 1e-6
    pairs.append((x_TD, peer_TD))
    check_gradients(y_TD, want_TD, pairs, 2e-6)
    if shared is not None:
        got_grad = torch.autograd.grad(y_TD.square().sum(), ours.shared.w13_2FD)[0]
        projections = (shared.gate_proj.weight, shared.up_proj.weight)
        want_grad = torch.cat(torch.autograd.grad(want_TD.square().sum(), projections))
        assert relative(got_grad, want_grad) < 2e-6


# --- Switch and GShard: capacity ---


def switch_config(models, num_experts, capacity):
    return models.switch_transformers.SwitchTransformersConfig(
        num_experts=num_experts,
        hidden_size=D,
        d_model=D,
        d_ff=FF,
        expert_capacity=capacity,
        router_jitter_noise=0.0,
        dropout_rate=0.0,
    )


@pytest.mark.parametrize("B,S,C", [(3, 13, 3), (1, 39, 6), (5, 8, 1)])
def test_switch_drops_what_transformers_drops(models, B, S, C):
    """The peer counts places per sequence; jitter would change its input in place, so it is off.
    It has ReLU experts: they are run on our plan. Trap 2 (an arbitrary order of drops) is not in
    this oracle: it uses a cumulative sum."""
    from transformers.models.switch_transformers import modeling_switch_transformers as peer

    block = unit(peer.SwitchTransformersSparseMLP(switch_config(models, E, C))).eval()
    ours = router(
        "switch", top_k=1, capacity=Capacity(eval_factor=C * E / S, pool="sequence")
    ).float()
    weight_ED = ours.router.router.weight_ED
    with torch.no_grad():
        block.router.classifier.weight.copy_(weight_ED)
    x_TD = inputs(B * S, dtype=torch.float32)
    peer_TD = x_TD.detach().clone().requires_grad_()
    context = RouteContext(sequence=torch.arange(B).repeat_interleave(S))
    out = ours(x_TD, context)
    dispatch_BSE, weight_BS1, logits_BSE = block.router(peer_TD.view(B, S, D))
    want_TE = (dispatch_BSE * weight_BS1).flatten(0, 1)
    leaves = [(weight_ED, block.router.classifier.weight), (x_TD, peer_TD)]
    assert relative(out.logits, logits_BSE.flatten(0, 1)) < 1e-6
    check_weights(out.plan, want_TE, leaves, 1e-6)
    assert out.stats.capacity == C
    lost = B * S - int(dispatch_BSE.sum())
    assert 0 < lost == len(out.plan.dropped)
    every_TED = torch.stack([block.experts[f"expert_{e}"](x_TD) for e in range(E)], 1)
    got_TD = torch.einsum("te,ted->td", out.plan.dense_weights(), every_TED)
    want_TD = block(peer_TD.view(B, S, D)).flatten(0, 1)
    assert relative(got_TD, want_TD) < 1e-6
    check_gradients(got_TD, want_TD, leaves, 1e-6)


def test_switch_losses_equal_transformers(models):
    """Its load_balancing_loss_func is the mean over sequences, our scope "sequence" (one sequence:
    also "batch"). That of the Mixtral family is another function: see test_routing.py."""
    from transformers.models.switch_transformers import modeling_switch_transformers as peer

    for scope, B, S in (("sequence", 3, 13), ("batch", 1, 39)):
        made = router("token_choice", top_k=1, weighting="raw", scope=scope)
        x_TD, made_x = inputs(B * S), inputs(B * S)
        out = made(made_x, RouteContext(sequence=torch.arange(B).repeat_interleave(S)))
        logits_BSE = (x_TD @ made.weight_ED.T).view(B, S, E)
        probs_BSE = logits_BSE.softmax(-1)
        leaves = [made.weight_ED, (made_x, x_TD)]
        want = peer.load_balancing_loss_func(probs_BSE, probs_BSE.argmax(-1))
        check_loss(out.losses["balance"], want, leaves, 2e-7)  # it counts in float32
        check_loss(out.losses["z"], peer.router_z_loss_func(logits_BSE), leaves)


def test_gshard_equals_nllb_moe(models):
    """Its sparse MLP runs only the first two experts, whatever was routed (5.23.0: a one-hot mask
    is passed where indices belong), so only its router is compared (trap 1). Its policy "random"
    replaces the normalised second weight by the raw one, so "all" is used, normalised before
    dropping, as GShard does."""
    from transformers.models.nllb_moe import modeling_nllb_moe as peer

    C = 8
    config = models.nllb_moe.NllbMoeConfig(
        num_experts=E,
        d_model=D,
        expert_capacity=C,
        router_bias=False,
        router_dtype="float32",
        second_expert_policy="all",
        normalize_router_prob_before_dropping=True,
        batch_prioritized_routing=False,
        moe_eval_capacity_token_fraction=-1.0,
    )
    gate = peer.NllbMoeTop2Router(config).eval()
    ours = router("gshard", top_k=2, eval_capacity_factor=C * E / (2 * T)).float()
    with torch.no_grad():
        gate.classifier.weight.copy_(ours.router.weight_ED)
    x_TD = inputs(dtype=torch.float32)
    peer_TD = x_TD.detach().clone().requires_grad_()
    out = ours(x_TD, EVALUATE)
    _, want_TE, logits_TE = gate(peer_TD)
    leaves = [(ours.router.weight_ED, gate.classifier.weight), (x_TD, peer_TD)]
    assert relative(out.logits, logits_TE) < 1e-6
    check_weights(out.plan, want_TE, leaves, 1e-6)
    assert out.stats.capacity == C and len(out.plan.dropped) > 0
    # First and second choices both lost some.
    assert set(out.plan.dropped[:, 2].tolist()) == {0, 1}


def algorithm_1(logits, capacity, coin_TK):
    """GShard, algorithm 1, in Python floats: gates by (token, expert), and its loss times E^2."""
    num_tokens, num_experts = len(logits), len(logits[0])
    gates = [[math.exp(v - max(row)) for v in row] for row in logits]
    gates = [[v / sum(row) for v in row] for row in gates]
    kept, places = {}, [0] * num_experts
    for s in range(num_tokens):
        first, second = best(gates[s], 2)
        if places[first] < capacity:
            kept[s, first] = gates[s][first] / (gates[s][first] + gates[s][second])
        places[first] += 1
    mean = [sum(row[e] for row in gates) / num_tokens for e in range(num_experts)]
    loss = sum(places[e] / num_tokens * mean[e] for e in range(num_experts)) / num_experts
    for s in range(num_tokens):
        first, second = best(gates[s], 2)
        weight = gates[s][second] / (gates[s][first] + gates[s][second])
        if coin_TK is not None and 2 * weight <= coin_TK[s][1]:
            continue
        if places[second] < capacity:
            kept[s, second] = weight
        places[second] += 1
    return kept, loss * num_experts**2


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.5])
@pytest.mark.parametrize("training", [False, True])
def test_gshard_equals_its_algorithm_1(training, factor):
    """The paper's loss is 1/E sum_e (c_e / S) m_e; its authors' code multiplies it by E^2, as we
    do."""
    made = router("gshard", top_k=2, capacity_factor=factor, eval_capacity_factor=factor)
    x_TD, seed = inputs(), 3
    context = RouteContext(training=training, generator=torch.Generator().manual_seed(seed))
    out = made(x_TD, context)
    coin_TK = torch.rand(
        T, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).tolist()
    logits = (x_TD @ made.router.weight_ED.T).tolist()
    capacity = math.ceil(factor * 2 * T / E)
    kept, loss = algorithm_1(logits, capacity, coin_TK if training else None)
    want_TE = torch.zeros(T, E, dtype=torch.float64)
    for cell, weight in kept.items():
        want_TE[cell] = weight
    check_plan(out.plan, want_TE)
    assert out.losses["balance"].item() == pytest.approx(loss, rel=DOUBLE)
    assert (len(out.plan.dropped) > 0) == (factor < 3.5)


def top2_gate(package, capacity_factor):
    """(their gate, its weights [E, D])."""
    if package == "st_moe_pytorch":
        gates = pytest.importorskip("st_moe_pytorch.st_moe_pytorch")
        gate = gates.TopNGating(
            D, E, threshold_train=0.0, capacity_factor_train=capacity_factor
        ).double()
        return gate.train(), gate.to_gates.weight
    gates = pytest.importorskip("mixture_of_experts.mixture_of_experts")
    gate = gates.Top2Gating(
        D, E, eps=0.0, second_policy_train="all", capacity_factor_train=capacity_factor
    ).double()
    return gate.train(), gate.w_gating.mT


@pytest.mark.parametrize("package", ["st_moe_pytorch", "mixture_of_experts"])
def test_gshard_equals_the_top2_gates_of_two_packages(package):
    """Trap 4: the second expert is kept at random, also outside training: in mixture_of_experts
    unless second_policy_eval is "all"; in st_moe_pytorch with a threshold of 0.2 on its weight,
    unless the threshold is 0. Both round the capacity down, and up to at least 4: it is chosen
    whole. The loss of st_moe_pytorch counts first choices after the drops, so it is compared where
    nothing is dropped; both are means over sequences."""
    B, S, C = 3, 31, 6
    gate, gate_ED = top2_gate(package, C * E / S + 1e-6)
    made = CoinTossTopK(d_model=D, num_experts=E, top_k=2)
    capacity = Capacity(eval_factor=C * E / (2 * S), priority="choice", pool="sequence")
    made = unit(WithCapacity(made, capacity).double())
    with torch.no_grad():
        gate_ED.copy_(made.router.weight_ED)
    x_TD, context = inputs(B * S), RouteContext(sequence=torch.arange(B).repeat_interleave(S))
    out = made(x_TD, context)
    combine_BSEC = gate(x_TD.view(B, S, D))[1]
    want_TEC = combine_BSEC.flatten(0, 1)
    check_weights(out.plan, want_TEC.sum(-1), [x_TD])
    assert out.stats.capacity == want_TEC.shape[-1] == C
    assert set(out.plan.dropped[:, 2].tolist()) == {0, 1}  # of first and of second choices
    # The order in an expert's buffer, sequence by sequence.
    sequence_N = context.sequence[out.plan.token.long()]
    for b in range(B):
        for e in range(E):
            token_n = out.plan.token[(sequence_N == b) & (out.plan.expert == e)].long()
            place_n = want_TEC[token_n, e].argmax(-1)
            assert place_n.tolist() == list(range(len(token_n)))
    gate.capacity_factor_train = float(E)
    _, combine_BSEC, *losses = gate(x_TD.view(B, S, D))
    parts = [made(x_TD[context.sequence == b], EVALUATE).losses["balance"] for b in range(B)]
    check_loss(sum(parts) / B, losses[0], [x_TD], 1e-6)  # theirs counts in float32
    st_moe = router("st_moe", top_k=2)(x_TD, EVALUATE)
    check_weights(st_moe.plan, combine_BSEC.flatten(0, 1).sum(-1), [x_TD])
    if package == "st_moe_pytorch":
        check_loss(out.losses["z"], losses[1], [x_TD])


def test_st_moe_with_three_choices_equals_st_moe_pytorch():
    """Trap 4 again: thresholds of 0. The later choices queue behind all earlier ones."""
    gates = pytest.importorskip("st_moe_pytorch.st_moe_pytorch")
    S, C = 31, 9
    gate = gates.TopNGating(
        D, E, top_n=3, threshold_eval=(0.0, 0.0), capacity_factor_eval=C * E / S + 1e-6
    ).double()
    made = router("st_moe", eval_capacity_factor=C * E / (3 * S))
    with torch.no_grad():
        gate.to_gates.weight.copy_(made.router.weight_ED)
    x_TD = inputs(S)
    out = made(x_TD, EVALUATE)
    want_TE = gate.eval()(x_TD[None])[1][0].sum(-1)
    check_weights(out.plan, want_TE, [(made.router.weight_ED, gate.to_gates.weight), x_TD])
    assert {1, 2} <= set(out.plan.dropped[:, 2].tolist())


# --- prototypes and hierarchies ---


def test_prototypes_are_switch_routers_side_by_side(models):
    from transformers.models.switch_transformers import modeling_switch_transformers as peer

    made = router("expert_prototyping", num_experts=15).float()
    x_TD = inputs(dtype=torch.float32)
    out = made(x_TD, EVALUATE)
    want, scores, balance, z = [], [], [], []
    for k in range(K):
        gate = peer.SwitchTransformersTop1Router(switch_config(models, 5, T)).eval()
        with torch.no_grad():
            gate.classifier.weight.copy_(made.weight_ED[5 * k : 5 * k + 5])
        gate.classifier.weight = nn.Parameter(gate.classifier.weight.detach())
        dispatch_TE, weight_T1, logits_TE = gate(x_TD[None])
        want.append((dispatch_TE * weight_T1)[0])
        probs_TE = logits_TE.softmax(-1)
        scores.append(probs_TE[0] / K)
        balance.append(peer.load_balancing_loss_func(probs_TE, probs_TE.argmax(-1)))
        z.append(peer.router_z_loss_func(logits_TE))
    check_weights(out.plan, torch.cat(want, 1), [x_TD], 1e-6)
    assert relative(out.scores, torch.cat(scores, 1)) < 1e-6
    check_loss(out.losses["balance"], sum(balance) / K, [x_TD], 1e-6)
    check_loss(out.losses["z"], sum(z) / K, [x_TD], 1e-6)


def test_a_hierarchy_equals_a_plain_loop():
    made = router("hierarchical", num_experts=15, top_k=6, num_groups=5, top_groups=3)
    x_TD = inputs()
    out = made(x_TD, EVALUATE)
    rows = []
    for x_D in x_TD:
        group_G, expert_E, row = made.group_GD @ x_D, made.weight_ED @ x_D, [0.0 * x_D.sum()] * 15
        groups = best(group_G, 3)
        for g in groups:
            p_group = group_G[g].exp() / sum(group_G[h].exp() for h in groups)
            inside = [3 * g + i for i in best(expert_E[3 * g : 3 * g + 3], 2)]
            for e in inside:
                row[e] = p_group * expert_E[e].exp() / sum(expert_E[i].exp() for i in inside)
        rows.append(torch.stack(row))
    want_TE = torch.stack(rows)
    leaves = [x_TD, made.group_GD, made.weight_ED]
    check_weights(out.plan, want_TE, leaves)
    of_experts = want_TE.sum(0)
    of_groups = want_TE.view(T, 5, 3).sum((0, 2))
    cv = [v.var() / v.mean() ** 2 for v in (of_experts, of_groups)]
    check_loss(out.losses["importance"], cv[0] + cv[1], leaves)
    check_loss(out.losses["balance"], share_times_score(out.scores, (want_TE != 0).sum(0)), leaves)


def test_two_levels_equal_heirarchical_moe():
    """mixture_of_experts' HeirarchicalMoE, its spelling. Trap 4: second_policy_eval="all", for its
    default is random. A token's second group gets an importance of 0.5, for which it takes one
    expert only: so rows of a first group are those of our K = 4, of a second those of our K = 2."""
    peer = pytest.importorskip("mixture_of_experts")
    G, width = 4, 3
    theirs = peer.HeirarchicalMoE(
        D,
        num_experts=(G, width),
        hidden_dim=FF,
        second_policy_eval="all",
        capacity_factor_eval=float(G * width),  # every token finds a place
    )
    theirs = theirs.double().eval()
    theirs.gate_outer.eps = theirs.gate_inner.eps = 0.0
    both = [
        router("hierarchical", num_experts=G * width, top_k=k, num_groups=G, top_groups=2)
        for k in (4, 2)
    ]
    with torch.no_grad():
        theirs.gate_outer.w_gating.copy_(both[0].group_GD.T)
        theirs.gate_inner.w_gating.copy_(both[0].weight_ED.view(G, width, D).transpose(1, 2))
    # An empty place has weights 0/0 without its epsilon, and none but empty places do.
    theirs.gate_inner.eps = 1e-30
    x_TD = inputs()
    four_TE, two_TE = (made(x_TD, EVALUATE).plan.dense_weights() for made in both)
    first_T1 = (x_TD @ both[0].group_GD.T).argmax(-1, keepdim=True)
    in_first_TE = torch.arange(G * width) // width == first_T1
    weight_TE = torch.where(in_first_TE, four_TE, two_TE)
    assert torch.equal((weight_TE != 0).sum(1), torch.full((T,), 3))
    w1, w2 = (w.flatten(0, 1) for w in (theirs.experts.w1, theirs.experts.w2))
    every_TED = torch.einsum("tef,efd->ted", torch.einsum("td,edf->tef", x_TD, w1).relu(), w2)
    got_TD = torch.einsum("te,ted->td", weight_TE, every_TED)
    with torch.no_grad():
        want_TD, _ = theirs(x_TD[None])
    assert relative(got_TD, want_TD[0]) < DOUBLE


# --- noisy top-K ---


def noisy(seed=3):
    made, x_TD = router("noisy_topk"), inputs()
    out = made(x_TD, RouteContext(training=True, generator=torch.Generator().manual_seed(seed)))
    eps_TE = torch.randn(T, E, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    clean_TE = x_TD @ made.weight_ED.T
    spread_TE = (1 + (x_TD @ made.noise_ED.T).exp()).log()
    return made, x_TD, out, clean_TE, clean_TE + eps_TE * spread_TE, spread_TE


def test_noisy_top_k_equals_its_equations():
    """Shazeer et al. 2017, eq. 3-11, one token and expert at a time. The bar of eq. 9 leaves the
    expert itself out (V-MoE's code takes the K-th largest of all)."""
    made, x_TD, out, clean_TE, noisy_TE, spread_TE = noisy()
    rows, load_E = [], [0.0] * E
    for t in range(T):
        kept = best(noisy_TE[t], K)
        total = sum(noisy_TE[t, e].exp() for e in kept)
        zero = 0.0 * noisy_TE[t, 0]
        rows.append(
            torch.stack([noisy_TE[t, e].exp() / total if e in kept else zero for e in range(E)])
        )
        for e in range(E):
            others = [i for i in range(E) if i != e]
            bar = noisy_TE[t, others[best(noisy_TE[t, others], K)[-1]]]
            z = (clean_TE[t, e] - bar) / spread_TE[t, e]
            load_E[e] = load_E[e] + 0.5 * (1 + torch.erf(z / 2**0.5))
    want_TE, load_E = torch.stack(rows), torch.stack(load_E)
    leaves = [x_TD, made.weight_ED, made.noise_ED]
    check_weights(out.plan, want_TE, leaves)
    importance_E = want_TE.sum(0)
    for name, value_E in (("importance", importance_E), ("load", load_E)):
        check_loss(out.losses[name], value_E.var() / value_E.mean() ** 2, leaves)
    # Outside training: no noise, and no load loss.
    quiet = made(x_TD, EVALUATE)
    want = router("token_choice")
    assert set(quiet.losses) == {"importance"}
    check_plan(quiet.plan, want(x_TD, EVALUATE).plan.dense_weights())


def test_the_chance_of_being_chosen_is_scipys_and_what_drawing_again_gives():
    """Draw one expert's own noise N = 200,000 times: the share of draws in which it is among the K
    best has a standard error of at most 0.0011; four of them are allowed."""
    _, _, _, clean_TE, noisy_TE, spread_TE = (
        v.detach() if torch.is_tensor(v) else v for v in noisy()
    )
    got_TE = chosen_probability(clean_TE, noisy_TE, spread_TE, K)
    draws_N = np.random.default_rng(0).standard_normal(200_000)
    errors = []
    for t in range(5):
        for e in range(E):
            others = np.delete(noisy_TE[t].numpy(), e)
            bar = np.sort(others)[-K]
            want = norm.cdf((clean_TE[t, e].item() - bar) / spread_TE[t, e].item())
            assert got_TE[t, e].item() == pytest.approx(want, abs=1e-12)
            again_N = clean_TE[t, e].item() + draws_N * spread_TE[t, e].item()
            beaten_N = (others[None] > again_N[:, None]).sum(1)
            errors.append(abs((beaten_N < K).mean() - got_TE[t, e].item()))
    assert max(errors) < 4 * 0.5 / 200_000**0.5
    assert 0.2 < got_TE[:5].std()  # neither all certain nor all even


# --- experts choose ---


@pytest.mark.parametrize(
    ("options", "shuffle"),
    [({}, False), ({"capacity_factor": 1.3}, False), ({"chunk": 10}, False), ({"chunk": 10}, True)],
)
def test_expert_choice_equals_argpartition(options, shuffle):
    made = router("expert_choice", shuffle=shuffle, **options)
    x_TD = inputs()
    out = made(x_TD, RouteContext(training=True, generator=torch.Generator().manual_seed(3)))
    scores_TE = (x_TD @ made.weight_ED.T).softmax(-1)
    order_T = torch.arange(T)
    if shuffle:
        order_T = torch.randperm(T, generator=torch.Generator().manual_seed(3))
    size = options.get("chunk", T)
    mask_TE = np.zeros((T, E), dtype=bool)
    for start in range(0, T, size):
        pool = order_T[start : start + size].numpy()
        room = math.ceil(options.get("capacity_factor", K) * len(pool) / E)
        for e in range(E):
            column = scores_TE.detach().numpy()[pool, e]
            mask_TE[pool[np.argpartition(-column, room - 1)[:room]], e] = True
    check_weights(out.plan, scores_TE * torch.from_numpy(mask_TE), [x_TD, made.weight_ED])


def linear_program(scores_TE, room, cap):
    """max <S, A> under the caps, by HiGHS; its corners are whole, for it is a transport problem."""
    num_tokens, num_experts = scores_TE.shape
    of_column = np.kron(np.ones(num_tokens), np.eye(num_experts))
    of_row = np.kron(np.eye(num_tokens), np.ones(num_experts))
    solution = linprog(
        -scores_TE.numpy().ravel(),
        A_eq=of_column,
        b_eq=np.full(num_experts, room),
        A_ub=of_row,
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
    made = build_router(
        "expert_choice",
        d_model=experts,
        num_experts=experts,
        top_k=1,
        capacity_factor=factor,
        max_experts=cap,
    ).double()
    with torch.no_grad():
        made.weight_ED.copy_(torch.eye(experts))  # the inputs are the logits
    over = optimal = 0
    for seed in range(10):
        logits_TE = normal(tokens, experts, seed=seed)
        scores_TE, room = logits_TE.softmax(-1), math.ceil(factor * tokens / experts)
        plan = made(logits_TE, TRAIN).plan
        taken_TE = chosen(plan)
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


def test_expert_threshold_at_the_batch_quantile_is_expert_choice():
    made, want = router("expert_threshold", memory=0.75), router("expert_choice")
    x_TD = inputs()
    scores_TE = (x_TD @ want.weight_ED.T).softmax(-1).detach()
    room = math.ceil(K * T / E)
    quantile_E = torch.stack([column.sort().values[-room] for column in scores_TE.T])
    before_E = made.threshold_E.clone()
    out = made(x_TD, TRAIN)
    made.post_step(out.stats)
    assert relative(made.threshold_E, 0.75 * before_E + 0.25 * quantile_E) < STATE
    assert relative(quantile_E, before_E) > 0.1
    made.threshold_E.copy_((1 - STATE) * quantile_E)  # the last token taken is just above it
    out, peer = made(x_TD, EVALUATE), want(x_TD, TRAIN)
    leaves = [(made.weight_ED, want.weight_ED), x_TD]
    check_weights(out.plan, peer.plan.dense_weights(), leaves)


# --- soft ---


class SwiGLUExperts(nn.Module):
    """Our experts in the place of soft_moe_pytorch's, [B, E, P, D] to the same."""

    def __init__(self, made):
        super().__init__()
        self.made = [made]

    def forward(self, slots_BEPD):
        parts = [expert_ffn(self.made[0], e, slots_BEPD[:, e]) for e in range(slots_BEPD.shape[1])]
        return torch.stack(parts, 1)


def test_soft_moe_and_its_gradients_equal_soft_moe_pytorch():
    """Trap: it mixes the normalised x, where the paper mixes x itself; so ours is given the same
    normalised x, of unit mean square. Its norms give cosines times D, and ours that as a scale.
    Its experts are replaced by ours."""
    peer = pytest.importorskip("soft_moe_pytorch")
    B, S, slots = 3, 13, 2
    ours = layer("soft_moe", options={"slots": slots})
    theirs = peer.SoftMoE(dim=D, num_experts=E, num_slots=slots).double()
    theirs.experts = SwiGLUExperts(ours)
    with torch.no_grad():
        ours.router.scale.fill_(float(D))
        theirs.slot_embeds.copy_(ours.router.phi_EPD)
    x_TD, peer_TD = inputs(B * S), inputs(B * S)
    unit_TD = x_TD / x_TD.square().mean(-1, keepdim=True).sqrt()
    context = RouteContext(sequence=torch.arange(B).repeat_interleave(S))
    y_TD, _ = ours(unit_TD, context)
    want_TD = theirs(peer_TD.view(B, S, D)).flatten(0, 1)
    assert relative(y_TD, want_TD) < DOUBLE
    leaves = [(x_TD, peer_TD), (ours.router.phi_EPD, theirs.slot_embeds), ours.w2_EDF]
    check_gradients(y_TD, want_TD, leaves, 1e-10)


def test_soft_moe_equals_the_papers_algorithm_1():
    """Puigcerver et al. 2023, algorithms 1 and 2, sequence by sequence, on x as it is."""
    ours = layer("soft_moe", options={"slots": 2})
    with torch.no_grad():
        ours.router.scale.fill_(3.0)
    lengths = (13, 1, 23)
    sequence_T = torch.repeat_interleave(torch.tensor([4, 0, 2]), torch.tensor(lengths))
    x_TD = inputs()
    y_TD, route = ours(x_TD, RouteContext(sequence=sequence_T))
    phi_SD = ours.router.phi_EPD.flatten(0, 1)
    phi_SD = phi_SD / phi_SD.square().sum(-1, keepdim=True).sqrt()
    parts = []
    for x_mD in x_TD.split(lengths):
        cosine_mD = x_mD / x_mD.square().sum(-1, keepdim=True).sqrt()
        logits_mS = torch.einsum("md,sd->ms", cosine_mD, ours.router.scale * phi_SD)
        dispatch_mS = logits_mS.exp() / logits_mS.exp().sum(0, keepdim=True)
        combine_mS = logits_mS.exp() / logits_mS.exp().sum(1, keepdim=True)
        slots_SD = torch.einsum("ms,md->sd", dispatch_mS, x_mD)
        outputs = [expert_ffn(ours, s // 2, slots_SD[s]) for s in range(2 * E)]
        parts.append(torch.einsum("ms,sd->md", combine_mS, torch.stack(outputs)))
    want_TD = torch.cat(parts)
    assert relative(y_TD, want_TD) < DOUBLE
    leaves = [x_TD, ours.router.phi_EPD, ours.router.scale, ours.w13_E2FD, ours.w2_EDF]
    check_gradients(y_TD, want_TD, leaves, 1e-10)
    one_T = torch.ones(T, dtype=torch.float64)
    assert relative(route.plan.by_token(route.plan.combine).sum((1, 2)), one_T) < DOUBLE


@pytest.mark.parametrize("B,S,group", [(6, 5, 3), (5, 7, 2), (1, 11, 4)])
def test_mixture_of_tokens_equals_a_plain_loop(B, S, group):
    """Antoniak et al. 2023, section 3: position by position, `group` sequences at a time; a single
    sequence in runs of `group` tokens (our rule)."""
    ours = layer("mixture_of_tokens", options={"group_size": group})
    x_TD = inputs(B * S)
    context = RouteContext(
        sequence=torch.arange(B).repeat_interleave(S), position=torch.arange(S).repeat(B)
    )
    y_TD, _ = ours(x_TD, context)
    groups = []
    for s in range(S):
        members = [b * S + s for b in range(B)]
        groups += [members[i : i + group] for i in range(0, B, group)]
    if B == 1:
        groups = [list(range(i, min(i + group, S))) for i in range(0, S, group)]
    rows = [None] * (B * S)
    for members in groups:
        x_gD = x_TD[members]
        logits_gE = x_gD @ ours.router.weight_ED.T
        weight_gE = logits_gE.exp() / logits_gE.exp().sum(0)
        outputs = [expert_ffn(ours, e, weight_gE[:, e] @ x_gD) for e in range(E)]
        for i, t in enumerate(members):
            rows[t] = sum(weight_gE[i, e] * outputs[e] for e in range(E))
    want_TD = torch.stack(rows)
    assert relative(y_TD, want_TD) < DOUBLE
    check_gradients(y_TD, want_TD, [x_TD, ours.router.weight_ED, ours.w2_EDF], 1e-10)


# --- assignment ---


def total(logits_TE, expert_T):
    return logits_TE.gather(1, expert_T[:, None]).sum().item()


@pytest.mark.parametrize("tokens", [35, 37, 5])
def test_base_finds_the_optimum_that_pot_finds(tokens):
    """Network simplex against our assignment solver: values, for an optimum need not be unique.
    Where E does not divide T, an expert may have up to ceil(T/E) tokens: an idle token beside the
    real ones, at no cost, takes the places that stay free. fairseq's auction, only approximate,
    is no oracle."""
    ot = pytest.importorskip("ot")
    made = router("base", top_k=2)
    x_TD = inputs(tokens)
    logits_TE = (x_TD @ made.weight_ED.T).detach()
    room = -(-tokens // E)
    idle = E * room - tokens
    expert_TK = balanced_assignment(logits_TE, 2)
    assert torch.equal(chosen(made(x_TD, TRAIN).plan).sum(1), torch.full((tokens,), 2))
    open_TE = logits_TE.clone()
    for k in range(2):
        cost_TE = -open_TE.numpy()
        mass_T = np.ones(tokens)
        if idle:
            cost_TE, mass_T = np.vstack((cost_TE, np.zeros(E))), np.append(mass_T, float(idle))
        value = -ot.emd2(mass_T, np.full(E, float(room)), cost_TE)
        assert total(open_TE, expert_TK[:, k]) == pytest.approx(value, rel=1e-9)
        load_E = expert_TK[:, k].bincount(minlength=E)
        assert load_E.max() <= room and load_E.sum() == tokens
        if not idle:
            assert load_E.tolist() == [room] * E
        # The second round goes without the pairs of the first.
        open_TE.scatter_(1, expert_TK[:, k : k + 1], -1e3)
    best_free = logits_TE.amax(1).sum().item()
    assert total(logits_TE, expert_TK[:, 0]) < best_free - 0.1


def test_base_weights_and_its_greedy_evaluation():
    """fairseq's layer: alpha = sigmoid(x . c) of the expert that was assigned."""
    for top_k in (1, 2):
        made, x_TD = router("base", top_k=top_k), inputs()
        for context in (TRAIN, EVALUATE):
            out = made(x_TD, context)
            logits_TE = x_TD @ made.weight_ED.T
            expert_TK = balanced_assignment(logits_TE.detach(), top_k)
            if not context.training:
                expert_TK = torch.tensor([best(row, top_k) for row in logits_TE.tolist()])
            mask_TE = torch.zeros(T, E, dtype=torch.bool).scatter(1, expert_TK, True)
            want_TE = mask_TE / (1 + (-logits_TE).exp()) / top_k
            check_weights(out.plan, want_TE, [x_TD, made.weight_ED])
    loads = [made(x_TD, context).stats.load.tolist() for context in (TRAIN, EVALUATE)]
    assert max(loads[0]) <= 2 * math.ceil(T / E) < max(loads[1])


@pytest.fixture
def to_the_end(monkeypatch):
    """Sinkhorn until float64 has no more to give, instead of 100 rounds or a tolerance of 1e-4."""
    monkeypatch.setattr(assignment, "SINKHORN_ROUNDS", 3000)
    monkeypatch.setattr(assignment, "SINKHORN_TOLERANCE", 1e-14)


def test_the_transport_equals_pot(to_the_end):
    ot = pytest.importorskip("ot")
    logits_TE = 2 * normal(T, E)
    marginals = np.full(T, 1 / T), np.full(E, 1 / E)
    want = ot.sinkhorn(*marginals, -logits_TE.numpy(), reg=1.0, stopThr=1e-14, numItermax=3000)
    assert relative(transport(logits_TE).exp(), torch.from_numpy(want)) < 1e-10


def test_the_transport_knows_no_row_or_column_constants_however_large(to_the_end):
    """exp(200) is no float32: with constants of that size the plan is what it was without."""
    ot = pytest.importorskip("ot")
    logits_TE = 2 * normal(T, E)
    shift_T1, shift_E = 200 * normal(T, 1, seed=4), 200 * normal(E, seed=5)
    want = transport(logits_TE).exp()
    shifted_TE = logits_TE + shift_T1 + shift_E
    assert shifted_TE.abs().max() > 400
    assert relative(transport(shifted_TE).exp(), want) < 1e-9
    single = transport(logits_TE.float() + 200.0).exp()
    assert torch.isfinite(single).all() and relative(single, want) < 1e-5
    log_domain = ot.sinkhorn(
        np.full(T, 1 / T),
        np.full(E, 1 / E),
        -shifted_TE.numpy(),
        reg=1.0,
        method="sinkhorn_log",
        stopThr=1e-13,
        numItermax=3000,
    )
    assert relative(want, torch.from_numpy(log_domain)) < 1e-9


@pytest.mark.parametrize("top_k", [1, 3])
def test_sinkhorn_routes_by_pots_plan_and_weighs_by_its_logits(top_k):
    ot = pytest.importorskip("ot")
    made, x_TD = router("sinkhorn", top_k=top_k), inputs()
    logits_TE = x_TD @ made.weight_ED.T
    plan_TE = ot.sinkhorn(
        np.full(T, 1 / T), np.full(E, 1 / E), -logits_TE.detach().numpy(), reg=1.0
    )
    score_TE = 1 / (1 + (-logits_TE).exp())
    if top_k > 1:
        score_TE = logits_TE.exp() / logits_TE.exp().sum(1, keepdim=True)
    masks = []
    for context, ranked_TE in ((TRAIN, plan_TE), (EVALUATE, logits_TE.detach().numpy())):
        mask_TE = np.zeros((T, E), dtype=bool)
        np.put_along_axis(mask_TE, np.argsort(-ranked_TE, axis=1)[:, :top_k], True, axis=1)
        masks.append(mask_TE)
        plan = made(x_TD, context).plan
        check_weights(plan, score_TE * torch.from_numpy(mask_TE), [x_TD, made.weight_ED])
    assert (masks[0] != masks[1]).any()


# --- hashing ---


def test_hash_picks_equal_deepseek_v4(models):
    """Its table picks the experts, and a learned gate weighs them; ours has no gate, and its weight
    1/K is what a gate of zeros gives."""
    from transformers.models.deepseek_v4 import modeling_deepseek_v4 as peer

    vocab = 29
    made = build_router("hash", d_model=D, num_experts=E, top_k=K, vocab_size=vocab, seed=5)
    config = models.deepseek_v4.DeepseekV4Config(
        hidden_size=D,
        num_experts_per_tok=K,
        n_routed_experts=E,
        num_local_experts=E,
        vocab_size=vocab,
        routed_scaling_factor=1.0,
        num_hidden_layers=1,
    )
    gate = peer.DeepseekV4HashRouter(config)
    with torch.no_grad():
        gate.weight.zero_()
        gate.tid2eid.copy_(made.table_VK)
    ids_T = torch.randint(vocab, (T,), generator=torch.Generator().manual_seed(1))
    x_TD = inputs(dtype=torch.float32).detach()
    _, weight_TK, expert_TK = gate(x_TD, ids_T)
    want_TE = torch.zeros(T, E).scatter(1, expert_TK, weight_TK.detach())
    check_plan(made(x_TD, RouteContext(token_ids=ids_T)).plan, want_TE, 1e-6)


def test_random_tables_are_even_and_their_hashes_never_agree():
    table_VK = build_router("hash", d_model=D, num_experts=E, top_k=K, vocab_size=100).table_VK
    rows = table_VK.tolist()
    assert all(len(set(row)) == K and 0 <= min(row) and max(row) < E for row in rows)
    first_E = [sum(row[0] == e for row in rows) for e in range(E)]
    assert max(first_E) - min(first_E) == 1 and sum(first_E) == 100
    assert [row[0] for row in rows] != [v % E for v in range(100)]
    other = build_router("hash", d_model=D, num_experts=E, top_k=K, vocab_size=100, seed=1)
    assert not torch.equal(other.table_VK, table_VK)


def test_bigrams_equal_a_plain_loop():
    """The row of the table is a hash of two ids; a sequence's first token has nobody before it."""
    vocab = 31
    made = build_router(
        "hash", d_model=D, num_experts=E, top_k=K, variant="bigram", vocab_size=vocab
    )
    ids = torch.randint(vocab, (T,), generator=torch.Generator().manual_seed(1)).tolist()
    sequence = [0] * 10 + [3] * 1 + [1] * 26
    context = RouteContext(token_ids=torch.tensor(ids), sequence=torch.tensor(sequence))
    got = chosen(made(normal(T, D), context).plan)
    for t in range(T):
        first = t == 0 or sequence[t] != sequence[t - 1]
        row = (31 * ids[t] + 1 + 17 * (-1 if first else ids[t - 1])) % vocab
        assert got[t].nonzero()[:, 0].tolist() == sorted(made.table_VK[row].tolist())
    without = chosen(made(normal(T, D), dataclasses.replace(context, sequence=None)).plan)
    assert not torch.equal(without, got)


# --- ReLU, null experts, depth ---


def test_remoe_equals_its_formula_and_its_rule_for_lambda():
    """Wang et al. 2024, eq. 3 and 8-10: L = lambda E / (K T) sum_e count_e mean_t w_te, and lambda
    grows by 1.2 where the batch is denser than K/E."""
    made = router("remoe", start=1e-3)
    strength, directions = 1e-3, set()
    for step in range(6):
        # Shifted along a common direction, so that batches are denser and sparser than K/E.
        x_TD = inputs(seed=step)
        with torch.no_grad():
            made.weight_ED[:, -1] = 1.0
            x_TD[:, -1] = 2.0 if step % 3 else -2.0
        out = made(x_TD, TRAIN)
        logits_TE = x_TD @ made.weight_ED.T
        weights = [[max(v, 0.0) for v in row] for row in logits_TE.tolist()]
        want_TE = logits_TE * (torch.tensor(weights) > 0)
        leaves = [x_TD, made.weight_ED]
        check_weights(out.plan, want_TE, leaves)
        count = [sum(weights[t][e] > 0 for t in range(T)) for e in range(E)]
        loss = sum(E * count[e] / (K * T) * want_TE[:, e].mean() for e in range(E))
        check_gradients(out.losses["l1"], made.strength * loss, leaves)
        assert out.losses["l1"].item() == pytest.approx(strength * loss.item(), rel=1e-6)
        made.post_step(out.stats)
        denser = sum(count) > K * T
        strength *= 1.2 if denser else 1 / 1.2
        directions.add(denser)
        assert made.strength.item() == pytest.approx(strength, rel=1e-6)
    assert directions == {True, False}


def test_null_experts_equal_a_plain_loop():
    """zero adds nothing, copy w x, constant w (a_1 x + a_2 v) with a = softmax(W_c x) (MoE++)."""
    zero, copy, constant = 2, 1, 3
    options = dict(zero=zero, copy=copy, constant=constant)
    ours = layer("null_experts", options=options)
    made, x_TD = ours.router, inputs()
    y_TD, route = ours(x_TD, EVALUATE)
    matrix_AD = torch.cat((made.weight_ED, made.null_ZD))
    num_all = E + zero + copy + constant
    rows, weights, count = [], torch.zeros(T, E, dtype=torch.float64), [0] * num_all
    used = set()
    for t in range(T):
        logits_A = matrix_AD @ x_TD[t]
        kept = best(logits_A, K)
        y_D = 0.0 * x_TD[t]
        for a in kept:
            count[a] += 1
            used.add(a)
            weight = logits_A[a].exp() / sum(logits_A[i].exp() for i in kept)
            if a < E:
                weights[t, a] = weight.item()
                y_D = y_D + weight * expert_ffn(ours, a, x_TD[t])
            elif a >= E + zero + copy:
                c = a - E - zero - copy
                one, two = (made.mix_c2D[c] @ x_TD[t]).exp()
                of_x, of_v = one / (one + two), two / (one + two)
                y_D = y_D + weight * (of_x * x_TD[t] + of_v * made.value_cD[c])
            elif a >= E + zero:
                y_D = y_D + weight * x_TD[t]
        rows.append(y_D)
    assert used == set(range(num_all))
    check_plan(route.plan, weights)
    want_TD = torch.stack(rows)
    assert relative(y_TD, want_TD) < DOUBLE
    leaves = [x_TD, made.weight_ED, made.null_ZD, made.mix_c2D, made.value_cD, ours.w2_EDF]
    check_gradients(y_TD, want_TD, leaves, 1e-11)
    shared = sum(count[E:]) / (num_all - E)
    all_TA = x_TD @ matrix_AD.T
    want = share_times_score(all_TA.softmax(-1), count[:E] + [shared] * (num_all - E))
    check_loss(route.losses["balance"], want, leaves[:3], 1e-11)


def test_copy_experts_equal_longcat_flash(models):
    """Its zero-computation experts are identities, our copies. It does not renormalise over the
    chosen, ours does: a token's output is its output over its sum of weights. Its bias for the
    choice is left at 0 and its scale at 1. Trap 6: the experts' implementation must be "eager"."""
    from transformers.models.longcat_flash import modeling_longcat_flash as peer

    copies = 3
    config = models.longcat_flash.LongcatFlashConfig(
        hidden_size=D,
        n_routed_experts=E,
        zero_expert_num=copies,
        moe_topk=K,
        expert_ffn_hidden_size=FF,
        routed_scaling_factor=1.0,
        num_layers=1,
        vocab_size=8,
    )
    config._experts_implementation = "eager"
    block = peer.LongcatFlashMoE(config)
    options = dict(zero=0, copy=copies, constant=0)
    ours = layer("null_experts", options=options, dtype=torch.float32)
    with torch.no_grad():
        matrix_AD = torch.cat((ours.router.weight_ED, ours.router.null_ZD))
        block.router.classifier.weight.copy_(matrix_AD)
        block.experts.gate_up_proj.zero_()[:E].copy_(ours.w13_E2FD)
        block.experts.down_proj.copy_(ours.w2_EDF)
    x_TD = inputs(dtype=torch.float32)
    peer_TD = x_TD.detach().clone().requires_grad_()
    y_TD, route = ours(x_TD, EVALUATE)
    _, weight_TK, expert_TK = block.router(peer_TD)
    sum_T1 = weight_TK.sum(1, keepdim=True)
    want_TA = torch.zeros(T, E + copies).scatter(1, expert_TK, weight_TK / sum_T1)
    check_plan(route.plan, want_TA[:, :E], 1e-6)
    assert (want_TA[:, E:] != 0).any(0).all()
    want_TD = block(peer_TD[None])[0] / sum_T1
    assert relative(y_TD, want_TD) < 1e-6
    leaves = [
        (x_TD, peer_TD),
        (ours.w13_E2FD, block.experts.gate_up_proj),
        (ours.w2_EDF, block.experts.down_proj),
    ]
    ours_w, theirs_w = zip(*leaves, strict=True)
    grads = torch.autograd.grad(y_TD.square().sum(), ours_w)
    wants = torch.autograd.grad(want_TD.square().sum(), theirs_w)
    for grad, want in zip(grads, wants, strict=True):
        assert relative(grad, want[: len(grad)]) < 2e-6


@pytest.mark.parametrize("training", [True, False])
def test_mixture_of_depths_equals_a_plain_loop(training):
    """With E = 1 it is the paper's router, by sigmoid(r) instead of r; with more it is staged."""
    lengths, ids = (13, 1, 23), (5, 2, 9)
    sequence_T = torch.repeat_interleave(torch.tensor(ids), torch.tensor(lengths))
    for num_experts, top_k in ((1, 1), (E, K)):
        made = router(
            "mixture_of_depths", num_experts=num_experts, top_k=top_k, capacity_factor=0.3
        )
        x_TD = inputs()
        out = made(x_TD, RouteContext(sequence=sequence_T, training=training))
        depth_T = x_TD @ made.depth_D
        logits_TE = x_TD @ made.weight_ED.T
        chosen_by_rank, start = set(), 0
        for length in lengths:
            ranked = best(depth_T[start : start + length], math.ceil(0.3 * length))
            chosen_by_rank |= {start + i for i in ranked}
            start += length
        rows, count, cross = [], [0] * num_experts, 0.0
        for t in range(T):
            r = depth_T[t]
            row = [0.0 * r] * num_experts
            if t in chosen_by_rank if training else r > 0:
                kept = best(logits_TE[t], top_k)
                for e in kept:
                    inside = logits_TE[t, e].exp() / sum(logits_TE[t, i].exp() for i in kept)
                    row[e] = inside / (1 + (-r).exp())
                    count[e] += 1
            rows.append(torch.stack(row))
            right = 1 / (1 + (-r).exp()) if t in chosen_by_rank else 1 / (1 + r.exp())
            cross = cross - right.log() / T
        leaves = [x_TD, made.depth_D] + ([made.weight_ED] if num_experts > 1 else [])
        check_weights(out.plan, torch.stack(rows), leaves)
        check_loss(out.losses["predictor"], 0.01 * cross, leaves[:2])
        if num_experts > 1:
            want = share_times_score(out.scores, count)
            check_loss(out.losses["balance"], want, [made.weight_ED])
        assert 0 < len(out.plan.token) < T * top_k


# --- dense mixtures, sequences, shared experts ---


def test_ds_moe_visits_all_and_its_loss_is_scipys_entropy():
    """Pan et al. 2024, eq. 3-4: minus the mutual information of experts and tokens, by 0.01."""
    made, x_TD = router("dense_mixture"), inputs()
    out = made(x_TD, EVALUATE)
    scores_TE = (x_TD @ made.weight_ED.T).softmax(-1)
    check_weights(out.plan, scores_TE, [x_TD, made.weight_ED])
    assert torch.equal(chosen(made(x_TD, TRAIN).plan), torch.ones(T, E, dtype=torch.bool))
    p_TE = scores_TE.detach().numpy()
    information = entropy(p_TE.mean(0)) - entropy(p_TE, axis=1).mean()
    assert out.losses["information"].item() == pytest.approx(-0.01 * information, rel=1e-12)
    mean_E = scores_TE.mean(0)
    want = (mean_E * mean_E.log()).sum() - (scores_TE * scores_TE.log()).sum(1).mean()
    check_gradients(out.losses["information"], 0.01 * want, [x_TD, made.weight_ED])


def test_sequence_level_routing_equals_a_plain_loop():
    lengths, ids = (13, 1, 23), (5, 2, 9)
    sequence_T = torch.repeat_interleave(torch.tensor(ids), torch.tensor(lengths))
    made, x_TD = router("sequence_level"), inputs()
    out = made(x_TD, RouteContext(sequence=sequence_T))
    rows, scores = [], []
    for x_sD in x_TD.split(lengths):
        logits_E = made.weight_ED @ (sum(x_sD) / len(x_sD))
        kept = best(logits_E, K)
        row = [0.0 * logits_E[0]] * E
        for e in kept:
            row[e] = logits_E[e].exp() / sum(logits_E[i].exp() for i in kept)
        rows += [torch.stack(row)] * len(x_sD)
        scores += [logits_E.softmax(-1)] * len(x_sD)
    want_TE, leaves = torch.stack(rows), [x_TD, made.weight_ED]
    check_weights(out.plan, want_TE, leaves)
    want = share_times_score(torch.stack(scores), (want_TE != 0).sum(0))
    check_loss(out.losses["balance"], want, leaves)


def test_a_residual_moe_equals_its_formula():
    """PR-MoE (Rajbhandari et al. 2022): c_1 MoE(x) + c_2 MLP(x), c a softmax of two scores of x;
    DeepSpeed's own has a bias, which is left at 0."""
    ours = layer("token_choice", num_shared=2, shared_gate="softmax")
    bare = layer("token_choice")
    with torch.no_grad():
        for name, weight in bare.named_parameters():
            weight.copy_(ours.get_parameter(name))
    x_TD = inputs()
    y_TD, _ = ours(x_TD, EVALUATE)
    moe_TD, _ = bare(x_TD, EVALUATE)
    gate_TF, up_TF = (x_TD @ ours.shared.w13_2FD.T).chunk(2, dim=-1)
    assert gate_TF.shape == (T, 2 * FF)
    mlp_TD = (gate_TF / (1 + (-gate_TF).exp()) * up_TF) @ ours.shared.w2_DF.T
    one_T, two_T = (x_TD @ ours.shared_gate_GD.T).exp().unbind(1)
    part_T1 = (one_T / (one_T + two_T))[:, None]
    want_TD = part_T1 * moe_TD + (1 - part_T1) * mlp_TD
    assert relative(y_TD, want_TD) < DOUBLE
    leaves = [x_TD, ours.shared_gate_GD, ours.shared.w2_DF, ours.shared.w13_2FD]
    check_gradients(y_TD, want_TD, leaves)


# --- balance ---


@pytest.mark.parametrize("num_groups,top_groups", [(1, 1), (4, 2)])
def test_the_sign_bias_equals_a_plain_loop(num_groups, top_groups):
    """Wang et al. 2024, algorithm 1, over 25 steps of DeepSeek-V3's router, groups included."""
    rate = 0.03
    made = router(
        "deepseek_v3",
        num_experts=12,
        num_groups=num_groups,
        top_groups=top_groups,
        bias_rate=rate,
    )
    width, bias = 12 // num_groups, [0.0] * 12
    moved = set()
    for step in range(25):
        x_TD = inputs(seed=step).detach()
        out = made(x_TD, TRAIN)
        count = [0] * 12
        want_TE = torch.zeros(T, 12, dtype=torch.float64)
        for t, row in enumerate((x_TD @ made.weight_ED.T).tolist()):
            score = [1 / (1 + math.exp(-v)) for v in row]
            biased = [s + b for s, b in zip(score, bias, strict=True)]
            groups = [sorted(biased[g * width : (g + 1) * width]) for g in range(num_groups)]
            opened = best([sum(group[-2:]) for group in groups], top_groups)
            kept = best([v if e // width in opened else -9.0 for e, v in enumerate(biased)], K)
            for e in kept:
                count[e] += 1
                want_TE[t, e] = 2.5 * score[e] / sum(score[i] for i in kept)
        check_plan(out.plan, want_TE)
        made.post_step(out.stats)
        for e in range(12):
            difference = K * T / 12 - count[e]
            bias[e] += rate * (difference > 0) - rate * (difference < 0)
            moved.add(difference > 0)
        assert made.bias.bias_E.tolist() == pytest.approx(bias, abs=STATE)
    assert moved == {True, False}


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_the_quantile_bias_equals_a_plain_loop(rate):
    """J. Su 2025: at rate 1, q = K T / E tokens are then above the bars that stood, give or take
    those of which the expert itself was the bar."""
    made = router("quantile_balanced", bias_rate=rate)
    tokens, bias = 35, [0.0] * E
    quota = K * tokens // E
    for step in range(6):
        x_TD = inputs(tokens, seed=step).detach()
        out = made(x_TD, TRAIN)
        scores = [
            [1 / (1 + math.exp(-v)) for v in row] for row in (x_TD @ made.weight_ED.T).tolist()
        ]
        above, count, want_TE = [], [0] * E, torch.zeros(tokens, E, dtype=torch.float64)
        for t, score in enumerate(scores):
            biased = [s + b for s, b in zip(score, bias, strict=True)]
            bar = sorted(biased)[-(K + 1)]
            above.append([v - bar for v in biased])
            for e in best(biased, K):
                count[e] += 1
                want_TE[t, e] = score[e] / sum(score[i] for i in best(biased, K))
        assert out.stats.load.tolist() == count
        check_plan(out.plan, want_TE, STATE)
        made.post_step(out.stats)
        cut = [sorted(row[e] for row in above)[-(quota + 1)] for e in range(E)]
        bias = [b - rate * c for b, c in zip(bias, cut, strict=True)]
        assert made.bias.bias_E.tolist() == pytest.approx(bias, abs=STATE)
        if rate == 1.0:
            for e in range(E):
                over = [row[e] - cut[e] for row in above]
                assert sum(v > STATE for v in over) <= quota < sum(v > -STATE for v in over)


def test_the_sequence_loss_equals_a_plain_loop():
    """DeepSeek-V3, eq. 17-20, one sequence after the other: f counts the K best scores without the
    bias, and without the groups; P is of scores divided by their sum."""
    lengths, ids = (13, 1, 23), (5, 2, 9)
    sequence_T = torch.repeat_interleave(torch.tensor(ids), torch.tensor(lengths))
    made = router("deepseek_v3", num_experts=12, num_groups=4, top_groups=2)
    made.bias.bias_E.copy_(normal(12, seed=3))
    x_TD = inputs()
    out = made(x_TD, RouteContext(sequence=sequence_T, training=True))
    scores_TE = 1 / (1 + (-(x_TD @ made.weight_ED.T)).exp())
    parts, start = [], 0
    unbiased_TE = torch.zeros(T, 12, dtype=torch.bool)
    for length in lengths:
        fraction, mean = [0.0] * 12, [0.0] * 12
        for t in range(start, start + length):
            for e in best(scores_TE[t], K):
                fraction[e] += 12 / (K * length)
                unbiased_TE[t, e] = True
            for e in range(12):
                mean[e] = mean[e] + scores_TE[t, e] / sum(scores_TE[t]) / length
        parts.append(sum(f * p for f, p in zip(fraction, mean, strict=True)))
        start += length
    assert not torch.equal(unbiased_TE, chosen(out.plan))
    leaves = [x_TD, made.weight_ED]
    check_loss(out.losses["balance"], sum(parts) / 3, leaves)
    shares_TE = scores_TE / scores_TE.sum(1, keepdim=True)
    loss = sequence_balancing_loss(shares_TE, unbiased_TE, sequence_T)
    check_loss(loss, sum(parts) / 3, leaves)
    whole = sequence_balancing_loss(shares_TE, unbiased_TE, None)
    assert relative(whole, share_times_score(shares_TE, unbiased_TE.sum(0))) < DOUBLE


def test_the_z_loss_equals_scipys_logsumexp():
    logits_TE = (5 * normal(T, E)).requires_grad_()
    want = np.square(logsumexp(logits_TE.detach().numpy(), axis=1)).mean()
    assert relative(z_loss(logits_TE), torch.tensor(want)) < DOUBLE
    check_gradients(z_loss(logits_TE), logits_TE.exp().sum(1).log().square().mean(), [logits_TE])
