"""Every prediction is measured, and its answer follows the figures."""

import re

import numpy as np
import pytest

from helpers.comparisons import made_collapse
from helpers.recorded_routers import routers, scale
from moeviz.experiments import cures, question
from moeviz.experiments.recorded import recorded_figures as recorded
from moeviz.experiments.recording import judged
from moeviz.experiments.router_arms import DENSE_ALL, FAIR, LONG, arms
from moeviz.host import read_figures
from moeviz.pictures.over_seeds import told_gap
from moeviz.pictures.training.cures_told import told_layers
from moeviz.predictions import (
    PREDICTIONS,
    capacity,
    collapse,
    dense_vs_moe,
    kernels,
    real_models,
    routing,
    start_here,
)
from moeviz.predictions.prediction import nearest


@pytest.mark.parametrize("key", PREDICTIONS)
def test_its_answer_is_one_of_the_options_and_its_sentence_has_figures(key):
    prediction = PREDICTIONS[key]
    if key == "03.order" and LONG not in read_figures("routers")["settings"]:
        pytest.skip("the longer training is not recorded yet")
    if key in ("11.half", "11.whom", "11.merge", "11.regime") and not recorded("compression"):
        pytest.skip("compression is not recorded yet")
    assert prediction.question.endswith("?") and len({*prediction.options}) >= 2
    assert prediction.measured().option in prediction.options
    sentence = prediction.sentence(None)
    assert re.search(r"\d", sentence) and "nan" not in sentence and "  " not in sentence
    assert sentence.endswith(".") and not sentence.endswith("..")


def test_an_answer_is_the_nearest_in_distance_or_in_ratio():
    options = {"one": 1.0, "nine": 9.0}
    assert nearest(4.0, options) == "one" and nearest(4.0, options, ratio=True) == "nine"


@pytest.mark.parametrize(
    ("verdict", "option"),
    [("lower", "it falls"), ("higher", "it rises"), ("open", "no difference that the seeds")],
)
def test_quality_follows_the_verdict_of_the_whole_table(verdict, option, monkeypatch):
    figure = judged({"": ([0.1, 0.2, 0.3], [0.0, 0.0, 0.0])})[""] | {"verdict": verdict}
    arms = {"balancing loss 0.1": {"loss_minus_nothing": figure}}
    monkeypatch.setattr(collapse, "recorded", lambda: {"arms": arms})
    assert collapse.quality().option.startswith(option)


@pytest.mark.parametrize(("dead", "option"), [(0.2, "all 16"), (4.4, "about 12"), (13, "4 or")])
def test_survivors_are_those_that_the_sentence_on_the_layers_leaves(dead, option, monkeypatch):
    """Its evaluation has other dead experts: the two sentences must not count two things."""
    training = {
        "max_violation": [{"mean": 1.0}, {"mean": 5.0}],
        "dead_experts": [{"mean": 0.1}, {"mean": dead}],
    }
    summary = made_collapse()
    summary["arms"]["nothing"] |= {"dead_experts": {"mean": 9.0}, "collapsed_by_layer": [0, 1]}
    summary["arms"]["nothing"]["training"]["dead_experts"] = training["dead_experts"]
    monkeypatch.setattr(collapse, "recorded", lambda: summary)
    measured = collapse.survivors()
    assert measured.figure.startswith(f"{16 - dead:.1f} of 16")
    assert f"In layer 1, {dead:.1f} experts are dead on average." in told_layers(summary)
    assert measured.option.startswith(option)
    assert ("is open, for with one that keeps" in measured.because) == (option != "all 16")


@pytest.mark.parametrize(
    ("violation", "words"),
    [(2.0, "a part of it is learned"), (9.0, "need not learn it"), (5.0, "prefer some experts is")],
)
def test_what_drives_the_load_is_what_a_frozen_router_leaves(violation, words, monkeypatch):
    summary = made_collapse(violations={"frozen router": violation})
    monkeypatch.setattr(collapse, "recorded", lambda: summary)
    assert words in collapse.survivors().because


def test_an_interval_without_zero_beside_an_open_verdict_is_explained(monkeypatch):
    summary = made_collapse()
    gap = summary["arms"]["balancing loss 0.1"]["loss_minus_nothing"]
    gap |= {"mean": 0.015, "low": 0.002, "high": 0.028, "p": 0.04, "verdict": "open"}
    monkeypatch.setattr(collapse, "recorded", lambda: summary)
    measured = collapse.quality()
    assert measured.option.startswith("no difference") and "interval +" in measured.figure
    assert "of one comparison alone" in measured.because


