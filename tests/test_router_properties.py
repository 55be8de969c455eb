"""What every router must keep, whatever its rule: over sizes, skew, dtype and mode.

Tokens are the rows of an identity matrix and the gate's columns are their logits, so that a test
says what the logits are, exactly, instead of hoping for them.
"""

import dataclasses
import math
import re

import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from helpers.numerics import relative
from helpers.routers import (
    SOFT,
    VOCAB,
    at_unit_scale,
    build,
    check_plan,
    context,
    decision,
    every,
    inner,
    modes,
    normal,
    rows_of,
    skewed,
    tokens,
    visited,
)
from moeviz.model.layer import MoEConfig, MoEFFN
from moeviz.routing import ROUTERS, build_router

SKEWS = ("even", "zipf", "one", "tied", "huge")


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


few = settings(max_examples=6)


# --- all routers ---


@modes
@every(ROUTERS)
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
    check_plan(plan, T, E, rows_of(plan))
    dropped_E = plan.dropped[:, 1].long().bincount(minlength=E)
    assert torch.equal(stats.load, plan.load().long())
    assert torch.equal(stats.load + dropped_E, stats.demand)
    # No token visits an expert twice, kept or dropped.
    cells = [row[:2] for row in [*rows_of(plan), *plan.dropped.tolist()]]
    assert len({tuple(cell) for cell in cells}) == len(cells)
    made.post_step(stats)
    assert all(torch.isfinite(value).all() for value in made.state_dict().values())


@modes
@every(ROUTERS)
def test_the_same_seed_gives_the_same_decision_and_touches_no_other_noise(name, training):
    logits_TE = skewed("zipf", 9, 6)
    made, x_TD = build(name, logits_TE, 2), tokens(logits_TE)
    state = torch.get_rng_state()
    same(made(x_TD, context(9, training)), made(x_TD, context(9, training)))
    assert torch.equal(torch.get_rng_state(), state)


@modes
@every(ROUTERS)
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
        check_plan(padded.plan, T, E, rows_of(padded.plan))
        assert visited(padded.plan)[real_T].equal(visited(want.plan))
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
    [(name, False) for name in ROUTERS if name not in ORDERED]
    + [(name, True) for name in ROUTERS if name not in ORDERED_IN_TRAINING],
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


# Each router with no meaning in an expert's place in the list.
PLAIN = {name: {} for name in ROUTERS if name not in ("expert_prototyping", "hash")} | {
    "hierarchical": dict(num_groups=1, top_groups=1),
    "deepseek_v2": dict(num_groups=1),
    "deepseek_v3": dict(num_groups=1),
}
OF_EXPERTS = ("weight_ED", "noise_ED", "phi_EPD", "threshold_E", "bias.bias_E")


@pytest.mark.parametrize(
    ("name", "training"),
    [(name, False) for name in PLAIN]
    # Noise belongs to a place, not to an expert.
    + [(name, True) for name in PLAIN if name != "noisy_topk"],
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
    config = MoEConfig(E, K, 3, router=name, options=PLAIN[name], backend="reference")
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


# Each router as plain top-K of a token's logits, and the choices it then has to make.
FLAT = [name for name in PLAIN if name not in ("expert_choice", "expert_threshold", "remoe")]
FLAT = [name for name in FLAT if name not in (*SOFT, "dense_mixture", "sequence_level")]


@every(FLAT)
@settings(max_examples=20)
@given(data=st.data())
def test_of_equal_logits_the_lower_index_is_taken_first(name, data):
    T, E = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 7))
    K = data.draw(st.integers(1, E))
    value = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0])
    rows = data.draw(st.lists(st.lists(value, min_size=E, max_size=E), min_size=T, max_size=T))
    logits_TE = torch.tensor(rows)
    made = build(name, logits_TE, K, **PLAIN[name])
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
    chosen_TE = visited(made(tokens(logits_TE), context(4, name == "sinkhorn")).plan)
    want = {  # 8 experts: 4 prototypes of 2; 2 groups of 4, both open; 2 of 4 groups of 2
        "expert_prototyping": [0, 2, 4, 6],
        "hierarchical": [0, 1, 4, 5],
    }.get(name, [0, 1, 2, 3])
    assert chosen_TE.tolist() == [[e in want for e in range(8)]] * 4


