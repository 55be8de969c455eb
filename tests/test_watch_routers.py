"""Any router on the same tokens: what the record says agrees with what the router decided."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.numerics import relative
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel, ModelConfig
from moeviz.records.routes import Decision
from moeviz.routing import ROUTERS, Capacity, RouteContext
from moeviz.text.tokenizer import Tokenizer
from moeviz.watch.routers import Tokens, decide, router_for, synthetic_tokens, text_tokens

NAMES = tuple(ROUTERS)
SOFT = ("soft_moe", "mixture_of_tokens")
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
    for name, dtype in (
        ("score", np.float32),
        ("weight", np.float32),
        ("visits", np.bool_),
        ("dropped", np.bool_),
    ):
        values = getattr(decision, name)
        assert values.shape == (T, E) and values.dtype == dtype, name
    assert decision.leaks.shape == (T,) and decision.leaks.dtype == np.bool_
    assert decision.load.dtype == decision.demand.dtype == np.int64
    assert np.isfinite(decision.score).all() and np.isfinite(decision.weight).all()
    assert (decision.score >= 0).all() and (decision.weight >= 0).all()
    # A weight stands where a visit is, and nowhere else.
    assert np.array_equal(decision.weight > 0, decision.visits)
    assert not (decision.visits & decision.dropped).any()
    if decision.soft:
        assert not decision.dropped.any() and decision.visits.all() and decision.places is None
    else:
        assert np.array_equal(decision.visits.sum(0), decision.load)
        assert np.array_equal((decision.visits | decision.dropped).sum(0), decision.demand)
    if decision.places is not None:
        assert decision.load.max() <= decision.places
        over = np.maximum(decision.demand - decision.places, 0)
        assert np.array_equal(decision.dropped.sum(0), over)
    assert not (decision.causal and decision.leaks.any())
    assert not decision.leaks[-1]  # nothing comes after the last token


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("source", ["text", "even", "skewed"])
@pytest.mark.parametrize("name", NAMES)
def test_the_fields_of_a_decision_agree(sources, name, source, training):
    tokens = sources[source]
    options = dict(vocab_size=300) if name == "hash" else {}
    router = router_for(tokens, name, top_k=2, **options)
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
        assert np.array_equal(decision.weight, out.plan.dense_weights().detach().numpy())
    assert np.array_equal(decision.score, out.scores.detach().numpy())
    assert np.array_equal(decision.load, out.stats.load.numpy())
    assert decision.places == out.stats.capacity


@pytest.mark.parametrize("name", NAMES)
def test_deciding_twice_is_the_same_and_leaves_no_trace(sources, name):
    tokens = sources["text"]
    options = dict(vocab_size=300) if name == "hash" else {}
    state = torch.get_rng_state()
    one, other = (
        decide(router_for(tokens, name, top_k=2, **options), tokens, label=name) for _ in range(2)
    )
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
    assert decision.places == 8 and decision.dropped.any()
    assert decision.leaks.any() == (priority != "position")
    free = decide(router_for(tokens, "token_choice", top_k=2), tokens, label="free")
    assert np.array_equal(free.visits, decision.visits | decision.dropped)
    assert free.places is None


def test_routers_differ_by_their_rule_alone(sources):
    """They score the tokens by the same matrix."""
    tokens = sources["text"]
    want_TE = (tokens.x_TD @ tokens.gate_ED.T).softmax(-1).numpy()
    state = torch.get_rng_state()
    for name in (
        "token_choice",
        "switch",
        "gshard",
        "deepseek_v2",
        "expert_choice",
        "noisy_topk",
        "dense_mixture",
    ):
        got = decide(router_for(tokens, name, top_k=2), tokens, label=name, training=False).score
        assert np.allclose(got, want_TE, atol=1e-6), name
    assert torch.equal(torch.get_rng_state(), state)


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


@pytest.mark.parametrize("name", ["token_choice", "switch", "soft_moe"])
def test_a_decision_comes_back_from_its_file(sources, name, tmp_path):
    tokens = sources["text"]
    decision = decide(router_for(tokens, name, top_k=1), tokens, label="näme \n <b>")
    decision = dataclasses.replace(decision, meta={"seed": 3, "of": ["a", 1.5, None]})
    decision.save(tmp_path / "d")
    back = Decision.load_file(tmp_path / "d")
    for field in dataclasses.fields(Decision):
        a, b = getattr(decision, field.name), getattr(back, field.name)
        assert type(a) is type(b), field.name
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and np.array_equal(a, b), field.name
        else:
            assert a == b, field.name
    back.save(tmp_path / "again")
    assert (tmp_path / "d").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_damaged_or_foreign_decision_is_one_sentence(sources, tmp_path):
    tokens = sources["text"]
    path = tmp_path / "d"
    decide(router_for(tokens, "token_choice", top_k=1), tokens, label="x").save(path)
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ValueError) as refusal:
        Decision.load_file(path)
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)


# --- where tokens come from ---


@settings(max_examples=15, deadline=None)
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


def test_more_skew_is_more_uneven():
    loads = []
    for skew in (0.0, 1.0, 3.0):
        tokens = synthetic_tokens(600, 8, skew=skew, seed=0)
        loads.append(decide(router_for(tokens, "token_choice", top_k=1), tokens, label="").load)
    maximum = [load.max() / load.mean() for load in loads]
    assert maximum[0] < 1.5 < maximum[1] < maximum[2]


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


def empty(tokens):
    """No tokens at all."""
    return Tokens((), tokens.x_TD[:0], tokens.gate_ED, RouteContext())


REFUSED = {
    "no tokens": (
        lambda t, m: synthetic_tokens(0, 4, skew=1.0),
        "num_tokens must be a whole number",
    ),
    "no experts": (
        lambda t, m: synthetic_tokens(4, 0, skew=1.0),
        "num_experts must be a whole number",
    ),
    "skew below 0": (
        lambda t, m: synthetic_tokens(4, 4, skew=-1.0),
        "skew must be a finite number of.*-1.0",
    ),
    "spread below 0": (
        lambda t, m: synthetic_tokens(4, 4, skew=1.0, spread=-0.5),
        "spread must be a finite number of at least 0, got -0.5",
    ),
    "skew nan": (
        lambda t, m: synthetic_tokens(4, 4, skew=float("nan")),
        "skew must be a finite number of at least 0, got nan",
    ),
    "spread nan": (
        lambda t, m: synthetic_tokens(4, 4, skew=1.0, spread=float("nan")),
        "spread must be a finite number of at least 0, got nan",
    ),
    "spread inf": (
        lambda t, m: synthetic_tokens(4, 4, skew=1.0, spread=float("inf")),
        "spread must be a finite number of at least 0, got inf",
    ),
    "an unknown router": (
        lambda t, m: router_for(synthetic_tokens(4, 4, skew=1.0), "swich", top_k=1),
        "no router 'swich'",
    ),
    "more choices than experts": (
        lambda t, m: router_for(synthetic_tokens(4, 4, skew=1.0), "switch", top_k=5),
        "top_k must be at most num_experts = 4",
    ),
    "a capacity for soft ones": (
        lambda t, m: router_for(
            synthetic_tokens(4, 4, skew=1.0), "soft_moe", top_k=1, capacity=Capacity()
        ),
        "no assignments to drop",
    ),
    "an empty text": (lambda t, m: text_tokens(m, t, "", layer=1), "The text is empty"),
    "a long text": (lambda t, m: text_tokens(m, t, PROSE * 99, layer=1), "at most 512 fit"),
    "a dense layer": (
        lambda t, m: text_tokens(m, t, PROSE, layer=0),
        r"Layer 0 has no experts; layers \(1,\) have",
    ),
    "a layer there is none of": (
        lambda t, m: text_tokens(m, t, PROSE, layer=7),
        "Layer 7 has no experts",
    ),
    "a router without a gate": (
        lambda t, m: text_tokens(model_of("hash"), t, PROSE, layer=1),
        "router is a Hash: it has no gate matrix",
    ),
    "no tokens to decide on": (
        lambda t, m: decide(
            router_for(synthetic_tokens(4, 4, skew=1.0), "switch", top_k=1),
            empty(synthetic_tokens(4, 4, skew=1.0)),
            label="",
        ),
        "There are no tokens to route",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_in_one_sentence(tokenizer, what):
    act, sentence = REFUSED[what]
    with pytest.raises(ValueError, match=sentence) as refusal:
        act(tokenizer, model_of())
    assert "\n" not in str(refusal.value)
