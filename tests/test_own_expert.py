"""surgery.own_expert: one expert more that is trained alone, plugged in, and unplugged again."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from moeviz.model import LanguageModel, ModelConfig, MoEConfig
from moeviz.records.own_runs import unmeasured
from moeviz.records.store import save_arrays
from moeviz.surgery.added_experts import fingerprint
from moeviz.surgery.own_expert import OwnExpert, Plugged
from moeviz.surgery.own_training import OwnTraining, text_loss
from moeviz.text.corpus import load_corpus
from moeviz.text.own_texts import GRID, TEXTS, own_text
from moeviz.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.default()
TEXT = np.tile(np.arange(40, 90), 8)  # 400 tokens, easily learnt


def small(router="token_choice", seed=0, d_expert=12, **options):
    torch.manual_seed(seed)
    moe = MoEConfig(4, 2, d_expert, router=router, options=options)
    return LanguageModel(ModelConfig(d_model=16, num_layers=2, num_heads=2, moe=moe, ffn_scale=1.0))


def trained(model, **settings):
    training = OwnTraining(model, TEXT, load_corpus(), **({"steps": 12} | settings))
    return list(training), training.expert()


def logits(model, ids=TEXT[None, :30]):
    with torch.no_grad(), model.evaluating():
        return model(torch.from_numpy(ids)).logits


def test_what_is_not_trained_yet_has_no_looks_and_no_figures():
    run = unmeasured("mine", "whole", 300, ("a", "b"), (0, 1, 2))
    for looks in (run.loss, run.loss_step, run.visits, run.visits_elsewhere, run.chose):
        assert len(looks) == 0
    assert run.rows == ("mine", "a", "b") and np.isnan(run.before).tolist() == 3 * [True]
    assert not run.measured and (run.step, run.steps, run.num_bytes) == (0, 300, 0)


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("options", [{}, {"weighting": "raw"}, {"score": "sigmoid"}])
def test_it_learns_its_text_and_leaves_the_model_as_it_was(rank, options):
    model = small(**options)
    before, said = fingerprint(model), logits(model)
    steps, expert = trained(model, rank=rank, learning_rate=4e-2, replay=1.0)
    assert steps[-1].loss < steps[0].loss - 0.05
    for visits in (v for step in steps for v in (step.visits, step.visits_elsewhere)):
        assert visits.shape == (2,) and (visits >= 0).all() and (visits <= 1).all()
    plugged = Plugged(model, TOKENIZER).plug(expert)
    assert plugged.model.config.moe.num_experts == 5
    assert not torch.equal(logits(plugged.model), said)
    gone = plugged.unplug("mine")
    assert fingerprint(gone.model) == fingerprint(model) == before
    assert torch.equal(logits(gone.model), said)


def test_the_models_own_experts_and_rows_stay_bit_for_bit():
    model = small()
    _, expert = trained(model)
    state, grown = model.state_dict(), Plugged(model, TOKENIZER).plug(expert).model.state_dict()
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


def test_what_is_learnt_of_low_rank_is_b_a_to_the_last_bit_from_a_start_drawn_in_this_order():
    """What was recorded under a seed is found again: A of w13 is drawn before that of w2."""
    model, generator = small(), torch.Generator().manual_seed(5)
    training = OwnTraining(model, TEXT, load_corpus(), rank=2, seed=5, steps=2)
    begun = training.expert().arrays
    for name, rows, columns in (("13", 24, 16), ("2", 16, 12)):
        a = torch.randn(2, 2, columns, generator=generator) * columns**-0.5
        assert np.array_equal(begun[f"a{name}"], a.numpy())
        assert begun[f"b{name}"].shape == (2, rows, 2) and not begun[f"b{name}"].any()
    for _ in training:
        pass
    expert = training.expert()
    parts = {name: torch.from_numpy(array) for name, array in expert.arrays.items()}
    for place, weights in enumerate(expert.weights(model)):
        ffn, first = model.blocks[place].ffn, expert.start[place]
        for new, old, name in zip(weights, (ffn.w13_E2FD, ffn.w2_EDF), ("13", "2"), strict=False):
            assert torch.equal(
                new, old[first] + parts[f"b{name}"][place] @ parts[f"a{name}"][place]
            )
        assert torch.equal(weights[2], parts["row"][place])


def test_the_gradient_is_that_of_the_grown_model():
    """One plain AdamW step on a grown model's own tensors, whose other rows are put back."""
    model, corpus = small(), load_corpus()
    training = OwnTraining(model, TEXT, corpus, steps=1, replay=0.5, seed=3)
    begun = Plugged(model, TOKENIZER).plug(training.expert()).model.train()
    ids = torch.from_numpy(training.batch(0))
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
    assert (again.name, again.rank, again.content) == ("my notes", 2, expert.content)
    friend = small()
    theirs, ours = (
        Plugged(m, TOKENIZER).plug(e).model for m, e in ((friend, again), (model, expert))
    )
    torch.testing.assert_close(logits(theirs), logits(ours))
    (tmp_path / "mine.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a readable"):
        OwnExpert.load(tmp_path / "mine.safetensors")


def test_two_at_once_and_the_first_taken_out():
    model = small()
    _, first = trained(model, name="a")
    _, second = trained(model, name="b", seed=1)
    both = Plugged(model, TOKENIZER).plug(first).plug(second)
    assert both.names == ("a", "b") and both.model.config.moe.num_experts == 6
    alone = Plugged(model, TOKENIZER).plug(second)
    assert torch.equal(logits(both.unplug("a").model), logits(alone.model))