@pytest.mark.parametrize(
    ("gap", "option"),
    [(-0.3, "it is lower"), (0.3, "it is higher"), (0.0, "no difference that the seeds")],
)
def test_hash_follows_the_verdict_of_the_recorded_table(gap, option, monkeypatch):
    recorded = routers({routing.HASH: gap}, settings=(FAIR,))
    monkeypatch.setattr(routing, "recorded_run", lambda name: recorded)
    found = routing.hash_beside_dense()
    assert found.option.startswith(option)
    verdict = recorded["settings"][FAIR]["arms"][routing.HASH]["minus_dense"]["verdict"]
    assert verdict == {"it is lower": "lower", "it is higher": "higher"}.get(option, "open")
    assert re.search(r"after 300 steps .* 0\.(300|00\d) nats per token .*5 seeds", found.figure)


@pytest.mark.parametrize(
    ("effect", "option"),
    [(0.05, "it is higher"), (-0.05, "it is lower"), (0.0, "no difference that the seeds")],
)
def test_what_the_scale_does_follows_the_verdict_of_its_table(effect, option, monkeypatch):
    monkeypatch.setattr(routing, "recorded_run", lambda name: scale(effect))
    measured = routing.as_written()
    assert measured.option.startswith(option)
    assert ("times the fair scale" in measured.because) == (effect != 0)


@pytest.mark.parametrize(("turn", "option"), [(1, "most of it"), (-1, "next to nothing")])
def test_the_order_follows_the_rank_correlation(turn, option, monkeypatch):
    names = [arm for arm in arms() if arm != DENSE_ALL]
    gaps = {arm: 0.01 * i for i, arm in enumerate(names)}
    turned = {arm: turn * gap for arm, gap in gaps.items()}
    recorded = routers({FAIR: gaps, LONG: turned}, settings=(FAIR, LONG), noise=0.0)
    monkeypatch.setattr(routing, "recorded_run", lambda name: recorded)
    measured = routing.order_after_longer_training()
    assert measured.option == option and f"is {turn}.00 (95 % interval" in measured.figure
    half = "16 of the 16 arms of the better half are in it again; but within that half"
    assert measured.because.startswith(half) == (turn == 1)
    assert measured.because.endswith("the correlation is 1.00") == (turn == 1)


def test_a_repeated_token_keeps_its_expert_where_all_its_places_agree():
    from types import SimpleNamespace

    first_TL = np.array([[0, 1], [2, 2], [0, 3], [2, 2], [5, 5]])
    trace = SimpleNamespace(tokens="abaxc", layers=(0, 1), expert=first_TL[:, :, None])
    assert start_here.keeping(trace) == ([1, 0], 1)
    trace.tokens = "ababc"
    assert start_here.keeping(trace) == ([2, 1], 2)


@pytest.mark.parametrize(
    ("lead", "ahead"),
    [([0.1, 0.11, 0.09], "MoE"), ([-0.1, -0.11, -0.09], "dense"), ([0.1, -0.1], "no clear")],
)
def test_who_is_ahead_follows_the_paired_races(lead, ahead, monkeypatch):
    recorded = {"gap_at_equal_step": judged({"": (lead, np.zeros(len(lead)))})[""]}
    monkeypatch.setattr(dense_vs_moe, "recorded_run", lambda name: recorded)
    raced = dense_vs_moe.recorded_race("step")
    assert raced.ahead.startswith(ahead)
    assert raced.gap.mean == pytest.approx(-np.mean(lead)), "MoE's loss minus dense's"


@pytest.mark.parametrize("verdict", ["lower", "open"])
def test_parameters_are_the_likely_reason_where_the_control_shows_it(verdict, monkeypatch):
    figures = recorded("race")
    control = figures["control"]
    gap = control["minus_dense"] | {"verdict": verdict}
    figures = figures | {"control": control | {"minus_dense": gap}}
    monkeypatch.setattr(dense_vs_moe, "recorded_run", lambda name: figures)
    because = dense_vs_moe.by_step().because
    assert because.startswith("most likely") == (verdict == "lower")
    assert ("not shown to beat the twin" in because) == (verdict == "open")


