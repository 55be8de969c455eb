"""Capacity: who finds a place, against a loop in plain Python, and what becomes of the others."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.routers import DISCRETE, SOFT, build, context, every, inner, rows_of, skewed
from moeviz.routing import Capacity
from moeviz.routing.capacity import capacity_of

PRIORITIES = ("position", "choice", "probability", "batch")
POOLS = ("batch", "sequence")
SKEWED_TE = skewed("one", 12, 4, 1)
LIMITED = {"switch": "position", "st_moe": "choice", "gshard": "choice"}


def routed(name, logits_TE, K, *, training=True, length=None, mask=None, **options):
    """The routing of the identity's rows by these logits."""
    here = context(len(logits_TE), training, length=length, mask=mask)
    return build(name, logits_TE, K, **options)(torch.eye(len(logits_TE)), here)


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


by_all_rules = pytest.mark.parametrize(
    ("priority", "pool"), [(priority, pool) for priority in PRIORITIES for pool in POOLS]
)


@by_all_rules
@settings(max_examples=25)
@given(case=cases())
def test_places_are_given_out_as_by_a_plain_loop(priority, pool, case):
    logits_TE, K, factor, length = case
    T, E = logits_TE.shape
    pools = T // length if pool == "sequence" else 1
    limit = max(1, math.ceil(round(factor * K * T / E / pools, 9)))
    capacity = Capacity(factor, priority=priority, pool=pool)
    free = routed("token_choice", logits_TE, K, length=length)
    out = routed("token_choice", logits_TE, K, length=length, capacity=capacity)
    kept, lost = by_hand(
        rows_of(free.plan), limit, priority, lambda t: t // length if pools > 1 else 0
    )
    assert rows_of(out.plan) == sorted(kept, key=lambda row: row[1])  # stable: in placement order
    assert sorted(map(tuple, out.plan.dropped.tolist())) == sorted(lost)
    # Demand is what was asked for; scores, logits and losses are those before anything was dropped.
    assert torch.equal(out.stats.demand, free.stats.load)
    assert torch.equal(out.stats.load, out.plan.load().long()) and out.stats.capacity == limit
    assert torch.equal(out.scores, free.scores) and torch.equal(out.logits, free.logits)
    assert out.losses == free.losses


@settings(max_examples=20)
@given(case=cases(), priority=st.sampled_from(PRIORITIES), pool=st.sampled_from(POOLS))
def test_padding_every_expert_to_the_busiest_drops_nothing(case, priority, pool):
    logits_TE, K, factor, length = case
    capacity = Capacity(factor, priority=priority, pool=pool, overflow="pad")
    out = routed("token_choice", logits_TE, K, length=length, capacity=capacity)
    free = routed("token_choice", logits_TE, K, length=length)
    assert rows_of(out.plan) == rows_of(free.plan) and len(out.plan.dropped) == 0
    assert out.stats.capacity == out.stats.demand.max() == out.stats.load.max()


@pytest.mark.parametrize(
    ("capacity", "train", "other"),
    [(Capacity(1.0), 3, None), (Capacity(1.0, 2.0), 3, 6), (Capacity(2.0, 0.5), 6, 2)],
)
def test_training_and_evaluation_have_factors_of_their_own(capacity, train, other):
    for training, limit in ((True, train), (False, other)):
        out = routed("token_choice", SKEWED_TE, 1, training=training, capacity=capacity)
        assert out.stats.capacity == limit
        lost = 0 if limit is None else (out.stats.demand - limit).clamp(min=0).sum()
        assert len(out.plan.dropped) == lost


@pytest.mark.parametrize(
    "share,most,whole",
    [(1e-12, 9, 1), (1.0, 9, 1), (1.2, 9, 2), (3 * (0.1 + 0.2) / 0.3, 9, 3), (7.2, 4, 4)],
)
def test_places_are_whole_and_rounding_is_not_rounded_up(share, most, whole):
    assert capacity_of(share, most) == whole


@every(LIMITED)
def test_a_published_limit_goes_by_its_priority_in_training_alone(name):
    made = build(name, SKEWED_TE, 2, capacity_factor=0.5)  # ceil(0.5 * 2 * 12 / 4) = 3 places
    free = inner(made)(torch.eye(12), context(12, True))
    out = made(torch.eye(12), context(12, True))
    kept, _ = by_hand(rows_of(free.plan), 3, LIMITED[name], lambda t: 0)
    assert rows_of(out.plan) == sorted(kept, key=lambda row: row[1])
    assert out.stats.capacity == 3 < out.stats.demand.max()
    out = made(torch.eye(12), context(12))
    assert out.stats.capacity is None and len(out.plan.dropped) == 0


# --- around routers of any kind ---


