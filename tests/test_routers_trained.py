"""Trained routers: equal cost, the losses that papers have, and the whole recording."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from moeviz.experiments import (
    output_scale,
    recording,
    router_arms,
    routers_longer,
    routers_timed,
    routers_trained,
)
from moeviz.experiments.router_arms import (
    DENSE,
    DENSE_ALL,
    FAIR,
    FAMILIES,
    LONG,
    MIXTRAL,
    SETTINGS,
    WRITTEN,
    Setting,
    arms,
    declared,
)
from moeviz.experiments.routers_compared import (
    best_rates,
    compared,
    rank_correlation,
    with_multipliers,
)
from moeviz.host import read_figures
from moeviz.routing import ROUTERS
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig

META = {"code": "f00", "versions": {"torch": "2"}, "command": "test"}
NAMES = (DENSE, MIXTRAL, "expert choice")


@pytest.fixture(scope="module")
def facts():
    return {name: declared(name, load_corpus()) for name in arms()}


# Arms.


def test_every_router_has_an_arm_and_every_family_one_that_chooses_its_rate():
    compared = {arm.experts.router for arm in arms().values() if arm.experts}
    assert compared == set(ROUTERS)
    assert {arm.family for arm in arms().values()} == set(FAMILIES)
    assert all(arms()[name].family == family for family, name in FAMILIES.items())


def test_arms_cost_what_the_dense_twin_costs(facts):
    """By what routers declare. ReMoE declares K experts, and in training has more at work."""
    for name, arm in facts.items():
        if name not in (DENSE_ALL, "ReMoE"):
            share = arm["gigaflops_per_step"] / facts[DENSE]["gigaflops_per_step"]
            assert share == pytest.approx(1, abs=0.02), name
    assert facts[DENSE_ALL]["parameters"] == facts["hash, random"]["parameters"]


def test_no_arm_has_a_loss_that_its_paper_has_not(facts):
    losses = {name: dict(arm["losses"]) for name, arm in facts.items()}
    with_z = {name for name, of_arm in losses.items() if "z" in of_arm}
    assert with_z == {"token choice, raw (OLMoE)", "ST-MoE"}
    without = ("sign bias, no loss", "quantile bias", "expert choice", "BASE", "hash, bigram")
    assert all(losses[name] == {} for name in without)
    assert losses["Switch"] == {"balance": 0.01}
    assert losses["noisy top-K (Shazeer)"] == {"importance": 0.1, "load": 0.1}
    assert losses["group-limited, sign bias (DeepSeek-V3)"] == {"balance": 1e-4}
    assert losses["ReMoE"] == {"l1": None}


# Figures.


@given(st.integers(3, 20), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_rank_correlation_is_spearmans_and_lies_in_its_interval(num_arms, seeds, seed):
    rng = np.random.default_rng(seed)
    first_AN = rng.normal(size=(num_arms, 1)) + 0.01 * rng.normal(size=(num_arms, seeds))
    second_AN = first_AN + rng.normal(size=(num_arms, 1))
    found = rank_correlation(first_AN, second_AN)
    oracle = scipy.stats.spearmanr(first_AN.mean(1), second_AN.mean(1)).statistic
    assert found["rho"] == pytest.approx(oracle, abs=6e-4) and found["arms"] == num_arms
    assert -1.001 <= found["low"] <= found["high"] <= 1.001


def test_rank_correlation_of_one_order_is_one_whatever_the_seeds():
    losses_AN = np.arange(5.0)[:, None] + np.random.default_rng(0).random((5, 4)) / 10
    assert rank_correlation(losses_AN, losses_AN + 3) == {
        "rho": 1.0, "low": 1.0, "high": 1.0, "arms": 5,
    }  # fmt: skip
    assert rank_correlation(losses_AN[:, :1], losses_AN[:, :1])["low"] is None


def test_the_rate_is_that_of_the_lowest_mean_and_no_seed_may_diverge():
    labels = [f"rate, fair, dense, {rate}" for rate in (0.001, 0.002, 0.004)]
    losses = dict(zip(labels, ([3.0, 3.2], [3.05, 3.0], [2.0, None]), strict=True))
    assert best_rates(losses)["fair"]["dense"] == {
        "arm": DENSE, "grid": [0.001, 0.002, 0.004], "losses": [3.1, 3.025, None],
        "chosen": 0.002, "at_edge": False,
    }  # fmt: skip
    losses[labels[2]] = [2.0, 2.2]
    assert best_rates(losses)["fair"]["dense"]["at_edge"]


# The recording, at toy size.


@pytest.fixture
def small(monkeypatch):
    """Few steps, windows and arms, in this process; the list of final runs begun."""
    return make_small(monkeypatch)


def make_small(monkeypatch):
    monkeypatch.setattr(recording, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    short = {FAIR: Setting(3), WRITTEN: Setting(3, "as written"), LONG: Setting(4)}
    for name, setting in short.items():
        monkeypatch.setitem(SETTINGS, name, setting)
    begun, train_arm = [], routers_trained.train_arm
    few = {name: arms()[name] for name in NAMES}
    for module, values in {
        router_arms: {"TrainConfig": partial(TrainConfig, batch_size=2, seq_len=16, warmup=1)},
        routers_trained: {
            "arms": lambda: few,
            "DENSE_STEPS": (2, 6),
            "GRID": (4e-3,),
            "FINAL_WINDOWS": 1,
            "train_arm": lambda *run: begun.append(run) or train_arm(*run),
        },
        routers_longer: {"LONGER": Setting(2), "LONGER_ARMS": (MIXTRAL,)},
        routers_timed: {"WARM_STEPS": 1, "TIMED_STEPS": 2},
        output_scale: {"STEPS": 2, "FINAL_WINDOWS": 1, "SCALES": (0.5, 1.0)},
    }.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    return begun


def record(out, seeds):
    (out / "runs").mkdir(exist_ok=True)
    seen = []
    routers_trained.run(out, META, seeds, lambda *at: seen.append(at))
    assert all(done <= total for done, total in seen)
    return json.loads((out / "runs" / "routers.json").read_text())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The figures of one seed, those of two, how many final runs there were by then, the folder."""
    out = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as monkeypatch:
        begun = make_small(monkeypatch)
        first, of_first = record(out, 1), len(begun)
        return first, record(out, 2), (of_first, len(begun)), out


