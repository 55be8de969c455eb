"""Balance over many steps: bias rules, gates and their options, killed experts, and a short
training with every router."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.routers import GATED, build, context, decision, every, inner, normal
from helpers.training import MOE, check_same, make, run, state_of, tiny_corpus
from moeviz.routing import ROUTERS, Capacity, RouterStats, build_router
from moeviz.routing.balance import QuantileBias, SignBias
from moeviz.training.trainer import Trainer

# --- rules between steps ---


def test_signs_go_by_what_was_asked_for_not_by_what_was_served():
    bias, demand_E = SignBias(3, 0.5), torch.tensor([5, 1, 3])
    bias.update(
        RouterStats(torch.tensor([1, 1, 1]), demand_E, demand_E.float(), torch.zeros(()), 9)
    )
    assert bias.bias_E.tolist() == [-0.5, 0.5, 0.0]


def test_with_all_experts_chosen_quantiles_have_nothing_to_do():
    assert QuantileBias(3, 1.0).cut(normal(9, 3).sigmoid(), 3).tolist() == [0.0] * 3


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_noise_of_any_size_leaves_losses_and_gradients_finite(scale):
    """softplus goes down to 0 in float32: nothing may be divided by it."""
    made = build("noisy_topk", D=3)
    with torch.no_grad():
        made.noise_ED.fill_(-scale)
        made.weight_ED[1] = made.weight_ED[0]  # a tie
    out = made(normal(8, 3).abs(), context(8, True))
    (sum(out.losses.values()) + out.plan.weight.square().sum()).backward()
    assert all(torch.isfinite(value) for value in out.losses.values())
    assert torch.isfinite(made.noise_ED.grad).all() and torch.isfinite(made.weight_ED.grad).all()


# --- options of a gate ---


@every(GATED)
def test_a_temperature_divides_the_logits(name):
    hot, cold = build(name, temperature=2.0), build(name)
    with torch.no_grad():
        for key in ("weight_ED", "group_GD", "null_ZD"):
            if hasattr(inner(cold), key):
                getattr(inner(cold), key).div_(2)
    x_TD = normal(9, 6)
    got, want = hot(x_TD, context(len(x_TD))), cold(x_TD, context(len(x_TD)))
    assert torch.allclose(decision(got), decision(want), atol=1e-6)
    assert torch.allclose(got.logits, want.logits, atol=1e-6)
    if name not in ("hierarchical", "sequence_level"):
        assert torch.allclose(got.logits, x_TD @ inner(hot).weight_ED.T / 2, atol=1e-6)


@every(GATED)
@pytest.mark.parametrize("option", ["noise", "jitter"])
def test_noise_and_jitter_are_of_training_alone_and_seeded(name, option):
    clean, shaken = build(name, jitter=0.0), build(name, **{"jitter": 0.0} | {option: 0.3})
    x_TD = normal(400, 6)
    want_TE = clean(x_TD, context(400)).logits
    assert torch.equal(shaken(x_TD, context(400)).logits, want_TE)
    one, again, other = (shaken(x_TD, context(400, True, seed=s)).logits for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    if name in ("hierarchical", "sequence_level"):  # whose logits are not x W^T
        return
    if option == "noise":
        assert (one - want_TE).std().item() == pytest.approx(0.3, rel=0.1)
        assert abs((one - want_TE).mean().item()) < 0.04
    else:
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


# --- killed experts ---

FILLING = ("expert_choice", "base", "sinkhorn", "dense_mixture")  # every expert, all the same
BOUND = ("expert_prototyping", "hierarchical", "deepseek_v2", "deepseek_v3", "expert_threshold")
SPARING = tuple(name for name in GATED if name not in (*FILLING, *BOUND))


@every(SPARING)
@settings(max_examples=8)
@given(data=st.data())
def test_a_killed_expert_gets_nothing_and_killing_stops_before_a_token_has_too_few(name, data):
    """Whoever is killed in whatever order; and the others go on, with finite weights."""
    E, K = data.draw(st.sampled_from([(4, 1), (4, 2), (8, 2), (8, 4)]))
    made, dead = build(name, E=E, K=K), []
    for expert in data.draw(st.permutations(range(E))):
        try:
            made.kill(expert)
            dead.append(expert)
        except ValueError as refusal:
            assert "would be left alive" in str(refusal)
        for training in (False, True):
            out = made(normal(24, 6, seed=expert), context(24, training))
            assert not out.stats.demand[dead].any() and not decision(out)[:, dead].any()
            assert torch.isfinite(decision(out)).all() and (decision(out) >= 0).all()
            assert all(torch.isfinite(value) for value in out.losses.values())
            assert name == "remoe" or out.stats.load.sum() > 0
            made.post_step(out.stats)
    assert E - len(dead) == K


def test_killing_through_a_capacity():
    """It is no part of the state: a trainer keeps its own list, and old files still fit."""
    made = build("token_choice", capacity=Capacity(0.5))
    keys = made.state_dict().keys()
    for expert in (1, 1, 2):  # twice is once
        made.kill(expert)
    assert made(normal(24, 6), context(24, True)).stats.demand.tolist() == [24, 0, 0, 24]
    with pytest.raises(ValueError, match="Each token needs 2 experts; 1 would be left alive"):
        made.kill(0)
    assert made.state_dict().keys() == keys


@pytest.mark.parametrize(
    ("name", "expert", "sentence"),
    [
        ("hash", 0, "has no gate to take an expert from"),
        ("soft_moe", 0, "has no gate to take an expert from"),
        ("mixture_of_tokens", 0, "none can be taken away"),
        *[(name, 0, "every expert its share of tokens whatever") for name in FILLING],
        *[(name, 0, "none can be taken away") for name in BOUND],
        ("token_choice", -1, "expert must be .* at least 0 and at most 7, got -1"),
        ("token_choice", 8, "expert must be .* at least 0 and at most 7, got 8"),
    ],
)
def test_who_cannot_be_killed(name, expert, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        build(name, E=8).kill(expert)
    assert "\n" not in str(refusal.value)


# --- training ---


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("text"))


def train(corpus, name, **options):
    if name == "hash":
        options.setdefault("vocab_size", MOE.vocab_size)
    moe = dataclasses.replace(MOE.moe, router=name, options=options)
    return make(corpus, dataclasses.replace(MOE, moe=moe))


RULES = {  # the state that a router changes between steps
    "deepseek_v3": "bias.bias_E",
    "quantile_balanced": "bias.bias_E",
    "remoe": "strength",
    "expert_threshold": "threshold_E",
}


@every(ROUTERS)
def test_every_router_trains(corpus, name):
    trainer = train(corpus, name)
    before = state_of(trainer)
    for result in run(trainer, 3):
        assert math.isfinite(result.loss) and math.isfinite(result.grad_norm)
        assert result.load.shape == (2, 4) and (result.load.sum(1) > 0).all()
        assert ((0 <= result.dropped) & (result.dropped < 1)).all()
    after = state_of(trainer)
    changed = {key for key in before if before[key].tobytes() != after[key].tobytes()}
    for layer in (0, 1):
        ffn, prefix = trainer.model.blocks[layer].ffn, f"model.blocks.{layer}.ffn.router."
        buffers = {prefix + key for key, _ in ffn.router.named_buffers()}
        assert changed & buffers == ({prefix + RULES[name]} if name in RULES else set())
        learned = {prefix + key for key, p in ffn.router.named_parameters() if p.requires_grad}
        assert learned <= changed or name == "sequence_level"
        assert f"model.blocks.{layer}.ffn.w2_EDF" in changed
    assert math.isfinite(trainer.evaluate(windows_per_domain=1).loss)


STATEFUL = dict.fromkeys((*RULES, "noisy_topk", "gshard", "switch"), {}) | {
    "token_choice, noise": dict(noise=1.0, jitter=0.1),
    "token_choice, rerandomised": dict(learning="rerandomised"),
    "expert_choice, shuffled": dict(chunk=6, shuffle=True),
}


@pytest.mark.parametrize("case", STATEFUL)
def test_a_resumed_run_is_the_same_bit_for_bit(corpus, tmp_path, case):
    name, options = case.split(",")[0], STATEFUL[case]
    whole, part = (train(corpus, name, **options) for _ in range(2))
    run(whole, 5)
    run(part, 2)
    part.save(tmp_path / "run")
    resumed = Trainer.resume(tmp_path / "run", corpus)
    check_same(state_of(part), state_of(resumed))
    run(resumed, 3)
    check_same(state_of(whole), state_of(resumed))


@every(["token_choice", "switch", "quantile_balanced"])
def test_a_killed_expert_stays_dead_after_a_resume(corpus, tmp_path, name):
    whole, part = train(corpus, name), train(corpus, name)
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
    check_same(state_of(whole), state_of(resumed))
    assert resumed.evaluate(windows_per_domain=1).load[1, :, 2].sum() == 0
    resumed.save(tmp_path / "again")
    assert Trainer.resume(tmp_path / "again", corpus).killed == [(1, 2)]


def test_a_kill_that_is_refused_leaves_the_trainer_as_it_was(corpus):
    trainer = train(corpus, "token_choice")
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