@pytest.mark.parametrize("priority", PRIORITIES)
@every(DISCRETE)
def test_any_discrete_router_can_be_limited(name, priority):
    """Also those whose number of assignments varies and whose choices have no order."""
    capacity = Capacity(0.5, priority=priority)  # ceil(0.5 * 2 * 12 / 4) = 3 places
    made = build(name, SKEWED_TE, 2, capacity=capacity)
    own = inner(build(name, SKEWED_TE, 2))
    own.load_state_dict(inner(made).state_dict())  # a hash draws its table
    want, out = (one(torch.eye(12), context(12, True)) for one in (own, made))
    assert out.stats.capacity == 3 and out.stats.load.max() <= 3
    assert torch.equal(out.stats.demand, want.stats.load)
    if name not in LIMITED:  # or limited twice, by two priorities
        kept, _ = by_hand(rows_of(want.plan), 3, priority, lambda t: 0)
        assert rows_of(out.plan) == sorted(kept, key=lambda row: row[1])
    for one in (made, own):
        one.post_step(out.stats)
    for key, value in own.state_dict().items():
        assert torch.equal(inner(made).state_dict()[key], value), key
    assert made.active_experts(8) == own.active_experts(8) and made.flops(8) == own.flops(8)


@every(SOFT)
def test_a_soft_router_has_nothing_to_drop(name):
    with pytest.raises(ValueError, match="no assignments to drop.*Leave the capacity out"):
        build(name, capacity=Capacity())


def test_what_a_limited_router_dropped_stays_counted_under_a_second_limit():
    """A Switch layer with a tighter capacity around it."""
    out = routed("switch", SKEWED_TE, 1, capacity=Capacity(0.5), capacity_factor=1.0, jitter=0.0)
    assert out.stats.load.max() == 2 and out.stats.demand.sum() == 12
    assert len(out.plan.dropped) == 12 - out.stats.load.sum()


# --- masks ---


@by_all_rules
@settings(max_examples=15)
@given(case=cases(), data=st.data())
def test_padding_takes_no_place_and_gives_none(priority, pool, case, data):
    """The real tokens are placed as if they were alone; a sequence that is all padding is none."""
    logits_TE, K, factor, length = case
    T = len(logits_TE)
    real_T = torch.tensor(data.draw(st.lists(st.booleans(), min_size=T, max_size=T).filter(any)))
    capacity = Capacity(factor, priority=priority, pool=pool)
    padded = routed("token_choice", logits_TE, K, length=length, mask=real_T, capacity=capacity)
    made = build("token_choice", logits_TE, K, capacity=capacity)
    want = made(torch.eye(T)[real_T], context(T, True, length=length).select(real_T))
    assert padded.stats.capacity == want.stats.capacity
    assert padded.stats.tokens == real_T.sum()
    assert torch.equal(padded.plan.dense_weights()[real_T], want.plan.dense_weights())
    assert not padded.plan.dense_weights()[~real_T].any()
    assert torch.equal(padded.stats.load, want.stats.load)
    assert torch.equal(padded.stats.demand, want.stats.demand)
    index = real_T.nonzero()[:, 0].tolist()
    moved = [[index[t], e, k] for t, e, k in want.plan.dropped.tolist()]
    assert sorted(padded.plan.dropped.tolist()) == sorted(moved)


# --- what it says of itself ---


@pytest.mark.parametrize(
    "name,capacity,causal,substitute",
    [
        ("token_choice", Capacity(1.0, 1.0), True, False),
        ("token_choice", Capacity(1.0, priority="choice"), False, True),
        ("token_choice", Capacity(1.0, priority="probability"), False, True),
        ("token_choice", Capacity(1.0, 2.0, priority="batch"), False, False),
        ("token_choice", Capacity(1.0, priority="batch", overflow="pad"), True, False),
        ("expert_choice", Capacity(1.0), False, False),
        ("expert_choice", Capacity(1.0, priority="batch"), False, False),
        ("base", Capacity(1.0), False, True),
        ("base", Capacity(1.0, priority="batch"), False, True),
    ],
)
def test_it_says_whether_it_is_causal(name, capacity, causal, substitute):
    made = build(name, capacity=capacity)
    assert made.causal == causal and bool(made.substitute) == substitute


@pytest.mark.parametrize(
    "values,sentence",
    [
        (dict(factor=0), "factor must be a finite number above 0"),
        (dict(factor=None), "factor must be a finite number above 0"),
        (dict(eval_factor=math.nan), "eval_factor must be a finite number above 0"),
        (dict(priority="first"), "priority must be one of position, choice, probability, batch"),
        (dict(overflow="spill"), "overflow must be one of drop, pad, got 'spill'"),
        (dict(pool="token"), "pool must be one of batch, sequence, got 'token'"),
    ],
)
def test_an_impossible_capacity_is_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        Capacity(**values)


def test_what_a_capacity_is_where_nothing_is_said():
    assert Capacity() == Capacity(1.25, None, "position", "drop", "batch")
