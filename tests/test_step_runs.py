"""What a training step costs the host is measured item by item, at toy size; the parts that a GPU
alone can time are a stand-in's."""

import time

import pytest
import torch

import step_runs
import train_runs
from helpers.numerics import relative
from moeviz.experiments.at_scale import TOY_SIZE, Arm, Setting, build
from moeviz.model.layer import MoEConfig
from moeviz.watch import timing
from visit import Phase, load


@pytest.fixture(scope="module")
def corpus():
    return train_runs.toy_text()


def test_every_item_is_measured_or_says_why(corpus, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(train_runs, "toy_text", lambda: corpus)
    monkeypatch.setattr(torch, "compile", lambda model: asked.append(model) or model)
    monkeypatch.setattr(step_runs, "forget", lambda: None)
    monkeypatch.setattr(step_runs, "WARM_STEPS", 1)
    monkeypatch.setattr(step_runs, "TIMED_STEPS", 1)
    step_runs.run(Phase("step", tmp_path, time.monotonic() + 900), rehearse=True)
    left = load(tmp_path, "step")
    assert list(left["items"]) == [
        "MoE eager", "dense eager", "MoE compiled", "dense compiled"
    ]  # fmt: skip
    assert len(asked) == 2
    for name in ("MoE", "dense"):
        assert "no GPU here" in left["failed"][f"{name} pass"]
        eager, compiled = (left["items"][f"{name} {how}"] for how in ("eager", "compiled"))
        assert eager["loss"] == compiled["loss"] and eager["tokens_per_second"] > 0


def test_a_pass_is_what_the_trainer_takes(corpus):
    """Loss and gradients, but for the routers' losses, which are no part of it."""
    setting = Setting(TOY_SIZE, corpus)
    alone = {"balance_weight": 0.0, "z_weight": 0.0}
    trainer = build(Arm(MoEConfig(8, 2, 16), alone), 0, 2, setting)
    output, gradients = step_runs.parts_of_a_pass(trainer, setting)
    found = gradients(loss := output())
    result = next(iter(trainer))
    clipped = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    norm = torch.cat([g.flatten() for g in found]).norm()
    assert loss.item() == pytest.approx(result.loss, rel=1e-5)
    assert norm.item() == pytest.approx(result.grad_norm, rel=1e-4)
    scale = min(1.0, trainer.config.clip / result.grad_norm)
    for ours, theirs in zip(found, clipped, strict=True):
        assert relative(ours * scale, theirs) < 1e-3


def test_a_pass_without_a_graph_keeps_its_times(monkeypatch):
    def refused(run):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(step_runs, "on_gpu", lambda step, budget: [[1.0, 2.0]])
    monkeypatch.setattr(step_runs, "host_times", lambda *_: {"forward": 1.0, "backward": 2.0})
    monkeypatch.setattr(step_runs, "captured", refused)
    weight = torch.ones(2, requires_grad=True)
    parts = (lambda: weight.sum(), lambda loss: [torch.ones(2)])
    figures = step_runs.pass_times(*parts)
    assert figures["both_ms"]["median"] == 3.0 and figures["graph_ms"] is None
    assert figures["graph"].startswith("RuntimeError: operation not permitted")
    monkeypatch.setattr(step_runs, "captured", lambda run: (timing.single(int), run()))
    figures = step_runs.pass_times(*parts)
    assert figures["graph_loss_apart"] == 0.0 and figures["graph_ms"]["median"] == 3.0
