"""The recorded collapse runs are what the code makes of them; 04_collapse says what they say."""

import json
from collections import Counter

import numpy as np
import pytest

from moeviz.experiments.collapse import STEPS, summary
from moeviz.experiments.cures import ARMS, cures_of, recorded
from moeviz.host import data_path
from moeviz.panels.training.collapse import collapsed as judged_by_the_panel
from moeviz.pictures.training.cures import failing, told_quality, told_versus
from moeviz.records.runs import load_snapshots


@pytest.fixture(scope="module")
def runs():
    return load_snapshots(data_path("runs", "collapse.safetensors"))[0]


@pytest.fixture(scope="module")
def arms():
    return recorded()["arms"]


def test_the_summary_is_that_of_the_recorded_runs(runs):
    told = dict(recorded())
    told.pop("provenance")
    assert told == json.loads(json.dumps(summary(runs)))
    assert {arm["runs"] for arm in told["arms"].values()} == {5}


def test_every_run_is_of_its_arm_and_whole(runs):
    for run in runs:
        assert cures_of(run.meta["model"], run.meta["train"]) == ARMS[run.label]
        assert run.step == STEPS == run.curve.step[-1] and len(run.curve) == 100


def test_the_panel_counts_as_many_collapsed_runs_as_the_recording(runs, arms):
    """The panel's one sentence sets runs of its own beside the recorded ones."""
    fallen = Counter(run.label for run in runs if judged_by_the_panel(run.curve))
    assert {arm: fallen[arm] for arm in ARMS} == {a: f["collapsed"] for a, f in arms.items()}


# What the notebook's prose says; every size stands in a sentence that is made from the figures.


def test_the_model_collapses_without_a_cure(arms):
    nothing = arms["nothing"]
    assert nothing["collapsed"] == nothing["runs"]
    assert min(nothing["dead_experts"]["values"]) >= 8  # "4 or fewer" is nearest
    assert max(nothing["effective_experts"]["values"]) < 6


def test_the_stabilisers_do_not_cure():
    assert {"z-loss 0.001", "noise 1"} <= set(failing(recorded()))


def test_a_small_balancing_loss_leaves_some_dead_and_a_larger_one_none(arms):
    assert min(arms["balancing loss 0.01"]["dead_experts"]["values"]) >= 1
    assert max(arms["balancing loss 0.1"]["dead_experts"]["values"]) == 0
    assert max(arms["balancing loss 0.1"]["max_violation"]["values"]) < 2


def test_the_loss_shows_little_of_a_collapse(arms):
    """The same loss within 0.05 nats with two experts in effect and with fourteen."""
    nothing = arms["nothing"]
    for cure in ("balancing loss 0.1", "sign bias", "quantile bias"):
        assert arms[cure]["effective_experts"]["mean"] > 5 + nothing["effective_experts"]["mean"]
        assert abs(arms[cure]["loss_minus_nothing"]["mean"]) < 0.05


def test_balance_is_not_quality(arms):
    vio, loss = (
        np.argsort(np.argsort([a[name]["mean"] for a in arms.values()]))
        for name in ("max_violation", "validation_loss")
    )
    assert abs(np.corrcoef(vio, loss)[0, 1]) < 0.5
    even = min(arms, key=lambda arm: arms[arm]["max_violation"]["mean"])
    best = min(arms, key=lambda arm: arms[arm]["validation_loss"]["mean"])
    assert even != best and f"The most even of all, {even}," in told_quality(recorded())


def test_a_scope_of_one_sequence_takes_the_domains_away(arms):
    batch, sequence = "balancing loss 0.1", "balancing loss 0.1 per sequence"
    values = [arms[arm]["domain_information"]["values"] for arm in (batch, sequence)]
    assert all(a > 2 * b for a, b in zip(*values, strict=True))
    told = told_versus(recorded(), sequence, batch, "domain_information", "Domain information")
    assert told.endswith("in 5 of 5 seeds.")


def test_expert_choice_tells_nothing_of_the_domain_by_construction(arms):
    assert max(arms["expert choice"]["domain_information"]["values"]) == 0
    assert max(arms["expert choice"]["max_violation"]["values"]) == 0


def test_there_are_fourteen_settings():
    assert len(recorded()["arms"]) == len(ARMS) == 14
