"""What every router must keep, whatever its rule: over sizes, skew, dtype and mode.

Tokens are the rows of an identity matrix and the gate's columns are their logits, so that a test
says what the logits are, exactly, instead of hoping for them.
"""

import dataclasses
import re

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.numerics import relative
from helpers.routers import decision, every, inner, normal, visited
from moeviz.model.experts import swiglu
from moeviz.model.layer import MoEConfig, MoEFFN
from moeviz.ops import gather, gather_sum
from moeviz.routing import ROUTERS, RouteContext, build_router
from moeviz.routing.balance import sequence_balancing_loss

NAMES = tuple(ROUTERS)
SOFT = ("soft_moe", "mixture_of_tokens")
DISCRETE = tuple(name for name in NAMES if name not in SOFT)
MODES = (False, True)
VOCAB = 40
SKEWS = ("even", "zipf", "one", "tied", "huge")


def skewed(kind, T, E, seed=0, dtype=torch.float32):
    """logits_TE of a kind: spread evenly, by Zipf's law, all to one expert, nearly all tied, or as
    large as logits may be."""
    logits_TE = normal(T, E, seed=seed, dtype=torch.float64)
    if kind == "zipf":
        logits_TE -= 2 * torch.arange(1, E + 1, dtype=torch.float64).log()
    elif kind == "one":
        logits_TE[:, seed % E] += 8
    elif kind == "tied":
        logits_TE = logits_TE.sign()
    elif kind == "huge":
        logits_TE = logits_TE.sign() * 1e4 * torch.sigmoid(logits_TE)
    return logits_TE.to(dtype)


