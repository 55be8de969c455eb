"""Trained experts split into exact pieces, and merged again: the same logits."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.model.config import ModelConfig
from moeviz.model.experts import swiglu
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.routing import Capacity
from moeviz.surgery.split import merge_bank, merge_pieces, split_bank, split_experts

TEXT_BS = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(0))


def model_of(moe, seed=0, **changes):
    """A small model whose gates tell experts apart."""
    torch.manual_seed(seed)
    options = {"vocab_size": 50, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24}
    model = LanguageModel(ModelConfig(moe=moe, **options | changes)).eval()
    for router in model.routers().values():
        inner = getattr(router, "router", router)
        torch.nn.init.normal_(inner.weight_ED)
        if getattr(inner, "bias", None) is not None:
            inner.bias.bias_E.normal_(std=0.1)
    return model


def logits(model):
    with torch.no_grad():
        return model(TEXT_BS).logits


WAYS = st.fixed_dictionaries(
    {
        "score": st.sampled_from(("softmax", "sigmoid")),
        "weighting": st.sampled_from(("raw", "renormalise")),
        "bias": st.sampled_from(("none", "sign", "quantile")),
        "scale": st.sampled_from((1.0, 2.5)),
    }
)


@settings(max_examples=12, deadline=None)
@given(WAYS, st.sampled_from((1, 2, 3, 6)), st.integers(1, 2), st.integers(0, 2),
       st.sampled_from((None, 1.0)), st.integers(0, 99))  # fmt: skip
def test_pieces_give_the_same_logits(options, m, top_k, shared, ffn_scale, seed):
    gate = ("one", "sigmoid", "softmax")[seed % 3] if shared else "one"
    moe = MoEConfig(4, 2 * top_k, 12, options=options, num_shared=shared, shared_gate=gate)
    model = model_of(moe, seed, ffn_scale=ffn_scale)
    split = split_experts(model, m)
    new = split.config.moe
    assert (new.num_experts, new.top_k, new.d_expert) == (4 * m, 2 * top_k * m, 12 // m)
    assert new.num_shared * new.d_expert == shared * 12
    torch.testing.assert_close(logits(split), logits(model), rtol=2e-4, atol=2e-5)
    assert split.num_parameters() - model.num_parameters() == 2 * 4 * (m - 1) * 16
    back = merge_pieces(split, m)
    assert (back.config.moe.num_experts, back.config.moe.d_expert) == (4, 12)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], value, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(logits(back), logits(model), rtol=2e-4, atol=2e-5)


@given(st.integers(1, 3), st.sampled_from((1, 2, 3, 4)), st.integers(0, 999))
def test_a_bank_is_cut_and_put_together_again(experts, m, seed):
    rng = torch.Generator().manual_seed(seed)
    w13_E2FD = torch.randn(experts, 24, 5, generator=rng, dtype=torch.float64)
    w2_EDF = torch.randn(experts, 5, 12, generator=rng, dtype=torch.float64)
    x_TD = torch.randn(7, 5, generator=rng, dtype=torch.float64)
    w13, w2 = split_bank(w13_E2FD, w2_EDF, m)
    for e in range(experts):
        whole_TD = swiglu(x_TD @ w13_E2FD[e].T) @ w2_EDF[e].T
        pieces = range(e * m, (e + 1) * m)
        sum_TD = sum(swiglu(x_TD @ w13[p].T) @ w2[p].T for p in pieces)
        torch.testing.assert_close(sum_TD, whole_TD)
    for merged, before in zip(merge_bank(w13, w2, m), (w13_E2FD, w2_EDF), strict=True):
        assert torch.equal(merged, before)


@pytest.mark.parametrize("name", ("deepseek_v2", "quantile_balanced", "deepseek_v3"))
def test_other_routers_of_the_best_scores_are_split_too(name):
    options = {"num_groups": 1} if name == "deepseek_v3" else {}
    model = model_of(MoEConfig(8, 2, 4, router=name, options=options))
    torch.testing.assert_close(logits(split_experts(model, 2)), logits(model), rtol=2e-4, atol=2e-5)


def test_groups_stay_where_their_default_would_change():
    model = model_of(MoEConfig(4, 2, 4, router="deepseek_v2"))
    split = split_experts(model, 2)
    assert split.routers()[0].num_groups == 1
    torch.testing.assert_close(logits(split), logits(model), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("priority", ("position", "choice", "probability", "batch"))
def test_a_capacity_drops_the_same_tokens(priority):
    capacity = Capacity(0.6, eval_factor=0.6, priority=priority)
    model = model_of(MoEConfig(4, 2, 6, capacity=capacity))
    with torch.no_grad():
        dropped = model(TEXT_BS).routes[0].plan.dropped
    assert len(dropped)
    torch.testing.assert_close(logits(split_experts(model, 3)), logits(model), rtol=2e-4, atol=2e-5)


def test_the_model_that_was_given_stays_and_pieces_learn_apart():
    model = model_of(MoEConfig(4, 2, 6, options={"weighting": "raw"}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    split = split_experts(model, 2)
    split.train()(TEXT_BS).logits.square().mean().backward()
    gate_ED = split.blocks[0].ffn.router.weight_ED
    assert not torch.equal(gate_ED.grad[0], gate_ED.grad[1])
    with torch.no_grad():
        gate_ED -= gate_ED.grad
    with pytest.raises(ValueError, match=r"no pieces of 2 each.*nothing trained since"):
        merge_pieces(split, 2)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("moe", "m", "words"),
    [
        (None, 2, "has no experts"),
        (MoEConfig(4, 2, 6), 4, "must divide the width of an expert, 6, got 4"),
        (MoEConfig(4, 2, 6), 0, "m must be a whole number of at least 1, got 0"),
        (MoEConfig(4, 2, 6, router="hash"), 2, "'hash' does not send a token to the K best"),
        (MoEConfig(4, 2, 6, router="expert_choice"), 2, "'expert_choice' does not send"),
        (MoEConfig(4, 2, 6, router="soft_moe"), 2, "'soft_moe' does not send"),
        (MoEConfig(8, 2, 6, router="deepseek_v3"), 2, "two pieces of one would be taken for two"),
    ],
)
def test_what_cannot_be_exact_is_refused(moe, m, words):
    model = LanguageModel(ModelConfig(50, 16, 1, 2, 24, moe))
    with pytest.raises(ValueError, match=words):
        split_experts(model, m)


@pytest.mark.parametrize("changes", ({"num_experts": 6}, {"top_k": 3}, {"num_shared": 1}))
def test_pieces_are_merged_whole(changes):
    moe = dataclasses.replace(MoEConfig(8, 4, 6, num_shared=4), **changes)
    with pytest.raises(ValueError, match=r"m must divide the number of .*, got 4\."):
        merge_pieces(model_of(moe), 4)
