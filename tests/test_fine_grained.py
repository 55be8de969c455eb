"""Finer and shared experts: equal cost, what is left out, and the whole recording at toy size."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moeviz.experiments import fine_grained, left_out
from moeviz.experiments.fine_grained import RECORDED, TRAINED, name_of, split_arm
from moeviz.experiments.router_arms import FAIR, LONG, SETTINGS, Setting, arms
from moeviz.host import read_figures
from moeviz.routing import RouteContext
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig

META = {"code": "f00", "versions": {}, "command": "test"}


def test_the_recorded_arms_are_what_would_be_trained_here():
    for key, name in RECORDED.items():
        old, own = arms()[name], split_arm(*key)
        assert own.experts == old.experts and own.family == old.family
        off = {"balance_weight": 0, "z_weight": 0, "cv_weight": 0}
        assert off | own.losses == off | old.losses


@pytest.mark.parametrize("key", (*TRAINED, *RECORDED))
def test_every_arm_has_the_same_width_in_all_and_for_each_token(key):
    experts = split_arm(*key).experts
    width, shared = experts.d_expert, experts.num_shared
    assert width * (experts.num_experts + shared) == 2048
    assert width * (experts.top_k + shared) == 256
    assert (128 // width, shared) == key


@given(st.integers(1, 4), st.integers(0, 2**31 - 1))
def test_a_token_loses_as_many_choices_as_are_said(number, seed):
    rng = torch.Generator().manual_seed(seed)
    weight_TK = torch.rand(9, 4, generator=rng) + 0.1
    expert_TK = torch.rand(9, 8, generator=rng).argsort(1)[:, :4]
    for draw in (None, seed):
        expert, kept_TK = left_out.without_choices(number, draw)(expert_TK, weight_TK, 8)
        assert torch.equal(expert, expert_TK)
        gone_TK = kept_TK == 0
        assert (gone_TK.sum(1) == number).all()
        assert torch.equal(kept_TK[~gone_TK], weight_TK[~gone_TK])
        if draw is None and number < 4:
            least_T = weight_TK.where(gone_TK, torch.inf).amin(1)
            assert (least_T > kept_TK.amax(1)).all()


@pytest.fixture
def toy(monkeypatch):
    """Two arms, a few short steps and one window, in this process."""
    monkeypatch.setitem(SETTINGS, FAIR, Setting(2))
    monkeypatch.setitem(SETTINGS, LONG, Setting(3))
    small = partial(TrainConfig, batch_size=2, seq_len=16, warmup=1)
    for name, value in {
        "recording.ProcessPoolExecutor": lambda *_, **__: ThreadPoolExecutor(1),
        "router_arms.TrainConfig": small,
        "routers_trained.FINAL_WINDOWS": 1,
        "routers_timed.WARM_STEPS": 1,
        "routers_timed.TIMED_STEPS": 1,
        "left_out.FINAL_WINDOWS": 1,
        "left_out.DRAWS": 1,
        "fine_grained.GRID": (4e-3, 16e-3),
        "fine_grained.TRAINED": ((1, 0), (4, 1)),
        "fine_grained.FINEST": (4, 1),
    }.items():
        monkeypatch.setattr(f"moeviz.experiments.{name}", value)


def test_nothing_but_the_shared_experts_is_gone_without_them(toy):
    trainer = split_arm(4, 1).trainer(load_corpus(), Setting(1), 16e-3, 0)
    next(trainer)
    ffn = trainer.model.blocks[0].ffn
    before = trainer.evaluate(1).loss
    x_TD = torch.randn(5, 64)
    context = RouteContext()
    with torch.no_grad(), left_out.without_shared(trainer, more=1):
        y_TD, route = ffn(x_TD, context)
        chosen_TD = ffn.parts(x_TD, context)[0][0] * ffn.factor_P[0]
        assert (route.plan.load().sum() / 5).item() == 8, "7 chosen, and one more"
    torch.testing.assert_close(y_TD, chosen_TD)
    assert trainer.evaluate(1).loss == before and ffn.router.top_k == 7


def test_the_recording(toy, tmp_path):
    (tmp_path / "runs").mkdir()
    fine_grained.run(tmp_path, META, 2, lambda *at: None)
    figures = json.loads((tmp_path / "runs" / "fine_grained.json").read_text())
    known = read_figures("routers")
    assert figures["finest"]["grid"] == [4e-3, 16e-3] and figures["rate"] == 16e-3
    assert figures["arms"]["split 2"]["recorded_in"] == "routers"
    assert "recorded_in" not in figures["arms"]["split 1"]
    assert set(figures["timing"]["seconds"]) == set(figures["arms"])
    for length in (FAIR, LONG):
        table = figures["settings"][length]
        losses = {name: arm["loss"]["values"] for name, arm in table["arms"].items()}
        old = known["settings"][length]["arms"]["fine-grained"]["loss"]["values"]
        assert losses["split 2"] == old[:2] and len(losses["split 1"]) == 2
        gap = table["pairs"]["split 2"]
        assert gap["base"] == "split 1"
        assert gap["mean"] == pytest.approx(
            np.subtract(old[:2], losses["split 1"]).mean(), abs=1e-3
        )
        assert table["pairs"]["split 2, 1 shared"]["base"] == "split 2"
        assert "split 4, 1 shared" not in table["pairs"], "without its base there is no pair"
    lost = figures["left_out"][name_of(4, 1)]
    for name in (left_out.SHARED, left_out.REPLACED, left_out.DRAWN, left_out.BUSIEST):
        found = lost[name]
        assert np.mean(found["by_domain"]) == pytest.approx(found["rise"]["mean"], abs=2e-4)
    gap = lost["pairs"]["shared or drawn"]["mean"]
    assert gap == pytest.approx(
        lost[left_out.SHARED]["rise"]["mean"] - lost[left_out.DRAWN]["rise"]["mean"], abs=2e-4
    )