def top_ks(name, E):
    """The K that a router can have for E experts."""
    if name == "expert_prototyping":
        return [K for K in range(1, E + 1) if E % K == 0]
    if name == "hierarchical":
        groups = build_router(name, d_model=1, num_experts=E, top_k=1).num_groups
        return [
            K
            for K in range(1, E + 1)
            if any(K % g == 0 and K // g <= E // groups for g in range(1, min(K, groups) + 1))
        ]
    if name == "base":  # three rounds may find nobody left but an expert that a token has already
        return [1, 2][:E]
    return list(range(1, E + 1))


def at_unit_scale(made, logits_TE, seed=0):
    """Give a router these logits for the rows of the identity, and all else that it has numbers of
    unit scale: what routers start with is too small to be a hard case."""
    gate, E = inner(made), logits_TE.shape[1]
    with torch.no_grad():
        for name, values in made.named_parameters():
            values.copy_(normal(*values.shape, seed=seed + len(name), dtype=values.dtype))
        if hasattr(gate, "weight_ED"):
            gate.weight_ED.copy_(logits_TE.T)
        if hasattr(gate, "phi_EPD"):
            gate.phi_EPD.copy_(logits_TE.T[:, None] + 0.1 * gate.phi_EPD)
            gate.scale.fill_(3.0)
        if hasattr(gate, "threshold_E"):
            gate.threshold_E.fill_(1 / E)
    return made


def build(name, logits_TE, K, seed=0, **options):
    T, E = logits_TE.shape
    if name == "hash":
        options.setdefault("vocab_size", VOCAB)
    made = build_router(name, d_model=T, num_experts=E, top_k=K, **options)
    return at_unit_scale(made.to(logits_TE.dtype), logits_TE, seed)


def context(T, training=False, seed=0, **fields):
    """Sequences of three tokens, random ids, seeded noise."""
    generator = torch.Generator().manual_seed(seed)
    every_T = torch.arange(T)
    made = RouteContext(
        token_ids=torch.randint(VOCAB, (T,), generator=generator),
        sequence=every_T // 3,
        position=every_T % 3,
        training=training,
        generator=generator,
    )
    return dataclasses.replace(made, **fields)


def tokens(logits_TE):
    return torch.eye(len(logits_TE), dtype=logits_TE.dtype)


def same(a, b):
    """Two results equal to the last bit."""
    assert torch.equal(a.logits, b.logits) and torch.equal(a.scores, b.scores)
    assert torch.equal(decision(a), decision(b))
    assert a.losses.keys() == b.losses.keys()
    assert all(torch.equal(a.losses[name], b.losses[name]) for name in a.losses)
    for field in dataclasses.fields(a.stats):
        one, other = getattr(a.stats, field.name), getattr(b.stats, field.name)
        equal = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert equal, field.name


@st.composite
def cases(draw, name, skews=SKEWS, max_T=10, max_E=8, min_E=1):
    """logits_TE and K; seeds, not arrays, so that a failure shrinks to small sizes."""
    T, E = draw(st.integers(1, max_T)), draw(st.integers(min_E, max_E))
    K = draw(st.sampled_from(top_ks(name, E)))
    kind, seed = draw(st.sampled_from(skews)), draw(st.integers(0, 10**4))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return skewed(kind, T, E, seed, dtype), K


modes = pytest.mark.parametrize("training", MODES, ids=["eval", "train"])


few = settings(max_examples=6, deadline=None)


# --- all routers ---


@modes
@every(NAMES)
@few
@given(data=st.data())
def test_every_decision_is_sound(name, training, data):
    logits_TE, K = data.draw(cases(name))
    T, E = logits_TE.shape
    made, x_TD = build(name, logits_TE, K), tokens(logits_TE)
    out = made(x_TD, context(T, training))
    assert out.logits.shape == out.scores.shape == (T, E)
    assert out.logits.dtype == out.scores.dtype == logits_TE.dtype
    for values in (out.logits, out.scores, decision(out), *out.losses.values()):
        assert torch.isfinite(values).all()
    assert (decision(out) >= 0).all() and (out.scores >= 0).all()
    assert all(value.ndim == 0 for value in out.losses.values())
    stats = out.stats
    assert stats.tokens == T and stats.load.dtype == stats.demand.dtype == torch.int64
    assert torch.allclose(stats.importance, out.scores.sum(0))
    assert -1e-6 <= stats.entropy.item() <= 1 + 1e-6
    if name in SOFT:
        groups, _, _, slots = out.plan.dispatch.shape
        assert made.soft and (stats.load == groups * slots).all()
        return
    plan = out.plan
    assert plan.num_tokens == T and plan.num_experts == E
    dropped_E = plan.dropped[:, 1].long().bincount(minlength=E)
    assert torch.equal(stats.load, plan.load().long())
    assert torch.equal(stats.load + dropped_E, stats.demand)
    # No token visits an expert twice, kept or dropped.
    kept = list(zip(plan.token.tolist(), plan.expert.tolist(), strict=True))
    lost = [(token, expert) for token, expert, _ in plan.dropped.tolist()]
    assert len({*kept, *lost}) == len(kept) + len(lost)
    for e in range(E):
        rows = slice(plan.offsets[e], plan.offsets[e + 1])
        assert (plan.expert[rows] == e).all()
        assert plan.slot[rows].tolist() == list(range(stats.load[e]))


@modes
@every(NAMES)
def test_the_same_seed_gives_the_same_decision_and_touches_no_other_noise(name, training):
    logits_TE = skewed("zipf", 9, 6)
    made, x_TD = build(name, logits_TE, 2), tokens(logits_TE)
    state = torch.get_rng_state()
    same(made(x_TD, context(9, training)), made(x_TD, context(9, training)))
    assert torch.equal(torch.get_rng_state(), state)


@modes
@every(NAMES)
@few
@given(data=st.data())
def test_padding_changes_nothing_for_real_tokens(name, training, data):
    """Not even by rounding: the router sees the real tokens alone."""
    logits_TE, K = data.draw(cases(name))
    T, E = logits_TE.shape
    real_T = torch.tensor(data.draw(st.lists(st.booleans(), min_size=T, max_size=T)))
    assume(real_T.any())
    made, x_TD = build(name, logits_TE, K), tokens(logits_TE)
    ids_T = context(T).token_ids
    x_TD[~real_T] = torch.nan  # whatever stands there is not looked at
    ids_T[~real_T] = -1
    padded = made(x_TD, context(T, training, mask=real_T, token_ids=ids_T))
    alone = context(T, token_ids=ids_T).select(real_T)
    alone = dataclasses.replace(alone, training=training, generator=context(T).generator)
    want = made(x_TD[real_T], alone)
    for got in (padded.logits, padded.scores, decision(padded)):
        assert len(got) == T and not got[~real_T].any()
    trimmed = dataclasses.replace(
        padded, logits=padded.logits[real_T], scores=padded.scores[real_T]
    )
    assert torch.equal(decision(padded)[real_T], decision(want))
    same(dataclasses.replace(trimmed, plan=want.plan), want)  # logits, scores, losses, counts
    if name not in SOFT:
        assert visited(padded)[real_T].equal(visited(want))
        index_t = real_T.nonzero()[:, 0]
        moved = [[index_t[t].item(), e, k] for t, e, k in want.plan.dropped.tolist()]
        assert padded.plan.dropped.tolist() == moved
    if want.bypass is not None:
        assert padded.bypass[real_T].equal(want.bypass) and not padded.bypass[~real_T].any()


# Mixture of Tokens groups a lone sequence by its order; capacity and noise go by it in training.
ORDERED = ("mixture_of_tokens", "hash")
ORDERED_IN_TRAINING = (*ORDERED, "noisy_topk", "gshard", "switch", "st_moe")


@pytest.mark.parametrize(
    ("name", "training"),
    [(name, False) for name in NAMES if name not in ORDERED]
    + [(name, True) for name in NAMES if name not in ORDERED_IN_TRAINING],
)
@few
@given(data=st.data())
def test_tokens_have_no_order(name, training, data):
    skews = ("even", "zipf", "one")  # ties may go either way
    logits_TE, K = data.draw(cases(name, skews))
    T, E = logits_TE.shape
    made, x_TD = build(name, logits_TE.double(), K), tokens(logits_TE.double())
    one = dict(sequence=None, position=None, token_ids=None)
    want = made(x_TD, context(T, training, **one))
    order_T = torch.tensor(data.draw(st.permutations(range(T))))
    moved = made(x_TD[order_T], context(T, training, **one))
    assert relative(decision(moved), decision(want)[order_T]) < 1e-9
    assert torch.equal(moved.stats.load, want.stats.load)
    for loss, value in want.losses.items():
        assert relative(moved.losses[loss], value) < 1e-9, loss


def test_places_by_order_are_no_property_of_the_tokens():
    """The exceptions above are none of caution: order does matter there."""
    logits_TE = skewed("one", 9, 4)
    for name in ("switch", "st_moe", "gshard"):
        made, x_TD = build(name, logits_TE, 2), tokens(logits_TE)
        # A training context without noise is all that differs from the test above.
        inner(made).gate = dataclasses.replace(inner(made).gate, jitter=0.0)
        quiet = context(9, True, generator=None)
        torch.manual_seed(0)
        want = made(x_TD, quiet)
        torch.manual_seed(0)
        moved = made(x_TD.flip(0), quiet)
        assert not torch.equal(visited(moved).flip(0), visited(want)), name


OF_EXPERTS = ("weight_ED", "noise_ED", "phi_EPD", "threshold_E", "bias.bias_E")
GROUPED = {  # routers for which the place of an expert in the list means something, unless so built
    "expert_prototyping": None,
    "hierarchical": dict(num_groups=1, top_groups=1),
    "deepseek_v2": dict(num_groups=1),
    "deepseek_v3": dict(num_groups=1),
    "hash": None,
}


UNGROUPED = [name for name in NAMES if GROUPED.get(name, {}) is not None]


@pytest.mark.parametrize(
    ("name", "training"),
    [(name, False) for name in UNGROUPED]
    # Noise belongs to a place, not to an expert.
    + [(name, True) for name in UNGROUPED if name != "noisy_topk"],
)
@few
@given(data=st.data())
def test_experts_have_no_order(name, training, data):
    """Gate rows and experts permuted: the loads move along, and the layer's output is the same."""
    K = data.draw(st.integers(1, 2 if name == "base" else 4))
    E = data.draw(st.integers(K, 7))
    T, seed = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 10**4))
    logits_TE = skewed(data.draw(st.sampled_from(["even", "zipf"])), T, E, seed, torch.float64)
    # A lone token has nothing to be weighed against: a transport is then all ties.
    assume(T > 1 or not (training and name == "sinkhorn"))
    options = GROUPED.get(name, {})
    config = MoEConfig(E, K, 3, router=name, options=options, backend="reference")
    ffn = MoEFFN(T, config).double()
    at_unit_scale(ffn.router, logits_TE, seed)
    x_TD = tokens(logits_TE)
    want_TD, want = ffn(x_TD, context(T, training))
    order_E = torch.tensor(data.draw(st.permutations(range(E))))
    with torch.no_grad():
        state = inner(ffn.router).state_dict(keep_vars=True)
        banks = [ffn.w13_E2FD, ffn.w2_EDF]
        for values in [state[key] for key in OF_EXPERTS if key in state] + banks:
            values.copy_(values[order_E].clone())
    got_TD, moved = ffn(x_TD, context(T, training))
    assert relative(got_TD, want_TD) < 1e-9
    assert torch.equal(moved.stats.load, want.stats.load[order_E])
    assert relative(moved.scores, want.scores[:, order_E]) < 1e-9
    for loss, value in want.losses.items():
        assert relative(moved.losses[loss], value) < 1e-9, loss


