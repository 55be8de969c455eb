"""Who looks into the future: every router against the probe, the probe against planted routers, and
whole models: decoding token by token must decide as one look at the text does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import routers
from helpers.routers import VOCAB, context, inner, modes, normal, visited
from moeviz.model.attention import Cache
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.routing import (
    ROUTERS,
    Capacity,
    Plan,
    RouterOut,
    SoftPlan,
    leaking_tokens,
)

# What the literature says, written down here so that no router changes sides unnoticed.
SUBSTITUTED = ("gshard", "st_moe", "base", "sinkhorn", "mixture_of_depths")
NEVER_CAUSAL = ("expert_choice", "soft_moe", "mixture_of_tokens", "sequence_level")
CAUSAL = tuple(name for name in ROUTERS if name not in (*SUBSTITUTED, *NEVER_CAUSAL))


def with_bias(made, seed=0):
    """A bias of its own for every expert, where the router has one."""
    gate = inner(made)
    if getattr(gate, "bias", None) is not None:
        gate.bias.bias_E.copy_(0.3 * normal(gate.num_experts, seed=seed))
    return made


def build(name, *, seed=0, **options):
    return with_bias(routers.build(name, seed=seed, **options), seed)


def text(T, seed=0, training=False, length=None):
    """Tokens and their context: one sequence, or several of `length` tokens."""
    return normal(T, 6, seed=seed + 1), context(T, training, seed=seed, length=length or T)


def leaks(made, T=16, seed=0, training=False, length=None):
    return leaking_tokens(made, *text(T, seed, training, length), cuts=T, seed=seed)


# --- the routers ---


def test_every_router_says_what_is_known_of_it():
    for name in ROUTERS:
        made = build(name)
        assert made.causal == (name in CAUSAL), name
        assert bool(made.substitute) == (name in SUBSTITUTED), name
        assert "\n" not in made.substitute


@modes
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[(name, {}) for name in (*CAUSAL, *SUBSTITUTED)],
        ("token_choice", dict(bias="sign", scope="sequence")),
        ("token_choice", dict(bias="quantile", noise=1.0, jitter=0.2)),
        ("switch", dict(capacity_factor=0.5)),
        ("hash", dict(variant="bigram")),
        ("null_experts", dict(zero=2, copy=0, constant=0)),
    ],
)
@settings(max_examples=6)
@given(data=st.data())
def test_who_is_causal_never_leaks_nor_who_has_a_substitute_outside_training(
    name, options, training, data
):
    K, E = data.draw(st.sampled_from([(1, 1), (1, 2), (1, 4), (2, 4), (4, 4), (1, 8), (2, 8)]))
    T, seed = data.draw(st.integers(1, 20)), data.draw(st.integers(0, 10**4))
    length = data.draw(st.sampled_from([None, 5]))
    made = build(name, E=E, K=K, seed=seed, **options)
    training &= made.causal
    if options:  # bias rules use the counts of earlier steps alone
        made.post_step(made(*text(16, seed, True)).stats)
    assert not leaks(made, T, seed, training, length).any()


@modes
@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in (*SUBSTITUTED, *NEVER_CAUSAL)]
    + [("expert_choice", dict(chunk=8, shuffle=True)), ("expert_choice", dict(max_experts=3))],
)
def test_who_is_not_causal_leaks(name, options, training):
    """Shown, not believed: some token's decision does change with later tokens."""
    training |= name in SUBSTITUTED
    assert any(
        leaks(build(name, seed=s, **options), seed=s, training=training).any() for s in range(5)
    )


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


# --- the probe ---


class Planted(nn.Module):
    """A router of two experts: token t goes to one by the sign of a number made by `rule`."""

    def __init__(self, rule, soft=False):
        super().__init__()
        self.rule, self.soft = rule, soft

    def forward(self, x_TD, given):
        share_T = torch.sigmoid(self.rule(x_TD, given))
        scores_TE = torch.stack((share_T, 1 - share_T), 1)
        if self.soft:
            plan = SoftPlan(scores_TE[None, ..., None], torch.ones_like(scores_TE)[None, ..., None])
        else:
            plan = Plan.from_topk((share_T < 0.5).long()[:, None], share_T[:, None], num_experts=2)
        return RouterOut.of(scores_TE, scores_TE, plan)


def following(x_TD, given):
    return torch.cat((x_TD[1:, 0], x_TD[:1, 0]))  # the next token's state; the last sees the first


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
    "the tokens before": lambda x, c: x.cumsum(0)[:, 0],
    "its own id": lambda x, c: c.token_ids.float() - VOCAB / 2,
    "how long the text is": lambda x, c: x[:, 0] + len(x),
    "noise": lambda x, c: x[:, 0] + torch.randn(len(x), generator=c.generator),
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
    assert leaks(Planted(following), T=1).tolist() == [False]
    assert leaks(Planted(following), T=2).tolist() == [True, False]
    some = leaking_tokens(Planted(following), *text(16), cuts=3)
    assert 0 < some.sum() <= 3


def test_the_probe_changes_nothing_that_it_is_given():
    made = build("deepseek_v3")
    x_TD, given = text(16, training=True)
    before = [x_TD.clone(), given.token_ids.clone(), given.generator.get_state()]
    state = {key: value.clone() for key, value in made.state_dict().items()}
    rng = torch.get_rng_state()
    first = leaking_tokens(made, x_TD, given)
    assert torch.equal(x_TD, before[0]) and torch.equal(given.token_ids, before[1])
    assert torch.equal(given.generator.get_state(), before[2])
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())
    assert torch.equal(first, leaking_tokens(made, x_TD, given))
    assert first.dtype == torch.bool and first.shape == (16,)


# --- whole models ---


def model_of(name, capacity=None, **options):
    if name == "hash":
        options.setdefault("vocab_size", VOCAB)
    moe = MoEConfig(4, 2, 8, router=name, capacity=capacity, options=options)
    config = ModelConfig(vocab_size=VOCAB, d_model=16, num_layers=2, num_heads=2, moe=moe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LanguageModel(config).eval()
    for layer, block in enumerate(model.blocks):
        with_bias(routers.at_unit_scale(block.ffn.router, seed=10 * layer + 1), layer)
    return model


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
    for layer, route in enumerate(full.routes):
        plans = [part.routes[layer].plan for part in parts]
        want_TE, weight_TE = visited(route.plan), route.plan.dense_weights()
        assert torch.equal(torch.cat([visited(plan) for plan in plans]), want_TE)
        assert torch.allclose(torch.cat([p.dense_weights() for p in plans]), weight_TE, atol=1e-4)
        # The choice is no trivial one: not all tokens go the same way.
        assert name == "dense_mixture" or (want_TE != want_TE[:1]).any()


@pytest.mark.parametrize(
    ("name", "capacity", "why"),
    [(name, None, "it is not causal") for name in NEVER_CAUSAL]
    # C grows with the number of tokens: what generates would not be what evaluates.
    + [("token_choice", Capacity(1.0, 1.0), "outside training its capacity grows")],
)
def test_what_has_to_see_the_future_cannot_generate(name, capacity, why):
    model = model_of(name, capacity)
    with pytest.raises(ValueError, match=f"'{name}' cannot generate: {why}") as refusal:
        model.generate(torch.tensor([1, 2, 3]), 4)
    assert "\n" not in str(refusal.value)
