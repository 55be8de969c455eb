"""surgery.mix: models that learned apart, put together as experts, as whole models, as one."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from moeviz.model import LanguageModel, ModelConfig, MoEConfig
from moeviz.model.experts import swiglu
from moeviz.routing import RouteContext, build_router
from moeviz.surgery.mix import (
    TextRouter,
    as_experts,
    average,
    best_alone,
    by_prompt_loss,
    mixed_loss,
    send_all_to,
    token_losses,
    train_text_router,
)

V, D, F, S = 50, 8, 12, 11
DENSE = ModelConfig(vocab_size=V, d_model=D, num_layers=2, num_heads=2, d_ff=F, ffn_scale=0.7)


def model_of(seed=0, config=DENSE, **changes):
    torch.manual_seed(seed)
    return LanguageModel(dataclasses.replace(config, **changes)).eval()


@pytest.fixture(scope="module")
def three():
    return [model_of(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def ids_BS():
    return torch.randint(0, V, (4, S), generator=torch.Generator().manual_seed(1))


def logits(model, ids_BS):
    with torch.no_grad():
        return model(ids_BS).logits


# --- weights put together -------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [None, 0.7])
def test_equal_models_put_together_are_the_model(scale, ids_BS):
    model = model_of(ffn_scale=scale)
    said = logits(model, ids_BS)
    equal = [model] * 3
    assert torch.equal(logits(average(equal), ids_BS), said)
    one = as_experts(equal, router="hash", top_k=1, options={"vocab_size": V})
    torch.testing.assert_close(logits(one, ids_BS), said)
    torch.testing.assert_close(logits(as_experts(equal, top_k=2, seed=4), ids_BS), said)
    raw = as_experts(equal, top_k=2, options={"weighting": "raw"})
    assert not torch.allclose(logits(raw, ids_BS), said, atol=1e-3), "its weights sum to less"


def test_every_weight_of_the_average_is_the_mean(three):
    mean = average(three).state_dict()
    for name, value in mean.items():
        parts = np.stack([model.state_dict()[name].numpy() for model in three])
        np.testing.assert_allclose(value.numpy(), parts.mean(0, dtype=np.float64), rtol=1e-6)
    assert torch.equal(three[0].head.weight, model_of(0).head.weight), "the models stay"


def test_an_expert_is_the_ffn_of_its_model_and_all_else_is_averaged(three, ids_BS):
    mixed, mean = as_experts(three, top_k=2, seed=1), average(three)
    x_TD = torch.randn(6, D)
    for layer, block in enumerate(mixed.blocks):
        assert torch.equal(block.attention.out.weight, mean.blocks[layer].attention.out.weight)
        y_TD, route = block.ffn(x_TD, RouteContext())
        weight_TE = torch.zeros(6, 3)
        weight_TE[route.plan.token.long(), route.plan.expert.long()] = route.plan.weight.detach()
        ffns = [model.blocks[layer].ffn for model in three]
        own_ETD = [swiglu(x_TD @ f.w13_2FD.T) @ f.w2_DF.T * 0.7 for f in ffns]
        wanted = sum(w[:, None] * y for w, y in zip(weight_TE.T, own_ETD, strict=True))
        torch.testing.assert_close(y_TD, wanted)
    before = logits(three[1], ids_BS)
    with torch.no_grad():
        mixed.blocks[0].ffn.w13_E2FD[1].zero_()
    assert torch.equal(logits(three[1], ids_BS), before), "it has weights of its own"


def test_the_seed_draws_the_router_and_nothing_else(three):
    torch.manual_seed(9)
    after = torch.rand(1)
    torch.manual_seed(9)
    one, same, other = (as_experts(three, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), after), "the process's random numbers stay"
    for name in one:
        assert torch.equal(one[name], same[name])
        assert torch.equal(one[name], other[name]) != name.endswith("router.weight_ED"), name


def test_all_tokens_sent_to_one_expert_meet_its_ffn_alone(three, ids_BS):
    mixed = as_experts(three, router="hash", top_k=1, options={"vocab_size": V})
    for expert, model in enumerate(three):
        send_all_to(mixed, expert)
        alone = average(three)
        for layer, block in enumerate(alone.blocks):
            block.ffn = model.blocks[layer].ffn
        torch.testing.assert_close(logits(mixed, ids_BS), logits(alone, ids_BS))


@pytest.mark.parametrize("call", [average, as_experts])
@pytest.mark.parametrize(
    "changes, sentence",
    [
        (None, "at least two models"),
        ({"vocab_size": 60}, "tokenizers differ"),
        ({"d_ff": 13}, "d_ff is 12 here and 13 there"),
        ({"moe": MoEConfig(4, 2, 6)}, "experts of its own"),
    ],
)
def test_what_cannot_be_put_together_is_told_in_a_sentence(call, changes, sentence):
    models = [model_of()] + ([] if changes is None else [model_of(**changes)])
    with pytest.raises(ValueError, match=sentence):
        call(models)


def test_what_cannot_be_sent_to_one_expert_is_told_in_a_sentence(three):
    with pytest.raises(ValueError, match="Only a table of token ids"):
        send_all_to(as_experts(three), 0)
    table = as_experts(three, router="hash", top_k=1, options={"vocab_size": V})
    with pytest.raises(ValueError, match="at most 2, got 3"):
        send_all_to(table, 3)


# --- whole models ---------------------------------------------------------------------------------


def test_a_router_that_always_picks_one_model_gives_it_bit_for_bit(three, ids_BS):
    loss_MBS = torch.stack([token_losses(model, ids_BS) for model in three])
    router = TextRouter(three[0].embedding.weight, 3)
    for m in range(3):
        with torch.no_grad():
            router.bias_M.copy_(torch.eye(3)[m])
        weight = best_alone(router(ids_BS[:, :4]))
        assert torch.equal(mixed_loss(loss_MBS, weight), loss_MBS[m])


def test_a_loss_of_a_token_is_that_of_the_model(three, ids_BS):
    nats_BSV = -logits(three[0], ids_BS[:, :-1]).log_softmax(-1)
    own_BS = nats_BSV.gather(-1, ids_BS[:, 1:, None])[..., 0]
    torch.testing.assert_close(token_losses(three[0], ids_BS), own_BS)


numbers = st.integers(0, 2**32 - 1)


@settings(max_examples=30, deadline=None)
@given(numbers, st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_a_mixture_adds_probabilities(seed, models, texts, tokens):
    rng = np.random.default_rng(seed)
    loss_MBS = rng.exponential(3, (models, texts, tokens))
    log_weight_BM = np.log(softmax(rng.normal(size=(texts, models)) * 3, axis=1))
    wanted = -np.log(np.einsum("bm,mbs->bs", np.exp(log_weight_BM), np.exp(-loss_MBS)))
    found = mixed_loss(torch.from_numpy(loss_MBS), torch.from_numpy(log_weight_BM))
    np.testing.assert_allclose(found.numpy(), wanted)
    # A mean of probabilities: between the models, and better than a mean of their losses.
    assert (found.numpy() <= loss_MBS.max(0) + 1e-9).all()
    even = torch.full((texts, models), -np.log(models), dtype=torch.float64)
    found = mixed_loss(torch.from_numpy(loss_MBS), even).numpy()
    assert (found <= loss_MBS.mean(0) + 1e-9).all()


def test_a_prompt_s_losses_say_who_wrote_it():
    loss_MBP = np.random.default_rng(0).exponential(3, (3, 4, 5))
    found = by_prompt_loss(torch.from_numpy(loss_MBP)).numpy()
    summed = -loss_MBP.sum(-1).T
    np.testing.assert_allclose(found, summed - logsumexp(summed, axis=1, keepdims=True))


def test_the_router_reads_the_mean_of_the_prompt_s_embeddings(three, ids_BS):
    router = TextRouter(three[0].embedding.weight, 3)
    assert torch.equal(router(ids_BS).exp(), router(ids_BS.flip(1)).exp()), "all alike at first"
    with torch.no_grad():
        router.weight_MD.normal_()
        router.bias_M.normal_()
    mean_BD = three[0].embedding.weight.detach().numpy()[ids_BS[:, :4].numpy()].mean(1)
    wanted = softmax(
        mean_BD @ router.weight_MD.detach().numpy().T + router.bias_M.detach().numpy(), 1
    )
    np.testing.assert_allclose(router(ids_BS[:, :4]).exp().detach().numpy(), wanted, rtol=1e-5)
    with pytest.raises(ValueError, match="at least one token"):
        router(ids_BS[:, :0])


def test_training_finds_the_model_for_each_text_and_needs_no_domain():
    """Two kinds of prompts, and each model loses little on one kind alone."""
    table_VD = torch.randn(V, D, generator=torch.Generator().manual_seed(0))
    kind_B = torch.arange(20) % 2
    prompt_BP = torch.where(kind_B[:, None] == 0, 3, 4).expand(-1, 5)
    loss_MBS = torch.where(torch.stack((kind_B == 0, kind_B == 1)), 1.0, 4.0)[:, :, None]
    router = TextRouter(table_VD, 2)
    losses = train_text_router(router, prompt_BP, loss_MBS)
    assert losses[0] == pytest.approx(
        float(mixed_loss(loss_MBS, torch.full((20, 2), 0.5).log()).mean())
    )
    assert losses[-1] < 1.05 < losses[0]
    assert torch.equal(router(prompt_BP).argmax(1), kind_B)


# --- one set of experts for a text ----------------------------------------------------------------


def test_a_prompt_s_experts_do_not_depend_on_what_follows_it():
    torch.manual_seed(0)
    router = build_router("sequence_level", d_model=D, num_experts=6, top_k=2, prompt=3)
    plain = build_router("sequence_level", d_model=D, num_experts=6, top_k=2)
    plain.load_state_dict(router.state_dict())
    x_TD = torch.randn(2 * S, D)
    context = RouteContext(
        sequence=torch.arange(2).repeat_interleave(S), position=torch.arange(S).repeat(2)
    )
    chosen_TE = router(x_TD, context).plan.dense_weights()
    first_T = context.position < 3
    wanted_TE = plain(x_TD[first_T], context.select(first_T)).plan.dense_weights()
    torch.testing.assert_close(chosen_TE[::S], wanted_TE[::3])
    assert (chosen_TE.view(2, S, 6) == chosen_TE.view(2, S, 6)[:, :1]).all()
    other_TD = torch.where(first_T[:, None], x_TD, torch.randn(2 * S, D))
    assert torch.equal(router(other_TD, context).plan.dense_weights(), chosen_TE)
    assert not torch.equal(plain(other_TD, context).scores, plain(x_TD, context).scores)


@pytest.mark.parametrize(
    "context, sentence",
    [
        (RouteContext(), "where it ends"),
        (RouteContext(position=torch.arange(5) + 3), "no prompt to choose by"),
    ],
)
def test_a_prompt_that_is_not_there_is_told_in_a_sentence(context, sentence):
    router = build_router("sequence_level", d_model=D, num_experts=6, top_k=2, prompt=3)
    with pytest.raises(ValueError, match=sentence):
        router(torch.randn(5, D), context)
