"""Trainings for a GPU are fair at the start, equally long, and keep what is done; at toy size."""

import dataclasses
import json
import time

import numpy as np
import pytest
import scipy.stats
import torch

import train_runs
from moeviz.experiments import gpu_collapse, gpu_experts, gpu_race, gpu_record
from moeviz.experiments.at_scale import (
    DENSE,
    TOY_SIZE,
    Arm,
    Setting,
    Size,
    build,
    output_variance,
    train,
)
from moeviz.experiments.cures import name_of
from moeviz.experiments.gpu_record import Experiment, difference, record, steps_that_fit, summary
from moeviz.model.layer import MoEConfig
from visit import Phase, load

EXPERIMENTS = {e.name: e for e in train_runs.SHARES}


@pytest.fixture(scope="module")
def toy():
    return Setting(TOY_SIZE, train_runs.text(rehearse=True))


@pytest.fixture(scope="module")
def wide(toy):
    """Wide enough for a variance to be near its expectation."""
    size = Size(96, 2, 2, 16, 4, 24, (8, 16), seq_len=32, batch_size=4, windows=48)
    return dataclasses.replace(toy, size=size, costs={})


@pytest.mark.parametrize(
    "experts",
    [
        MoEConfig(16, 4, 24),
        MoEConfig(8, 1, 96, options={"weighting": "raw"}),
        MoEConfig(16, 1, 96, options={"score": "sigmoid", "bias": "sign", "scale": 5.0}),
    ],
    ids=["renormalised", "top-1 raw", "too loud"],
)
def test_every_ffn_starts_as_loud_as_the_dense_twins(wide, experts):
    def mean_variance(arm):
        of_seeds = [output_variance(build(arm, seed, 2, wide), 8) for seed in range(3)]
        return np.mean(of_seeds)

    twin = mean_variance(Arm(None))
    assert mean_variance(Arm(experts)) == pytest.approx(twin, rel=0.25)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_arms_share_starts_equal_and_only_where_the_seed_is(toy, name):
    arms = EXPERIMENTS[name].arms(toy.size)
    starts = [build(arm, 1, 2, toy).model.state_dict() for arm in arms.values()]
    shared = set.intersection(*(set(start) for start in starts))
    assert {"embedding.weight", "head.weight", "blocks.1.attention.qkv.weight"} <= shared
    for start in starts[1:]:
        assert all(torch.equal(start[n], starts[0][n]) for n in shared)
    other = build(arms[DENSE], 2, 2, toy).model.state_dict()
    assert not torch.equal(other["embedding.weight"], starts[0]["embedding.weight"])
    first, last = (
        build(arm, 1, 2, toy).model_config for arm in (arms[DENSE], [*arms.values()][-1])
    )
    assert first.d_ff == toy.size.width
    assert last.moe is None or last.dense_twin() == dataclasses.replace(first, moe=None)


def test_the_collapse_is_that_of_the_small_one_but_for_its_size():
    """As many active parameters as the race, and the cures' own names."""
    arms = gpu_collapse.arms(Size())
    assert [*arms] == [
        "nothing", "balancing loss 0.01", "sign bias", "balancing loss 0.01 + z-loss 0.001", DENSE,
    ]  # fmt: skip
    assert [*arms][:4] == [name_of(cures) for cures in gpu_collapse.CURES]
    for arm in [*arms.values()][:4]:
        assert (arm.experts.num_experts, arm.experts.top_k, arm.experts.d_expert) == (16, 1, 2048)
    assert arms["nothing"].training == {"balance_weight": 0.0, "z_weight": 0.0}
    assert arms["sign bias"].experts.options["bias"] == "sign"


def test_8_to_128_experts_of_which_a_token_visits_as_many_of_the_same_width():
    arms = gpu_experts.arms(Size())
    assert [*arms] == [DENSE, *(f"E = {e}" for e in (8, 16, 32, 64, 128))]
    sparse = [arm.experts for arm in arms.values() if arm.experts]
    assert [experts.num_experts for experts in sparse] == [8, 16, 32, 64, 128]
    assert {experts.top_k * experts.d_expert for experts in sparse} == {Size().width}
    assert len({(experts.top_k, experts.d_expert) for experts in sparse}) == 1


