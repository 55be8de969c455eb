"""Who looks into the future: every router against the probe, the probe against planted routers, and
whole models: decoding token by token must decide as one look at the text does."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.routers import inner, normal
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import Cache, LanguageModel, ModelConfig
from moeviz.routing import (
    ROUTERS,
    Capacity,
    Plan,
    RouteContext,
    RouterOut,
    SoftPlan,
    build_router,
    leaking_tokens,
)

# What the literature says, written down here so that no router changes sides unnoticed.
SUBSTITUTED = ("gshard", "st_moe", "base", "sinkhorn", "mixture_of_depths")
NEVER_CAUSAL = ("expert_choice", "soft_moe", "mixture_of_tokens", "sequence_level")
CAUSAL = tuple(name for name in ROUTERS if name not in (*SUBSTITUTED, *NEVER_CAUSAL))
VOCAB = 64
PAPER_K = {"switch": 1, "base": 1, "hash": 1}


def at_unit_scale(made, seed=0):
    """Gates of unit scale, a bias of its own for every expert, thresholds that some tokens pass."""
    gate = inner(made)
    with torch.no_grad():
        for name, values in made.named_parameters():
            values.copy_(normal(*values.shape, seed=seed + len(name)))
        if hasattr(gate, "threshold_E"):
            gate.threshold_E.fill_(1 / gate.num_experts)
        if getattr(gate, "bias", None) is not None:
            gate.bias.bias_E.copy_(0.3 * normal(gate.num_experts, seed=seed))
    return made


def build(name, D=6, E=4, K=2, seed=0, **options):
    if name == "hash":
        options.setdefault("vocab_size", VOCAB)
    return at_unit_scale(build_router(name, d_model=D, num_experts=E, top_k=K, **options), seed)


def text(T, seed=0, training=False, length=None):
    """Tokens and their context: one sequence, or several of `length` tokens."""
    generator = torch.Generator().manual_seed(seed)
    every_T = torch.arange(T)
    length = length or T
    context = RouteContext(
        token_ids=torch.randint(VOCAB, (T,), generator=generator),
        sequence=every_T // length,
        position=every_T % length,
        training=training,
        generator=generator,
    )
    return normal(T, 6, seed=seed + 1), context


def leaks(made, T=16, seed=0, training=False, length=None):
    return leaking_tokens(made, *text(T, seed, training, length), cuts=T, seed=seed)


# --- the routers ---


def test_every_router_says_what_is_known_of_it():
    for name in ROUTERS:
        made = build(name)
        assert made.causal == (name in CAUSAL), name
        assert bool(made.substitute) == (name in SUBSTITUTED), name
        assert "\n" not in made.substitute


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", CAUSAL)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_causal_router_never_leaks(name, training, data):
    E = data.draw(st.sampled_from([1, 2, 4, 8]))
    K = data.draw(st.sampled_from([k for k in (1, 2, 4, 8) if k <= E]))
    T, seed = data.draw(st.integers(1, 20)), data.draw(st.integers(0, 10**4))
    length = data.draw(st.sampled_from([None, 5]))
    made = build(name, E=E, K=K, seed=seed)
    assert made.causal and not leaks(made, T, seed, training, length).any()


@pytest.mark.parametrize("name", [*SUBSTITUTED, *NEVER_CAUSAL])
def test_a_router_that_is_not_causal_leaks_in_training(name):
    """Shown, not believed: some token's decision does change with later tokens."""
    assert any(leaks(build(name, seed=s), seed=s, training=True).any() for s in range(5))


@pytest.mark.parametrize("name", SUBSTITUTED)
@settings(max_examples=10, deadline=None)
@given(T=st.integers(1, 20), seed=st.integers(0, 10**4), length=st.sampled_from([None, 5]))
def test_a_substitute_does_not_leak(name, T, seed, length):
    assert not leaks(build(name, seed=seed), T, seed, False, length).any()


