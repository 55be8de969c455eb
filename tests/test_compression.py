"""The recording of compression from end to end on a tiny model, and what its tables say."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import scipy.stats
import torch

from moeviz.costs.cost.memory import weight_bytes
from moeviz.experiments import compression, recipes
from moeviz.experiments.compression_claims import AT_HALF, BATCH, BY_REGIME, claims, tables
from moeviz.experiments.killed_experts import losses
from moeviz.experiments.offloaded import experts_in
from moeviz.experiments.quantised import by_domain
from moeviz.experiments.recipes import CRITERIA, MERGES, REAP, RECIPES, share_kept
from moeviz.experiments.recording import recorded_model
from moeviz.experiments.start_here import MODEL
from moeviz.host import read_figures
from moeviz.model import LanguageModel, MoEConfig, architecture_of
from moeviz.model.config import ModelConfig
from moeviz.systems.packed_model import pack_model
from moeviz.text.corpus import load_corpus

TINY = ModelConfig(d_model=8, num_layers=2, num_heads=2, moe=MoEConfig(8, 2, 16))
SEEDS = 1


def by_domain_quickly(model, corpus):
    windows = corpus.windows("reserve", seq_len=16, windows_per_domain=1)
    return losses(model, windows).astype(float)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The experiment's own file, of a model that takes no time, in this process."""
    out = tmp_path_factory.mktemp("compression")
    (out / "runs").mkdir()

    def collect(path, meta, arms, seeds, on_step):
        runs = {name: [train(seed) for seed in range(seeds)] for name, train in arms.items()}
        return json.loads(json.dumps(runs))  # as they come from another process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "MODEL", TINY)
        patch.setattr(compression, "STEPS", 2)
        small = dataclasses.replace(compression.TRAINING, batch_size=2, seq_len=16)
        patch.setattr(compression, "TRAINING", small)
        patch.setattr(compression, "SEQUENCES", 1)
        patch.setattr(compression, "TUNE_STEPS", 1)
        patch.setattr(recipes, "SEQUENCES", 1)
        patch.setattr(compression, "by_domain", by_domain_quickly)
        patch.setattr(compression, "REGIMES", {n: compression.REGIMES[n] for n in (BATCH, "bias")})
        whole = compression.tuned_router
        patch.setattr(compression, "tuned_router", lambda *a, **k: whole(*a, batch_size=2, **k))
        patch.setattr(compression, "recorded_model", lambda: (LanguageModel(TINY).eval(), None))
        patch.setattr(compression, "collect", collect)
        held = compression.run(out, {"command": "a test"}, SEEDS, lambda done, total: None)
    figures = json.loads((out / "runs" / "compression.json").read_text())
    return figures | {"held": held}


def test_the_whole_path_writes_every_recipe(recorded):
    assert recorded["claims"] == recorded["held"]
    for regime in recorded["regimes"].values():
        assert set(RECIPES) <= set(regime["recipes"])
        for recipe, amounts in RECIPES.items():
            assert set(regime["recipes"][recipe]) == set(amounts)
    for recipe, amounts in RECIPES.items():
        for amount in amounts:
            figure = recorded["regimes"][BATCH]["recipes"][recipe][amount]
            mean = np.mean([domain["values"] for domain in figure["domains"]], axis=0)
            np.testing.assert_allclose(figure["loss"]["values"], mean, atol=2e-4)
            assert len(figure["loss"]["values"]) == SEEDS
    shipped = recorded["shipped"]
    assert set(shipped["recipes"]) >= set(RECIPES)
    assert np.shape(shipped["saliency"][REAP]) == (2, 8)
    assert shipped["errors"]["pruned"] and shipped["alike"]


def test_tables_are_of_the_losses_that_stand_beside_them(recorded):
    regimes, judged = recorded["regimes"], recorded["judged"]
    cost = {
        recipe: {amount: np.array(f["loss"]["values"]) for amount, f in amounts.items()}
        for recipe, amounts in regimes[BATCH]["recipes"].items()
    }
    for recipe, amount in AT_HALF.items():
        gap = np.mean(cost[recipe][amount] - cost["bits"]["int4"])
        assert judged["bytes"][recipe][amount]["mean"] == pytest.approx(gap, abs=2e-4)
    for table, base, rows in (
        ("chance", "prune by chance", CRITERIA),
        ("load", "prune by load", CRITERIA[1:]),
        ("merging", REAP, MERGES),
    ):
        assert set(judged[table]) == set(rows)
        for recipe, amounts in judged[table].items():
            for amount, figure in amounts.items():
                gap = np.mean(cost[recipe][amount] - cost[base][amount])
                assert figure["mean"] == pytest.approx(gap, abs=2e-4)
    for recipe in BY_REGIME:
        other = np.array(regimes["bias"]["recipes"][recipe]["4"]["values"])
        figure = judged["regimes"]["bias"][recipe]
        assert figure["mean"] == pytest.approx(np.mean(other - cost[recipe]["4"]), abs=2e-4)
    gain = cost["prune by REAP, router tuned"]["4"] - cost[REAP]["4"]
    whole = cost["router tuned, all experts"]["8"]
    tuning = judged["tuning"]
    assert tuning["pruned"]["mean"] == pytest.approx(gain.mean(), abs=2e-4)
    assert tuning["beside the whole"]["mean"] == pytest.approx((gain - whole).mean(), abs=2e-4)