def test_the_whole_recording_goes_on_with_more_seeds(recorded):
    first, figures, begun, _ = recorded
    runs_of_a_seed = 3 * len(NAMES) + 2
    assert begun == (runs_of_a_seed, 2 * runs_of_a_seed), "nothing is done twice"
    assert set(figures["settings"]) == set(SETTINGS) and set(figures["arms"]) == set(NAMES)
    fair, written, long = (figures["settings"][name] for name in (FAIR, WRITTEN, LONG))
    assert fair["seeds"] == [0, 1] and first["settings"][FAIR]["seeds"] == [0]
    assert (long["steps"], written["scale"]) == (4, "as written")
    losses = {name: np.array(fair["arms"][name]["loss"]["values"]) for name in NAMES}
    for name in NAMES[1:]:
        one = fair["arms"][name]
        gap = losses[name] - losses[DENSE]
        assert one["minus_dense"]["mean"] == pytest.approx(gap.mean(), abs=2e-4)
        assert one["minus_dense"]["verdict"] in ("lower", "higher", "open")
        change = losses[name].mean() - np.mean(written["arms"][name]["loss"]["values"])
        assert figures["changes"][name]["mean"] == pytest.approx(change, abs=2e-4)
        assert len(one["curve"]) == len(fair["curve_steps"]) and fair["curve_steps"][-1] == 3
        assert len(one["training_max_violation"]) == 2 == len(one["evaluation_max_violation"])
        assert one["active_experts"]["mean"] == pytest.approx(2, abs=1e-3)
        of_a_step = figures["arms"][name]["gigaflops_per_step"]
        assert one["gigaflops_per_step"]["mean"] == pytest.approx(of_a_step, abs=2e-4)
        assert np.mean(one["domain_loss"]) == pytest.approx(losses[name].mean(), abs=2e-4)
    assert figures["changes"][DENSE]["mean"] == 0, "a dense FFN is at the fair scale as written"
    assert losses[MIXTRAL][0] != losses[MIXTRAL][1], "seeds differ"
    pools = {name: one.get("pools") for name, one in fair["arms"].items()}
    assert set(pools["expert choice"]) == {"domain", "sequence"} and pools[MIXTRAL] == {}
    assert list(figures["dense_by_steps"]) == ["2", "3", "4", "6"]
    assert figures["dense_by_steps"]["3"]["loss"] == fair["arms"][DENSE]["loss"]
    assert figures["order"]["all"]["arms"] == len(NAMES)
    assert set(figures["rates"]) == {"fair", "as written"}


def test_a_recording_fits_its_place(recorded, facts):
    """All arms in all settings, by the size of the longest and of the values of five seeds."""
    recorded_arms = recorded[1]["settings"][FAIR]["arms"].values()
    longest = max(len(json.dumps(arm)) for arm in recorded_arms)
    assert 3 * len(facts) * (longest + 3 * 4 * 8) < 150_000


def test_the_clock_is_timed_later_and_stays(recorded, small):
    *_, out = recorded
    before = json.loads((out / "runs" / "routers.json").read_text())
    for setting in SETTINGS:
        assert before["settings"][setting]["arms"][MIXTRAL]["multipliers"]["wall_clock"] is None
    routers_timed.run(out, META | {"command": "timed"}, 1, lambda *at: None)
    timed = json.loads((out / "runs" / "routers.json").read_text())
    assert timed["provenance"] == META | {"text": load_corpus().manifest.fingerprint}
    assert timed["timing"]["provenance"]["command"] == "timed"
    assert set(timed["timing"]["seconds"]) == set(NAMES)
    assert record(out, 2)["timing"] == timed["timing"] and not small