@pytest.mark.parametrize("name", NEVER_CAUSAL)
def test_without_a_substitute_it_leaks_outside_training_too(name):
    assert any(leaks(build(name, seed=s), seed=s).any() for s in range(5))


@pytest.mark.parametrize("pool", ["batch", "sequence"])
@pytest.mark.parametrize("priority", ["position", "choice", "probability", "batch"])
def test_capacity_leaks_unless_it_goes_by_position(priority, pool):
    found = []
    for seed in range(6):
        for overflow in ("drop", "pad"):
            capacity = Capacity(0.75, priority=priority, pool=pool, overflow=overflow)
            made = build("token_choice", seed=seed, capacity=capacity)
            leaked = leaks(made, 12, seed, True, 4).any().item()
            assert not (leaked and made.causal)
            found.append(leaked and overflow == "drop")
            assert not leaks(made, 12, seed, False, 4).any()  # outside, nothing is ever full
    assert any(found) == (priority != "position")


def test_capacity_outside_training_leaks_too_where_it_has_a_limit_there():
    made = build("token_choice", capacity=Capacity(9.0, 0.75, priority="probability"))
    assert not made.causal and not made.substitute
    assert leaks(made).any() and not leaks(made, training=True).any()


@pytest.mark.parametrize(
    "name,options",
    [
        ("token_choice", dict(bias="sign", scope="sequence")),
        ("token_choice", dict(bias="quantile")),
        ("token_choice", dict(noise=1.0, jitter=0.2)),
        ("deepseek_v3", dict(num_groups=2, top_groups=1)),
        ("switch", dict(capacity_factor=0.5)),
        ("hash", dict(variant="bigram")),
        ("null_experts", dict(zero=2, copy=0)),
    ],
)
def test_options_that_are_causal_too(name, options):
    """Bias rules use the counts of earlier steps alone."""
    for seed in range(5):
        made = build(name, seed=seed, **options)
        for training in (False, True):
            assert made.causal and not leaks(made, seed=seed, training=training, length=8).any()
        out = made(*text(16, seed, True))
        made.post_step(out.stats)
        assert not leaks(made, seed=seed, training=True).any()


@pytest.mark.parametrize(
    "options", [dict(chunk=4), dict(chunk=8, shuffle=True), dict(max_experts=3)]
)
def test_expert_choice_leaks_however_its_pools_are_made(options):
    found = [
        leaks(build("expert_choice", seed=s, **options), seed=s, training=True) for s in (0, 1)
    ]
    assert any(leaks_T.any() for leaks_T in found)


def test_pools_of_one_token_do_not_leak():
    """Nor is there anything left of expert choice: every expert takes every token."""
    made = build("expert_choice", chunk=1)
    assert not leaks(made).any()


# --- the probe ---


class Planted(nn.Module):
    """A router of two experts: token t goes to one by the sign of a number made by `rule`."""

    def __init__(self, rule, soft=False):
        super().__init__()
        self.rule, self.soft = rule, soft

    def forward(self, x_TD, context):
        share_T = torch.sigmoid(self.rule(x_TD, context))
        scores_TE = torch.stack((share_T, 1 - share_T), 1)
        if self.soft:
            plan = SoftPlan(scores_TE[None, ..., None], torch.ones_like(scores_TE)[None, ..., None])
        else:
            plan = Plan.from_topk((share_T < 0.5).long()[:, None], share_T[:, None], num_experts=2)
        return RouterOut.of(scores_TE, scores_TE, plan)


def following(x_TD, context):
    return torch.cat((x_TD[1:, 0], x_TD[:1, 0]))  # the next token's state; the last sees the first


def preceding(x_TD, context):
    return x_TD.cumsum(0)[:, 0]


def own_noise(x_TD, context):
    return x_TD[:, 0] + torch.randn(len(x_TD), generator=context.generator)