def test_steps_are_chosen_so_that_all_runs_fit():
    costs = [
        {"build": 1.0, "step": 0.1, "evaluate": 0.0},
        {"build": 2.0, "step": 0.3, "evaluate": 0.1},
    ]
    steps = steps_that_fit(100, costs, Size())
    taken = sum(gpu_record.seconds_of(cost, steps) for cost in costs)
    assert 92 < taken <= 93
    assert steps_that_fit(1e6, costs, Size()) == Size().most_steps
    with pytest.raises(ValueError, match=r"20 s hold 35 steps for each of 2 runs, and 100 are"):
        steps_that_fit(20, costs, Size())


class Visit:
    """A clock that a run moves on, and items that are kept as a phase does."""

    def __init__(self, monkeypatch, step=0.1):
        self.left, self.step, self.items, self.failed = 100.0, step, {}, {}
        monkeypatch.setattr(gpu_record, "probe", self.probe)
        monkeypatch.setattr(gpu_record, "train", self.train)

    def probe(self, arm, setting):
        if arm.experts is not None and arm.experts.num_experts == 7:
            raise ValueError("no such arm")
        return {"build": 1.0, "step": 0.1, "evaluate": 0.0}

    def train(self, arm, seed, steps, setting):
        self.left -= 1 + self.step * steps
        return {"validation_loss": 2.0 + seed, "steps": steps}

    def item(self, key, measure):
        try:
            self.items[key] = measure()
        except ValueError as error:
            self.failed[key] = str(error)
        return self.items.get(key)


ARMS = {DENSE: Arm(None), "MoE": Arm(MoEConfig(4, 2, 8)), "odd": Arm(MoEConfig(7))}
TWO = Experiment("two", lambda size: ARMS, seeds=2)


def test_an_arm_that_fails_is_left_out_and_the_others_have_equal_steps(toy, monkeypatch):
    setting = dataclasses.replace(toy, size=Size())
    visit = Visit(monkeypatch)
    record(TWO, setting, lambda: visit.left, visit.item)
    assert visit.failed == {"two/probe of odd": "no such arm"}
    runs = {key: run["steps"] for key, run in visit.items.items() if "seed" in key}
    assert [*runs] == ["two/dense/seed 0", "two/MoE/seed 0", "two/dense/seed 1", "two/MoE/seed 1"]
    assert len({*runs.values()}) == 1 and 0 <= visit.left < 8
    assert {*summary(TWO, visit.items)["arms"]} == {DENSE, "MoE"}


def test_a_run_that_would_not_end_in_time_is_not_begun(toy, monkeypatch):
    setting = dataclasses.replace(toy, size=Size())
    visit = Visit(monkeypatch, step=0.15)  # half as slow again as the probe said
    record(TWO, setting, lambda: visit.left, visit.item)
    assert visit.left > 0 and len(visit.failed) == 3
    assert visit.failed["two/MoE/seed 1"] == "it takes about 34 s, and 31 s are left."
    found = summary(TWO, visit.items)
    assert found["arms"]["MoE"]["seeds"] == [0] == found["arms"][DENSE]["seeds"]
    assert found["arms"]["MoE"]["loss_minus_base"]["interval"] is None


def test_differences_are_taken_seed_by_seed_with_an_interval():
    a, b = [2.0, 2.5, 2.25], [2.5, 2.75, 3.0]
    figure = difference(a, b)
    low, high = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert figure["mean"] == -0.5
    assert figure["interval"] == pytest.approx((high - low) / 2, abs=1e-4)

    def run(loss):
        return {
            "validation_loss": loss,
            "seconds": 1.0,
            "collapsed": True,
            "validation_curve": [(1, loss)],
            "chip": {"sm_mhz": 1980.0} if loss == 2.5 else {},
        }

    plan = {"arms": [DENSE, "MoE"], "base": DENSE, "seeds": 3}
    items = {"gpu_race/plan": plan, **{f"gpu_race/MoE/seed {i}": run(v) for i, v in enumerate(a)}}
    items |= {f"gpu_race/dense/seed {i}": run(b[i]) for i in (0, 2)}
    arms = summary(gpu_race.EXPERIMENT, items)["arms"]
    assert arms["MoE"]["loss_minus_base"]["values"] == [-0.5, -0.75], "the seeds that both have"
    assert arms["MoE"]["validation_loss"]["values"] == a and "loss_minus_base" not in arms[DENSE]
    assert arms["MoE"]["collapsed"]["mean"] == 1.0
    assert arms[DENSE]["validation_curve"] == [[(1, 2.5)], [(1, 3.0)]]
    assert arms[DENSE]["chip"] == [{"sm_mhz": 1980.0}, {}], "a run may have no sample"
    with pytest.raises(ValueError, match="no run of gpu_collapse"):
        summary(gpu_collapse.EXPERIMENT, items)