# --- with the experts ---


def layer(name, logits_TE, K, d_expert=3, backend="reference", seed=0):
    T, E = logits_TE.shape
    options = dict(vocab_size=VOCAB) if name == "hash" else {}
    config = MoEConfig(E, K, d_expert, router=name, options=options, backend=backend)
    ffn = MoEFFN(T, config).to(logits_TE.dtype)
    at_unit_scale(ffn.router, logits_TE, seed)
    return ffn


# Rows of weights that sum to 1 outside training (hash: K times 1/K).
SUMMING_TO_ONE = (
    "token_choice",
    "noisy_topk",
    "gshard",
    "st_moe",
    "hierarchical",
    "quantile_balanced",
    "hash",
    "dense_mixture",
    "sequence_level",
)


@modes
@every(DISCRETE)
@few
@given(data=st.data())
def test_identical_experts_are_one_ffn_times_the_sum_of_weights(name, training, data):
    logits_TE, K = data.draw(cases(name, ("even", "zipf", "one")))
    T, E = logits_TE.shape
    ffn, x_TD = layer(name, logits_TE.double(), K), tokens(logits_TE.double())
    with torch.no_grad():
        ffn.w13_E2FD.copy_(ffn.w13_E2FD[:1].expand_as(ffn.w13_E2FD))
        ffn.w2_EDF.copy_(ffn.w2_EDF[:1].expand_as(ffn.w2_EDF))
    y_TD, route = ffn(x_TD, context(T, training))
    one_TD = swiglu(x_TD @ ffn.w13_E2FD[0].T) @ ffn.w2_EDF[0].T
    sum_T1 = route.plan.dense_weights().sum(1, keepdim=True)
    want_TD = sum_T1 * one_TD + (0 if route.bypass is None else route.bypass)
    assert torch.allclose(y_TD, want_TD, atol=1e-9)
    if not training and name in SUMMING_TO_ONE:
        assert torch.allclose(y_TD, one_TD, atol=1e-9)
    if not training and name == "deepseek_v3":
        assert torch.allclose(y_TD, 2.5 * one_TD, atol=1e-9)


@modes
@every(DISCRETE)
@few
@given(data=st.data())
def test_combine_is_the_transpose_of_dispatch(name, training, data):
    """<D x, y> = <x, D^T y>, also where tokens were dropped, are padding or go nowhere."""
    logits_TE, K = data.draw(cases(name))
    T, E = logits_TE.shape
    real_T = torch.tensor(data.draw(st.lists(st.booleans(), min_size=T, max_size=T)))
    assume(real_T.any())
    made = build(name, logits_TE, K)
    plan = made(tokens(logits_TE), context(T, training, mask=real_T)).plan
    x_TD, y_ND = normal(T, 3, dtype=torch.float64), normal(len(plan.token), 3, seed=1).double()
    summed_TD = gather_sum(y_ND, plan.inverse, plan.token_offsets)
    left, right = (gather(x_TD, plan.token) * y_ND).sum(), (x_TD * summed_TD).sum()
    assert torch.allclose(left, right)


@every(NAMES)
def test_experts_that_no_token_visits_get_exactly_no_gradient(name):
    logits_TE, K = skewed("even", 1, 6, seed=3), 1
    ffn = layer(name, logits_TE, K, backend="auto")
    if name in ("expert_choice", "dense_mixture", *SOFT):
        y_TD, route = ffn(tokens(logits_TE), context(1, True))
        y_TD.square().sum().backward()
        assert (route.stats.load > 0).all()
        assert (ffn.w2_EDF.grad.flatten(1).norm(dim=1) > 0).all()  # here all are visited
        return
    with torch.no_grad():
        if name == "mixture_of_depths":
            ffn.router.depth_D.fill_(1.0)
        if name == "null_experts":
            ffn.router.null_ZD.fill_(-5.0)
    y_TD, route = ffn(tokens(logits_TE), context(1))
    y_TD.square().sum().backward()
    idle_E = route.stats.load == 0
    assert idle_E.any() and not idle_E.all()
    for gradient in (ffn.w13_E2FD.grad, ffn.w2_EDF.grad):
        norm_E = gradient.flatten(1).norm(dim=1)
        assert (norm_E[idle_E] == 0).all() and (norm_E[~idle_E] > 0).all()


# --- token choice ---


EXACTLY_K = {  # outside training, whatever the logits
    "token_choice": 1.0,
    "noisy_topk": 1.0,
    "gshard": 1.0,
    "st_moe": 1.0,
    "hierarchical": 1.0,
    "quantile_balanced": 1.0,
    "sequence_level": 1.0,
    "hash": 1.0,
    "deepseek_v3": 2.5,
    "switch": None,  # raw scores: at most 1
    "deepseek_v2": None,
    "base": None,
    "sinkhorn": None,
    "expert_prototyping": None,
}
EXACTLY_K_IN_TRAINING = [n for n in EXACTLY_K if n not in ("gshard", "switch", "st_moe")]


@every(EXACTLY_K)
@few
@given(data=st.data(), training=st.booleans())
def test_every_token_keeps_k_distinct_experts_and_its_sum_of_weights(name, data, training):
    logits_TE, K = data.draw(cases(name, ("even", "zipf", "one", "tied")))
    T, E = logits_TE.shape
    training &= name in EXACTLY_K_IN_TRAINING
    out = build(name, logits_TE, K)(tokens(logits_TE), context(T, training))
    assert visited(out).sum(1).tolist() == [K] * T
    sum_T, want = out.plan.dense_weights().sum(1), EXACTLY_K[name]
    if want is not None:
        assert torch.allclose(sum_T, torch.full_like(sum_T, want))
    else:
        most = K if name in ("expert_prototyping", "sinkhorn") else 1
        assert (sum_T <= most + 1e-5).all() and (sum_T > 0).all()
    choice = out.plan.choice[out.plan.inverse.long()].view(T, K).sort(1).values
    assert choice.tolist() == [list(range(K))] * T


