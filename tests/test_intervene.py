"""A routing changed by hand: what is changed, and nothing else."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from helpers.hf_families import tiny
from moeviz.model import LanguageModel, MoEConfig
from moeviz.model.config import ModelConfig
from moeviz.watch import intervene
from moeviz.watch.intervene import at_random, changed, effect, first_only, kill
from moeviz.watch.pretrained import Pretrained

E, K = 6, 3


def own(router="token_choice", **options):
    torch.manual_seed(0)
    moe = MoEConfig(num_experts=E, top_k=K, d_expert=8, router=router, options=options)
    return LanguageModel(ModelConfig(vocab_size=50, d_model=16, num_heads=2, moe=moe)).eval()


def real(model_type="mixtral"):
    pytest.importorskip("transformers", minversion="5.10")
    model = tiny(model_type)
    return Pretrained(model_type, model_type, model, None, 0, None)


def reader(model_type):
    """Of an encoder-decoder the encoder alone, which predicts nothing."""
    whole = real(model_type)
    return dataclasses.replace(whole, model=whole.model.get_encoder())


def fused():
    """Experts of which a kernel takes the weights alone."""
    model = real()
    for module in model.model.modules():
        if hasattr(module, "experts"):
            module.forward = lambda x_BSD: x_BSD
    return model


@pytest.fixture
def ids_BS():
    return torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(1))


def logits(model, ids_BS):
    with torch.no_grad():
        return (
            torch.cat([model.run(s).logits for s in ids_BS])
            if isinstance(model, Pretrained)
            else model(ids_BS).logits
        )


# Tables, against plain loops.


@pytest.fixture
def table():
    expert_TK = torch.tensor([[0, 2, 5], [1, 0, 4], [3, 4, 1]])
    weight_TK = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    return expert_TK, weight_TK


def dense(expert_TK, weight_TK):
    return torch.zeros(len(expert_TK), E).scatter_add(1, expert_TK, weight_TK)


def test_each_change_does_what_it_says(table):
    expert_TK, weight_TK = table
    before = dense(*table)
    dead = before.clone()
    dead[:, 4] = 0
    assert dense(*kill(4)(*table, E)).equal(dead)
    first = torch.zeros(3, E)
    first[[0, 1, 2], [2, 1, 1]] = 1.0
    assert dense(*first_only(*table, E)).allclose(first)
    others = before.clone()
    others[[0, 1, 2], [2, 1, 1]] = 0
    others /= others.sum(-1, keepdim=True)
    assert dense(*intervene.without_first(*table, E)).allclose(others)
    drawn, weights = at_random(1)(*table, E)
    assert weights.equal(weight_TK) and all(len({*row}) == K for row in drawn.tolist())


def test_experts_drawn_at_random_are_equally_likely():
    expert_TK, weight_TK = torch.zeros(30_000, K, dtype=torch.long), torch.ones(30_000, K)
    share_E = at_random(2)(expert_TK, weight_TK, E)[0].flatten().bincount() / 90_000
    assert share_E.allclose(torch.full((E,), 1 / E), atol=0.01)


def test_every_layer_and_text_gets_other_experts_at_random():
    change, weight_TK = at_random(2), torch.ones(50, K)
    layers = [torch.full((50, K), expert) for expert in range(2)]
    first, second = (change(expert_TK, weight_TK, E)[0] for expert_TK in layers)
    assert not first.equal(second)
    assert first.equal(change(layers[0], weight_TK, E)[0]), "a change does not depend on the last"
    assert not first.equal(at_random(3)(layers[0], weight_TK, E)[0])


def test_a_token_with_one_choice_is_left_without_any():
    expert_T1, weight_T1 = torch.tensor([[2]]), torch.tensor([[0.7]])
    assert intervene.without_first(expert_T1, weight_T1, E)[1].equal(torch.zeros(1, 1))


# Models.


@pytest.mark.parametrize("make", [own, real], ids=["the lab's", "a checkpoint"])
def test_an_expert_killed_is_one_whose_output_is_zero(make, ids_BS):
    model, layer, moved = make(), 1, []
    before = logits(model, ids_BS)
    for expert in range(E):
        without = copy.deepcopy(model)
        down = (
            without.model.model.layers[layer].mlp.experts.down_proj
            if isinstance(model, Pretrained)
            else without.blocks[layer].ffn.w2_EDF
        )
        down.data[expert] = 0
        with changed(model, kill(expert), [layer]):
            killed = logits(model, ids_BS)
        assert killed.allclose(logits(without, ids_BS), atol=1e-5)
        moved.append(not killed.allclose(before, atol=1e-5))
    assert any(moved)
    assert logits(model, ids_BS).equal(before), "afterwards it routes as before"


@pytest.mark.parametrize("make", [own, real], ids=["the lab's", "a checkpoint"])
def test_an_effect_is_loss_and_divergence_of_each_next_token(make, ids_BS):
    model = make()
    found = effect(model, ids_BS, at_random(0))
    before = logits(model, ids_BS).double().log_softmax(-1)[:, :-1].flatten(0, 1)
    with changed(model, at_random(0)):
        after = logits(model, ids_BS).double().log_softmax(-1)[:, :-1].flatten(0, 1)
    rows, targets = torch.arange(16), ids_BS[:, 1:].flatten()
    np.testing.assert_allclose(found.before, -before[rows, targets], rtol=1e-4)
    np.testing.assert_allclose(found.after, -after[rows, targets], rtol=1e-4)
    kl = (before.exp() * (before - after)).sum(-1)
    np.testing.assert_allclose(found.kl, kl, rtol=1e-3, atol=1e-6)
    assert found.cost == pytest.approx(float((found.after - found.before).mean()), rel=1e-5)
    assert effect(model, ids_BS, lambda experts, weights, _: (experts, weights)).cost == 0


@pytest.mark.parametrize("router", ["switch", "expert_choice", "remoe", "deepseek_v3"])
def test_routers_that_serve_any_number_of_experts_can_be_changed(router, ids_BS):
    model = own(router)
    for change in (kill(0), first_only, intervene.without_first, at_random(0)):
        assert np.isfinite(effect(model, ids_BS, change).after).all()


@pytest.mark.parametrize(
    ("make", "change", "layers", "message"),
    [
        (own, kill(E), None, r"expert must lie in 0\.\.5, got 6"),
        (own, kill(0), [7], r"layers must be some of those with experts, \(0, 1\), got \[7\]"),
        (own, kill(0), [], "layers must be some of those with experts"),
        (lambda: own("soft_moe"), kill(0), None, "soft one and sends no token to an expert"),
        (lambda: real("llama4_text"), kill(0), None, "not called with their choices"),
        (lambda: reader("switch_transformers"), kill(0), None, "not called with their choices"),
        (lambda: fused(), kill(0), None, "were not called as modules, so nothing was changed"),
    ],
)
def test_what_cannot_be_changed_is_refused(make, change, layers, message, ids_BS):
    with pytest.raises(ValueError, match=message):
        effect(make(), ids_BS, change, layers=layers)
