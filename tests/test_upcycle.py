"""Grown models: answers of the dense one, copies, draws anew, and what parts copies in training."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.routers import DISCRETE, SOFT
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.routing import ROUTERS, Capacity, RouteContext
from moeviz.surgery.split import split_experts
from moeviz.surgery.upcycle import expert_cosine, totals, upcycled

VOCAB, WIDTH, D = 50, 24, 16
TEXT_BS = torch.randint(VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))
# Whose weights sum to the same for every token, whatever the text; and some of which they do not.
CONSTANT = {
    "token_choice", "noisy_topk", "deepseek_v3", "quantile_balanced", "hash", "dense_mixture",
    "sequence_level",
}  # fmt: skip
VARYING = {"switch", "deepseek_v2", "expert_choice", "remoe", "mixture_of_depths", "base"}
NO_COPY = {"null_experts"}


def dense_model(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCAB, "d_model": D, "num_layers": 2, "num_heads": 2, "d_ff": WIDTH}
    return LanguageModel(ModelConfig(**sizes | changes)).eval()


def experts(router="token_choice", num_experts=4, top_k=2, **changes):
    options = {"vocab_size": VOCAB} if router == "hash" else {}
    with warnings.catch_warnings():  # with K = 1 some weights teach a gate nothing
        warnings.simplefilter("ignore")
        return MoEConfig(
            num_experts, top_k, WIDTH, router=router, options=options | changes.pop("options", {}),
            **changes,
        )  # fmt: skip


def logits(model):
    with torch.no_grad():
        return model(TEXT_BS).logits


def ffn_by_hand(ffn, x_TD):
    """The FFN from its definition, in float64."""
    w13_2FD, w2_DF = ffn.w13_2FD.double(), ffn.w2_DF.double()
    gate_FD, up_FD = w13_2FD[: len(w13_2FD) // 2], w13_2FD[len(w13_2FD) // 2 :]
    x_TD = x_TD.double()
    gate_TF = x_TD @ gate_FD.T
    scale = 1.0 if ffn.scale is None else ffn.scale
    return scale * ((gate_TF / (1 + torch.exp(-gate_TF)) * (x_TD @ up_FD.T)) @ w2_DF.T)


@pytest.mark.parametrize("ffn_scale", [None, 0.7])
@pytest.mark.parametrize("name", [name for name in DISCRETE if name not in NO_COPY])
def test_a_token_gets_its_sum_of_weights_times_the_ffn(name, ffn_scale):
    """The rule of every router that sends whole tokens, layer by layer against the definition."""
    dense = dense_model(ffn_scale=ffn_scale)
    grown = upcycled(dense, experts(name, 4, 1 if name == "base" else 2), seed=3).eval()
    x_TD = torch.randn(36, D, generator=torch.Generator().manual_seed(1))
    ids = torch.arange(36)
    context = RouteContext(
        token_ids=ids % VOCAB, previous_ids=ids - 1, sequence=ids // 12, position=ids % 12
    )
    for old, new in zip(dense.blocks, grown.blocks, strict=True):
        with torch.no_grad():
            y_TD, route = new.ffn(x_TD, context)
        # c is one number: how much louder the FFN's W2 is than the copies'.
        c = float((old.ffn.w2_DF.norm() / new.ffn.w2_EDF[0].norm()).detach())
        want_TD = totals(route.plan)[:, None].double() / c * ffn_by_hand(old.ffn, x_TD)
        torch.testing.assert_close(y_TD.double(), want_TD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in DISCRETE if name not in NO_COPY])
def test_it_answers_like_the_dense_one_where_the_sum_of_weights_is_constant(name):
    dense = dense_model(ffn_scale=1.0)
    grown = upcycled(dense, experts(name, 4, 1 if name == "base" else 2), seed=3)
    alike = torch.allclose(logits(grown), logits(dense), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        sums = [totals(route.plan) for route in grown(TEXT_BS).routes]
    assert alike == all(float(s_T.max() - s_T.min()) < 1e-5 for s_T in sums)
    assert alike or name not in CONSTANT
    assert not alike or name not in VARYING
    assert not grown.training and grown.num_parameters() > dense.num_parameters()


@settings(max_examples=15, deadline=None)
@given(
    num_experts=st.integers(1, 6), top_k=st.integers(1, 6), scale=st.sampled_from((1.0, 2.5)),
    score=st.sampled_from(("softmax", "sigmoid")), ffn_scale=st.sampled_from((None, 1.0, 0.5)),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_renormalised_copies_give_the_same_logits(
    num_experts, top_k, scale, score, ffn_scale, seed
):
    options = {"score": score, "scale": scale}
    moe = experts(num_experts=num_experts, top_k=min(top_k, num_experts), options=options)
    dense = dense_model(seed, ffn_scale=ffn_scale)
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    state = torch.random.get_rng_state()
    grown = upcycled(dense, moe, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(logits(grown), logits(dense), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in dense.state_dict().items())
    again = upcycled(dense, moe, seed=seed).state_dict()
    assert all(torch.equal(again[name], value) for name, value in grown.state_dict().items())
    # A file keeps all of it: a model of the same configuration takes the state and answers alike.
    fresh = LanguageModel(grown.config).eval()
    fresh.load_state_dict(grown.state_dict())
    assert torch.equal(logits(fresh), logits(grown))


def test_finer_experts_are_pieces_of_grown_ones():
    """Virtual groups (He et al. 2024): the pieces of an expert share its row of the gate."""
    dense = dense_model()
    fine = split_experts(upcycled(dense, experts()), 3)
    assert fine.config.moe.d_expert == WIDTH // 3 and fine.config.moe.top_k == 6
    torch.testing.assert_close(logits(fine), logits(dense), rtol=1e-4, atol=1e-5)


def test_dropped_tokens_get_nothing():
    dense = dense_model()
    moe = experts(capacity=Capacity(0.5))
    grown = upcycled(dense, moe)
    torch.testing.assert_close(logits(grown), logits(dense), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        out = grown.train()(TEXT_BS)  # outside training nothing is dropped
    assert (totals(out.routes[0].plan) == 0).any()
    assert not torch.allclose(out.logits, logits(dense), atol=1e-3)


# Made different from the start.


def neurons(w13_2FD, w2_DF):
    """[F, 3 D]: each neuron with its rows and its column."""
    return torch.cat((*w13_2FD.chunk(2), w2_DF.T), dim=1).detach()


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_so_many_neurons_are_drawn_anew_and_the_others_are_the_ffns(share):
    dense = dense_model(d_ff=WIDTH)
    grown = upcycled(dense, experts(), drop=share, seed=1)
    chosen = []
    for old, new in zip(dense.blocks, grown.blocks, strict=True):
        kept = neurons(old.ffn.w13_2FD, old.ffn.w2_DF)
        for e in range(4):
            own = neurons(new.ffn.w13_E2FD[e], new.ffn.w2_EDF[e])
            same_FN = own == kept
            same_F = same_FN.all(1)
            assert (same_F | ~same_FN.any(1)).all(), "a neuron is drawn anew as a whole"
            assert int((~same_F).sum()) == round(share * WIDTH)
            chosen.append(tuple(same_F.tolist()))
    assert len(set(chosen)) == (1 if share == 1 else len(chosen)), "others in every expert"


def test_what_is_drawn_has_the_statistics_of_what_it_replaces():
    """Mean and deviation of each matrix are its own: here they are far apart."""
    dense = dense_model(d_ff=2000)
    means, deviations = (0.5, -2.0, 3.0), (0.1, 1.0, 0.3)
    with torch.no_grad():
        ffn = dense.blocks[0].ffn
        parts = (*ffn.w13_2FD.chunk(2), ffn.w2_DF)
        for part, mean, deviation in zip(parts, means, deviations, strict=True):
            part.copy_(mean + deviation * torch.randn(part.shape))
    moe = MoEConfig(2, 1, 2000, options={"weighting": "raw", "init_scale": 1e-9})
    grown = upcycled(dense, moe, drop=0.5)
    new = grown.blocks[0].ffn
    kept = neurons(ffn.w13_2FD, ffn.w2_DF)
    own = neurons(new.w13_E2FD[0], new.w2_EDF[0] / 2)  # c is 1/2: of two raw weights one counts
    drawn = own[~torch.isclose(own[:, :D], kept[:, :D]).all(1)]
    assert len(drawn) == 1000
    for part, mean, deviation in zip(drawn.chunk(3, dim=1), means, deviations, strict=True):
        assert float(part.mean()) == pytest.approx(mean, abs=4 * deviation / len(part) ** 0.5)
        assert float(part.std()) == pytest.approx(deviation, rel=0.05)


@settings(max_examples=8, deadline=None)
@given(st.floats(0, 1), st.integers(0, 20))
def test_the_cosine_of_experts_falls_as_the_square_of_what_is_kept(share, seed):
    """Two experts have (1 - r)^2 of their neurons in common, and weights here have mean 0."""
    dense = dense_model(seed, d_ff=600)
    grown = upcycled(dense, MoEConfig(3, 2, 600), drop=share, seed=seed)
    cosine_EE = expert_cosine(grown.blocks[0].ffn)
    kept = 1 - round(share * 600) / 600
    apart = cosine_EE[~torch.eye(3, dtype=torch.bool)]
    assert apart.mean().item() == pytest.approx(kept**2, abs=0.05)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_noise_is_a_share_of_each_matrix(share):
    dense = dense_model(d_ff=400)
    with torch.no_grad():
        dense.blocks[0].ffn.w2_DF.mul_(30)
    grown = upcycled(dense, MoEConfig(3, 2, 400), noise=share)
    old, new = dense.blocks[0].ffn, grown.blocks[0].ffn
    for before, after in zip(
        (*old.w13_2FD.chunk(2), old.w2_DF), (*new.w13_E2FD.chunk(2, dim=1), new.w2_EDF), strict=True
    ):
        noise_E = (after - before).std(dim=(1, 2))
        torch.testing.assert_close(noise_E, (share * before.std()).expand(3), rtol=0.05, atol=0)
    assert float(expert_cosine(new)[0, 1].detach()) == pytest.approx(1 / (1 + share**2), abs=0.02)


def test_the_cosine_against_numpy():
    grown = upcycled(dense_model(), experts(), drop=0.5, noise=0.1)
    ffn = grown.blocks[1].ffn
    flat = [
        np.concatenate([ffn.w13_E2FD[e].detach().numpy().ravel(),
                        ffn.w2_EDF[e].detach().numpy().ravel()])
        for e in range(4)
    ]  # fmt: skip
    want = [[a @ b / np.sqrt(a @ a * (b @ b)) for b in flat] for a in flat]
    np.testing.assert_allclose(expert_cosine(ffn).numpy(), want, atol=1e-5)


# What parts copies in training.


def train(model, steps, rate=1e-2):
    """AdamW on the text's loss and on both losses of the routers."""
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    model.train()
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        ids_BS = torch.randint(VOCAB, (4, 13), generator=generator)
        out = model(ids_BS[:, :-1], targets_BS=ids_BS[:, 1:])
        loss = out.loss.mean()
        for route in out.routes:
            loss = loss + 0.01 * sum(route.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def apart(model):
    """1 minus the cosine of the two least like experts, in any layer."""
    return max(1 - float(expert_cosine(block.ffn).min()) for block in model.blocks)


def test_copies_under_a_symmetric_gate_stay_copies():
    """All tokens to all experts with equal weights: the gradients are the same, so that nothing
    parts the copies; the gate, whose rows are equal, stays so too. Not to the last bit: a matrix
    product may add up its last rows in another order than the first."""
    grown = upcycled(dense_model(), experts(num_experts=4, top_k=4))
    for router in grown.routers().values():
        torch.nn.init.zeros_(router.weight_ED)
    train(grown, 5)
    for block in grown.blocks:
        for bank in (block.ffn.w13_E2FD, block.ffn.w2_EDF, block.ffn.router.weight_ED):
            assert float((bank - bank[:1]).detach().abs().max()) < 1e-6  # a step moves by 1e-2


@pytest.mark.parametrize("top_k", [2, 4])
def test_a_gate_with_other_rows_parts_copies_without_noise(top_k):
    """Other tokens (K < E), or the same tokens with other weights (K = E), are enough."""
    grown = upcycled(dense_model(), experts(num_experts=4, top_k=top_k))
    assert apart(grown) < 1e-5  # but for rounding
    assert apart(train(grown, 5)) > 1e-4


def test_the_text_teaches_the_gate_nothing_while_experts_are_equal():
    """Whom it chooses changes nothing then: its gradient is 0 but for rounding. With neurons drawn
    anew it is not."""

    def gradient(drop):
        grown = upcycled(dense_model(), experts(), drop=drop).double().train()
        loss = grown(TEXT_BS[:, :-1], targets_BS=TEXT_BS[:, 1:]).loss.mean()
        loss.backward()
        return max(float(r.weight_ED.grad.abs().max()) for r in grown.routers().values())

    assert gradient(0.0) < 1e-9 < 1e-5 < gradient(0.5)


# Refusals.


def test_what_cannot_grow_is_refused_in_one_sentence():
    dense = dense_model()
    grown = upcycled(dense, experts())
    for model, moe, words in (
        (grown, experts(), "has experts already"),
        (dense, dataclasses.replace(experts(), d_expert=12), "width 24, got d_expert = 12"),
        (dense, experts(num_shared=1), "num_shared = 0"),
        *((dense, experts(name), f"'{name}' mixes tokens") for name in SOFT),
        *((dense, experts(name), f"'{name}' has experts without an FFN") for name in NO_COPY),
    ):
        with pytest.raises(ValueError, match=words) as refused:
            upcycled(model, moe)
        assert str(refused.value).count(". ") == 0, "one sentence"
    for name, value in (("noise", -0.1), ("noise", float("nan")), ("drop", 1.1), ("drop", -0.1)):
        with pytest.raises(ValueError, match=name):
            upcycled(dense, experts(), **{name: value})
    assert {*DISCRETE, *SOFT} == {*ROUTERS}  # every router is in one of the lists above