@every(["deepseek_v2", "deepseek_v3", "token_choice"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_a_scale_multiplies_the_weights_alone(name, scale):
    logits_TE = skewed("even", 9, 8)
    one = build(name, logits_TE, 3, scale=1.0)(tokens(logits_TE), context(9))
    out = build(name, logits_TE, 3, scale=scale)(tokens(logits_TE), context(9))
    assert torch.allclose(decision(out), scale * decision(one))
    assert torch.equal(out.scores, one.scores) and out.losses == one.losses


SOFTMAX = (  # what adds the same to all logits of a token changes nothing but the z-loss
    "token_choice",
    "noisy_topk",
    "gshard",
    "switch",
    "st_moe",
    "expert_prototyping",
    "hierarchical",
    "deepseek_v2",
    "expert_choice",
    "expert_threshold",
    "sinkhorn",
    "null_experts",
    "mixture_of_depths",
    "dense_mixture",
    "sequence_level",
)


@modes
@every(SOFTMAX)
@few
@given(data=st.data())
def test_a_constant_on_a_row_of_logits_changes_the_z_loss_alone(name, training, data):
    logits_TE, _ = data.draw(cases(name, ("even", "zipf", "one"), min_E=4))
    logits_TE, K = logits_TE.double(), 2
    T, E = logits_TE.shape
    if name == "expert_prototyping" and E % 2:
        logits_TE = logits_TE[:, 1:]
    if name == "hierarchical":
        assume(K in top_ks(name, E))
    added_T = 5 * normal(T, seed=7, dtype=torch.float64)
    if name == "sequence_level":
        added_T = added_T[:1].expand(T)  # the mean over the sequence would mix them
    made, x_TD = build(name, logits_TE, K), tokens(logits_TE)
    before = made(x_TD, context(T, training))
    with torch.no_grad():
        for key in ("weight_ED", "null_ZD", "group_GD"):
            if hasattr(inner(made), key):
                getattr(inner(made), key).add_(added_T)
    after = made(x_TD, context(T, training))
    assert torch.equal(visited(after), visited(before))
    assert relative(decision(after), decision(before)) < 1e-9
    for loss, value in before.losses.items():
        if loss != "z":
            assert torch.allclose(after.losses[loss], value), loss
    if "z" in before.losses and name != "hierarchical":
        assert not torch.allclose(after.losses["z"], before.losses["z"])


MONOTONE = (
    "token_choice",
    "noisy_topk",
    "gshard",
    "switch",
    "st_moe",
    "expert_prototyping",
    "hierarchical",
    "deepseek_v2",
    "deepseek_v3",
    "quantile_balanced",
    "expert_choice",
    "expert_threshold",
    "base",
    "sinkhorn",
    "remoe",
    "null_experts",
    "mixture_of_depths",
    "sequence_level",
)


@every(MONOTONE)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_higher_logit_never_takes_the_expert_away(name, data):
    logits_TE, K = data.draw(cases(name, ("even", "zipf", "one", "tied")))
    T, E = logits_TE.shape
    made, x_TD = build(name, logits_TE, K), tokens(logits_TE)
    before = visited(made(x_TD, context(T)))
    assume(before.any())
    token, expert = data.draw(st.sampled_from(before.nonzero().tolist()))
    with torch.no_grad():
        inner(made).weight_ED[expert, token] += data.draw(st.floats(0.01, 30.0))
    assert visited(made(x_TD, context(T)))[token, expert]


DENSE_AT_ALL = (
    "token_choice",
    "noisy_topk",
    "gshard",
    "switch",
    "st_moe",
    "hierarchical",
    "deepseek_v2",
    "sinkhorn",
    "expert_choice",
)


@every(DENSE_AT_ALL)
@few
@given(data=st.data())
def test_k_of_all_experts_is_the_dense_mixture(name, data):
    T, E = data.draw(st.integers(1, 7)), data.draw(st.integers(2, 8))
    logits_TE = skewed("zipf", T, E, data.draw(st.integers(0, 10**4)))
    made, x_TD = build(name, logits_TE, E), tokens(logits_TE)
    want_TE = logits_TE.softmax(-1)
    if name == "hierarchical":
        group_TG = made.group_GD.T.softmax(-1)
        inside_TGe = logits_TE.unflatten(1, (made.num_groups, -1)).softmax(-1)
        want_TE = (group_TG[..., None] * inside_TGe).flatten(1)
    out = made(x_TD, context(T))
    assert visited(out).all() and relative(decision(out), want_TE) < 1e-6
    if name != "hierarchical":
        dense = build("dense_mixture", logits_TE, 1)(x_TD, context(T))
        assert relative(decision(out), decision(dense)) < 1e-6


# Each router as plain top-K of a token's logits, and the choices it then has to make.
FLAT = {
    "token_choice": {},
    "noisy_topk": {},
    "gshard": {},
    "switch": {},
    "st_moe": {},
    "hierarchical": dict(num_groups=1, top_groups=1),
    "deepseek_v2": dict(num_groups=1),
    "deepseek_v3": dict(num_groups=1),
    "quantile_balanced": {},
    "base": {},
    "sinkhorn": {},
    "null_experts": {},
    "mixture_of_depths": {},
}


@every(FLAT)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_of_equal_logits_the_lower_index_is_taken_first(name, data):
    T, E = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 7))
    K = data.draw(st.integers(1, E))
    value = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0])
    rows = data.draw(st.lists(st.lists(value, min_size=E, max_size=E), min_size=T, max_size=T))
    logits_TE = torch.tensor(rows)
    made = build(name, logits_TE, K, **FLAT[name])
    with torch.no_grad():
        if name == "null_experts":
            made.null_ZD.fill_(-9.0)
        if name == "mixture_of_depths":
            made.depth_D.fill_(1.0)
    plan = made(tokens(logits_TE), context(T)).plan
    chosen = plan.expert[plan.inverse.long()].view(T, K)
    order = plan.choice[plan.inverse.long()].view(T, K).long().argsort(1)
    want = [sorted(range(E), key=lambda e: -row[e])[:K] for row in rows]
    assert chosen.gather(1, order).tolist() == want