def test_both_multipliers_are_of_the_steps_that_the_twin_needs():
    """The twin needs 600 steps for what an arm of twice its FLOPs and three times its seconds has
    after 300, and 300 for what it has at the worse end of its interval."""
    arm = {"loss": {"mean": 2.9}, "gigaflops_per_step": {"mean": 2.0}}
    gap = {"mean": -0.1, "low": -0.3, "high": 0.0}
    twin = {"loss": {"mean": 3.0}, "gigaflops_per_step": {"mean": 1.0}}
    table = {"steps": 300, "arms": {DENSE: twin, "a": arm | {"minus_dense": gap}}}
    points = {300: 3.0, 600: 2.9, 1200: 2.8}
    by_steps = {
        str(n): {"loss": {"mean": loss}, "gigaflops_per_step": 1.0} for n, loss in points.items()
    }
    figures = {"settings": {FAIR: table}, "dense_by_steps": by_steps}
    timed = with_multipliers(figures, {"seconds": {DENSE: 1.0, "a": 3.0}})
    found = timed["settings"][FAIR]["arms"]["a"]["multipliers"]
    assert found["compute"] == pytest.approx(1, abs=1e-3)
    assert found["wall_clock"] == pytest.approx(2 / 3, abs=1e-3)
    assert found["interval"] == [pytest.approx(0.5, abs=1e-3), None] and found["why"] == ""


def test_an_arm_that_diverges_is_named_and_left_out():
    run = {"loss": 3.0, "gigaflops_per_step": 1.6}
    runs = {DENSE: [run, run], MIXTRAL: [run, None]}
    fair = compared({FAIR: runs}, {}, {}, None)["settings"][FAIR]
    assert fair["diverged"] == [MIXTRAL] and list(fair["arms"]) == [DENSE]


def test_active_experts_are_the_mean_over_all_steps():
    """Of a router whose number moves in training."""
    arm = arms()["ReMoE"]
    trainer = arm.trainer(load_corpus(), Setting(20), 2e-2, 0)
    per_token = [step.load.sum() / (2 * trainer.tokens_per_step) for step in trainer]
    assert np.ptp(per_token) > 1
    assert routers_trained._active_in_training(trainer) == pytest.approx(np.mean(per_token))


def test_some_arms_are_trained_longer_at_the_recorded_rates(tmp_path, small):
    (tmp_path / "runs").mkdir()
    routers_longer.run(tmp_path, META, 2, lambda *at: None)
    figures = json.loads((tmp_path / "runs" / "routers_longer.json").read_text())
    assert (figures["steps"], figures["seeds"]) == (2, [0, 1])
    assert set(figures["arms"]) == {DENSE, MIXTRAL}
    rates = read_figures("routers")["rates"]["fair"]
    assert rates[arms()[MIXTRAL].family]["chosen"] == 16e-3
    own = arms()[MIXTRAL].trainer(load_corpus(), Setting(2), 16e-3, 0)
    list(own)
    again = own.evaluate(1, part="reserve").loss
    assert figures["arms"][MIXTRAL]["loss"]["values"][0] == pytest.approx(again, abs=1e-3)


# The scale as a knob.


def test_as_written_stands_where_its_weights_say():
    """A dense FFN's variance times the sum of squared weights: of two halves, and of the two
    largest of 16 probabilities whose logits have a deviation of 0.02 sqrt(64)."""
    assert output_scale.written_scale("dense") == 1
    assert output_scale.written_scale("hash") == pytest.approx(0.5**0.5, rel=0.05)
    logits_TE = 0.16 * np.random.default_rng(0).normal(size=(20_000, 16))
    largest_T2 = np.sort(scipy.special.softmax(logits_TE, axis=1))[:, -2:]
    expected = (largest_T2**2).sum(1).mean() ** 0.5
    assert output_scale.written_scale("token choice, raw") == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("arm", output_scale.ARMS)
def test_where_an_arm_stands_is_no_matter_of_what_ran_before(arm):
    torch.manual_seed(1)
    state, place = torch.random.get_rng_state(), output_scale.written_scale(arm)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert output_scale.written_scale(arm) == place


def test_the_scales_are_recorded(tmp_path, small):
    (tmp_path / "runs").mkdir()
    output_scale.run(tmp_path, META, 1, lambda *at: None)
    figures = json.loads((tmp_path / "runs" / "scale.json").read_text())
    dense = figures["arms"]["dense"]
    assert [point["scale"] for point in dense["points"]] == figures["scales"] == [0.5, 1.0]
    assert dense["as_written"]["loss"] == dense["points"][1]["loss"] != dense["points"][0]["loss"]
    values = [figures["arms"][arm]["points"][1]["loss"]["values"] for arm in ("hash", "dense")]
    gap = figures["arms"]["hash"]["points"][1]["minus_dense"]
    assert gap["mean"] == pytest.approx(np.mean(values[0]) - np.mean(values[1]), abs=2e-4)
