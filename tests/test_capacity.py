"""Capacity: who finds a place, against a loop in plain Python, and what becomes of the others."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.routers import inner, normal
from moeviz.model.layer import MoEConfig, MoEFFN
from moeviz.routing import ROUTERS, Capacity, RouteContext, RouterStats, build_router
from moeviz.routing.capacity import capacity_of

PRIORITIES = ("position", "choice", "probability", "batch")
POOLS = ("batch", "sequence")
TRAINING = RouteContext(training=True)
DISCRETE = [n for n in ROUTERS if n not in ("soft_moe", "mixture_of_tokens")]
LIMITED = ("switch", "st_moe", "gshard")


def skewed(kind, T, E, seed):
    logits_TE = normal(T, E, seed=seed)
    if kind == "one":
        logits_TE[:, seed % E] += 6
    elif kind == "tied":
        logits_TE = logits_TE.sign()
    return logits_TE


def build(name, logits_TE, K, capacity=None, **options):
    """A router that gives these logits to the rows of the identity."""
    T, E = logits_TE.shape
    made = build_router(name, d_model=T, num_experts=E, top_k=K, capacity=capacity, **options)
    with torch.no_grad():
        if hasattr(inner(made), "weight_ED"):
            inner(made).weight_ED.copy_(logits_TE.T)
    return made


def context(T, length=None, training=True, **fields):
    """Sequences of `length` tokens, one where it is None."""
    generator = torch.Generator().manual_seed(0)
    every_T = torch.arange(T)
    return RouteContext(
        token_ids=every_T % 7,
        sequence=None if length is None else every_T // length,
        position=every_T if length is None else every_T % length,
        training=training,
        generator=generator,
        **fields,
    )


def rows_of(plan):
    """(token, expert, choice, weight) of every assignment, in the order of experts and slots."""
    columns = (plan.token, plan.expert, plan.choice, plan.weight.detach())
    return list(zip(*(column.tolist() for column in columns), strict=True))


def by_hand(rows, limit, priority, pool_of):
    """What is kept, in the order of placement, and what is lost."""
    best = {}
    for token, _, _, weight in rows:
        best[token] = max(best.get(token, 0.0), weight)
    arrival = {
        "position": lambda row: (row[0], row[2]),
        "choice": lambda row: (row[2], row[0]),
        "probability": lambda row: (-row[3], row[0], row[2]),
        "batch": lambda row: (row[2], -best[row[0]], row[0]),
    }[priority]
    kept, lost, taken = [], [], {}
    for row in sorted(rows, key=arrival):
        cell = (pool_of(row[0]), row[1])
        if taken.get(cell, 0) < limit:
            taken[cell] = taken.get(cell, 0) + 1
            kept.append(row)
        else:
            lost.append(row[:3])
    return kept, lost


@st.composite
def cases(draw):
    """logits_TE, K, factor and the length of a sequence; few tokens, so that examples shrink."""
    sequences, length = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    E = draw(st.integers(1, 6))
    K, seed = draw(st.integers(1, E)), draw(st.integers(0, 10**4))
    kind = draw(st.sampled_from(["even", "one", "tied"]))
    factor = draw(st.sampled_from([0.01, 0.3, 0.5, 1.0, 1.25, 2.0]))
    return skewed(kind, sequences * length, E, seed), K, factor, length


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("priority", PRIORITIES)
@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_places_are_given_out_as_by_a_plain_loop(priority, pool, case):
    logits_TE, K, factor, length = case
    T, E = logits_TE.shape
    pools = T // length if pool == "sequence" else 1
    limit = max(1, math.ceil(round(factor * K * T / E / pools, 9)))
    x_TD, here = torch.eye(T), context(T, length)
    free = build("token_choice", logits_TE, K)(x_TD, here)
    made = build("token_choice", logits_TE, K, Capacity(factor, priority=priority, pool=pool))
    out = made(x_TD, here)
    kept, lost = by_hand(
        rows_of(free.plan), limit, priority, lambda t: t // length if pools > 1 else 0
    )
    assert rows_of(out.plan) == sorted(kept, key=lambda row: row[1])  # stable: in placement order
    assert sorted(map(tuple, out.plan.dropped.tolist())) == sorted(lost)
    # Slots are 0..load-1, and demand is what was asked for.
    for e in range(E):
        slots = out.plan.slot[out.plan.expert == e]
        assert slots.tolist() == list(range(out.stats.load[e]))
    assert torch.equal(out.stats.demand, free.stats.load)
    assert torch.equal(out.stats.load, out.plan.load().long())
    assert out.stats.load.sum() == len(kept) and (out.stats.load <= limit * pools).all()
    if pools == 1:
        assert out.stats.capacity == limit
        assert len(lost) == (out.stats.demand - limit).clamp(min=0).sum()
    # Scores, logits and losses are those before anything was dropped.
    assert torch.equal(out.scores, free.scores) and torch.equal(out.logits, free.logits)
    assert out.losses == free.losses


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("priority", PRIORITIES)
@settings(max_examples=10, deadline=None)
@given(case=cases())
def test_with_room_for_everyone_nothing_is_dropped(priority, pool, case):
    logits_TE, K, _, length = case
    T, E = logits_TE.shape
    x_TD, here = torch.eye(T), context(T, length)
    capacity = Capacity(E / K, priority=priority, pool=pool)
    out = build("token_choice", logits_TE, K, capacity)(x_TD, here)
    free = build("token_choice", logits_TE, K)(x_TD, here)
    assert out.plan.dropped.shape == (0, 3)
    assert torch.equal(out.plan.dense_weights(), free.plan.dense_weights())
    assert out.stats.load.tolist() == free.stats.load.tolist() == out.stats.demand.tolist()


@settings(max_examples=20, deadline=None)
@given(case=cases(), priority=st.sampled_from(PRIORITIES), pool=st.sampled_from(POOLS))
def test_padding_every_expert_to_the_busiest_drops_nothing(case, priority, pool):
    logits_TE, K, factor, length = case
    T = len(logits_TE)
    x_TD, here = torch.eye(T), context(T, length)
    capacity = Capacity(factor, priority=priority, pool=pool, overflow="pad")
    out = build("token_choice", logits_TE, K, capacity)(x_TD, here)
    free = build("token_choice", logits_TE, K)(x_TD, here)
    assert rows_of(out.plan) == rows_of(free.plan) and len(out.plan.dropped) == 0
    assert out.stats.capacity == out.stats.demand.max() == out.stats.load.max()


def test_the_limit_of_a_switch_layer_by_hand():
    """Eight tokens that all want expert 1 of four; C = ceil(1.25 * 1 * 8 / 4) = 3."""
    logits_TE = torch.zeros(8, 4)
    logits_TE[:, 1] = torch.arange(8.0) + 1
    want = {"position": [0, 1, 2], "probability": [7, 6, 5], "batch": [7, 6, 5]}
    for priority, tokens in want.items():
        made = build("switch", logits_TE, 1, priority=priority, jitter=0.0)
        out = made(torch.eye(8), TRAINING)
        assert out.plan.token.tolist() == tokens and out.stats.capacity == 3
        assert out.stats.demand.tolist() == [0, 8, 0, 0] and out.stats.load.tolist() == [0, 3, 0, 0]
        assert sorted(out.plan.dropped[:, 0].tolist()) == sorted(set(range(8)) - set(tokens))


def test_first_choices_come_before_second_ones_unless_it_goes_by_position():
    # Token 0: expert 0, then 1. Tokens 1 and 2: expert 1, then 0. Two places each.
    logits_TE = torch.tensor([[2.0, 1.0], [1.0, 2.0], [1.0, 2.0]])
    for priority, kept in (
        ("position", [(0, 0), (1, 0), (0, 1), (1, 1)]),
        ("choice", [(0, 0), (1, 0), (1, 1), (2, 1)]),
    ):
        made = build("token_choice", logits_TE, 2, Capacity(2 / 3, priority=priority))
        plan = made(torch.eye(3), TRAINING).plan
        assert list(zip(plan.token.tolist(), plan.expert.tolist(), strict=True)) == kept


@pytest.mark.parametrize("backend", ["reference", "grouped"])
def test_a_token_that_found_no_place_leaves_the_layer_as_zeros(backend):
    config = MoEConfig(4, 1, 8, capacity=Capacity(0.5), backend=backend)
    ffn = MoEFFN(8, config)
    with torch.no_grad():
        ffn.router.router.weight_ED.copy_(normal(4, 8))
    y_TD, route = ffn(normal(16, 8, seed=1), TRAINING)
    lost_t = route.plan.dropped[:, 0].long()
    assert 0 < len(lost_t) < 16 and route.stats.capacity == 2
    served_T = torch.ones(16, dtype=torch.bool).index_fill(0, lost_t, False)
    assert (y_TD[lost_t] == 0).all() and (y_TD[served_T].norm(dim=1) > 0).all()
    # Nor does its gradient go anywhere but through the residual.
    x_TD = normal(16, 8, seed=1).requires_grad_()
    ffn(x_TD, TRAINING)[0].square().sum().backward()
    assert (x_TD.grad[lost_t] == 0).all() and (x_TD.grad[served_T].norm(dim=1) > 0).all()


def test_weights_that_are_left_are_not_renormalised():
    logits_TE = skewed("one", 12, 4, 1)
    free = build("token_choice", logits_TE, 2)(torch.eye(12), TRAINING).plan.dense_weights()
    out = build("token_choice", logits_TE, 2, Capacity(1.0))(torch.eye(12), TRAINING)
    kept_TE = out.plan.dense_weights() > 0
    assert len(out.plan.dropped) > 0
    assert torch.equal(out.plan.dense_weights(), free * kept_TE)


def test_training_and_evaluation_have_factors_of_their_own():
    logits_TE = skewed("one", 12, 4, 1)
    for capacity, train, other in (
        (Capacity(1.0), 3, None),
        (Capacity(1.0, 2.0), 3, 6),
        (Capacity(2.0, 0.5), 6, 2),
    ):
        made = build("token_choice", logits_TE, 1, capacity)
        for training, limit in ((True, train), (False, other)):
            out = made(torch.eye(12), context(12, training=training))
            assert out.stats.capacity == limit
            lost = 0 if limit is None else (out.stats.demand - limit).clamp(min=0).sum()
            assert len(out.plan.dropped) == lost


@pytest.mark.parametrize("room,whole", [(0.01, 1), (1.0, 1), (1.2, 2), (3 * (0.1 + 0.2) / 0.3, 3)])
def test_places_are_whole_and_rounding_is_not_rounded_up(room, whole):
    assert capacity_of(room) == whole


@pytest.mark.parametrize("name", LIMITED)
def test_routers_with_a_capacity_hold_it_in_training_alone(name):
    logits_TE = skewed("one", 12, 4, 1)
    made = build(name, logits_TE, 2, capacity_factor=1.0)
    out = made(torch.eye(12), context(12))
    assert out.stats.capacity == 6 and out.stats.load.max() == 6 < out.stats.demand.max()
    out = made(torch.eye(12), context(12, training=False))
    assert out.stats.capacity is None and out.stats.load.max() == 12


def test_the_counts_of_a_plan_include_what_it_dropped():
    out = build("token_choice", skewed("one", 12, 4, 1), 1, Capacity(0.5))(torch.eye(12), TRAINING)
    again = RouterStats.of(out.plan, out.scores)
    assert len(out.plan.dropped) > 0 and torch.equal(again.load, out.stats.load)
    assert torch.equal(again.demand, out.stats.demand)


# --- around routers of any kind ---


@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("name", DISCRETE)
def test_any_discrete_router_can_be_limited(name, priority):
    """Also those whose number of assignments varies and whose choices have no order."""
    logits_TE = skewed("one", 12, 4, 1)
    capacity = Capacity(0.5, priority=priority)  # ceil(0.5 * 2 * 12 / 4) = 3 places
    free, made = (build(name, logits_TE, 2, c) for c in (None, capacity))
    own = inner(free)
    inner(made).load_state_dict(own.state_dict())
    want, out = own(torch.eye(12), context(12)), made(torch.eye(12), context(12))
    assert out.stats.capacity == 3 and out.stats.load.max() <= 3
    assert torch.equal(out.stats.demand, want.stats.load)
    assert torch.equal(
        out.stats.load + out.plan.dropped[:, 1].long().bincount(minlength=4), out.stats.demand
    )
    if name not in LIMITED:  # or limited twice, by two priorities
        kept, _ = by_hand(rows_of(want.plan), 3, priority, lambda t: 0)
        assert rows_of(out.plan) == sorted(kept, key=lambda row: row[1])
    state = {k: v.clone() for k, v in made.state_dict().items()}
    made.post_step(out.stats)
    own.post_step(out.stats)
    for key, value in own.state_dict().items():
        assert torch.equal(inner(made).state_dict()[key], value), key
    assert made.active_experts(8) == own.active_experts(8) and made.flops(8) == own.flops(8)
    assert state.keys() == made.state_dict().keys()


@pytest.mark.parametrize("name", ["soft_moe", "mixture_of_tokens"])
def test_a_soft_router_has_nothing_to_drop(name):
    with pytest.raises(ValueError, match="no assignments to drop.*Leave the capacity out") as no:
        build_router(name, d_model=4, num_experts=4, top_k=1, capacity=Capacity())
    assert "\n" not in str(no.value)


def test_what_a_limited_router_dropped_stays_counted_under_a_second_limit():
    """A Switch layer with a tighter capacity around it."""
    logits_TE = skewed("one", 12, 4, 1)
    made = build("switch", logits_TE, 1, Capacity(0.5), capacity_factor=1.0, jitter=0.0)
    out = made(torch.eye(12), TRAINING)
    assert out.stats.load.max() == 2 and out.stats.demand.sum() == 12
    assert len(out.plan.dropped) == 12 - out.stats.load.sum()


# --- masks ---


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("priority", PRIORITIES)
@settings(max_examples=15, deadline=None)
@given(case=cases(), data=st.data())
def test_padding_takes_no_place_and_gives_none(priority, pool, case, data):
    """The real tokens are placed as if they were alone; a sequence that is all padding is none."""
    logits_TE, K, factor, length = case
    T = len(logits_TE)
    real = data.draw(st.lists(st.booleans(), min_size=T, max_size=T).filter(any))
    real_T = torch.tensor(real)
    made = build("token_choice", logits_TE, K, Capacity(factor, priority=priority, pool=pool))
    padded = made(torch.eye(T), context(T, length, mask=real_T))
    alone = dataclasses.replace(context(T, length).select(real_T), training=True)
    want = made(torch.eye(T)[real_T], alone)
    assert padded.stats.capacity == want.stats.capacity
    assert padded.stats.tokens == sum(real)
    assert torch.equal(padded.plan.dense_weights()[real_T], want.plan.dense_weights())
    assert not padded.plan.dense_weights()[~real_T].any()
    assert torch.equal(padded.stats.load, want.stats.load)
    assert torch.equal(padded.stats.demand, want.stats.demand)
    index = [t for t in range(T) if real[t]]
    moved = [[index[t], e, k] for t, e, k in want.plan.dropped.tolist()]
    assert sorted(padded.plan.dropped.tolist()) == sorted(moved)


@pytest.mark.parametrize("priority", PRIORITIES)
def test_a_sequence_of_padding_takes_no_share_of_the_room(priority):
    """Two sequences of three tokens, all for expert 0: the room of 3 is for the real one alone."""
    logits_TE = torch.tensor([[2.0, 0.0]]).repeat(6, 1)
    capacity = Capacity(2.0, priority=priority, pool="sequence")
    real_T = torch.tensor([True] * 3 + [False] * 3)
    out = build("token_choice", logits_TE, 1, capacity)(torch.eye(6), context(6, 3, mask=real_T))
    assert out.stats.capacity == 3 and out.stats.load.tolist() == [3, 0]
    assert out.plan.dropped.shape == (0, 3)


# --- what it says of itself ---


@pytest.mark.parametrize(
    "capacity,causal,substitute",
    [
        (Capacity(1.0), True, False),
        (Capacity(1.0, 1.0), True, False),
        (Capacity(1.0, priority="choice"), False, True),
        (Capacity(1.0, priority="probability"), False, True),
        (Capacity(1.0, priority="batch"), False, True),
        (Capacity(1.0, 2.0, priority="batch"), False, False),
        (Capacity(1.0, priority="batch", overflow="pad"), True, False),
    ],
)
def test_it_says_whether_it_is_causal(capacity, causal, substitute):
    made = build_router("token_choice", d_model=4, num_experts=4, top_k=2, capacity=capacity)
    assert made.causal == causal and bool(made.substitute) == substitute


def test_a_router_that_is_not_causal_is_none_under_any_capacity():
    for name, has in (("expert_choice", False), ("base", True)):
        for capacity in (Capacity(1.0), Capacity(1.0, priority="batch")):
            made = build_router(name, d_model=4, num_experts=4, top_k=2, capacity=capacity)
            assert not made.causal and bool(made.substitute) == has


@pytest.mark.parametrize(
    "values,sentence",
    [
        (dict(factor=0), "The capacity factor must be a finite number above 0, got .?0"),
        (dict(factor=-1.0), "The capacity factor must be a finite number above 0, got .?-1.0"),
        (dict(factor=math.nan), "factor must be a finite number above 0, got .?nan"),
        (dict(factor=math.inf), "factor must be a finite number above 0, got .?inf"),
        (dict(factor="big"), "factor must be a finite number above 0, got .?big"),
        (dict(factor=None), "factor must be a finite number above 0, got .?None"),
        (dict(eval_factor=0.0), "eval_factor must be a finite number above 0, got .?0.0"),
        (dict(eval_factor=math.nan), "eval_factor must be a finite number above 0, got .?nan"),
        (dict(priority="first"), "priority must be one of position, choice, probability, batch"),
        (dict(overflow="spill"), "overflow must be one of drop, pad, got 'spill'"),
        (dict(pool="token"), "pool must be one of batch, sequence, got 'token'"),
    ],
)
def test_an_impossible_capacity_is_one_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        Capacity(**values)
    assert "\n" not in str(refusal.value)
