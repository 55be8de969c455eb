"""Any router on the same tokens: what the record says agrees with what the router decided."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.numerics import relative
from helpers.routers import SOFT
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.records.routes import Decision
from moeviz.routing import ROUTERS, Capacity, RouteContext
from moeviz.text.tokenizer import Tokenizer
from moeviz.watch.routers import Tokens, decide, router_for, synthetic_tokens, text_tokens

NAMES = tuple(ROUTERS)
PROSE = "the cat sat on a mat and the dog ran from the big red log to one two three cats "


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([PROSE * 20], 300)


def model_of(router="token_choice", **options):
    if router == "hash":
        options["vocab_size"] = 300
    moe = MoEConfig(8, 2, 8, router=router, options=options)
    config = ModelConfig(
        vocab_size=300, d_model=16, num_layers=2, num_heads=2, moe=moe, dense_layers=(0,)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LanguageModel(config).eval()


@pytest.fixture(scope="module")
def sources(tokenizer):
    model = model_of()
    with torch.no_grad():
        model.blocks[1].ffn.router.weight_ED.mul_(30)
    return {
        "text": text_tokens(model, tokenizer, PROSE, layer=1),
        "even": synthetic_tokens(40, 8, skew=0.0, seed=1),
        "skewed": synthetic_tokens(40, 8, skew=1.5, seed=1),
    }


def check(decision, T, E):
    """What has to hold between the fields of any decision."""
    assert len(decision.tokens) == T and all(isinstance(piece, str) for piece in decision.tokens)
    for name, dtype in dict(score="f4", weight="f4", visits="?", dropped="?").items():
        values = getattr(decision, name)
        assert values.shape == (T, E) and values.dtype == dtype, name
        assert np.isfinite(values).all() and (values >= 0).all(), name
    assert decision.leaks.shape == (T,) and decision.leaks.dtype == np.bool_
    assert decision.load.dtype == decision.demand.dtype == np.int64
    # A weight stands where a visit is, and nowhere else.
    assert np.array_equal(decision.weight > 0, decision.visits)
    assert not (decision.visits & decision.dropped).any()
    if decision.soft:
        assert not decision.dropped.any() and decision.visits.all() and decision.capacity is None
    else:
        assert np.array_equal(decision.visits.sum(0), decision.load)
        assert np.array_equal((decision.visits | decision.dropped).sum(0), decision.demand)
    if decision.capacity is not None:
        assert decision.load.max() <= decision.capacity
        over = np.maximum(decision.demand - decision.capacity, 0)
        assert np.array_equal(decision.dropped.sum(0), over)
    assert not (decision.causal and decision.leaks.any())
    assert not decision.leaks[-1]  # nothing comes after the last token


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("source", ["text", "even", "skewed"])
@pytest.mark.parametrize("name", NAMES)
def test_the_fields_of_a_decision_agree(sources, name, source, training):
    tokens = sources[source]
    router = router_for(tokens, name, top_k=2)
    decision = decide(router, tokens, label=name, training=training)
    T, E = len(tokens.pieces), 8
    check(decision, T, E)
    assert decision.label == name and decision.tokens == tokens.pieces
    assert decision.soft == (name in SOFT) and decision.causal == router.causal
    # It is what the router itself says, of the same noise.
    context = dataclasses.replace(
        tokens.context, training=training, generator=torch.Generator().manual_seed(0)
    )
    out = router(tokens.x_TD, context)
    if name not in SOFT:
        assert relative(torch.from_numpy(decision.weight), out.plan.dense_weights()) < 1e-6
    assert relative(torch.from_numpy(decision.score), out.scores) < 1e-6
    assert np.array_equal(decision.load, out.stats.load.numpy())
    assert decision.capacity == out.stats.capacity


@pytest.mark.parametrize("name", NAMES)
def test_deciding_twice_is_the_same_and_leaves_no_trace(sources, name):
    tokens = sources["text"]
    state = torch.get_rng_state()
    one, other = (decide(router_for(tokens, name, top_k=2), tokens, label=name) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for field in dataclasses.fields(Decision):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, field.name


def test_who_leaks_is_shown_on_the_very_tokens(sources):
    tokens = sources["even"]
    for name in NAMES:
        router = router_for(tokens, name, top_k=2)
        leaks = decide(router, tokens, label=name).leaks
        if router.causal:
            assert not leaks.any(), name
        elif name in ("expert_choice", "soft_moe", "base", "sinkhorn", "sequence_level"):
            assert leaks.any(), name
        elsewhere = decide(router, tokens, label=name, training=False).leaks
        if router.causal or router.substitute:
            assert not elsewhere.any(), name


@pytest.mark.parametrize("priority", ["position", "choice", "probability", "batch"])
def test_a_limit_shows_in_the_decision(sources, priority):
    tokens = sources["skewed"]
    capacity = Capacity(0.75, priority=priority)
    decision = decide(
        router_for(tokens, "token_choice", top_k=2, capacity=capacity), tokens, label="limited"
    )
    check(decision, 40, 8)
    assert decision.capacity == 8 and decision.dropped.any()
    assert decision.leaks.any() == (priority != "position")
    free = decide(router_for(tokens, "token_choice", top_k=2), tokens, label="free")
    assert np.array_equal(free.visits, decision.visits | decision.dropped)
    assert free.capacity is None


SCORED_BY_SOFTMAX = (
    "token_choice", "switch", "gshard", "deepseek_v2", "expert_choice", "noisy_topk",
    "dense_mixture",
)  # fmt: skip


def test_routers_differ_by_their_rule_alone(sources):
    """They score the tokens by the same matrix."""
    tokens = sources["text"]
    want_TE = (tokens.x_TD @ tokens.gate_ED.T).softmax(-1)
    for name in SCORED_BY_SOFTMAX:
        got = decide(router_for(tokens, name, top_k=2), tokens, label=name, training=False).score
        assert relative(torch.from_numpy(got), want_TE) < 1e-6, name


def test_thresholds_start_where_expert_choice_would_cut(sources):
    tokens = sources["even"]
    by_threshold = decide(
        router_for(tokens, "expert_threshold", top_k=2), tokens, label="t", training=False
    )
    by_expert = decide(
        router_for(tokens, "expert_choice", top_k=2), tokens, label="e", training=False
    )
    assert np.array_equal(by_threshold.visits, by_expert.visits)
    assert not by_threshold.leaks.any() and by_expert.leaks.any()


# --- where tokens come from ---


@settings(max_examples=15)
@given(
    E=st.integers(1, 16),
    skew=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    seed=st.integers(0, 10**4),
)
def test_clusters_are_as_frequent_as_zipf_says(E, skew, seed):
    T = 4000
    tokens = synthetic_tokens(T, E, skew=skew, seed=seed)
    count_E = np.bincount(tokens.group, minlength=E)
    share_E = 1 / np.arange(1, E + 1) ** skew
    share_E /= share_E.sum()
    # Each count is binomial: six standard deviations, and one more for the rarest.
    error_E = np.sqrt(T * share_E * (1 - share_E))
    assert (np.abs(count_E - T * share_E) <= 6 * error_E + 1).all()
    assert tokens.x_TD.shape == (T, E) and tokens.x_TD.dtype == torch.float32
    assert tokens.pieces == tuple(f"c{g}" for g in tokens.group)
    assert torch.equal(tokens.context.token_ids, torch.from_numpy(tokens.group))


def test_tokens_scatter_around_the_centre_of_their_cluster():
    tokens = synthetic_tokens(6000, 4, skew=0.0, spread=0.5, seed=2)
    assert torch.equal(tokens.gate_ED, 4 * torch.eye(4))
    for group in range(4):
        mine_TD = tokens.x_TD[torch.from_numpy(tokens.group == group)]
        assert torch.allclose(mine_TD.mean(0), torch.eye(4)[group], atol=0.07)
        assert torch.allclose(mine_TD.std(0), torch.full((4,), 0.5), atol=0.05)
    exact = synthetic_tokens(50, 4, skew=0.0, spread=0.0)
    assert torch.equal(exact.x_TD, torch.eye(4)[torch.from_numpy(exact.group)])
    # Then every token goes to its own cluster's expert.
    out = router_for(exact, "token_choice", top_k=1)(exact.x_TD, exact.context)
    assert np.array_equal(out.stats.load.numpy(), np.bincount(exact.group, minlength=4))


def test_a_seed_decides_the_tokens():
    one, again, other = (synthetic_tokens(30, 5, skew=1.0, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.x_TD, again.x_TD) and np.array_equal(one.group, again.group)
    assert not torch.equal(one.x_TD, other.x_TD)
    assert np.array_equal(
        synthetic_tokens(30, 5, skew=1.0, seed=1, spread=0.1).group, one.group
    )  # more scatter, the same clusters


def test_a_texts_tokens_are_what_the_layers_router_sees(tokenizer):
    model = model_of()
    tokens = text_tokens(model, tokenizer, PROSE, layer=1)
    ids_S = torch.from_numpy(tokenizer.encode(PROSE).astype(np.int64))
    with torch.no_grad():
        want = model(ids_S[None]).routes[1]
        here = router_for(tokens, "token_choice", top_k=2)(tokens.x_TD, tokens.context)
    assert relative(here.logits, want.logits) < 1e-6
    assert torch.equal(tokens.context.token_ids, ids_S)
    assert tokens.context.position.tolist() == list(range(len(ids_S)))
    assert not tokens.context.sequence.any() and not tokens.context.training
    assert len(tokens.pieces) == len(ids_S) and tokens.group is None
    assert not model.blocks[1].ffn._forward_pre_hooks


def test_a_texts_tokens_come_from_a_layer_with_capacity_too(tokenizer):
    model = model_of("switch")
    tokens = text_tokens(model, tokenizer, PROSE, layer=1)
    assert torch.equal(tokens.gate_ED, model.blocks[1].ffn.router.router.weight_ED)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(num_tokens=0), "num_tokens must be a whole number of at least 1, got 0"),
        (dict(num_experts=0), "num_experts must be a whole number of at least 1, got 0"),
        (dict(skew=-1.0), "skew must be a finite number of at least 0, got -1.0"),
        (dict(spread=float("inf")), "spread must be a finite number of at least 0, got inf"),
    ],
)
def test_tokens_that_cannot_be_drawn_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        synthetic_tokens(**dict(num_tokens=4, num_experts=4, skew=1.0) | wrong)


def test_without_tokens_there_is_nothing_to_decide():
    tokens = synthetic_tokens(4, 4, skew=1.0)
    none = Tokens((), tokens.x_TD[:0], tokens.gate_ED, RouteContext())
    with pytest.raises(ValueError, match="There are no tokens to route"):
        decide(router_for(tokens, "switch", top_k=1), none, label="")


@pytest.mark.parametrize(
    "router, layer, sentence",
    [
        ("switch", 7, r"Layer 7 has no experts; layers \(1,\) have"),
        ("hash", 1, "router is a Hash: it has no gate matrix"),
    ],
)
def test_a_layer_that_cannot_be_watched_is_refused(tokenizer, router, layer, sentence):
    with pytest.raises(ValueError, match=sentence):
        text_tokens(model_of(router), tokenizer, PROSE, layer=layer)