@every(["expert_prototyping", "hierarchical", "deepseek_v2", "deepseek_v3", "sinkhorn"])
def test_ties_of_groups_and_of_transports_go_to_the_lower_index(name):
    logits_TE = torch.zeros(4, 8)
    made = build(name, logits_TE, 4)
    with torch.no_grad():
        if name == "hierarchical":
            made.group_GD.zero_()
    chosen_TE = visited(made(tokens(logits_TE), context(4, name == "sinkhorn")))
    want = {  # 8 experts: 4 prototypes of 2; 2 groups of 4, both open; 2 of 4 groups of 2
        "expert_prototyping": [0, 2, 4, 6],
        "hierarchical": [0, 1, 4, 5],
    }.get(name, [0, 1, 2, 3])
    assert chosen_TE.tolist() == [[e in want for e in range(8)]] * 4


def test_of_equal_tokens_an_expert_takes_the_earlier():
    logits_TE = torch.zeros(6, 3)
    out = build("expert_choice", logits_TE, 1)(tokens(logits_TE), context(6))
    assert visited(out).tolist() == [[True] * 3] * 2 + [[False] * 3] * 4
    made = build("mixture_of_depths", logits_TE, 1, capacity_factor=0.5)
    with torch.no_grad():
        made.depth_D.zero_()
    out = made(tokens(logits_TE), context(6, True, sequence=None))
    assert visited(out).any(1).tolist() == [True] * 3 + [False] * 3


# --- groups ---


@few
@given(data=st.data())
def test_one_group_is_no_group(data):
    logits_TE, K = data.draw(cases("token_choice", ("even", "zipf", "one")))
    T, x_TD = len(logits_TE), tokens(logits_TE)
    raw = decision(build("token_choice", logits_TE, K, weighting="raw")(x_TD, context(T)))
    plain = decision(build("token_choice", logits_TE, K)(x_TD, context(T)))
    sigmoid = build("token_choice", logits_TE, K, score="sigmoid")(x_TD, context(T))
    v2 = build("deepseek_v2", logits_TE, K, num_groups=1)(x_TD, context(T))
    v3 = build("deepseek_v3", logits_TE, K, num_groups=1, scale=1.0)(x_TD, context(T))
    two = build("hierarchical", logits_TE, K, num_groups=1, top_groups=1)(x_TD, context(T))
    assert torch.equal(decision(v2), raw)
    assert relative(decision(v3), decision(sigmoid)) < 1e-6
    assert relative(decision(two), plain) < 1e-6