def test_what_a_doubling_of_experts_changes():
    def arm(*losses):
        return {"runs": len(losses), "validation_loss": {"values": [*losses]}}

    arms = {DENSE: arm(9.0), "E = 8": arm(3.0), "E = 16": arm(2.8), "E = 32": arm(2.6)}
    exact = gpu_experts.per_doubling(arms)["loss_per_doubling"]
    assert exact == {"mean": -0.2, "interval": 0.0}
    arms["E = 64"] = arm(2.5, 2.6)
    noisy = gpu_experts.per_doubling(arms)["loss_per_doubling"]
    x, y = [3, 4, 5, 6, 6], [3.0, 2.8, 2.6, 2.5, 2.6]
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    assert noisy["mean"] == pytest.approx(slope, abs=1e-4)
    wanted = scipy.stats.t.ppf(0.975, 3) * covariance[0, 0] ** 0.5
    assert noisy["interval"] == pytest.approx(wanted, abs=1e-4)
    assert gpu_experts.per_doubling({n: arms[n] for n in (DENSE, "E = 8", "E = 16")}) == {}


def test_a_rehearsal_leaves_every_run_with_its_figures(tmp_path):
    phase = Phase("train", tmp_path, time.monotonic() + 3000)
    train_runs.train(phase, train_runs.text(rehearse=True), rehearse=True)
    phase.save()
    assert not phase.failed and not phase.late
    found = train_runs.records(load(tmp_path, "train"), {"date": "today"})
    assert [*found] == ["gpu_race", "gpu_experts", "gpu_collapse"]
    assert json.loads(json.dumps(found)) == found
    race, experts, collapse = found.values()
    assert {name: arm["runs"] for name, arm in race["arms"].items()} == {DENSE: 3, "MoE": 3}
    assert [*experts["arms"]] == [DENSE, "E = 4", "E = 8", "E = 16"]
    assert "loss_per_doubling" in experts and len(collapse["arms"]) == 5
    for one in found.values():
        assert one["steps"] == 4 and one["tokens"] == 4 * 64 and one["provenance"]
        for name, arm in one["arms"].items():
            assert arm["validation_curve"][0][-1] == [
                4, pytest.approx(arm["validation_loss"]["values"][0], abs=1e-4)
            ]  # fmt: skip
            assert len(arm["output_variance_at_start"][0]) == 2
            assert len(arm["output_scale"][0]) == (0 if name == DENSE else 2)
            assert arm["tokens_per_second"]["mean"] > 0 and "of_peak" not in arm
            assert ("effective_curve" in arm) == (name != DENSE)
    # The dense twin of one seed is one run, whatever it is compared with.
    losses = {one["arms"][DENSE]["validation_loss"]["values"][0] for one in found.values()}
    assert len(losses) == 1


def test_the_share_of_the_peak_is_that_of_the_counted_flops(toy):
    setting = dataclasses.replace(toy, peak_tflops=0.25, costs={})
    arm = gpu_race.arms(toy.size)["MoE"]
    figures = train(arm, 0, 3, setting)
    steps_per_second = figures["tokens_per_second"] / toy.size.tokens_per_step
    flops = 1e9 * figures["gigaflops_per_step"]
    assert flops == build(arm, 0, 3, setting).flops_per_step > 0
    assert figures["of_peak"] == pytest.approx(steps_per_second * flops / 0.25e12)


def test_the_command_writes_what_ends_and_needs_a_gpu(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    seen = []
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        gpu_race.run(tmp_path, {"date": "today"}, 2, lambda *at: seen.append(at))
    monkeypatch.setattr(gpu_record, "gpu_setting", lambda: toy)
    told = gpu_race.run(tmp_path, {"date": "today"}, 2, lambda *at: seen.append(at), seconds=300)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)] and {*told} == {DENSE, "MoE"}
    written = json.loads((tmp_path / "runs" / "gpu_race.json").read_text())
    assert written["provenance"] == {"date": "today"} and written["arms"]["MoE"]["runs"] == 2