def test_what_is_refused_leaves_the_model_as_it_was():
    model, corpus = small(), load_corpus()
    before = fingerprint(model)
    _, expert = trained(model, steps=1)
    plugged = Plugged(model, TOKENIZER).plug(expert)
    with pytest.raises(ValueError, match="'mine' is plugged in already"):
        plugged.plug(expert)
    with pytest.raises(ValueError, match="'copy' is plugged in already, under the name 'mine'"):
        plugged.plug(dataclasses.replace(expert, name="copy"))
    with pytest.raises(ValueError, match="another model of the same shape"):
        Plugged(small(seed=1), TOKENIZER).plug(expert)
    with pytest.raises(ValueError, match="another tokenizer"):
        Plugged(model, TOKENIZER).plug(dataclasses.replace(expert, tokenizer="0" * 64))
    _, narrow = trained(small(d_expert=8), steps=1)
    with pytest.raises(ValueError, match="for 2 MoE layers of width 16 with experts of width 8; "):
        Plugged(model, TOKENIZER).plug(narrow)
    with pytest.raises(ValueError, match="No expert called 'yours' is plugged in; there is mine"):
        plugged.unplug("yours")
    with pytest.raises(ValueError, match="No expert called 'mine' is plugged in; there is none"):
        plugged.unplug("mine").unplug("mine")
    with pytest.raises(ValueError, match="has 255 tokens; give one of 256 or more"):
        OwnTraining(model, TEXT[:255], corpus)
    with pytest.raises(ValueError, match="rank must be a whole number .* at most 12, got 13"):
        OwnTraining(model, TEXT, corpus, rank=13)
    with pytest.raises(ValueError, match="name must be words of at most 40 letters"):
        OwnTraining(model, TEXT, corpus, name=" ")
    for router in ("hash", "expert_choice", "deepseek_v3", "soft_moe"):
        with pytest.raises(ValueError, match=f"No row can be added to the router '{router}'"):
            OwnTraining(small(router), TEXT, corpus)
    dense = LanguageModel(ModelConfig(d_model=16, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="This model is dense"):
        OwnTraining(dense, TEXT, corpus)
    assert fingerprint(model) == before and plugged.names == ("mine",)


def changed(arrays, **new):
    return {name: array for name, array in (arrays | new).items() if array is not None}


@pytest.mark.parametrize(
    ("header", "arrays", "words"),
    [
        ({"rank": None}, {}, "not the shapes of a whole expert"),
        ({"rank": 3}, {}, "not the shapes of an expert of rank 3"),
        ({"rank": "2"}, {}, "rank must be a whole number"),
        ({"start": [0]}, {}, "not the shapes of"),
        ({"start": [0, -1]}, {}, "start must be a whole number of at least 0"),
        ({"name": ""}, {}, "name must be words"),
        ({}, {"row": np.full((2, 16), np.nan, np.float32)}, "finite numbers in float32"),
        ({}, {"row": np.zeros((2, 16))}, "finite numbers in float32"),
        ({}, {"row": None}, "does not fit this version"),
        ({}, {"more": np.zeros(2, np.float32)}, "not the shapes of"),
    ],
)
def test_a_file_whose_parts_do_not_fit_each_other_is_refused_in_one_sentence(
    header, arrays, words, tmp_path
):
    expert = OwnTraining(small(), TEXT, load_corpus(), rank=2).expert()
    values = {k: getattr(expert, k) for k in ("name", "base", "tokenizer", "start", "rank")}
    path = tmp_path / "made.safetensors"
    save_arrays(path, expert.arrays, values, kind="own expert")
    assert OwnExpert.load(path).content == expert.content
    save_arrays(path, changed(expert.arrays, **arrays), values | header, kind="own expert")
    with pytest.raises(ValueError, match=words) as refusal:
        OwnExpert.load(path)
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)
    save_arrays(path, expert.arrays, values, kind="model")
    with pytest.raises(ValueError, match="of the kind 'model'; here 'own expert' is needed"):
        OwnExpert.load(path)


def test_without_replay_nothing_is_known_of_other_text():
    steps, _ = trained(small(), steps=2, replay=0.0)
    assert all(np.isnan(step.visits_elsewhere).all() for step in steps)


def test_experts_that_were_killed_stay_so_in_the_grown_model():
    model = small()
    model.routers()[1].kill(2)
    _, expert = trained(model, steps=1)
    with torch.no_grad():
        route = Plugged(model, TOKENIZER).plug(expert).model(torch.from_numpy(TEXT[None])).routes[1]
    assert route.plan.load()[2] == 0 < route.plan.load().sum()


@pytest.mark.parametrize("length", [2, 40, 65, 64, 200])
def test_the_loss_of_a_text_is_that_of_its_pieces_one_by_one(length):
    model, ids = small(), TEXT[:length]
    step, nats = min(64, length - 1), []
    for first in range(0, length - step, step):
        piece = torch.from_numpy(ids[first : first + step + 1])
        nats.append(F.cross_entropy(logits(model, ids[None, first : first + step])[0], piece[1:]))
    assert text_loss(model, ids) == pytest.approx(float(torch.stack(nats).mean()), rel=1e-5)


def test_every_text_that_ships_is_long_enough_and_told():
    for name in (*TEXTS, *GRID):
        assert len(TOKENIZER.encode(own_text(name))) >= 2200, name
    with pytest.raises(ValueError, match="text must be one of notes, "):
        own_text("mine")