def runs_of(changed=None, *, spread=0.001):
    """Losses of every recipe, pruning dearest and bits cheapest; `changed` by (regime, recipe,
    amount)."""
    rng = np.random.default_rng(0)
    recipes = {
        **RECIPES,
        "prune by REAP, router tuned": ("4",),
        "router tuned, all experts": ("8",),
    }

    def cost(regime, recipe, amount):
        level = {"bits": 0.01, "router tuned, all experts": 0.0}.get(recipe, 1.0)
        return (changed or {}).get((regime, recipe, amount), level) + spread * rng.random()

    return {
        regime: [
            {"recipes": {r: {a: cost(regime, r, a) for a in amounts} for r, amounts in all_of()}}
            for _ in range(5)
        ]
        for regime in (BATCH, "none")
        for all_of in [recipes.items]
    }


def test_claims_hold_when_the_losses_say_so_and_fall_when_they_do_not():
    def held(changed=None, cost=1.0):
        return claims(tables(runs_of(changed)), cost)

    plain = held()
    assert [name for name, holds in plain.items() if holds] == ["quantise, do not prune"]
    for name, changed in {
        "REAP beats load": {(BATCH, REAP, "4"): 0.5},
        "renormalising helps REAP": {(BATCH, REAP, "4"): 0.5},
        f"{REAP} is worth it": {(BATCH, REAP, "4"): 0.5},
        "merging beats pruning": {(BATCH, MERGES[0], "4"): 0.5},
        "tuning the router mends": {(BATCH, "prune by REAP, router tuned", "4"): 0.3},
        "balancing decides": {("none", REAP, "4"): 1.3},
    }.items():
        assert not plain[name] and held(changed)[name], name
    for name, changed in {
        "REAP beats load": {(BATCH, REAP, "4"): 0.5, (BATCH, REAP, "2"): 2.0},
        "merging beats pruning": {(BATCH, MERGES[0], "4"): 0.5, (BATCH, MERGES[0], "6"): 2.0},
        "tuning the router mends": {
            (BATCH, "prune by REAP, router tuned", "4"): 0.3,
            (BATCH, "router tuned, all experts", "8"): -0.4,
        },
        "balancing decides": {("none", REAP, "4"): 1.05},
        "quantise, do not prune": {(BATCH, "low rank, calibrated", "half"): 0.01},
    }.items():
        assert not held(changed)[name], name


@pytest.mark.parametrize("form", RECIPES["bits"])
def test_the_share_of_bits_is_what_the_packed_experts_take(form):
    packed = pack_model(LanguageModel(MODEL), experts_in(form)).bytes()["routed_experts"]
    full = weight_bytes(architecture_of(MODEL), "bf16").components["routed_experts"]
    assert share_kept(MODEL, "bits", form) == pytest.approx(packed / full)


@pytest.mark.parametrize("recipe, amount", [(r, a[-1]) for r, a in RECIPES.items()])
def test_the_share_of_a_recipe_is_of_the_weights_that_are_left(recipe, amount):
    corpus, model = load_corpus(), LanguageModel(TINY).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "SEQUENCES", 1)
        work = recipes.Calibrated(model, corpus)
        small = work.compressed(recipe, amount)
    share = share_kept(TINY, recipe, amount)
    before, after = (m.blocks[1].ffn.w2_EDF.detach() for m in (model, small))
    if recipe == "bits":
        assert 0 < share < 1 and not torch.equal(before, after)
    elif recipe.startswith("low rank"):
        ranks = [np.linalg.matrix_rank(w.numpy(), tol=1e-5) for w in after]
        assert max(ranks) == 1 and 0 < share <= 0.25
    else:  # as many as are not alike
        assert share == int(amount) / 8 == len(torch.unique(after, dim=0)) / 8


def test_other_words_are_refused():
    work = recipes.Calibrated(LanguageModel(copy.copy(TINY)), load_corpus())
    with pytest.raises(ValueError, match="recipe must be one of bits, .*, got 'prune'"):
        work.compressed("prune", "4")
    with pytest.raises(ValueError, match="amount must be one of 6, 4, 2, got '8'"):
        work.compressed(REAP, "8")


def test_the_recorded_verdicts_are_those_of_paired_t_tests_after_holm():
    figures = read_figures("compression")

    def losses(recipe, amount, regime=BATCH):
        found = figures["regimes"][regime]["recipes"][recipe][amount]
        return np.array(found.get("loss", found)["values"])

    for table, base in {
        "chance": lambda r, a: (losses(r, a), losses("prune by chance", a)),
        "load": lambda r, a: (losses(r, a), losses("prune by load", a)),
        "merging": lambda r, a: (losses(r, a), losses(REAP, a)),
        "bytes": lambda r, a: (losses(r, a), losses("bits", "int4")),
        "regimes": lambda regime, r: (losses(r, "4", regime), losses(r, "4")),
    }.items():
        rows = figures["judged"][table]
        places = [(first, second) for first, row in rows.items() for second in row]
        tests = [scipy.stats.ttest_rel(*base(*place)) for place in places]
        order = np.argsort([test.pvalue for test in tests])
        largest = 0.0
        for rank, i in enumerate(order):
            largest = max(largest, tests[i].pvalue * (len(order) - rank))
            way = "open" if largest >= 0.05 else "higher" if tests[i].statistic > 0 else "lower"
            first, second = places[i]
            assert rows[first][second]["verdict"] == way, (table, places[i])
    cost = figures["regimes"][BATCH]["recipes"][REAP]["4"]["loss"]["mean"]
    assert claims(figures["judged"], cost) == figures["claims"]


@pytest.mark.parametrize("recipe, amount", [("bits", "int4"), (REAP, "4"), (MERGES[1], "4")])
def test_what_is_recorded_of_the_shipped_model_is_so(recipe, amount):
    work = recipes.Calibrated(recorded_model()[0], load_corpus())
    before, after = (
        by_domain(model, work.corpus) for model in (work.model, work.compressed(recipe, amount))
    )
    found = read_figures("compression")["shipped"]["recipes"][recipe][amount]["domains"]
    np.testing.assert_allclose(after - before, found, atol=5e-3)