LEAKY = {
    "the next token": following,
    "the last token": lambda x, c: x[:, 0] + x[-1, 1],
    "the mean": lambda x, c: x.mean(0)[0].expand(len(x)),
    "the next id": lambda x, c: x[:, 0] + torch.cat((c.token_ids[1:], c.token_ids[:1])).float(),
    "a rank": lambda x, c: x[:, 0].argsort().argsort().float() - len(x) / 2,
    "a whisper": lambda x, c: x[:, 0] + 1e-4 * x[-1, 1],
}
CLEAN = {
    "its own state": lambda x, c: x[:, 0],
    "the tokens before": preceding,
    "its own id": lambda x, c: c.token_ids.float() - VOCAB / 2,
    "how long the text is": lambda x, c: x[:, 0] + len(x),
    "noise": own_noise,
    "its place": lambda x, c: c.position.float() - 8,
}


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("what", LEAKY)
def test_the_probe_finds_a_planted_leak(what, soft):
    found = [leaks(Planted(LEAKY[what], soft), seed=s) for s in range(4)]
    assert all(leaks_T.any() for leaks_T in found)
    assert not any(leaks_T[-1] for leaks_T in found)  # nothing comes after the last token


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("what", CLEAN)
@pytest.mark.parametrize("training", [False, True])
def test_the_probe_accuses_nobody_wrongly(what, soft, training):
    for seed in range(4):
        assert not leaks(Planted(CLEAN[what], soft), seed=seed, training=training).any()


def test_the_probe_points_at_the_very_tokens():
    only = Planted(
        lambda x, c: x[:, 0] + torch.nn.functional.one_hot(torch.tensor(3), len(x)) * x[-1, 1]
    )
    assert leaks(only).tolist() == [t == 3 for t in range(16)]
    # A leak from t + 1 shows where a cut lies just behind t: with all cuts, everywhere.
    assert leaks(Planted(following)).tolist() == [True] * 15 + [False]
    some = leaking_tokens(Planted(following), *text(16), cuts=3)
    assert 0 < some.sum() <= 3


def test_the_probe_looks_at_one_token_and_at_two():
    for name in ("token_choice", "expert_choice"):
        assert leaks(build(name), T=1).tolist() == [False]
    assert leaks(Planted(following), T=2).tolist() == [True, False]


def test_the_probe_changes_nothing_that_it_is_given():
    made = build("deepseek_v3")
    x_TD, context = text(16, training=True)
    before = [x_TD.clone(), context.token_ids.clone(), context.generator.get_state()]
    state = {key: value.clone() for key, value in made.state_dict().items()}
    rng = torch.get_rng_state()
    first = leaking_tokens(made, x_TD, context)
    assert torch.equal(x_TD, before[0]) and torch.equal(context.token_ids, before[1])
    assert torch.equal(context.generator.get_state(), before[2])
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())
    assert torch.equal(first, leaking_tokens(made, x_TD, context))
    assert first.dtype == torch.bool and first.shape == (16,)


# --- whole models ---