@pytest.mark.parametrize(
    ("update", "option"), [(1.0, "not further"), (2.0, "further, but"), (4.0, "as much further")]
)
def test_a_step_follows_what_is_left_of_the_gradients_advantage(update, option, monkeypatch):
    sizes = {"step_busy_gradient": 4.0, "step_rare_gradient": 1.0,
             "step_busy_update": update, "step_rare_update": 1.0}  # fmt: skip
    found = {name: {"mean": value} for name, value in sizes.items()}
    monkeypatch.setattr(collapse, "recorded", lambda: {"busy_experts": found})
    assert collapse.one_step().option.startswith(option)


@pytest.mark.parametrize(
    ("costs", "option"),
    [([0.02, 0.021, 0.019], "less"), ([0.2, 0.21, 0.19], "0.1"), ([0.1, -0.1, 0.01], "nothing")],
)
@pytest.mark.parametrize("sure", ["open", "higher"])
def test_the_cost_of_a_limit_follows_its_table(costs, option, sure, monkeypatch):
    cost = judged({"cost": (np.add([3.0, 3.1, 3.2], costs), [3.0, 3.1, 3.2])})["cost"]
    arm = {"cost_mixed": cost, "dropped_mixed": {"mean": 0.1}}
    sure = arm | {"cost_mixed": cost | {"verdict": sure}, "dropped_mixed": {"mean": 0.2}}
    limits = {"factor 1.25": arm, "factor 1, by probability": sure}
    monkeypatch.setattr(capacity, "recorded_run", lambda name: {"limits": limits})
    measured = capacity.limit_costs()
    assert measured.option.startswith(option)
    free = sure["cost_mixed"]["verdict"] == "open" and option != "nothing"
    assert ("20.0 % do, and no cost is shown" in measured.because) == free
    assert ("10.0 % of the tokens" in measured.because) == (option != "nothing")


@pytest.mark.parametrize(
    ("shift", "option"), [(0.1, "it rises"), (-0.1, "it falls"), (0.0, "no difference")]
)
def test_the_leak_follows_the_verdict_of_the_recorded_table(shift, option, monkeypatch):
    own = np.array([3.0, 3.1, 3.2])
    worth = judged({"": (own + shift + [0.01, -0.01, 0.0], own)})[""]
    arm = {"worth_of_later_tokens": worth}
    recorded = {"leaks": {"pool of 16 neighbours": arm}}
    monkeypatch.setattr(capacity, "recorded_run", lambda name: recorded)
    assert capacity.leak_costs().option.startswith(option)


def test_the_labs_question_is_told_from_the_side_of_the_moe_model():
    control = {"minus_MoE": {"mean": -0.2, "low": -0.3, "high": -0.1, "verdict": "lower"}}
    told = told_gap("the MoE model", "dense", question._turned(control))
    assert told.startswith("The MoE model ends 0.200 nats per token above dense")
    assert "+0.100 to +0.300" in told
    lines = question.so_far()
    assert "0.8 % of the FFN's parameters for a token, and 3.3 % of all" in lines
    assert "one seed, so no interval" in lines


def test_the_runs_that_are_told_of_are_recorded():
    assert {"nothing", "balancing loss 0.1"} <= {*cures.recorded()["arms"]}


@pytest.mark.parametrize(("copy", "option"), [(10.0, "reading"), (1e6, "arithmetic")])
def test_the_larger_bound_limits_and_the_measured_time_stands_beside_both(
    copy, option, monkeypatch
):
    device = {"name": "it", "copy_gb_per_s": copy, "matmul_tflops": 0.1}
    layer = {"d_model": 64, "d_expert": 32, "num_experts": 8, "top_k": 2}
    points = [{"tokens": 16, "flops_per_s": 9e9}, {"tokens": 1, "flops_per_s": 1e9}]
    run = {"device": device, "layer": layer, "points": points}
    monkeypatch.setattr(kernels, "recorded_on_a_cpu", lambda: run)
    measured = kernels.bound()
    assert measured.option.startswith(option)
    assert measured.figure.endswith(f"of {6 * 2 * 64 * 32 / 1e3:.0f} µs measured")


@pytest.mark.parametrize(
    ("rate", "option"), [(0.21, "as often"), (0.3, "up to twice"), (0.42, "more than twice")]
)
def test_every_ratio_of_staying_has_an_option_that_is_true_of_it(rate, option, monkeypatch):
    mean = {"repeat_rate": {"law": rate, "pooled": 0.9}, "repeat_chance": {"law": 0.2}}
    recorded = {"deepseek_v2_lite": {"mean": mean}}
    monkeypatch.setattr(real_models, "recorded_run", lambda name: recorded)
    measured = real_models.stay()
    assert measured.option.startswith(option)
    assert measured.option in PREDICTIONS["13.stay"].options
