"""Balance over many steps: bias rules, shares, losses at an even load, gates and their options,
killed experts, and a short training with every router."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.prose import prose
from helpers.routers import every, inner, normal
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import ModelConfig
from moeviz.ops import topk
from moeviz.routing import ROUTERS, Capacity, Gate, RouteContext, RouterStats, build_router
from moeviz.routing.balance import (
    QuantileBias,
    SignBias,
    build_bias,
)
from moeviz.text.corpus import load_corpus
from moeviz.text.tokenizer import Tokenizer
from moeviz.training.trainer import TrainConfig, Trainer

UNGATED = ("hash", "soft_moe", "mixture_of_tokens")
GATED = tuple(name for name in ROUTERS if name not in UNGATED)
VOCAB = 300


def build(name, D=6, E=4, K=2, seed=0, **options):
    """A router with gates of unit scale."""
    made = build_router(name, d_model=D, num_experts=E, top_k=K, **options)
    with torch.no_grad():
        for key, values in made.named_parameters():
            values.copy_(normal(*values.shape, seed=seed + len(key)))
        if hasattr(inner(made), "threshold_E"):
            inner(made).threshold_E.fill_(1 / E)
    return made


def context(training=False, seed=0, **fields):
    generator = torch.Generator().manual_seed(seed)
    return RouteContext(training=training, generator=generator, **fields)


def stats_of(demand, load=None, tokens=8, cut=None):
    demand_E = torch.tensor(demand)
    load_E = demand_E if load is None else torch.tensor(load)
    zero = torch.zeros(())
    return RouterStats(load_E, demand_E, demand_E.float(), zero, tokens, cut=cut)


# --- rules between steps ---


def max_violation(load_E):
    """How far the busiest is above the mean: 0 when even."""
    return (load_E.max() / load_E.float().mean() - 1).item()


def stream(step, T=2048, E=16):
    """scores_TE of one batch of a skewed stream that stays as it is."""
    logits_TE = normal(T, E, seed=step) - torch.arange(1, E + 1).log()
    return logits_TE.sigmoid()


def steered(bias, steps, K=2):
    """MaxVio of every step under a bias rule."""
    found = []
    for step in range(steps):
        scores_TE = stream(step)
        chosen_TK = topk(scores_TE + bias.bias_E, K)
        load_E = chosen_TK.flatten().bincount(minlength=16)
        cut_E = bias.cut(scores_TE, K)
        found.append(max_violation(load_E))
        bias.update(dataclasses.replace(stats_of(load_E.tolist()), cut=cut_E))
    return found


def test_the_stream_is_skewed_and_stays_so():
    loads = [topk(stream(s), 2).flatten().bincount(minlength=16) for s in range(5)]
    assert all(max_violation(load_E) > 1.5 for load_E in loads)


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_quantiles_balance_within_twenty_steps(rate):
    found = steered(QuantileBias(16, rate), 30)
    assert found[0] > 1.5 and all(value < 0.3 for value in found[20:])


def test_signs_balance_slowly():
    found = steered(SignBias(16, 1e-2), 120)
    assert found[0] > 1.5 and max(found[-20:]) < 0.5 * found[0]
    assert np.mean(found[40:60]) < np.mean(found[:20])
    slower = steered(SignBias(16, 1e-3), 30)
    assert np.mean(found[20:30]) < np.mean(slower[20:30]) < slower[0]


def test_without_a_rule_nothing_balances():
    """Or the tests above would pass for nothing."""
    idle = SignBias(16, 1e-2)
    idle.update = lambda stats: None
    assert min(steered(idle, 30)) > 1.5


@settings(max_examples=30, deadline=None)
@given(
    demand=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    rate=st.sampled_from([1e-3, 1e-2, 0.5]),
)
def test_one_update_of_signs(demand, rate):
    """Down where there is more than the mean, up where there is less, by the rate exactly."""
    bias = SignBias(len(demand), rate)
    bias.bias_E.copy_(normal(len(demand)))
    before = bias.bias_E.clone()
    bias.update(stats_of(demand, load=[0] * len(demand)))  # what was asked for, not what was served
    mean = sum(demand) / len(demand)
    want = [rate * ((count < mean) - (count > mean)) for count in demand]
    assert torch.allclose(bias.bias_E - before, torch.tensor(want), atol=1e-6)


def test_of_two_experts_one_update_of_quantiles_is_enough():
    """Expert 0 is the favourite of most tokens; then, of half of them, give or take a tie."""
    scores_TE = (normal(101, 2) + torch.tensor([1.0, 0.0])).sigmoid()
    before_E = topk(scores_TE, 1).flatten().bincount(minlength=2)
    bias = QuantileBias(2, 1.0)
    bias.update(stats_of(before_E.tolist(), cut=bias.cut(scores_TE, 1)))
    after_E = topk(scores_TE + bias.bias_E, 1).flatten().bincount(minlength=2)
    assert before_E[0] > 65 and bias.bias_E[0] < 0 == bias.bias_E[1]
    assert abs(after_E[0] - 50.5) < 1


def test_with_all_experts_chosen_quantiles_have_nothing_to_do():
    bias = QuantileBias(3, 1.0)
    assert bias.cut(stream(0)[:, :3], 3).tolist() == [0.0] * 3


def test_a_bias_is_built_by_its_name():
    assert build_bias("none", 4, 0.1) is None
    assert isinstance(build_bias("sign", 4, 0.1), SignBias)
    assert isinstance(build_bias("quantile", 4, 0.1), QuantileBias)


@every(["deepseek_v3", "quantile_balanced"])
def test_a_bias_balances_a_whole_router(name):
    """The same, through the router: its counts, its cuts, its choice."""
    options = dict(bias_rate=2e-2) if name == "deepseek_v3" else {}
    made = build(name, D=16, E=8, **options)
    found = []
    for step in range(40):
        x_TD = normal(1024, 16, seed=step) + 0.4 * made.weight_ED[0]
        out = made(x_TD, context(True))
        found.append(max_violation(out.stats.load))
        made.post_step(out.stats)
    assert found[0] > 0.8 and np.mean(found[-5:]) < (0.5 if name == "deepseek_v3" else 0.3)


def test_a_sequence_scope_asks_every_text_to_be_even():
    """Two texts that use different experts are even together and each as uneven as can be."""
    x_TD = torch.cat((torch.eye(2)[:1].expand(4, 2), torch.eye(2)[1:].expand(4, 2)))
    sequence_T = torch.arange(8) // 4
    losses = {}
    for scope in ("batch", "sequence"):
        made = build("token_choice", D=2, E=2, K=1, scope=scope)
        with torch.no_grad():
            made.weight_ED.copy_(20 * torch.eye(2))
        losses[scope] = made(x_TD, context(sequence=sequence_T)).losses["balance"].item()
    assert losses["batch"] == pytest.approx(1.0) and losses["sequence"] == pytest.approx(2.0)
    assert "balance" not in build("token_choice", scope="none")(normal(4, 6), context()).losses


# --- losses ---


def even_logits(width, T, E):
    """Token t likes expert t of every block of `width` best, then t + 1, and so on."""
    return torch.stack([torch.arange(width).float().roll(t).repeat(E // width) for t in range(T)])


EVEN = {  # losses by name at a perfectly even load; None: not of this kind, tested below
    "token_choice": {"balance": 1.0, "z": None},
    "noisy_topk": {"importance": 0.0, "load": 0.0},
    "gshard": {"balance": 1.0, "z": None},
    "switch": {"balance": 1.0, "z": None},
    "st_moe": {"balance": 1.0, "z": None},
    "expert_prototyping": {"balance": 1.0, "z": None},
    "hierarchical": {"importance": 0.0, "balance": 1.0, "z": None},
    "deepseek_v2": {"balance": 1.0, "z": None},
    "deepseek_v3": {"balance": 1.0, "z": None},
    "quantile_balanced": {"z": None},
    "expert_choice": {"z": None},
    "expert_threshold": {"z": None},
    "soft_moe": {},
    "mixture_of_tokens": {},
    "base": {},
    "sinkhorn": {},
    "hash": {},
    "remoe": {"l1": None},
    "null_experts": {"balance": 1.0, "z": None},
    "mixture_of_depths": {"balance": 1.0, "z": None, "predictor": None},
    "dense_mixture": {"information": None, "z": None},
    "sequence_level": {"balance": 1.0, "z": None},
}


@every(EVEN)
def test_an_even_load_costs_one_or_nothing(name):
    E, T, K = 8, 8, 2
    logits_TE = even_logits(8, T, E)
    if name in ("expert_prototyping", "hierarchical", "deepseek_v2", "deepseek_v3"):
        logits_TE = even_logits(4, T, E)  # even in each half
    options = {}
    if name == "gshard":
        T, K, logits_TE = 8, 1, logits_TE  # without a coin for the second
    if name == "null_experts":  # 8 experts and 3 without an FFN, eleven tokens
        T, logits_TE = 11, even_logits(11, 11, 11)
    if name in ("switch", "st_moe"):
        options = dict(jitter=0.0)
    if name == "deepseek_v3":
        options = dict(num_groups=1)  # its groups go by their two best together
    if name == "hash":
        options = dict(vocab_size=VOCAB)
    made = build(name, D=T, E=E, K=K, **options)
    with torch.no_grad():
        if hasattr(inner(made), "weight_ED"):
            inner(made).weight_ED.copy_(logits_TE.T[:E])
        if name == "noisy_topk":
            made.noise_ED.fill_(-9.0)  # a spread of 1e-4: who is chosen is certain
        if name == "hierarchical":
            made.group_GD.zero_()
        if name == "null_experts":
            made.null_ZD.copy_(logits_TE.T[E:])
        if name == "mixture_of_depths":
            made.capacity_factor = 1.0
    sequence_T = torch.arange(T) if name == "sequence_level" else None
    ids_T = torch.arange(T)
    out = made(torch.eye(T), context(True, sequence=sequence_T, token_ids=ids_T))
    assert out.losses.keys() == EVEN[name].keys()
    for loss, want in EVEN[name].items():
        if want is not None:
            assert out.losses[loss].item() == pytest.approx(want, abs=1e-5), loss
    if any(want is not None for want in EVEN[name].values()):
        assert out.stats.demand.tolist() == [out.stats.demand[0].item()] * E


def test_every_router_is_in_the_table_of_losses():
    assert EVEN.keys() == ROUTERS.keys()


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_noise_of_any_size_leaves_losses_and_gradients_finite(scale):
    """softplus goes down to 0 in float32: nothing may be divided by it."""
    made = build("noisy_topk", D=3, E=4)
    with torch.no_grad():
        made.noise_ED.copy_(-scale * torch.ones(4, 3))
        made.weight_ED[1] = made.weight_ED[0]  # a tie
    out = made(torch.rand(8, 3, generator=torch.Generator().manual_seed(0)), context(True))
    (sum(out.losses.values()) + out.plan.weight.square().sum()).backward()
    assert all(torch.isfinite(value) for value in out.losses.values())
    assert torch.isfinite(made.noise_ED.grad).all() and torch.isfinite(made.weight_ED.grad).all()


# --- options of a gate ---


def decision(out):
    return out.plan.dense_weights()


def quiet(name):
    """Options under which nothing random happens outside what is tested."""
    return dict(jitter=0.0) if name in ("switch", "st_moe", "gshard") else {}


@every(GATED)
def test_a_temperature_divides_the_logits(name):
    hot, cold = build(name, temperature=2.0), build(name)
    with torch.no_grad():
        for key in ("weight_ED", "group_GD", "null_ZD"):
            if hasattr(inner(cold), key):
                getattr(inner(cold), key).div_(2)
    x_TD = normal(9, 6)
    got, want = hot(x_TD, context()), cold(x_TD, context())
    assert torch.allclose(decision(got), decision(want), atol=1e-6)
    assert torch.allclose(got.logits, want.logits, atol=1e-6)
    if name not in ("hierarchical", "sequence_level"):
        assert torch.allclose(got.logits, x_TD @ inner(hot).weight_ED.T / 2, atol=1e-6)


@every(GATED)
def test_noise_on_logits_is_of_training_alone_and_seeded(name):
    clean, noisy = build(name), build(name, noise=0.7)
    x_TD = normal(400, 6)
    assert torch.equal(noisy(x_TD, context()).logits, clean(x_TD, context()).logits)
    one, again, other = (noisy(x_TD, context(True, seed=s)).logits for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    if name not in ("switch", "hierarchical", "sequence_level"):
        noise_TE = one - clean(x_TD, context()).logits
        assert noise_TE.std().item() == pytest.approx(0.7, rel=0.1)
        assert abs(noise_TE.mean().item()) < 0.1


@every(GATED)
def test_jitter_is_of_training_alone_and_within_its_bounds(name):
    clean, shaken = build(name, jitter=0.0), build(name, jitter=0.3)
    x_TD = normal(50, 6)
    want_TE = clean(x_TD, context()).logits
    assert torch.equal(shaken(x_TD, context()).logits, want_TE)
    one, again, other = (shaken(x_TD, context(True, seed=s)).logits for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    if name not in ("hierarchical", "sequence_level"):
        bound_TE = 0.3 * x_TD.abs() @ inner(shaken).weight_ED.abs().T
        assert ((one - want_TE).abs() <= bound_TE + 1e-5).all()
        assert ((one - want_TE).abs() > 0.1 * bound_TE).any()


@every(GATED)
def test_the_start_is_scaled(name):
    """But for those whose paper starts elsewhere: noisy top-k at zero, BASE orthogonal."""
    for scale in (1.0,) if name == "noisy_topk" else (0.1, 1.0, 5.0):
        made = build_router(name, d_model=64, num_experts=64, top_k=1, init_scale=scale)
        weight_ED = inner(made).weight_ED
        if name == "noisy_topk":
            assert not weight_ED.any()
        elif name == "base":
            assert torch.allclose(
                weight_ED @ weight_ED.T, (0.1 * scale) ** 2 * torch.eye(64), atol=1e-5
            )
        else:
            assert weight_ED.std().item() == pytest.approx(0.02 * scale, rel=0.1)


def test_a_switch_starts_at_a_tenth_and_jitters():
    gate = inner(build_router("switch", d_model=64, num_experts=64, top_k=1)).gate
    assert gate == Gate(jitter=0.01, init_scale=0.1)


@every(GATED)
@pytest.mark.parametrize("learning", ["frozen", "rerandomised"])
def test_a_gate_that_does_not_learn_gets_no_gradient(name, learning):
    made = build(name, learning=learning)
    gate = inner(made)
    scoring = [getattr(gate, k) for k in ("weight_ED", "group_GD", "null_ZD") if hasattr(gate, k)]
    assert not any(parameter.requires_grad for parameter in scoring)
    x_TD = normal(9, 6).requires_grad_()
    out = made(x_TD, context(True))
    (decision(out) * normal(9, 4)).sum().backward()
    assert all(parameter.grad is None for parameter in scoring)
    assert x_TD.grad.norm() > 0  # hidden states still learn through the scores
    before = gate.weight_ED.clone()
    made.post_step(out.stats)
    assert torch.equal(gate.weight_ED, before) == (learning == "frozen")


def test_a_learned_gate_stays_through_a_step():
    made = build("token_choice")
    before = made.weight_ED.clone()
    made.post_step(made(normal(9, 6), context(True)).stats)
    assert torch.equal(made.weight_ED, before) and made.weight_ED.requires_grad


@every(["token_choice", "switch", "remoe", "expert_choice"])
def test_a_rerandomised_gate_is_new_after_every_step_and_follows_from_its_state(name):
    made = build_router(
        name, d_model=32, num_experts=32, top_k=1, learning="rerandomised", init_scale=2.0
    )
    stats = made(normal(9, 32), context(True)).stats
    seen, state = [inner(made).weight_ED.clone()], torch.get_rng_state()
    for _ in range(5):
        twin = build_router(
            name, d_model=32, num_experts=32, top_k=1, learning="rerandomised", init_scale=2.0
        )
        twin.load_state_dict(made.state_dict())
        torch.manual_seed(len(seen))  # what else is drawn in this process does not matter
        made.post_step(stats)
        twin.post_step(stats)
        assert torch.equal(inner(made).weight_ED, inner(twin).weight_ED)
        seen.append(inner(made).weight_ED.clone())
        assert seen[-1].std().item() == pytest.approx(0.04, rel=0.1)
    torch.set_rng_state(state)
    flat = torch.stack([w.flatten() for w in seen])
    assert (torch.corrcoef(flat) - torch.eye(6)).abs().max() < 0.15  # no two are related


# --- killed experts ---

FILLING = ("expert_choice", "base", "sinkhorn", "dense_mixture")  # every expert, all the same
BOUND = ("expert_prototyping", "hierarchical", "deepseek_v2", "deepseek_v3", "expert_threshold")
SPARING = tuple(name for name in GATED if name not in (*FILLING, *BOUND))


def loads_of(made, seed=0, training=True, T=24):
    return made(normal(T, 6, seed=seed), context(training, seed=seed)).stats


@every(SPARING)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_killed_expert_is_never_chosen_again(name, training):
    """And the others go on: as many as each token needs, with finite weights."""
    E, K = 8, 2
    made = build(name, E=E, K=K)
    dead = []
    for expert in (3, 0, 5):
        made.kill(expert)
        dead.append(expert)
        for seed in range(3):
            out = made(normal(24, 6, seed=seed), context(training, seed=seed))
            assert not out.stats.demand[dead].any() and out.stats.load.sum() > 0
            assert torch.isfinite(decision(out)).all() and (decision(out) >= 0).all()
            assert not decision(out)[:, dead].any()
            assert all(torch.isfinite(value) for value in out.losses.values())
            made.post_step(out.stats)
    alive = [e for e in range(E) if e not in dead]
    assert sum((loads_of(made, s, training).load[alive] > 0).sum() for s in range(3)) > 3


@every(SPARING)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_killing_stops_before_a_token_has_too_few(name, data):
    """Whoever is killed in whatever order, a killed expert gets nothing and the last K stay."""
    E, K = data.draw(st.sampled_from([(4, 1), (4, 2), (8, 2), (8, 4)]))
    made, dead = build(name, E=E, K=K), []
    for expert in data.draw(st.permutations(range(E))):
        try:
            made.kill(expert)
            dead.append(expert)
        except ValueError as refusal:
            assert "\n" not in str(refusal) and str(refusal).endswith(".")
        for training in (False, True):
            stats = loads_of(made, training=training)
            assert not stats.demand[dead].any()
            assert name == "remoe" or stats.load.sum() > 0
    assert E - len(dead) >= K


def test_killing_through_a_capacity():
    made = build("token_choice", capacity=Capacity(0.5))
    made.kill(1)
    assert loads_of(made).demand[1] == 0 and made.router.killed_E.tolist() == [0, 1, 0, 0]
    made.kill(1)  # twice is once
    made.kill(2)
    with pytest.raises(ValueError, match="Each token needs 2 experts; 1 would be left alive"):
        made.kill(0)
    assert made.router.killed_E.tolist() == [0, 1, 1, 0]


@every(UNGATED)
def test_a_router_without_a_gate_keeps_its_experts(name):
    made = build_router(name, d_model=6, num_experts=4, top_k=1)
    with pytest.raises(ValueError, match="has no gate to take an expert from") as refusal:
        made.kill(0)
    assert "\n" not in str(refusal.value)


@every(FILLING)
def test_a_router_that_fills_every_expert_keeps_them_all(name):
    made = build(name)
    with pytest.raises(ValueError, match="every expert its share of tokens whatever") as refusal:
        made.kill(0)
    assert "\n" not in str(refusal.value)
    assert all((loads_of(made, training=True, seed=seed).load > 0).all() for seed in range(3))


@pytest.mark.parametrize("expert", [-1, 4, 99])
def test_an_expert_there_is_none_of_cannot_be_killed(expert):
    with pytest.raises(
        ValueError,
        match=rf"expert must be a whole number of at least 0 and at most 3, got {expert}",
    ):
        build("token_choice").kill(expert)


def test_a_killed_expert_is_not_part_of_the_state():
    """A trainer keeps its own list: the files of old models still fit."""
    made = build("token_choice")
    keys = made.state_dict().keys()
    made.kill(0)
    assert made.state_dict().keys() == keys


# --- training ---


TRAIN = TrainConfig(
    steps=8, batch_size=4, seq_len=12, learning_rate=1e-2, warmup=2, validate_every=0, seed=3
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name, seed in (("one", 1), ("two", 2)):
        (folder / f"{name}.txt").write_text(prose(seed))
    return load_corpus(folder, tokenizer=Tokenizer.train([prose(1)], VOCAB))


def make(corpus, name, **options):
    if name == "hash":
        options.setdefault("vocab_size", VOCAB)
    moe = MoEConfig(4, 2, 8, router=name, options=options)
    model = ModelConfig(vocab_size=VOCAB, d_model=16, num_layers=2, num_heads=2, d_ff=16, moe=moe)
    return Trainer(model, TRAIN, corpus)


def run(trainer, steps):
    return [next(trainer) for _ in range(steps)]


def state_of(trainer):
    """Every number that the next step depends on, by name."""
    state = {f"model.{k}": v.clone() for k, v in trainer.model.state_dict().items()}
    for index, moments in trainer.optimizer.state_dict()["state"].items():
        state |= {f"{index}.{name}": value.clone() for name, value in moments.items()}
    return state


def differing(a, b):
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


RULES = {  # the state that a router changes between steps
    "deepseek_v3": "bias.bias_E",
    "quantile_balanced": "bias.bias_E",
    "remoe": "strength",
    "expert_threshold": "threshold_E",
}


@every(ROUTERS)
def test_every_router_trains(corpus, name, monkeypatch):
    trainer = make(corpus, name)
    seen = []
    forward = trainer._forward
    monkeypatch.setattr(
        trainer, "_forward", lambda *a, **k: seen.append(forward(*a, **k)) or seen[-1]
    )
    before = state_of(trainer)
    results = run(trainer, 3)
    for result, out in zip(results, seen, strict=True):
        assert math.isfinite(result.loss) and math.isfinite(result.grad_norm)
        assert result.load.shape == (2, 4) and (result.load.sum(1) > 0).all()
        assert ((0 <= result.dropped) & (result.dropped < 1)).all()
        for route in out.routes:
            assert route.losses.keys() == EVEN[name].keys()
            assert all(torch.isfinite(value) for value in route.losses.values())
            assert route.stats.tokens == 48
    changed = differing(before, {k: v for k, v in state_of(trainer).items() if k in before})
    for layer in (0, 1):
        router = trainer.model.blocks[layer].ffn.router
        prefix = f"model.blocks.{layer}.ffn.router."
        rules = {prefix + RULES[name]} if name in RULES else set()
        buffers = {prefix + key for key, _ in router.named_buffers()} & before.keys()
        assert {key for key in changed if key in buffers} == rules
        learned = [key for key, p in router.named_parameters() if p.requires_grad]
        assert all(prefix + key in changed for key in learned) or name in ("sequence_level",)
        assert f"model.blocks.{layer}.ffn.w2_EDF" in changed
    assert math.isfinite(trainer.evaluate(windows_per_domain=1).loss)


STATEFUL = {
    "deepseek_v3": {},
    "quantile_balanced": {},
    "remoe": {},
    "expert_threshold": {},
    "noisy_topk": {},
    "gshard": {},
    "switch": {},
    "token_choice, noise": dict(noise=1.0, jitter=0.1),
    "token_choice, rerandomised": dict(learning="rerandomised"),
    "expert_choice, shuffled": dict(chunk=6, shuffle=True),
}


@pytest.mark.parametrize("case", STATEFUL)
def test_a_resumed_run_is_the_same_bit_for_bit(corpus, tmp_path, case):
    name, options = case.split(",")[0], STATEFUL[case]
    whole, part = (make(corpus, name, **options) for _ in range(2))
    run(whole, 5)
    run(part, 2)
    part.save(tmp_path / "run")
    resumed = Trainer.resume(tmp_path / "run", corpus)
    assert differing(state_of(part), state_of(resumed)) == []
    results = run(resumed, 3)
    assert differing(state_of(whole), state_of(resumed)) == []
    assert np.array_equal(whole.history.curve().loss, resumed.history.curve().loss)
    assert len({result.loss for result in results}) == 3


@every(["token_choice", "switch", "quantile_balanced"])
def test_a_killed_expert_stays_dead_after_a_resume(corpus, tmp_path, name):
    whole, part = make(corpus, name), make(corpus, name)
    for trainer in (whole, part):
        run(trainer, 1)
        trainer.kill(1, 2)
    rest = run(whole, 4)
    run(part, 2)
    part.save(tmp_path / "run")
    resumed = Trainer.resume(tmp_path / "run", corpus)
    assert resumed.killed == [(1, 2)]
    rest += run(resumed, 2)
    assert all(result.load[1, 2] == 0 < result.load[0, 2] for result in rest)
    assert differing(state_of(whole), state_of(resumed)) == []
    assert resumed.evaluate(windows_per_domain=1).load[1, :, 2].sum() == 0
    resumed.save(tmp_path / "again")
    assert Trainer.resume(tmp_path / "again", corpus).killed == [(1, 2)]


def test_a_kill_that_is_refused_leaves_the_trainer_as_it_was(corpus):
    trainer = make(corpus, "token_choice")
    for layer, expert, sentence in (
        (5, 0, "Layer 5 has no experts"),
        (0, 7, "expert must be a whole number of at least 0 and at most 3, got 7"),
    ):
        with pytest.raises(ValueError, match=sentence) as refusal:
            trainer.kill(layer, expert)
        assert "\n" not in str(refusal.value)
    assert trainer.killed == []
    for expert in (0, 1):
        trainer.kill(0, expert)
    with pytest.raises(ValueError, match="Each token needs 2 experts; 1 would be left alive"):
        trainer.kill(0, 2)
    assert trainer.killed == [(0, 0), (0, 1)]