def model_of(name, capacity=None, **options):
    if name == "hash":
        options.setdefault("vocab_size", VOCAB)
    K = PAPER_K.get(name, 2)
    moe = MoEConfig(4, K, 8, router=name, capacity=capacity, options=options)
    config = ModelConfig(vocab_size=VOCAB, d_model=16, num_layers=2, num_heads=2, moe=moe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LanguageModel(config).eval()
    for layer, block in enumerate(model.blocks):
        at_unit_scale(block.ffn.router, seed=10 * layer + 1)
    return model


def decisions(routes):
    """Weights and visits of every layer, each [T, E]."""
    plans = [route.plan for route in routes]
    visits = [torch.zeros(p.num_tokens, p.num_experts, dtype=torch.bool) for p in plans]
    for visits_TE, plan in zip(visits, plans, strict=True):
        visits_TE[plan.token.long(), plan.expert.long()] = True
    return torch.stack([p.dense_weights() for p in plans]), torch.stack(visits)


DECODABLE = {name: (name, None, {}) for name in (*CAUSAL, *SUBSTITUTED)} | {
    "capacity by position": ("token_choice", Capacity(1.0), {}),
    "capacity by probability": ("token_choice", Capacity(1.0, priority="probability"), {}),
    "deepseek_v3 in groups": ("deepseek_v3", None, dict(num_groups=2, top_groups=1)),
    "hash of two tokens": ("hash", None, dict(variant="bigram")),
}


@pytest.mark.parametrize("case", DECODABLE)
@torch.no_grad()
def test_decoding_with_a_cache_decides_as_one_look_at_the_text(case):
    name, capacity, options = DECODABLE[case]
    model = model_of(name, capacity, **options)
    tokens_BS = torch.randint(VOCAB, (1, 24), generator=torch.Generator().manual_seed(5))
    full = model(tokens_BS)
    cache, parts = Cache(2), []
    for piece in tokens_BS.split([7, 1, 1, 3] + [1] * 12, dim=1):
        parts.append(model(piece, cache=cache))
    logits = torch.cat([part.logits for part in parts], 1)
    assert torch.allclose(logits, full.logits, atol=1e-4)
    want_weights, want_visits = decisions(full.routes)
    got = [decisions(part.routes) for part in parts]
    assert torch.equal(torch.cat([visits for _, visits in got], 1), want_visits)
    assert torch.allclose(torch.cat([w for w, _ in got], 1), want_weights, atol=1e-4)
    # The choice is no trivial one: not all tokens go the same way.
    assert name == "dense_mixture" or (want_visits != want_visits[:, :1]).any()


@pytest.mark.parametrize("case", DECODABLE)
def test_generation_works_and_is_decided_by_its_seed(case):
    name, capacity, options = DECODABLE[case]
    model = model_of(name, capacity, **options)
    prompt = torch.tensor([3, 1, 4, 1, 5])
    one, again, other = (model.generate(prompt, 12, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == (17,) and 0 <= one.min() and one.max() < VOCAB
    greedy = model.generate(prompt, 12, temperature=0.0)
    with torch.no_grad():
        logits_SV = model(greedy[None]).logits[0]
    assert torch.equal(logits_SV[4:-1].argmax(-1), greedy[5:])


@pytest.mark.parametrize("name", [*NEVER_CAUSAL, "capacity"])
def test_what_has_to_see_the_future_cannot_generate(name):
    limit = Capacity(1.0, 1.0, priority="batch") if name == "capacity" else None
    model = model_of("token_choice" if limit else name, limit)
    why = "outside training its capacity grows" if limit else "it is not causal"
    with pytest.raises(ValueError, match=f"cannot generate: {why}") as refusal:
        model.generate(torch.tensor([1, 2, 3]), 4)
    said = str(refusal.value)
    assert repr(model.config.moe.router) in said and "\n" not in said


def test_a_router_without_substitute_decodes_otherwise_than_it_reads():
    """Or the test above would refuse for nothing."""
    for name in NEVER_CAUSAL:
        model = model_of(name)
        tokens_BS = torch.randint(VOCAB, (1, 24), generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            full, cache = model(tokens_BS), Cache(2)
            parts = [model(piece, cache=cache) for piece in tokens_BS.split(1, dim=1)]
        logits = torch.cat([part.logits for part in parts], 1)
        assert not torch.allclose(logits, full.logits, atol=1e-2), name


def test_contexts_of_other_kinds_go_through_the_probe():
    """Without ids, sequences or a generator, and with padding."""
    x_TD, context = text(12, training=True)
    bare = RouteContext(training=True)
    assert leaking_tokens(build("expert_choice"), x_TD, bare).any()
    real_T = torch.tensor([True, False, True] * 4)
    masked = dataclasses.replace(context, mask=real_T)
    found = leaking_tokens(build("expert_choice"), x_TD, masked, cuts=12)
    assert found.any() and not found[~real_T].any()
    assert not leaking_tokens(build("switch"), x_TD, masked, cuts=12).any()