# --- experts that choose, and variable numbers of experts ---


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_expert_takes_exactly_its_places(data):
    logits_TE, K = data.draw(cases("expert_choice", max_T=14))
    T, E = logits_TE.shape
    factor = data.draw(st.sampled_from([None, 0.5, 1.0, 2.0, 50.0]))
    chunk = data.draw(st.sampled_from([None, 1, 4]))
    made = build("expert_choice", logits_TE, K, capacity_factor=factor, chunk=chunk)
    out = made(tokens(logits_TE), context(T))
    ends = [*range(3, T, 3), T] if chunk else [T]  # sequences of three
    pools = [
        range(s, min(s + (chunk or T), end))
        for start, end in zip([0, *ends], ends, strict=False)
        for s in range(start, end, chunk or T)
    ]
    rooms = [min(max(1, -(-(factor or K) * len(p) // E)), len(p)) for p in pools]
    assert out.stats.load.tolist() == [sum(rooms)] * E
    assert (visited(out).sum(1) <= E).all() and out.stats.load.sum() == E * sum(rooms)
    for pool, room in zip(pools, rooms, strict=True):
        for e in range(E):
            column = out.scores[:, e].tolist()
            best = sorted(pool, key=lambda t: -column[t])[: int(room)]
            assert [t for t in pool if visited(out)[t, e]] == sorted(best)
    assert torch.equal(decision(out), out.scores * visited(out))


def test_a_cap_on_experts_per_token_holds_and_keeps_every_expert_full():
    logits_TE = skewed("zipf", 16, 4, seed=1)
    logits_TE[:3] += 3  # some tokens would be taken by all four experts
    free = build("expert_choice", logits_TE.double(), 2)
    free_TE = visited(free(tokens(logits_TE.double()), context(16)))
    capped = build("expert_choice", logits_TE.double(), 2, max_experts=2)
    out = capped(tokens(logits_TE.double()), context(16))
    assert free_TE.sum(1).max() > 2
    assert visited(out).sum(1).max() <= 2 and out.stats.load.tolist() == [8] * 4


# --- assignments ---


# --- soft routers ---


@few
@given(data=st.data())
def test_soft_columns_and_rows_sum_to_one(data):
    logits_TE, K = data.draw(cases("soft_moe"))
    T, E = logits_TE.shape
    slots = data.draw(st.integers(1, 3))
    made = build("soft_moe", logits_TE, K, slots=slots)
    plan = made(tokens(logits_TE), context(T)).plan
    sequences = -(-T // 3)
    assert plan.dispatch.shape == plan.combine.shape == (sequences, min(T, 3), E, slots)
    ones = torch.ones((), dtype=logits_TE.dtype)
    assert torch.allclose(plan.dispatch.sum(1), ones)
    assert torch.allclose(plan.by_token(plan.combine).sum((1, 2)), ones)
    assert (plan.place == torch.arange(T)).all()
    for values in (plan.dispatch, plan.combine):  # the last sequence may be shorter
        assert (values.flatten(0, 1)[T:] == 0).all()


@every(SOFT)
def test_a_sequence_of_a_batch_is_mixed_as_if_it_were_alone(name):
    """Soft MoE: no sequence sees another. Mixture of Tokens: no position sees another, and other
    sequences do: that is what its groups are."""
    logits_TE = skewed("even", 6, 4)
    made, x_TD = build(name, logits_TE, 2), tokens(logits_TE)
    changed_TD = x_TD.clone()
    changed_TD[3:] = 2 * normal(3, 6, seed=5)  # the second sequence
    before, after = (made(x, context(6)).plan for x in (x_TD, changed_TD))
    first, second = (plan.by_token(plan.dispatch) for plan in (before, after))
    assert torch.equal(first[:3], second[:3]) == (name == "soft_moe")
    assert not torch.equal(first[3:], second[3:])
    changed_TD = x_TD.clone()
    changed_TD[2::3] = 2 * normal(2, 6, seed=5)  # the last position of both sequences
    after = made(changed_TD, context(6)).plan
    others = [0, 1, 3, 4]
    unmoved = torch.equal(first[others], after.by_token(after.dispatch)[others])
    assert unmoved == (name == "mixture_of_tokens")


def test_one_slot_for_all_gives_every_token_the_same_output():
    ffn = layer("soft_moe", skewed("even", 5, 1), 1)
    y_TD, _ = ffn(torch.eye(5), context(5, sequence=None))
    assert torch.allclose(y_TD, y_TD[:1].expand(5, 5), atol=1e-6) and y_TD.norm() > 0.01


# --- hashes ---


@pytest.mark.parametrize("variant", ["random", "bigram"])
@few
@given(data=st.data())
def test_a_hash_goes_by_ids_alone(variant, data):
    T, E = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 6))
    K = data.draw(st.integers(1, E))
    made = build_router(
        "hash", d_model=3, num_experts=E, top_k=K, variant=variant, vocab_size=VOCAB
    )
    assert list(made.parameters()) == []
    ids = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=T, max_size=T))
    ids_T = torch.tensor(ids)
    x_TD = normal(T, 3).requires_grad_()
    one, other = (made(x, context(T, token_ids=ids_T)) for x in (x_TD, -5 * x_TD))
    assert torch.equal(decision(one), decision(other)) and not decision(one).requires_grad
    assert torch.equal(decision(one), visited(one) / K) and (visited(one).sum(1) == K).all()
    table = made.table_VK.clone()
    made.post_step(one.stats)
    assert torch.equal(made.table_VK, table)
    before = [-1 if t % 3 == 0 else ids[t - 1] for t in range(T)]
    keys = list(zip(ids, before, strict=True)) if variant == "bigram" else ids
    for t in range(T):
        for u in range(t):
            if keys[t] == keys[u]:
                assert torch.equal(visited(one)[t], visited(one)[u])


# --- biases ---


@every(["deepseek_v3", "quantile_balanced"])
@few
@given(data=st.data())
def test_a_bias_works_through_the_set_alone(name, data):
    logits_TE, K = data.draw(cases(name, ("even", "zipf"), min_E=2))
    T, E = logits_TE.shape
    made, x_TD = build(name, logits_TE, K), tokens(logits_TE)
    before = made(x_TD, context(T))
    plain = build("token_choice", logits_TE, K, score="sigmoid")(x_TD, context(T))
    if name == "quantile_balanced":
        assert torch.equal(visited(before), visited(plain))  # b = 0 is no bias
    made.bias.bias_E += 0.25  # a constant moves nothing
    assert torch.equal(visited(made(x_TD, context(T))), visited(before))
    made.bias.bias_E.copy_(normal(E, seed=3))
    after = made(x_TD, context(T))
    chosen_TE = visited(after)
    scale = 2.5 if name == "deepseek_v3" else 1.0
    want_TE = after.scores * chosen_TE / (after.scores * chosen_TE).sum(1, keepdim=True)
    assert torch.allclose(decision(after), scale * want_TE)
    assert torch.equal(after.scores, before.scores) and after.losses == before.losses


@every(["token_choice", "deepseek_v3", "quantile_balanced"])
@pytest.mark.parametrize("rule", ["sign", "quantile"])
def test_a_bias_never_requires_a_gradient(name, rule):
    if name == "quantile_balanced":
        options = {}
    else:
        options = dict(bias=rule)
    logits_TE = skewed("even", 7, 8)
    made = build(name, logits_TE, 2, **options)
    made.bias.bias_E.copy_(normal(8))
    out = made(tokens(logits_TE), context(7))
    assert not made.bias.bias_E.requires_grad
    assert "bias.bias_E" not in dict(made.named_parameters())
    assert "bias.bias_E" in made.state_dict()  # and is saved
    (decision(out).square().sum() + sum(out.losses.values())).backward()
    assert made.bias.bias_E.grad is None and made.weight_ED.grad.norm() > 0


# --- gradients ---


@modes
@every([name for name in NAMES if name != "hash"])
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 10**4))
def test_gradients_are_those_of_finite_differences(name, training, seed):
    """Of weights, scores, losses and bypass, by hidden states and every parameter; away from
    ties: where a finite difference changes a choice, there is no derivative to compare."""
    T, D, E = 4, 3, 4
    made = build_router(name, d_model=D, num_experts=E, top_k=2).double()
    keys = [key for key, _ in made.named_parameters()]
    values = [
        normal(*p.shape, seed=seed + i, dtype=torch.float64).requires_grad_()
        for i, p in enumerate(made.parameters())
    ]
    if name == "expert_threshold":
        made.threshold_E.fill_(1 / E)
    if name == "remoe":
        made.strength.fill_(0.5)
    x_TD = normal(T, D, seed=seed + 99, dtype=torch.float64).requires_grad_()
    choices = set()

    def outputs(x_TD, *values):
        here = dict(zip(keys, values, strict=True))
        out = torch.func.functional_call(made, here, (x_TD, context(T, training)))
        if name not in SOFT:
            dropped = [tuple(row) for row in out.plan.dropped.tolist()]
            rows = zip(out.plan.token.tolist(), out.plan.expert.tolist(), strict=True)
            choices.add((tuple(rows), tuple(dropped)))
        more = [] if out.bypass is None else [out.bypass]
        return decision(out), out.scores, *more, *out.losses.values()

    try:
        correct = torch.autograd.gradcheck(outputs, (x_TD, *values), raise_exception=False)
    finally:
        assume(len(choices) <= 1)
    assert correct


@every([name for name in NAMES if name != "hash"])
def test_the_task_reaches_the_gate_unless_a_lone_weight_is_always_one(name):
    logits_TE = skewed("even", 7, 4, dtype=torch.float64)
    made = build(name, logits_TE, 1)
    out = made(tokens(logits_TE), context(7))
    (decision(out) * normal(*decision(out).shape, seed=5)).sum().backward()
    lone = (
        "token_choice",
        "noisy_topk",
        "gshard",
        "st_moe",
        "hierarchical",
        "deepseek_v3",
        "quantile_balanced",
        "null_experts",
        "sequence_level",
        "mixture_of_depths",  # of its experts; the depth score learns
    )
    gate = inner(made).phi_EPD if name == "soft_moe" else inner(made).weight_ED
    assert (gate.grad.norm() < 1e-9) == (name in lone)
    if name == "mixture_of_depths":
        assert made.depth_D.grad.norm() > 0.01


def per_prototype(out, load_E):
    K, width = 2, out.scores.shape[1] // 2
    total = 0
    for k in range(K):
        part = slice(k * width, (k + 1) * width)
        share_e = load_E[part] / load_E[part].sum()
        total = total + width * (share_e * K * out.scores[:, part].mean(0)).sum() / K
    return total


def plain_balance(out, load_E):
    return out.scores.shape[1] * (load_E / load_E.sum() * out.scores.mean(0)).sum()


