"""The comparison of all routers: its whole flow at toy size, and what its numbers mean."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moeviz.experiments import routers_timed, routers_trained
from moeviz.experiments.router_arms import (
    DENSE,
    DENSE_ALL,
    FAIR,
    FAMILIES,
    LONG,
    MIXTRAL,
    WRITTEN,
    Setting,
    arms,
)
from moeviz.experiments.routers_compared import best_rates, rank_correlation, with_multipliers
from moeviz.pictures.training.standings import standings
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig

META = {"code": "f00", "versions": {}, "commit": "abc", "date": "today"}
ON_TEXT = META | {"text": load_corpus().manifest.fingerprint}
SHOWN = (DENSE, DENSE_ALL, MIXTRAL, "hash, random", "expert choice")
SHORT, MIDDLE, LONGER = 2, 3, 4  # steps


@pytest.fixture
def toy(monkeypatch):
    """Five arms, a few steps and windows, in this process; the names of all that was trained."""
    few = {name: arm for name, arm in arms().items() if name in SHOWN}
    settings = {
        FAIR: Setting(MIDDLE),
        WRITTEN: Setting(MIDDLE, "as written"),
        LONG: Setting(LONGER),
    }
    trained, train = [], routers_trained.train_arm

    def train_arm(name, setting, rate, seed):
        trained.append((name, setting, seed))
        return train(name, setting, rate, seed)

    for name, value in {
        "recording.ProcessPoolExecutor": lambda *_, **__: ThreadPoolExecutor(1),
        "router_arms.TrainConfig": partial(TrainConfig, batch_size=8, seq_len=16, warmup=1),
        "routers_trained.arms": lambda: few,
        "router_arms.arms": lambda: few,
        "routers_timed.arms": lambda: few,
        "routers_trained.SETTINGS": settings,
        "routers_compared.SETTINGS": settings,
        "routers_trained.DENSE_STEPS": (SHORT,),
        "routers_trained.FINAL_WINDOWS": 1,
        "routers_trained.GRID": (4e-3, 16e-3),
        "routers_trained.GRID_SEEDS": (1000,),
        "routers_trained.train_arm": train_arm,
        "routers_timed.WARM_STEPS": 1,
        "routers_timed.TIMED_STEPS": 1,
        "routers_timed.SETTLED": 1,
    }.items():
        monkeypatch.setattr(f"moeviz.experiments.{name}", value)
    return trained


def record(folder, seeds):
    steps = []
    routers_trained.run(folder, META, seeds, lambda *at: steps.append(at))
    assert steps[-1][0] == steps[-1][1], "all that was announced is done"
    return json.loads((folder / "runs" / "routers.json").read_text())


def test_the_whole_flow_goes_on_where_it_was_interrupted(toy, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    first = record(tmp_path, 1)
    assert first["provenance"] == ON_TEXT and set(first["arms"]) == set(SHOWN)
    every = len(toy)
    assert every == 3 * len(SHOWN) + 1, "each arm in each setting, and the dense twin by steps"

    # An interruption in the last setting of the second seed; then the rest.
    train = routers_trained.train_arm

    def interrupted(name, setting, rate, seed):
        if (name, setting.steps, seed) == (DENSE_ALL, LONGER, 1):
            raise RuntimeError("interrupted")
        return train(name, setting, rate, seed)

    monkeypatch.setattr(routers_trained, "train_arm", interrupted)
    with pytest.raises(RuntimeError, match="interrupted"):
        record(tmp_path, 2)
    so_far = json.loads((tmp_path / "runs" / "routers.json").read_text())["settings"]
    assert [table["seeds"] for table in so_far.values()] == [[0, 1], [0, 1], [0]]
    monkeypatch.setattr(routers_trained, "train_arm", train)
    whole = record(tmp_path, 2)
    assert len(set(toy)) == 2 * every
    assert len(toy) <= 2 * every + 1, "but for the run that was under way"
    for name, table in whole["settings"].items():
        assert table["seeds"] == [0, 1] and set(table["arms"]) == set(SHOWN)
        for arm, figures in table["arms"].items():
            values = figures["loss"]["values"]
            assert values[0] == first["settings"][name]["arms"][arm]["loss"]["values"][0]

    # What the figures of a trained arm mean.
    table = whole["settings"][FAIR]["arms"]
    assert set(table["expert choice"]["pools"]) == {"domain", "sequence"}
    assert table["hash, random"]["pools"] == table[MIXTRAL]["pools"] == {}
    for arm in (MIXTRAL, "hash, random", "expert choice"):
        assert table[arm]["active_experts"]["mean"] == pytest.approx(2)
        assert len(table[arm]["training_max_violation"]) == 2
    assert table["expert choice"]["training_max_violation"] == pytest.approx([0, 0], abs=1e-6)
    dense = {name: t["arms"][DENSE]["loss"] for name, t in whole["settings"].items()}
    rates = {scale: whole["rates"][scale]["dense"]["chosen"] for scale in ("fair", "as written")}
    if len(set(rates.values())) == 1:
        assert dense[FAIR] == dense[WRITTEN], "a dense FFN is at the fair scale as it is written"

    # The clock comes last, and brings the second multiplier.
    assert "timing" not in whole
    with pytest.raises(ValueError, match="There is no .*routers.json, whose arms .* --out"):
        routers_timed.run(tmp_path / "elsewhere", {}, 1, lambda *at: None)
    seconds = routers_timed.run(tmp_path, {"date": "later"}, 1, lambda *at: None)
    timed = json.loads((tmp_path / "runs" / "routers.json").read_text())
    assert timed["timing"] == {"provenance": {"date": "later"}, "seconds": seconds}
    assert timed["provenance"] == ON_TEXT and set(seconds) == set(SHOWN)
    for arm, figures in timed["settings"][FAIR]["arms"].items():
        if arm != DENSE and (compute := figures["multipliers"]["compute"]):
            cost = figures["gigaflops_per_step"]["mean"] / dense_cost(timed)
            clock = compute * cost * seconds[DENSE] / seconds[arm]
            assert figures["multipliers"]["wall_clock"] == pytest.approx(clock, rel=0.02)
    assert {row[0] for row in standings(timed).rows} == set(SHOWN)


def dense_cost(recorded):
    return recorded["settings"][FAIR]["arms"][DENSE]["gigaflops_per_step"]["mean"]


# Rates.

RATES = (8e-3, 16e-3, 32e-3)
LOSSES = st.one_of(st.none(), st.integers(10, 60).map(lambda n: n / 10))


@given(
    losses=st.lists(st.lists(LOSSES, min_size=2, max_size=2), min_size=3, max_size=3).filter(
        lambda rows: any(None not in row for row in rows)
    ),
    scale=st.sampled_from(["fair", "as written"]),
    family=st.sampled_from(sorted(FAMILIES)),
)
def test_the_best_rate_has_the_lowest_mean_of_those_that_never_diverged(losses, scale, family):
    runs = {
        f"rate, {scale}, {family}, {rate:g}": row for rate, row in zip(RATES, losses, strict=True)
    }
    tried = best_rates(runs)[scale][family]
    means = {r: sum(row) / 2 for r, row in zip(RATES, losses, strict=True) if None not in row}
    assert means[tried["chosen"]] == min(means.values())
    assert tried["at_edge"] == (tried["chosen"] != RATES[1])
    assert (tried["arm"], tried["grid"]) == (FAMILIES[family], list(RATES))
    shown = [None if None in row else pytest.approx(sum(row) / 2) for row in losses]
    assert tried["losses"] == shown


# Orders.


@given(
    arrays(np.float64, (6, 4), elements=st.integers(0, 10**6), unique=True),
    arrays(np.float64, (6, 4), elements=st.integers(0, 10**6), unique=True),
)
def test_rank_correlation_is_spearmans(first_AN, second_AN):
    means = first_AN.mean(1), second_AN.mean(1)
    if any(len(set(mean)) < 6 for mean in means):
        return  # a tie has no one rank
    found = rank_correlation(first_AN, second_AN)
    assert found["rho"] == pytest.approx(scipy.stats.spearmanr(*means).statistic, abs=6e-4)
    assert -1 <= found["low"] <= found["high"] <= 1 and found["arms"] == 6
    assert found == rank_correlation(2 * first_AN + 1, second_AN), "only ranks count"


def test_the_interval_of_a_rank_correlation_is_that_of_the_seeds():
    clear_AN = np.arange(6.0)[:, None] + 0.01 * np.arange(4)
    same = rank_correlation(clear_AN, clear_AN)
    assert (same["rho"], same["low"], same["high"]) == (1, 1, 1)
    noisy_AN = clear_AN + 9 * np.random.default_rng(0).normal(size=clear_AN.shape)
    noisy = rank_correlation(clear_AN, noisy_AN)
    assert noisy["high"] - noisy["low"] > 0.2 and noisy["low"] <= noisy["rho"] <= noisy["high"]
    alone = rank_correlation(clear_AN[:, :1], noisy_AN[:, :1])
    assert alone["low"] is alone["high"] is None


# Multipliers.


def figures_by_hand(gap, low, high):
    """The dense twin: 4.0 after 100 steps of 2 GFLOPs, 3.5 after 200, 3.0 after 400. An arm of 1
    GFLOP a step has trained 200."""
    points = {
        str(steps): {"loss": {"mean": loss}, "gigaflops_per_step": 2.0}
        for steps, loss in ((100, 4.0), (200, 3.5), (400, 3.0))
    }
    arm = {
        "gigaflops_per_step": {"mean": 1.0},
        "minus_dense": {"mean": gap, "low": low, "high": high},
    }
    table = {"steps": 200, "arms": {DENSE: {"loss": {"mean": 3.5}}, "arm": arm}}
    return {"dense_by_steps": points, "settings": {FAIR: table}}


def multipliers_of(figures, timing):
    return with_multipliers(figures, timing)["settings"][FAIR]["arms"]["arm"]["multipliers"]


def test_multipliers_by_hand():
    """Half a nat is one doubling. A loss lower by 0.25 takes the dense twin 200 √2 steps: 400 √2
    GFLOPs, the arm's 200. The interval's better end makes the larger multiplier."""
    timing = {"seconds": {DENSE: 0.1, "arm": 0.4}}
    found = multipliers_of(figures_by_hand(-0.25, -0.5, 0.0), timing)
    assert found["compute"] == pytest.approx(2 * 2**0.5, abs=1e-3)
    assert found["interval"] == pytest.approx([2, 4], abs=1e-3)
    assert found["wall_clock"] == pytest.approx(2**0.5 / 4, abs=1e-3)
    untimed = multipliers_of(figures_by_hand(-0.25, -0.5, 0.0), None)
    assert untimed == {**found, "wall_clock": None}


def test_a_multiplier_that_was_not_measured_is_none_and_says_why():
    found = multipliers_of(figures_by_hand(-0.75, -0.8, -0.7), None)
    assert found["compute"] is None and found["interval"] == [None, None]
    assert "trained down to 3.000 only, not 2.750" in found["why"]
    alone = multipliers_of(figures_by_hand(0.0, None, None), None)
    assert alone["compute"] == pytest.approx(2) and alone["interval"] == [None, None]