def test_of_equal_tokens_an_expert_takes_the_earlier():
    logits_TE = torch.zeros(6, 3)
    out = build("expert_choice", logits_TE, 1)(tokens(logits_TE), context(6))
    assert visited(out.plan).tolist() == [[True] * 3] * 2 + [[False] * 3] * 4
    made = build("mixture_of_depths", logits_TE, 1, capacity_factor=0.5)
    with torch.no_grad():
        made.depth_D.zero_()
    out = made(tokens(logits_TE), context(6, True, sequence=None))
    assert visited(out.plan).any(1).tolist() == [True] * 3 + [False] * 3


# --- gradients ---


class Moved(Exception):
    """A finite difference has changed a choice."""


@modes
@every([name for name in ROUTERS if name != "hash"])
@settings(max_examples=2)
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
            if len(choices) > 1:
                raise Moved
        more = [] if out.bypass is None else [out.bypass]
        return decision(out), out.scores, *more, *out.losses.values()

    try:
        correct = torch.autograd.gradcheck(outputs, (x_TD, *values), raise_exception=False)
    except Moved:
        reject()
    assert correct


# --- what is refused ---

NAN, INF = math.nan, math.inf
NO_ROUTER = [  # one impossible value of each option; those of a kind are tested in test_checks
    ("token_choice", dict(top_k=5), "top_k must be at most num_experts = 4"),
    ("token_choice", dict(top_k=0), "top_k must be a whole number of at least 1, got 0"),
    ("token_choice", dict(num_experts="big"), "num_experts must be a whole number"),
    ("token_choice", dict(d_model=0), "d_model must be a whole number of at least 1, got 0"),
    ("swich", {}, "There is no router 'swich'; there is base,"),
    ("token_choice", dict(heat=2), "'token_choice' has no option heat; its options are score"),
    ("soft_moe", dict(temperature=2.0), "'soft_moe' has no option temperature.* are slots"),
    ("token_choice", dict(temperature=0.0), "temperature must be a finite number above 0"),
    ("token_choice", dict(init_scale=NAN), "init_scale must be a finite number above 0"),
    ("token_choice", dict(noise=INF), "noise must be a finite number of at least 0, got inf"),
    ("token_choice", dict(jitter=1.0), "jitter must be .* at least 0 and at most 0.999, got 1.0"),
    ("token_choice", dict(learning="no"), "learning must be one of learned, frozen"),
    ("token_choice", dict(weighting="half"), "weighting must be one of renormalise, raw"),
    ("token_choice", dict(score="tanh"), "score must be one of softmax, sigmoid"),
    ("token_choice", dict(scope="all"), "scope must be one of sequence, batch"),
    ("token_choice", dict(bias="up"), "bias must be one of none, sign, quantile"),
    ("token_choice", dict(bias="sign", bias_rate=0.0), "bias_rate must be a finite"),
    ("token_choice", dict(scale=0.0), "scale must be a finite number above 0"),
    ("deepseek_v3", dict(num_groups=3), "num_groups must divide num_experts = 4, got 3"),
    ("deepseek_v2", dict(num_groups=0), "num_groups must be a whole number"),
    ("deepseek_v2", dict(num_groups=2, top_groups=3), "top_groups must be .* at most 2, got 3"),
    (
        "deepseek_v2",
        dict(num_experts=8, num_groups=4, top_groups=1, top_k=3),
        "1 groups of 2 experts hold fewer than top_k = 3",
    ),
    ("hierarchical", dict(num_groups=3), "num_groups must divide num_experts = 4, got 3"),
    ("hierarchical", dict(num_groups=0), "num_groups must be a whole number"),
    (
        "hierarchical",
        dict(num_groups=2, top_groups=2, top_k=3),
        "top_k = 3 must be a multiple of top_groups = 2",
    ),
    ("hierarchical", dict(num_groups=4, top_groups=2, top_k=4), "at most 1 experts in each"),
    ("expert_prototyping", dict(top_k=3), "top_k = 3 prototypes must divide num_experts = 4"),
    ("switch", dict(capacity_factor=0), "factor must be a finite number above 0"),
    ("gshard", dict(capacity_factor=NAN), "factor must be a finite number above 0"),
    ("st_moe", dict(eval_capacity_factor="big"), "factor must be a finite number above 0"),
    ("expert_choice", dict(capacity_factor=0.0), "capacity_factor must be a finite number above 0"),
    ("expert_choice", dict(max_experts=1), "max_experts must lie between .* 2 and .* 4, got 1"),
    ("expert_threshold", dict(capacity_factor=INF), "capacity_factor must be a finite number"),
    ("expert_threshold", dict(memory=1.0), "memory must be .* at least 0 and at most 0.999"),
    ("mixture_of_depths", dict(capacity_factor=0), "go on, must be .* above 0 and .*, got 0"),
    ("mixture_of_depths", dict(capacity_factor=1.5), "go on, must be .* at most 1, got 1.5"),
    ("mixture_of_depths", dict(capacity_factor="big"), "go on, must be a finite .*, got 'big'"),
    ("expert_choice", dict(max_experts="big"), "'expert_choice' cannot take these values"),
    ("remoe", dict(rate=1.0), "rate must be a finite number above 1, got 1.0"),
    ("remoe", dict(start=0.0), "start must be a finite number above 0, got 0.0"),
    ("null_experts", dict(zero="big"), "zero must be a whole number of at least 0, got 'big'"),
    ("null_experts", dict(copy=-1), "copy must be a whole number of at least 0, got -1"),
    ("null_experts", dict(zero=0, copy=0, constant=0), "count experts without an FFN"),
    ("soft_moe", dict(slots=0), "slots must be a whole number of at least 1, got 0"),
    ("mixture_of_tokens", dict(group_size=0), "group_size must be a whole number of at least 1"),
    ("hash", dict(variant="md5"), "variant must be one of random"),
]
NO_TOKENS = [
    ("token_choice", dict(x_TD=normal(0, 3)), "There are no tokens to route"),
    ("token_choice", dict(x_TD=normal(4, 5)), r"x_TD must be \[T, 3\], got \(4, 5\)"),
    ("token_choice", dict(x_TD=normal(2, 4, 3)), r"x_TD must be \[T, 3\]"),
    ("token_choice", dict(mask=torch.zeros(4, dtype=torch.bool)), "tokens are padding"),
    ("token_choice", dict(mask=torch.ones(3, dtype=torch.bool)), r"mask must .* \[4\], got \(3,\)"),
    ("token_choice", dict(token_ids=torch.arange(3)), r"token_ids must be \[T\] = \[4\], got"),
    ("token_choice", dict(sequence=torch.arange(5)), r"sequence must be \[T\] = \[4\], got"),
    ("token_choice", dict(position=torch.ones(2, 2)), r"position must be .*, got \(2, 2\)"),
    ("hash", dict(token_ids=None), "Hash routes by token_ids"),
    ("hash", dict(token_ids=torch.arange(4) + VOCAB), "0..39, the table's .* got 40 to 43"),
    ("hash", dict(token_ids=torch.arange(4) - 1), "must lie in 0..39.*got -1 to 2"),
    *[  # hash looks at no hidden state
        (name, dict(x_TD=torch.tensor([[0.0, 0.0, bad]])), "logits must be finite.*NaN or")
        for name in sorted({*ROUTERS} - {"hash"})
        for bad in (NAN, INF)
    ],
]


def check_sentence(refusal, most=400):
    said = str(refusal.value)
    assert "\n" not in said and said.endswith(".") and not re.search(r"\. [A-Z]", said)
    assert len(said) < most


@pytest.mark.parametrize(("name", "options", "sentence"), NO_ROUTER)
def test_an_impossible_router_is_refused_in_one_sentence(name, options, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        build_router(name, **dict(d_model=3, num_experts=4, top_k=2) | options)
    check_sentence(refusal, 400 if name in ROUTERS else 600)


@pytest.mark.parametrize(("name", "fields", "sentence"), NO_TOKENS)
def test_tokens_that_cannot_be_routed_are_refused_in_one_sentence(name, fields, sentence):
    made, fields = build(name, D=3), dict(fields)
    x_TD = fields.pop("x_TD", normal(4, 3))
    with pytest.raises(ValueError, match=sentence) as refusal:
        made(x_TD, context(len(x_TD), **fields))
    check_sentence(refusal)


@every(ROUTERS)
def test_a_layers_configuration_tries_its_router_out_on_a_width_of_one(name):
    assert MoEConfig(1, 1, 4, router=name).flops_per_token(1, 8) > 0