def first_choices(out, load_E):
    first_E = out.plan.expert[out.plan.choice == 0].bincount(minlength=len(load_E))
    return plain_balance(out, first_E)


def over_sequences(out, load_E):
    share_TE = out.scores / out.scores.sum(1, keepdim=True)
    return sequence_balancing_loss(share_TE, visited(out), context(len(share_TE)).sequence)


BALANCE = {
    "token_choice": plain_balance,
    "switch": plain_balance,
    "st_moe": plain_balance,
    "deepseek_v2": plain_balance,
    "hierarchical": plain_balance,
    "mixture_of_depths": plain_balance,
    "sequence_level": plain_balance,
    "gshard": first_choices,
    "expert_prototyping": per_prototype,
    "deepseek_v3": over_sequences,
}


@every(BALANCE)
def test_the_balance_loss_and_its_gradient_go_through_the_mean_score_alone(name):
    """The counts stand as they are: with them detached, the definition has the same gradient."""
    logits_TE = skewed("zipf", 9, 8, dtype=torch.float64)
    made, x_TD = build(name, logits_TE, 2), tokens(logits_TE)
    gate = inner(made).weight_ED
    out = made(x_TD, context(9))
    (got,) = torch.autograd.grad(out.losses["balance"], gate)
    out = made(x_TD, context(9))
    want = BALANCE[name](out, out.stats.load.detach())
    assert torch.allclose(out.losses["balance"], want)
    assert got.norm() > 1e-4 and torch.allclose(got, torch.autograd.grad(want, gate)[0])
    assert not out.stats.importance.requires_grad and not out.stats.entropy.requires_grad


def test_routers_with_a_balance_loss_are_all_in_the_table_above():
    logits_TE = skewed("even", 9, 8)
    have = {
        name
        for name in NAMES
        if "balance" in build(name, logits_TE, 2)(tokens(logits_TE), context(9, True)).losses
    }
    assert have == {*BALANCE, "null_experts"}  # whose loss counts experts that scores leave out


# --- what is refused ---


def routed(name="token_choice", x_TD=None, T=4, **fields):
    """A router's call on T tokens of width 3, with other fields in the context."""
    options = dict(vocab_size=VOCAB) if name == "hash" else {}
    made = build_router(name, d_model=3, num_experts=4, top_k=2, **options)
    return made(normal(T, 3) if x_TD is None else x_TD, context(T, **fields))


def holed(value, T=4):
    """Hidden states with one bad number in them."""
    x_TD = normal(T, 3)
    x_TD[1, 2] = value
    return x_TD


def chosen(name="token_choice", **options):
    case = dict(d_model=3, num_experts=4, top_k=2) | options
    return build_router(name, **case)


def generating(name):
    from moeviz.model.transformer import LanguageModel, ModelConfig

    sizes = dict(vocab_size=20, d_model=8, num_layers=1, num_heads=2)
    model = LanguageModel(ModelConfig(**sizes, moe=MoEConfig(4, 2, 4, router=name)))
    return model.generate(torch.tensor([1, 2]), 2)


