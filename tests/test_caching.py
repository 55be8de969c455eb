"""Caches of experts, replayed: against a plain simulator, and against Belady's optimum."""

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.numerics import distinct_choices
from moeviz.experiments import caches
from moeviz.experiments.recorded import recorded_figures
from moeviz.records.caching import replay


def made(T, L, E, K, seed, unserved=0.1):
    """Choices that like some experts and their neighbours in time; a tenth was not served."""
    rng = np.random.default_rng(seed)
    expert = np.stack([distinct_choices(rng, T, E, K) for _ in range(L)], axis=1)
    repeats = rng.random((T, L)) < 0.4
    for t in range(1, T):
        expert[t][repeats[t]] = expert[t - 1][repeats[t]]
    return np.where(rng.random(expert.shape) < unserved, -1, expert)


def plain(expert_TLK, slots, policy, shared):
    """The same with dictionaries and sets: hits and loads, token by token and layer by layer."""
    T, L, _ = expert_TLK.shape
    held, used, count = defaultdict(set), {}, Counter()
    stream = [(t, layer, {(layer, int(e)) for e in expert_TLK[t, layer] if e >= 0})
              for t in range(T) for layer in range(L)]  # fmt: skip
    hits = loads = 0

    def worth(member, now, t, layer):
        of = member[0]
        if policy == "belady":
            coming = [s for s, (_, _, asked) in enumerate(stream) if s > now and member in asked]
            return (-coming[0] if coming else -len(stream), member)
        if policy == "lfu":
            return (count[member], used[member], member)
        if policy == "least_stale" and shared:
            stale = (t if of <= layer else t - 1) - used[member][0]
            return (-stale, -((of - layer - 1) % L), member)
        return (used[member], member)

    for now, (t, layer, asked) in enumerate(stream):
        cache = held[0 if shared else layer]
        hits += len(asked & cache)
        loads += len(asked - cache)
        for member in asked:
            used[member] = (t, layer)
            count[member] += 1
        cache |= asked
        room = slots * L if shared else slots
        others = sorted(cache - asked, key=lambda member: worth(member, now, t, layer))
        for member in others[: max(len(cache) - room, 0)]:
            cache.remove(member)
    return hits, loads


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("policy", ["lru", "lfu", "least_stale", "belady"])
def test_a_replay_is_that_of_a_plain_simulator(policy, shared):
    for seed, slots in ((0, 3), (1, 5), (2, 9)):
        expert = made(60, 3, 9, 3, seed)
        found = replay(expert, 9, slots, policy, shared=shared)
        assert (found.hits.sum(), found.loads.sum()) == plain(expert, slots, policy, shared)
        assert found.asked.sum() == (expert >= 0).sum()
        assert (found.hits + found.loads == found.asked).all()  # these load what is asked alone


def test_how_often_counts_before_how_long_ago_from_the_first_tokens_on():
    """LFU keeps what was asked for twice, though another was asked for since."""
    stream = np.array([0, 0, 1, 2, 0]).reshape(-1, 1, 1)
    assert replay(stream, 3, 2, "lfu").hits.sum() == 2 > replay(stream, 3, 2, "lru").hits.sum()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31 - 1), st.integers(2, 6), st.booleans())
def test_belady_is_never_beaten(seed, slots, shared):
    expert = made(40, 2, 8, 2, seed)
    best = replay(expert, 8, slots, "belady", shared=shared)
    for policy in ("lru", "lfu", "least_stale"):
        other = replay(expert, 8, slots, policy, shared=shared)
        assert best.hits.sum() >= other.hits.sum()
        # Every expert comes at least once, and a cache of all experts loads none twice.
        assert best.loads.sum() >= sum(len(np.unique(e[e >= 0])) for e in expert.swapaxes(0, 1))
    # Who loads on a guess may hit more often, but not with fewer loads.
    if not shared:
        assert best.loads.sum() <= replay(expert, 8, slots, "next_layer").loads.sum()
    larger = replay(expert, 8, slots + 1, "belady", shared=shared)
    assert larger.loads.sum() <= best.loads.sum()


