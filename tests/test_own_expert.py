"""surgery.own_expert: one expert more that is trained alone, plugged in, and unplugged again."""

import numpy as np
import pytest
import torch

from moeviz.model import LanguageModel, ModelConfig, MoEConfig
from moeviz.surgery.own_expert import OwnExpert, OwnTraining, Plugged, fingerprint
from moeviz.text.corpus import load_corpus

TEXT = np.tile(np.arange(40, 90), 8)  # 400 tokens, easily learnt


def small(router="token_choice", seed=0, **options):
    torch.manual_seed(seed)
    moe = MoEConfig(4, 2, 12, router=router, options=options)
    return LanguageModel(ModelConfig(d_model=16, num_layers=2, num_heads=2, moe=moe, ffn_scale=1.0))


def trained(model, **settings):
    training = OwnTraining(model, TEXT, load_corpus(), **({"steps": 12} | settings))
    return list(training), training.expert()


def logits(model, ids=TEXT[None, :30]):
    with torch.no_grad(), model.evaluating():
        return model(torch.from_numpy(ids)).logits


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("options", [{}, {"weighting": "raw"}, {"score": "sigmoid"}])
def test_it_learns_its_text_and_leaves_the_model_as_it_was(rank, options):
    model = small(**options)
    before, said = fingerprint(model), logits(model)
    steps, expert = trained(model, rank=rank, learning_rate=2e-2)
    assert steps[-1].loss < steps[0].loss - 0.05
    assert all(step.visits.shape == (2,) and (step.visits >= 0).all() for step in steps)
    plugged = Plugged(model).plug(expert)
    assert plugged.model.config.moe.num_experts == 5
    assert not torch.equal(logits(plugged.model), said)
    gone = plugged.unplug("mine")
    assert fingerprint(gone.model) == fingerprint(model) == before
    assert torch.equal(logits(gone.model), said)


def test_the_models_own_experts_and_rows_stay_bit_for_bit():
    model = small()
    _, expert = trained(model)
    state, grown = model.state_dict(), Plugged(model).plug(expert).model.state_dict()
    for name, value in state.items():
        assert torch.equal(grown[name][: len(value)] if value.ndim else grown[name], value), name


def test_a_rank_that_has_learnt_nothing_adds_nothing():
    """B = 0: the new expert computes what the expert does that it began as, by W x + B A x."""
    model = small()
    training = OwnTraining(model, TEXT, load_corpus(), rank=2)
    for layer, (w13, w2, row) in enumerate(training.expert().weights(model)):
        ffn, first = model.blocks[layer].ffn, training.start[layer]
        assert torch.equal(w13, ffn.w13_E2FD[first]) and torch.equal(w2, ffn.w2_EDF[first])
        assert torch.equal(row, ffn.router.weight_ED[first])
    _, expert = trained(model, rank=2)
    parts = {name: torch.from_numpy(array).double() for name, array in expert.arrays.items()}
    x_D = torch.randn(16, dtype=torch.float64)
    for place, (w13, _, _) in enumerate(expert.weights(model)):
        start = model.blocks[place].ffn.w13_E2FD[expert.start[place]].double()
        by_parts = start @ x_D + parts["b13"][place] @ (parts["a13"][place] @ x_D)
        assert torch.allclose(w13.double() @ x_D, by_parts, rtol=1e-5, atol=1e-6)
    assert expert.num_bytes == 4 * 2 * (16 + 2 * (16 + 24) + 2 * (12 + 16))


def test_the_gradient_is_that_of_the_grown_model():
    """One plain AdamW step on a grown model's own tensors, whose other rows are put back."""
    model, corpus = small(), load_corpus()
    training = OwnTraining(model, TEXT, corpus, steps=1, replay=0.5, seed=3)
    begun = Plugged(model).plug(training.expert()).model.train()
    ids = torch.from_numpy(OwnTraining(model, TEXT, corpus, replay=0.5, seed=3)._batch())
    begun(ids[:, :-1], targets_BS=ids[:, 1:]).loss.mean().backward()
    gradients = [
        (f.w13_E2FD.grad[-1], f.w2_EDF.grad[-1], f.router.weight_ED.grad[-1])
        for f in (block.ffn for block in begun.blocks)
    ]
    next(training)
    for name, index in (("w13", 0), ("w2", 1), ("row", 2)):
        got = training._parts[name].grad
        want = torch.stack([of_layer[index] for of_layer in gradients])
        # The gradients were clipped together: one factor for all of them.
        factor = float(got.norm() / want.norm())
        assert torch.allclose(got, want * factor, rtol=1e-4, atol=1e-7)
        assert factor <= 1.0 + 1e-5


def test_saved_given_to_a_friend_and_plugged_in(tmp_path):
    model = small()
    _, expert = trained(model, rank=2, name="my notes")
    expert.save(tmp_path / "mine.safetensors")
    again = OwnExpert.load(tmp_path / "mine.safetensors")
    assert (again.name, again.rank, again.start) == ("my notes", 2, expert.start)
    friend = small()
    assert torch.equal(
        logits(Plugged(friend).plug(again).model), logits(Plugged(model).plug(expert).model)
    )
    (tmp_path / "mine.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a readable"):
        OwnExpert.load(tmp_path / "mine.safetensors")


def test_two_at_once_and_the_first_taken_out():
    model = small()
    _, first = trained(model, name="a")
    _, second = trained(model, name="b", seed=1)
    both = Plugged(model).plug(first).plug(second)
    assert both.names == ("a", "b") and both.model.config.moe.num_experts == 6
    assert torch.equal(logits(both.unplug("a").model), logits(Plugged(model).plug(second).model))


def test_what_is_refused():
    model, corpus = small(), load_corpus()
    _, expert = trained(model)
    plugged = Plugged(model).plug(expert)
    with pytest.raises(ValueError, match="'mine' is plugged in already"):
        plugged.plug(expert)
    with pytest.raises(ValueError, match="trained for another model"):
        Plugged(small(seed=1)).plug(expert)
    with pytest.raises(ValueError, match="No expert called 'yours' is plugged in; there is mine"):
        plugged.unplug("yours")
    with pytest.raises(ValueError, match="has 100 tokens; give one of 128 or more"):
        OwnTraining(model, TEXT[:100], corpus)
    with pytest.raises(ValueError, match="rank must be"):
        OwnTraining(model, TEXT, corpus, rank=13)
    for router in ("hash", "expert_choice", "deepseek_v3", "soft_moe"):
        with pytest.raises(ValueError, match=f"No row can be added to the router '{router}'"):
            OwnTraining(small(router), TEXT, corpus)
    dense = LanguageModel(ModelConfig(d_model=16, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="This model is dense"):
        OwnTraining(dense, TEXT, corpus)
    assert len(trained(model)[0]) == 12
