"""Every prediction is measured, and its answer follows the figures."""

import re

import numpy as np
import pytest

from moeviz.experiments import cures
from moeviz.predictions import PREDICTIONS, collapse, dense_vs_moe, start_here
from moeviz.predictions.prediction import nearest


@pytest.mark.parametrize("key", PREDICTIONS)
def test_its_answer_is_one_of_the_options_and_its_sentence_has_figures(key):
    prediction = PREDICTIONS[key]
    assert prediction.question.endswith("?") and len({*prediction.options}) >= 2
    assert prediction.measured().option in prediction.options
    sentence = prediction.sentence(None)
    assert re.search(r"\d", sentence) and "nan" not in sentence and "  " not in sentence
    assert sentence.endswith(".") and not sentence.endswith("..")


def test_an_answer_is_the_nearest_in_distance_or_in_ratio():
    options = {"one": 1.0, "nine": 9.0}
    assert nearest(4.0, options) == "one" and nearest(4.0, options, ratio=True) == "nine"


def arms(cured, bare):
    return {
        name: {"validation_loss": {"values": values}, "runs": 3}
        for name, values in (("balancing loss 0.1", cured), ("nothing", bare))
    }


@pytest.mark.parametrize(
    ("shift", "option"), [(-1, "it falls"), (1, "it rises"), (0, "no difference that five seeds")]
)
def test_quality_follows_the_paired_losses(shift, option, monkeypatch):
    bare = np.array([3.0, 3.5, 4.0])
    cured = bare + shift + np.array([0.1, -0.1, 0.0])
    monkeypatch.setattr(collapse, "recorded", lambda: {"arms": arms(cured, bare)})
    assert collapse.quality().option.startswith(option)


@pytest.mark.parametrize(("dead", "option"), [(0.2, "all 16"), (4.4, "about 12"), (13, "4 or")])
def test_survivors_follow_the_dead(dead, option, monkeypatch):
    arm = {"nothing": {"dead_experts": {"mean": dead}, "runs": 3}}
    monkeypatch.setattr(collapse, "recorded", lambda: {"arms": arm})
    assert collapse.survivors().option.startswith(option)


def test_a_repeated_token_keeps_its_expert_where_all_its_places_agree():
    from types import SimpleNamespace

    first_TL = np.array([[0, 1], [2, 2], [0, 3], [2, 2], [5, 5]])
    trace = SimpleNamespace(tokens="abaxc", layers=(0, 1), expert=first_TL[:, :, None])
    assert start_here.keeping(trace) == ([1, 0], 1)
    trace.tokens = "ababc"
    assert start_here.keeping(trace) == ([2, 1], 2)


def test_the_recorded_races_are_paired_at_the_end_that_both_have_reached():
    raced = dense_vs_moe.recorded_race("step")
    ends = [
        moe.curve.validation[-1] - dense.curve.validation[-1]
        for dense, moe in zip(raced.dense, raced.moe, strict=True)
    ]
    assert np.allclose(raced.gap.values, ends)
    assert (raced.ahead == "MoE") == (raced.gap.high < 0)


def test_the_runs_that_are_told_of_are_recorded():
    assert {"nothing", "balancing loss 0.1"} <= {*cures.recorded()["arms"]}