def test_belady_is_the_best_of_all_that_could_be_done():
    """Every choice of what to give up, tried out on short streams."""
    for seed in range(6):
        expert = made(7, 1, 5, 2, seed, unserved=0)
        states = {frozenset(): 0}
        for asked in map(frozenset, expert[:, 0].tolist()):
            after = {}
            for held, loads in states.items():
                rest = held - asked
                for kept in itertools.combinations(rest, min(len(rest), 3 - len(asked))):
                    now, cost = asked | frozenset(kept), loads + len(asked - held)
                    after[now] = min(cost, after.get(now, cost))
            states = after
        assert replay(expert, 5, 3, "belady").loads.sum() == min(states.values())


def test_what_the_layer_before_foretells_is_there_when_it_is_asked_for():
    """Layer 1 asks for what layer 0 asked for, one expert further on."""
    first = np.random.default_rng(0).permuted(np.tile(np.arange(16), (300, 1)), axis=1)[:, :2]
    expert = np.stack([first, (first + 1) % 16], axis=1)
    guessed, lru = replay(expert, 16, 2, "next_layer"), replay(expert, 16, 2, "lru")
    assert (guessed.hits[150:, 1] == 2).all() and lru.hits[150:, 1].mean() < 0.6
    assert (guessed.hits[:, 0] == lru.hits[:, 0]).all()  # nothing comes before it
    # Good guesses bring what would have come anyway.
    assert guessed.loads[150:].sum() == lru.loads[150:].sum()


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda e: replay(e, 9, 2, "lru"), "slots must be at least top_k = 3, the experts that"),
        (lambda e: replay(e, 9, 2.5, "lru"), "slots must be a whole number"),
        (lambda e: replay(e, 9, 3, "fifo"), "policy must be one of lru, lfu, least_stale"),
        (lambda e: replay(e, 8, 3, "lru"), "expert_TLK must hold finite numbers in -1..7, got 8"),
        (lambda e: replay(e, 9, 3, "next_layer", shared=True), "policy must not be next_layer"),
    ],
)
def test_what_cannot_be_replayed(call, message):
    with pytest.raises(ValueError, match=message):
        call(made(20, 3, 9, 3, 0))


def test_the_stream_that_changes_its_task(monkeypatch):
    """Tasks in turns; LFU holds on to what the last task liked, LRU follows."""
    rng = np.random.default_rng(0)
    tasks = {n: distinct_choices(rng, 300, 8, 2)[:, None] + 8 * n for n in range(4)}
    monkeypatch.setattr(caches, "CHANGES", 100)
    stream = caches.changing(tasks)
    assert len(stream) == 1200 and (stream[:100] < 8).all() and (stream[400:500] < 8).all()
    figures = caches.of_stream(np.repeat(stream, 2, axis=1), turn=100, tasks=4)
    small = {name: figures[name][0]["hit_rate"] for name in ("lru", "lfu", "belady")}
    assert small["lfu"] < small["lru"] <= small["belady"]
    assert len(figures["after_change"]["lru"]) == 100 // caches.BIN


def test_the_recorded_replays_agree():
    """Within each stream Belady loads least, and more slots load less; what the notebook says."""
    recorded = recorded_figures("caches")
    for name, stream in recorded["streams"].items():
        for size in range(len(recorded["slots"])):
            loads = {p: stream[p][size]["loads"] for p in ("lru", "lfu", "belady")}
            assert min(loads, key=loads.get) == "belady"
        at = recorded["slots"].index(recorded["guessed"])
        lru, lfu = stream["lru"][at], stream["lfu"][at]
        guessed = stream["next_layer"][0]
        assert (lfu["loads"] < lru["loads"]) == (name != caches.CHANGING)
        # Hit rate is not speed: guesses hit more often and load more.
        assert guessed["hit_rate"] > lru["hit_rate"] and guessed["loads"] > lru["loads"]
