"""Dense training and sparse answers, and experts in some layers alone: what is recorded of them."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moeviz.experiments import dense_training, hybrids
from moeviz.experiments.dense_training import ARMS, CUTS, MIXTURES, answering, covered
from moeviz.experiments.recording import small_model
from moeviz.model.transformer import LanguageModel
from moeviz.routing import RouteContext
from moeviz.text.corpus import Batch

T, D = 24, 64


@pytest.fixture(scope="module")
def mixture():
    torch.manual_seed(3)
    model = LanguageModel(dataclasses.replace(small_model(ARMS["narrow, 0.1"]), vocab_size=50))
    with torch.no_grad():  # a gate that has opinions
        for router in model.routers().values():
            router.weight_ED.mul_(20)
    return model


@pytest.mark.parametrize("weighting", ["raw", "renormalise"])
@pytest.mark.parametrize("top_k", CUTS)
@torch.no_grad()
def test_the_cut_model_sums_the_k_best_experts_of_the_trained_one(mixture, top_k, weighting):
    x_TD = torch.randn(T, D, generator=torch.Generator().manual_seed(top_k))
    trained = mixture.blocks[0].ffn
    want_TD = torch.zeros(T, D)
    for t in range(T):
        share_E = torch.softmax(trained.router.weight_ED @ x_TD[t], 0)
        best_K = share_E.argsort(descending=True)[:top_k]
        total = share_E[best_K].sum() if weighting == "renormalise" else 1.0
        for e in best_K:
            up_F, gate_F = (trained.w13_E2FD[e] @ x_TD[t]).chunk(2)
            for_F = F.silu(up_F) * gate_F
            want_TD[t] += share_E[e] / total * (trained.w2_EDF[e] @ for_F)
    cut = answering(mixture, top_k, weighting)
    got_TD, route = cut.blocks[0].ffn(x_TD, RouteContext())
    torch.testing.assert_close(got_TD, want_TD * trained.factor_P[0], rtol=1e-4, atol=1e-5)
    assert len(route.plan.token) == T * top_k
    if top_k == 16:
        ids_BS = torch.arange(40).view(2, 20)
        torch.testing.assert_close(cut(ids_BS).logits, mixture(ids_BS).logits)


def test_a_cut_leaves_the_trained_model_and_the_random_numbers_as_they_are(mixture):
    torch.manual_seed(5)
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in mixture.state_dict().items()}
    answering(mixture, 1, "renormalise")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in mixture.state_dict().items())


def test_covered_is_the_share_of_the_k_largest_weights(mixture):
    ids = np.random.default_rng(0).integers(50, size=(3, 9))
    found = covered(mixture, Batch(ids, np.zeros(3, int)))
    with torch.no_grad():
        routes = mixture(torch.from_numpy(ids)[:, :-1]).routes
    scores_NE = np.concatenate([route.scores.numpy() for route in routes])
    for k in CUTS:
        want = np.partition(scores_NE, 16 - k, axis=1)[:, 16 - k :].sum(1).mean()
        assert found[str(k)] == pytest.approx(want, abs=1e-5)


def figures_of(loss, cost):
    """A run whose every expert left out costs so much, renormalised half of it."""
    raw = {str(k): loss + cost * (16 - k) for k in CUTS}
    half = {str(k): loss + cost * (16 - k) / 2 for k in CUTS}
    return {"loss": loss, "raw": raw, "renormalised": half}


def test_the_tables_of_dense_training_compare_what_they_name():
    seeds = np.arange(3)
    cost = dict(zip(MIXTURES, (0.03, 0.02, 0.01, 0.005), strict=True))
    runs = {"dense": [{"loss": 3 + 0.1 * seed} for seed in seeds]}
    for arm in ("sparse", *MIXTURES):
        runs[arm] = [figures_of(2.9 + 0.1 * seed, cost.get(arm, 0.0)) for seed in seeds]
    for figures in runs["sparse"]:
        del figures["raw"]
    found = dense_training.summary(runs)
    assert found["seeds"] == [0, 1, 2]
    assert len(found["minus_dense"]) == 5 + 4 * 10 and len(found["rise"]) == 4 * 8
    assert found["minus_dense"]["narrow, 0, raw, 1"]["mean"] == pytest.approx(-0.1 + 0.45)
    assert found["minus_dense"]["sparse, renormalised, 4"]["mean"] == pytest.approx(-0.1)
    assert found["rise"]["wide, 0.1, renormalised, 8"]["mean"] == pytest.approx(0.02)
    assert found["information"]["2, 0.1"]["mean"] == pytest.approx(14 * (0.01 - 0.03))
    assert found["information"]["2, 0.1"]["verdict"] == "lower"


def test_experts_in_a_layer_are_judged_over_the_choices_of_the_others():
    draw, gain = np.random.default_rng(1), (0.10, 0.04, 0.01)
    runs = {
        name: [{"loss": 3 + luck - sum(gain[n] for n in layers)} for luck in draw.normal(size=4)]
        for name, layers in hybrids.CHOICES.items()
    }
    found = hybrids.summary(runs)
    losses = {name: np.array([run["loss"] for run in seeds]) for name, seeds in runs.items()}
    for layer in range(3):
        pairs = []
        for name, layers in hybrids.CHOICES.items():
            if layer not in layers:
                other = hybrids.name_of(tuple(sorted((*layers, layer))))
                pairs.append(losses[other] - losses[name])
        want = np.mean(pairs, axis=0)
        assert found["layer"][str(layer)]["values"] == pytest.approx(want, abs=1e-4)
    gap = np.subtract(*(found["layer"][n]["values"] for n in ("0", "2")))
    assert found["between"]["0 - 2"]["values"] == pytest.approx(gap, abs=3e-4)
    assert set(found["minus_dense"]) == {"0", "1", "2", "0 1", "0 2", "1 2", "0 1 2"}


def test_every_choice_of_layers_costs_a_token_as_much_within_two_percent():
    models = {name: hybrids.model_with(layers) for name, layers in hybrids.CHOICES.items()}
    flops = {name: model.flops_per_token(64) for name, model in models.items()}
    assert all(flops["none"] <= value <= 1.02 * flops["none"] for value in flops.values())
    assert {name: model.moe_layers for name, model in models.items()} == hybrids.CHOICES


def test_the_narrow_mixture_costs_what_its_dense_twin_costs():
    flops = {arm: small_model(experts).flops_per_token(64) for arm, experts in ARMS.items()}
    for arm in ("sparse", *MIXTURES[:-1]):
        assert flops["dense"] <= flops[arm] <= 1.02 * flops["dense"]
    assert 3.4 < flops["wide, 0.1"] / flops["dense"] < 3.6
