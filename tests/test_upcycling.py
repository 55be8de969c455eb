"""Grown models trained: looks at experts, where leads end, what is compared when, the recording."""

import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.experiments import grown_models, rates, recording
from moeviz.experiments import upcycling as experiment
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.records.growth import (
    BEFORE,
    COPIES,
    DENSE,
    DROP,
    EQUAL_COMPUTE,
    EQUAL_STEPS,
    LEADS,
    LEARNERS,
    NOISE,
    PAIRS,
    SCRATCH,
    WAY,
    WAYS,
    cosines,
    lead_ends,
    mean_cosines,
    mean_interval,
    name_of,
)
from moeviz.records.runs import load_snapshots
from moeviz.text.corpus import load_corpus
from moeviz.training.grown import GrownTrainer

META = {"code": "", "versions": {}}


def tiny(experts, *, ffn_scale=1.0, d_ff=8):
    return ModelConfig(
        d_model=8, num_layers=2, num_heads=2, d_ff=d_ff, moe=experts, ffn_scale=ffn_scale
    )


@pytest.fixture
def small(monkeypatch):
    """Few steps of a tiny model, in this process."""
    monkeypatch.setattr(recording, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(rates, "FURTHER", 1)
    for name, value in {
        "PARENT_STEPS": 4, "STEPS": 4, "EARLY_STEP": 2, "MEASURE_EVERY": 2, "WINDOWS": 1,
        "LIVE_STEPS": 3, "WIDTH": 8, "EXPERTS": 3,
        "small_model": tiny,
    }.items():  # fmt: skip
        for module in (grown_models, experiment):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    kept = (grown_models.live_parent, grown_models.train_parent)
    for parents in kept:
        parents.cache_clear()
    yield
    for parents in kept:
        parents.cache_clear()


def grown(way, steps=3, seed=0, name=""):
    parent = grown_models.parent_trainer(4e-3, seed)
    return grown_models.grow(parent.model, way, grown_models.training(8e-3, seed, steps, 2), name)


# Records.


def test_looks_at_experts_are_those_of_the_weights(small):
    trainer = grown({"drop": 0.5}, steps=3)
    want = []
    for step in range(4):
        if step in (0, 2, 3):  # the first, every second, the last
            banks = [block.ffn for block in trainer.model.blocks]
            flat = [torch.cat((b.w13_E2FD.flatten(1), b.w2_EDF.flatten(1)), 1) for b in banks]
            want.append(
                [
                    [[float(torch.cosine_similarity(a, b, dim=0)) for b in each] for a in each]
                    for each in (f.detach() for f in flat)
                ]
            )
        next(trainer, None)
    steps, matrix = cosines(trainer.snapshot("grown"))
    assert steps.tolist() == [0, 2, 3]
    np.testing.assert_allclose(matrix, want, atol=1e-4)
    means = mean_cosines(trainer.snapshot("grown"))
    apart = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(
        [mean for _, mean in means], np.array(want)[:, :, apart].mean((1, 2)), atol=1e-4
    )
    early = trainer.snapshot("grown").at("step", 2)
    assert cosines(early)[0].tolist() == [0, 2], "as far as the timeline is pulled"


def test_a_dense_model_has_no_experts_to_look_at(small):
    parent = grown_models.parent_trainer(4e-3, 0)
    next(parent)
    assert mean_cosines(parent.snapshot("dense")) == [] and not len(cosines(parent.snapshot(""))[0])


def test_a_rewound_run_looks_again_and_a_resumed_one_remembers(small, tmp_path):
    trainer = grown({"noise": 0.2}, steps=4, name=NOISE)
    next(trainer), next(trainer)
    trainer.rewind()
    assert trainer.step == 0
    for _ in trainer:
        pass
    assert [step for step, _ in trainer.notes["cosine"]] == [0, 2, 4]
    trainer.save(tmp_path / "grown.safetensors")
    again = GrownTrainer.resume(tmp_path / "grown.safetensors", load_corpus())
    assert again.notes == json.loads(json.dumps(trainer.notes))
    assert again.notes[WAY] == NOISE and again.notes[BEFORE] == grown_models.flops_before()


@settings(max_examples=40, deadline=None)
@given(
    crossing=st.floats(0.5, 9.5), slope=st.floats(0.01, 1), noise=st.integers(0, 2**16),
)  # fmt: skip
def test_a_lead_ends_where_straight_lines_cross(crossing, slope, noise):
    steps = np.arange(11.0)
    others = np.random.default_rng(noise).normal(size=11)
    losses = others + slope * (steps - crossing)
    assert lead_ends(steps, losses, others) == pytest.approx(crossing, abs=1e-6)
    assert math.isnan(lead_ends(steps, others, losses))  # it leads at the end


def test_a_lead_that_comes_back_has_not_ended_and_none_ends_at_once():
    assert lead_ends([0, 10, 20, 30], [0, 2, 0, 2], [1, 1, 1, 1]) == 25
    assert lead_ends([5, 10], [2, 2], [1, 1]) == 5
    assert math.isnan(lead_ends([0, 1], [2, 1], [1, 1]))


def test_the_interval_of_a_mean_is_students():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert mean_interval([4.0]) == (4.0, -math.inf, math.inf)


# What is compared.


def test_equal_compute_is_equal_flops():
    """At the real sizes: what two arms have spent by the steps at which they are compared."""
    per_step = {
        DENSE: grown_models.go_on(
            grown_models.parent_trainer(4e-3, 0).model, grown_models.training(4e-3, 0, 1, 0)
        ).flops_per_step,
        SCRATCH: grown_models.from_scratch(grown_models.training(4e-3, 0, 1, 0)).flops_per_step,
    }
    parent = grown_models.PARENT_STEPS * per_step[DENSE]
    assert grown_models.flops_before() == pytest.approx(parent)
    for pair in PAIRS:
        for step in (experiment.EARLY_STEP, experiment.STEPS):
            first, other = experiment.compared_at(pair, step)
            at = experiment.marks()
            assert first in at[pair[0]] and other in at[pair[1]]
            if pair[2] == EQUAL_STEPS:
                assert first == other == step
                continue
            spent = parent + first * per_step[SCRATCH]
            beside = other * per_step[SCRATCH]
            if pair[1] == DENSE:
                beside = parent + other * per_step[DENSE]
            assert spent == pytest.approx(beside, rel=2e-3)
    assert EQUAL_COMPUTE in {pair[2] for pair in PAIRS}


def test_arms_of_a_seed_see_the_same_text_and_the_parent_another(small):
    parent = grown_models.parent_trainer(4e-3, 5)
    config = grown_models.training(4e-3, 5, 4, 0)
    arms = [grown_models.go_on(parent.model, config), grown_models.from_scratch(config)]
    arms.append(grown_models.grow(parent.model, {}, config))
    seeds = {arm.config.seed for arm in arms}
    assert seeds == {5} and parent.config.seed not in range(10_000)
    assert {arm.config.schedule for arm in arms} == {"constant"}
    assert {arm.config.warmup for arm in arms} == {50}


def test_copies_begin_at_the_parents_loss_and_the_others_above(small):
    parent = grown_models.train_parent(8e-3, 0)
    loss = parent.evaluate(2).loss
    config = grown_models.training(8e-3, 0, 4, 0)
    copies, drop = (grown_models.grow(parent.model, WAYS[way], config) for way in (COPIES, DROP))
    assert copies.evaluate(2).loss == pytest.approx(loss, abs=1e-5)
    assert grown_models.go_on(parent.model, config).evaluate(2).loss == loss
    assert drop.evaluate(2).loss != pytest.approx(loss, abs=1e-4)
    assert mean_cosines(copies.snapshot("")) == []  # not yet looked at
    next(copies), next(drop)
    assert mean_cosines(copies.snapshot(""))[0] == (0, pytest.approx(1, abs=1e-4))
    assert mean_cosines(drop.snapshot(""))[0][1] < 0.6


# The recording.


def test_rates_are_tried_for_the_whole_run_with_seeds_of_no_final_one(small, monkeypatch):
    marks = experiment.marks()
    assert {arm: grown_models.steps_of(arm) for arm in marks} == {
        arm: steps[-1] for arm, steps in marks.items()
    }
    ended = []
    monkeypatch.setattr(
        grown_models, "final_loss",
        lambda t: ended.append((t.config.learning_rate, t.config.seed, t.config.steps)),
    )  # fmt: skip
    for arm in grown_models.OWN_RATE:
        grown_models.try_arm(arm, 8e-3, 1e-3, 1)
        assert ended.pop() == (1e-3, 1001, marks[arm][-1])
    grown_models.try_parent(8e-3, 0)
    assert ended.pop() == (8e-3, 11_000, grown_models.PARENT_STEPS)


def test_a_parent_is_trained_once_and_stays_as_it_is(small):
    parent = grown_models.train_parent(8e-3, 7)
    before = {name: value.clone() for name, value in parent.model.state_dict().items()}
    experiment.train_grown(dict.fromkeys((grown_models.PARENT, *experiment.ARMS), 8e-3), 7)
    assert grown_models.train_parent(8e-3, 7) is parent
    for name, value in parent.model.state_dict().items():
        assert torch.equal(before[name], value)
    assert grown_models.train_parent(8e-3, 8) is not parent


def test_the_recording_is_written_and_says_what_was_measured(small, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "GRID_SEEDS", (1000,))
    (tmp_path / "runs").mkdir()
    counts = []
    experiment.run(tmp_path, META, 2, lambda done, total: counts.append((done, total)))
    figures = json.loads((tmp_path / "runs" / "upcycling.json").read_text())
    assert counts[-1][0] == counts[-1][1] == 2 * 5 + 2 * 2
    assert figures["seeds"] == [0, 1] and {*figures["arms"]} == {*experiment.ARMS}
    assert {*figures["rates"]} == {"parent", DENSE, COPIES, DROP, SCRATCH}
    for arm, found in figures["rates"].items():  # the better of two is an end: one more is tried
        first, last = grown_models.OWN_RATE.get(arm, grown_models.FROM_NOTHING)
        assert found["grid"] in ([first / 2, first, last], [first, last, 2 * last])
        assert found["losses"][found["grid"].index(found["chosen"])] == min(found["losses"])
    for name, arm in figures["arms"].items():
        assert len(arm["steps"]) == len(arm["loss"]) and ("cosine" in arm) == (name != DENSE)
        if name != DENSE:
            assert len(arm["cosine"]) == len(figures["cosine_steps"])
    for moment, step in (("early", 2), ("late", 4)):
        for pair in PAIRS:
            gap = figures["gaps"][moment][name_of(pair)]
            first, other = (
                figures["arms"][arm]["loss"][figures["arms"][arm]["steps"].index(at)]["values"]
                for arm, at in zip(pair[:2], experiment.compared_at(pair, step), strict=True)
            )
            np.testing.assert_allclose(gap["values"], np.subtract(first, other), atol=2e-4)
    assert [*figures["lead_ends"]] == [name_of(pair) for pair in LEADS]
    for ends in figures["lead_ends"].values():
        assert len(ends["seeds"]) == 2 and ("mean" in ends) == (None not in ends["seeds"])
    snapshots, _ = load_snapshots(tmp_path / "runs" / "upcycling.safetensors")
    assert [snapshot.label for snapshot in snapshots] == [*experiment.ARMS]
    assert snapshots[3].meta["notes"][WAY] == DROP


# Live.


def test_a_live_run_grows_from_one_parent_and_is_found_again(small, tmp_path):
    told = []
    learners = grown_models.build(DROP, 3, lambda done, total: told.append((done, total)))
    assert told == [(step, 4) for step in range(1, 5)]
    assert [*learners] == [*LEARNERS]
    again = grown_models.build(DROP, 3, lambda *_: pytest.fail("the parent is trained already"))
    for label, learner in learners.items():
        for name, value in learner.model.state_dict().items():
            assert torch.equal(again[label].model.state_dict()[name], value)
        next(learner)
        learner.save(tmp_path / f"{label}.safetensors")
    found = grown_models.resume(tmp_path, DROP, 3)
    assert {label: one.step for label, one in found.items()} == dict.fromkeys(learners, 1)
    assert grown_models.resume(tmp_path, COPIES, 3) == {}
    assert grown_models.resume(tmp_path, DROP, 4) == {}
    assert grown_models.resume(tmp_path / "none", DROP, 3) == {}


def test_experts_are_as_wide_as_the_parents_ffn():
    moe = grown_models.experts()
    assert isinstance(moe, MoEConfig) and moe.d_expert == grown_models.WIDTH
    assert dataclasses.replace(moe, num_experts=1, top_k=1).d_expert == grown_models.WIDTH