NOT_A_NUMBER = float("nan")
REFUSED = {
    "more choices than experts": (lambda: chosen(top_k=5), "top_k must be at most num_experts = 4"),
    "no choice": (lambda: chosen(top_k=0), "top_k must be a whole number of at least 1, got 0"),
    "no experts": (
        lambda: chosen(num_experts=0),
        "num_experts must be a whole number of at least 1, got 0",
    ),
    "no width": (lambda: chosen(d_model=0), "d_model must be a whole number of at least 1, got 0"),
    "uneven groups": (
        lambda: chosen("deepseek_v3", num_experts=8, num_groups=3),
        "num_groups must divide num_experts = 8, got 3",
    ),
    "no groups": (lambda: chosen("deepseek_v2", num_groups=0), "num_groups must be a whole number"),
    "uneven groups of a hierarchy": (
        lambda: chosen("hierarchical", num_groups=3),
        "num_groups must divide num_experts = 4, got 3",
    ),
    "too few groups": (
        lambda: chosen("deepseek_v2", num_experts=8, num_groups=4, top_groups=1, top_k=3),
        "1 groups of 2 experts hold fewer than top_k = 3",
    ),
    "more groups than there are": (
        lambda: chosen("deepseek_v2", num_groups=2, top_groups=3),
        "top_groups must be a whole number of at least 1 and at most 2, got 3",
    ),
    "a hierarchy's uneven choices": (
        lambda: chosen("hierarchical", num_groups=2, top_groups=2, top_k=3),
        "top_k = 3 must be a multiple of top_groups = 2",
    ),
    "uneven prototypes": (
        lambda: chosen("expert_prototyping", top_k=3),
        "top_k = 3 prototypes must divide num_experts = 4",
    ),
    "an unknown router": (lambda: chosen("swich"), "There is no router 'swich'; there is base,"),
    "an unknown option": (lambda: chosen(heat=2), "'token_choice' has no option heat"),
    "a gate option without a gate": (
        lambda: chosen("soft_moe", temperature=2.0),
        "'soft_moe' has no option temperature; its options are slots",
    ),
    "temperature 0": (
        lambda: chosen(temperature=0.0),
        "temperature must be a finite number above 0",
    ),
    "temperature -1": (lambda: chosen(temperature=-1.0), "temperature must be a finite.*-1.0"),
    "temperature nan": (
        lambda: chosen(temperature=NOT_A_NUMBER),
        "temperature must be a finite.*nan",
    ),
    "init_scale 0": (lambda: chosen(init_scale=0.0), "init_scale must be a finite number above 0"),
    "noise -1": (
        lambda: chosen(noise=-1.0),
        "noise must be a finite number of at least 0, got -1.0",
    ),
    "noise inf": (
        lambda: chosen(noise=float("inf")),
        "noise must be a finite number of at least 0, got inf",
    ),
    "jitter 1": (
        lambda: chosen(jitter=1.0),
        "jitter must be a finite number of at least 0 and at most 0.999, got 1.0",
    ),
    "jitter -0.1": (
        lambda: chosen(jitter=-0.1),
        "jitter must be a finite number of at least 0 and at most 0.999, got -0.1",
    ),
    "a learning": (lambda: chosen(learning="no"), "learning must be one of learned, frozen"),
    "a score": (lambda: chosen(score="tanh"), "score must be one of softmax, sigmoid"),
    "a scope": (lambda: chosen(scope="all"), "scope must be one of sequence, batch"),
    "a bias": (lambda: chosen(bias="up"), "bias must be one of none, sign, quantile"),
    "a bias rate": (lambda: chosen(bias="sign", bias_rate=0.0), "bias_rate must be a finite"),
    "a scale": (lambda: chosen(scale=0.0), "scale must be a finite number above 0, got .?0.0"),
    "words for a size": (lambda: chosen(num_experts="big"), "must be a whole number"),
    "words for k": (lambda: chosen(top_k="big"), "must be a whole number"),
    "words for a scale": (lambda: chosen(scale="big"), "scale must be a finite"),
    "words for a temperature": (lambda: chosen(temperature="big"), "must be a finite number"),
    "words for noise": (lambda: chosen(noise="big"), "noise must be a finite"),
    "words for jitter": (lambda: chosen(jitter="big"), "jitter must be a finite"),
    "words for a factor": (
        lambda: chosen("switch", capacity_factor="big"),
        "finite number above 0",
    ),
    "words for a share": (
        lambda: chosen("mixture_of_depths", capacity_factor="big"),
        "'mixture_of_depths' cannot take",
    ),
    "words for null experts": (lambda: chosen("null_experts", zero="big"), "cannot take"),
    "no null experts": (
        lambda: chosen("null_experts", zero=0, copy=0, constant=0),
        "zero, copy and constant count experts without an FFN",
    ),
    "a factor of 0": (lambda: chosen("switch", capacity_factor=0), "factor must be a finite"),
    "a factor of nan": (
        lambda: chosen("gshard", capacity_factor=NOT_A_NUMBER),
        "factor must be a finite number above 0, got .?nan",
    ),
    "an expert choice of 0": (
        lambda: chosen("expert_choice", capacity_factor=0.0),
        "capacity_factor must be a finite number above 0, got .?0.0",
    ),
    "an expert choice of nan": (
        lambda: chosen("expert_choice", capacity_factor=NOT_A_NUMBER),
        "capacity_factor must be a finite number above 0, got .?nan",
    ),
    "a cap below the mean": (
        lambda: chosen("expert_choice", max_experts=1),
        "max_experts must lie between capacity_factor = 2 and num_experts = 4, got 1",
    ),
    "a threshold without a factor": (
        lambda: chosen("expert_threshold", capacity_factor=float("inf")),
        "capacity_factor must be a finite number above 0, got .?inf",
    ),
    "a memory of 1": (
        lambda: chosen("expert_threshold", memory=1.0),
        "memory must be a finite number of at least 0 and at most 0.999",
    ),
    "a depth above 1": (
        lambda: chosen("mixture_of_depths", capacity_factor=1.5),
        "share of tokens that go on, above 0 and at most 1, got 1.5",
    ),
    "a rate of 1": (lambda: chosen("remoe", rate=1.0), "start must be above 0 and rate above 1"),
    "no slots": (
        lambda: chosen("soft_moe", slots=0),
        "slots must be a whole number of at least 1, got 0",
    ),
    "no group": (
        lambda: chosen("mixture_of_tokens", group_size=0),
        "group_size must be a whole number of at least 1, got 0",
    ),
    "a hash variant": (lambda: chosen("hash", variant="md5"), "variant must be one of random"),
    "no tokens": (lambda: routed(T=0), "There are no tokens to route"),
    "only padding": (lambda: routed(mask=torch.zeros(4, dtype=torch.bool)), "tokens are padding"),
    "another width": (lambda: routed(x_TD=normal(4, 5)), r"x_TD must be \[T, 3\], got \(4, 5\)"),
    "three dimensions": (lambda: routed(x_TD=normal(2, 4, 3)), r"x_TD must be \[T, 3\]"),
    "ids of other tokens": (
        lambda: routed(token_ids=torch.zeros(3, dtype=torch.int64)),
        r"RouteContext.token_ids must be \[T\] = \[4\], got \(3,\)",
    ),
    "sequences of other tokens": (
        lambda: routed(sequence=torch.zeros(5, dtype=torch.int64)),
        r"RouteContext.sequence must be \[T\] = \[4\], got \(5,\)",
    ),
    "positions by batch": (
        lambda: routed(position=torch.zeros(2, 2, dtype=torch.int64)),
        r"RouteContext.position must be \[T\] = \[4\], got \(2, 2\)",
    ),
    "a short mask": (
        lambda: routed(mask=torch.ones(3, dtype=torch.bool)),
        r"RouteContext.mask must be \[T\] = \[4\], got \(3,\)",
    ),
    "a hash without ids": (lambda: routed("hash", token_ids=None), "Hash routes by token_ids"),
    "ids above the table": (
        lambda: routed("hash", token_ids=torch.tensor([0, 1, 2, VOCAB])),
        "token_ids must lie in 0..39, the table's vocab_size, got 0 to 40",
    ),
    "ids below the table": (
        lambda: routed("hash", token_ids=torch.tensor([0, -1, 2, 3])),
        "token_ids must lie in 0..39.*got -1 to 3",
    ),
    "soft generation": (
        lambda: generating("soft_moe"),
        "cannot generate: it is not causal",
    ),
} | {
    f"{value} for {name}": (
        lambda name=name, value=value: routed(name, holed(value)),
        "Router logits must be finite numbers.*look for NaN or overflow",
    )
    for name in NAMES
    if name != "hash"  # which looks at no hidden state
    for value in (NOT_A_NUMBER, float("inf"))
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_in_one_sentence(what):
    act, sentence = REFUSED[what]
    with pytest.raises(ValueError, match=sentence) as refusal:
        act()
    said = str(refusal.value)
    assert "\n" not in said and said.endswith(".") and not re.search(r"\. [A-Z]", said)
    assert len(said) < 400 or what == "an unknown router"


@modes
@every(NAMES)
def test_one_token_and_one_expert_are_enough(name, training):
    for T, E, K in ((1, 4, 2), (1, 4, 4), (5, 1, 1), (1, 1, 1)):
        options = dict(vocab_size=VOCAB) if name == "hash" else {}
        made = build_router(name, d_model=3, num_experts=E, top_k=K, **options)
        out = made(normal(T, 3), context(T, training))
        assert torch.isfinite(decision(out)).all()
        assert all(torch.isfinite(value) for value in out.losses.values())
        made.post_step(out.stats)
        assert all(torch.isfinite(value).all() for value in made.state_dict().values())
    # A layer's configuration tries its router out on a width of one.
    assert MoEConfig(1, 1, 4, router=name).flops_per_token(1, 8) > 0
