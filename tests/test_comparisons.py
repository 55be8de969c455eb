"""Collapse, capacity and the race as they are recorded, at toy size: what is compared with what."""

import dataclasses
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from moeviz.experiments import (
    balance_of_runs,
    busy_experts,
    capacity,
    collapse,
    race,
    race_settings,
)
from moeviz.experiments.cures import BASE, DENSE, SETTINGS, Cures
from moeviz.model import LanguageModel
from moeviz.records.metrics import max_violation
from moeviz.records.runs import Curve, Snapshot, load_snapshots
from moeviz.routing import RouteContext, build_router
from moeviz.text.corpus import load_corpus
from moeviz.training.config import learning_rate_at

META = {"code": "f00", "versions": {"torch": "2"}, "date": "today"}
ON_TEXT = META | {"text": load_corpus().manifest.fingerprint}
SHOWN = (DENSE, BASE, "hash", "frozen router", "nothing, as written", collapse.RESTARTED)


@pytest.fixture
def toy(monkeypatch):
    """Few windows and steps, in this process."""
    training, racing = collapse.collapse_training, race.race_training
    for name, value in {
        "recording.ProcessPoolExecutor": lambda *_, **__: ThreadPoolExecutor(1),
        "collapse.FINAL_WINDOWS": 1,
        "balance_of_runs.KEPT_WINDOWS": 1,
        "collapse.SETTINGS": {name: SETTINGS[name] for name in SHOWN},
        "collapse.RESTART_EVERY": 4,
        "balance_of_runs.AROUND": 2,
        "collapse.collapse_training": lambda cures, seed, steps=0: dataclasses.replace(
            training(cures, seed, 12), warmup=1, validate_every=4, batch_size=8, seq_len=32
        ),
        "busy_experts.STEPS": 2,
        "busy_experts.WINDOWS": 1,
        "capacity.FINAL_WINDOWS": 1,
        "capacity.PREFIX_WINDOWS": 1,
        "capacity.SEQ_LEN": 8,
        "race.FINAL_WINDOWS": 1,
        "race.MEASURE_EVERY": 2,
        "race.race_training": lambda seed, steps=0: dataclasses.replace(
            racing(seed, 4), warmup=1, batch_size=8
        ),
    }.items():
        monkeypatch.setattr(f"moeviz.experiments.{name}", value)


def written(path):
    values = json.loads(path.read_text())
    assert values.pop("provenance") == ON_TEXT
    return values


def as_json(values):
    return json.loads(json.dumps(values))


# Collapse.


def test_a_recorded_collapse_tells_what_its_curves_hold(toy, tmp_path):
    seen = []
    collapse.run(tmp_path, META, 2, lambda *at: seen.append(at))
    told = written(tmp_path / "runs" / "collapse.json")
    runs, _ = load_snapshots(tmp_path / "runs" / "collapse.safetensors")
    assert [run.label for run in runs] == 2 * list(SHOWN) and seen[-1] == (14, 14)
    busy = told.pop("busy_experts")
    assert told == as_json(collapse.summary(runs)) and len(busy["step_busy_update"]["values"]) == 2
    arms = told["arms"]
    assert set(arms) == set(SHOWN)
    for i, run in enumerate(runs):
        arm, seed = arms[run.label], i // len(SHOWN)
        assert len(arm["curves"]["step"]) == 3
        for base, name in ((DENSE, "loss_minus_dense"), (BASE, "loss_minus_nothing")):
            losses = (arms[n]["reserve_loss"]["values"][seed] for n in (run.label, base))
            gap = np.subtract(*losses)
            assert arm[name]["values"][seed] == pytest.approx(gap, abs=1.1e-4)
        for layer in range(run.curve.load.shape[1]):
            load_E = run.curve.load[:, layer].mean(0)  # all steps are the last fifty
            figure = arm["training"]["max_violation"][layer]["values"][seed]
            assert figure == pytest.approx(max_violation(load_E), abs=1e-3)
    # A hash moves no token; what chooses by the hidden state may.
    assert [layer["mean"] for layer in arms["hash"]["kept_experts"]] == [1, 1]
    assert "z_loss" in arms[BASE]["curves"] and "z_loss" not in arms["hash"]["curves"]
    assert arms[DENSE]["collapsed_by_layer"] == []
    assert [restart["step"] for restart in told["restarts"][BASE]] == [5, 9]


def test_settings_differ_in_what_they_are_named_for(toy):
    every = {name: collapse.build_setting(SETTINGS[name], 3) for name in SHOWN}
    models = {name: trainer.model_config for name, trainer in every.items()}
    assert models[DENSE].moe is None and models[DENSE].d_ff == collapse.ACTIVE_WIDTH
    assert models[DENSE].ffn_scale == models[BASE].ffn_scale == 1.0
    assert models["nothing, as written"] == dataclasses.replace(models[BASE], ffn_scale=None)
    restarted, constant = every[collapse.RESTARTED].config, every[BASE].config
    assert models[collapse.RESTARTED] == models[BASE]
    rates = [learning_rate_at(step, restarted) for step in range(restarted.steps)]
    rises = [i for i in range(2, len(rates)) if rates[i] > rates[i - 1]]
    assert rises == collapse.restarts_of(restarted) == collapse.restarts_of(constant)


def test_balance_around_a_restart_is_of_the_steps_on_both_sides(monkeypatch):
    monkeypatch.setattr(balance_of_runs, "AROUND", 2)
    loads = [[[1, 1]], [[2, 0]], [[2, 0]], [[1, 1]], [[1, 1]], [[0, 2]]]
    found = balance_of_runs.around([SimpleNamespace(load=np.array(load)) for load in loads], 3)
    assert found["before"]["max_violation"] == [1.0] and found["after"]["max_violation"] == [0.0]


def test_a_token_is_kept_where_all_its_experts_are():
    before = np.array([[[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]], bool)
    after = np.array([[[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]], bool)
    assert balance_of_runs.kept(before, after) == [0.5]  # of the four that had an expert


def test_a_setting_looks_at_the_same_windows_and_leaves_no_trace(toy):
    one, other = (collapse.build_setting(SETTINGS[BASE], 0) for _ in range(2))
    assert (balance_of_runs.visits(one) == balance_of_runs.visits(one)).all()
    assert next(one).loss == next(other).loss


# Busy experts.


def test_adamw_takes_the_size_of_a_first_gradient_away(toy):
    """The first update of a weight is the learning rate, whatever its gradient (Kingma, Ba)."""
    trainer = collapse.build_collapse(Cures(), 0)
    found = busy_experts.learning_of_experts(trainer, 1, steps=1)
    served = found.tokens > 0
    weights = 3 * 64 * collapse.ACTIVE_WIDTH
    expected = learning_rate_at(0, trainer.config) * weights**0.5
    assert found.update[served] == pytest.approx(expected, rel=0.03)
    assert np.ptp(found.gradient[served]) > 0.5 * found.gradient[served].mean()
    assert found.moved == pytest.approx(found.path)


def test_the_gain_of_an_expert_is_what_its_start_would_cost(toy):
    trainer = collapse.build_collapse(Cures(), 0)
    ffn = trainer.model.blocks[1].ffn
    start = [p.detach().clone() for p in (ffn.w13_E2FD, ffn.w2_EDF)]
    gain_E = busy_experts.learning_of_experts(trainer, 1, steps=5).gain
    batch = trainer.corpus.windows(
        "validation", seq_len=trainer.config.seq_len, windows_per_domain=1
    )
    tokens_BS = torch.from_numpy(batch.tokens)

    @torch.no_grad()
    def loss_and_choice():
        out = trainer.model.eval()(tokens_BS[:, :-1])
        log_TV = out.logits.log_softmax(-1).flatten(0, 1)
        plan = out.routes[1].plan
        expert_T = plan.expert[plan.token.argsort()].long()
        return -log_TV[torch.arange(len(log_TV)), tokens_BS[:, 1:].flatten()], expert_T

    loss_T, expert_T = loss_and_choice()
    busiest = int(expert_T.bincount().argmax())
    for values, before in zip((ffn.w13_E2FD, ffn.w2_EDF), start, strict=True):
        values.data[busiest] = before[busiest]
    expected = (loss_and_choice()[0] - loss_T)[expert_T == busiest].mean().item()
    assert gain_E[busiest] == pytest.approx(expected, abs=1e-6)


def test_the_rare_are_the_rarest_that_got_any():
    tokens = np.array([0, 5, 9, 1, 7, 0, 3, 8.0])
    made = busy_experts.Learning(tokens, *(np.arange(8.0) for _ in range(4)), np.full(8, np.nan))
    busy, rare = busy_experts.busy_and_rare(made)
    assert (sorted(busy), sorted(rare)) == ([2, 7], [3, 6])
    assert busy_experts.figures(made)["busy_tokens"] == 8.5


# Capacity.


@pytest.mark.parametrize("arm", ["token choice", "pool of one sequence"])
def test_only_who_looks_ahead_gains_by_the_later_tokens(toy, arm):
    trainer = capacity.build_leak(arm, 0, 1)
    for block in trainer.model.blocks:  # choices that differ from token to token
        block.ffn.router.weight_ED.data.mul_(50)
    whole, prefixes = capacity.prefix_losses(trainer)
    gaps = np.abs(np.subtract([prefixes, capacity.other_future_loss(trainer)], whole))
    assert (gaps < 1e-5).all() if arm == "token choice" else (gaps > 1e-4).all()


def test_a_limit_is_counted_in_each_pool(toy):
    trainer = capacity.build_capacity("factor 1", 0)
    assert trainer.evaluate(1).active_experts == pytest.approx(1)
    capacity._limit_evaluation(trainer)
    loads = [trainer.evaluate(1, pool=pool).active_experts.mean() for pool in capacity.POOLS]
    assert loads[0] < 1 and min(loads[1:]) < loads[0], "a pool of one kind overflows sooner"


def test_no_two_limits_are_one_rule():
    """Of a full batch each arm keeps other tokens than any arm of the same balancing loss."""
    draw = torch.Generator().manual_seed(0)
    x_TD = torch.randn(64, 16, generator=draw)
    gate_ED = torch.randn(8, 16, generator=draw)
    x_TD[:, 0], gate_ED[0, 0] = 2.0, 3.0  # one expert overflows every limit
    context, kept = RouteContext(training=True), {}
    for arm, (limit, balance_weight) in capacity.CAPACITY_ARMS.items():
        sizes = {"d_model": 16, "num_experts": 8, "top_k": 1}
        router = build_router("token_choice", **sizes, weighting="raw", capacity=limit)
        router.take_gate(gate_ED, x_TD, context)
        tokens = router(x_TD, context).plan.token.sort().values
        kept.setdefault((balance_weight, *tokens.tolist()), []).append(arm)
    assert [arms for arms in kept.values() if len(arms) > 1] == []


def test_the_cost_of_a_limit_is_of_one_model_with_it_and_without(toy, monkeypatch, tmp_path):
    build_leak = capacity.build_leak
    monkeypatch.setattr(capacity, "STEPS", 1)
    monkeypatch.setattr(capacity, "build_leak", lambda arm, seed: build_leak(arm, seed, 1))
    monkeypatch.setattr(
        capacity, "CAPACITY_ARMS", {n: capacity.CAPACITY_ARMS[n] for n in ("no limit", "factor 1")}
    )
    capacity.run(tmp_path, META, 2, lambda *at: None)
    told = written(tmp_path / "runs" / "capacity.json")
    limited, free = told["limits"]["factor 1"], told["limits"]["no limit"]
    for pool in capacity.POOLS:
        cost = np.subtract(limited[f"loss_{pool}"]["values"], limited["loss"]["values"])
        assert limited[f"cost_{pool}"]["values"] == pytest.approx(cost, abs=1.1e-4)
        assert limited[f"dropped_{pool}"]["mean"] > 0 == free[f"dropped_{pool}"]["mean"]
    assert "cost_mixed" not in free and limited["drop_rate"]["mean"] > 0
    gap = np.subtract(limited["loss"]["values"], free["loss"]["values"])
    assert limited["loss_minus_no_limit"]["values"] == pytest.approx(gap, abs=1.1e-4)
    leaks = told["leaks"]
    for pool, (ordered, shuffled) in capacity.SHUFFLED.items():
        two = (leaks[arm]["training_loss"]["values"] for arm in (ordered, shuffled))
        assert told["signature"][pool]["values"] == pytest.approx(np.subtract(*two), abs=1.1e-4)
    assert leaks["token choice"]["worth_of_later_tokens"]["mean"] == pytest.approx(0, abs=1e-4)
    gap = np.subtract(
        leaks["token choice"]["loss_mixed"]["values"], told["dense"]["loss"]["values"]
    )
    assert leaks["token choice"]["loss_mixed_minus_dense"]["values"] == pytest.approx(gap, abs=2e-4)


# The race.


def racer(label, losses, flops=1.0, seconds=1.0):
    """A recorded run with these losses, one a step."""
    rows = [[n, n * flops, n * seconds, loss] for n, loss in enumerate(losses, 1)]
    empty = np.zeros(0)
    curve = Curve(empty, empty, empty, empty, np.zeros((0, 0, 0)), empty)
    meta = {"reserve": rows, "train": {"seed": 0}, "gigaflops_per_step": flops}
    return Snapshot(label, len(rows), len(rows), 1.0, 1.0, 1, 1, curve, meta)


def test_the_multipliers_are_those_of_the_same_loss():
    """The dense twin takes eight steps to the MoE's loss after four, each of half the FLOPs and a
    fifth of the seconds."""
    dense = racer("dense", [5 - np.log2(n) for n in range(1, 17)], flops=0.5, seconds=0.2)
    moe = racer("MoE", [9, 6, 4, 2, 0.5])  # the last one is beyond the twin
    found, step = race.multipliers_of(dense, moe)
    assert step == 4
    assert found.compute == pytest.approx(8 * 0.5 / 4) and found.time == pytest.approx(8 * 0.2 / 4)
    told = race.summary([dense, moe], [racer(race.CONTROL, [1.5])])
    assert told["multipliers"]["compute"]["mean"] == 1.0
    assert told["gap_at_equal_step"]["mean"] == pytest.approx(5 - np.log2(5) - 0.5, abs=1e-4)
    assert told["gap_at_equal_flops"]["mean"] == pytest.approx(5 - np.log2(10) - 0.5, abs=0.01)
    assert told["control"]["minus_MoE"]["mean"] == 1.0


def test_the_third_model_is_dense_and_has_the_parameters_of_all_experts():
    moe = race.race_models(race.NUM_EXPERTS, race.TOP_K)["MoE"]
    control = race.control_model()
    assert control.moe is None and control.ffn_scale == moe.ffn_scale == 1.0
    router = moe.num_layers * race.NUM_EXPERTS * moe.d_model
    of_moe, of_control = (LanguageModel(model).num_parameters() for model in (moe, control))
    assert of_moe - of_control == router


def test_a_recorded_race_has_three_models_and_their_final_losses(toy, tmp_path, monkeypatch):
    # Every step takes a second: a race this short has nothing in common on a real clock.
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr("moeviz.training.trainer.time", clock)
    told = race.run(tmp_path, META, 1, lambda *at: None)
    runs, _ = load_snapshots(tmp_path / "runs" / "race.safetensors")
    controls, _ = load_snapshots(tmp_path / "runs" / "race_control.safetensors")
    assert [run.label for run in runs] == ["dense", "MoE"] and controls[0].label == race.CONTROL
    assert written(tmp_path / "runs" / "race.json") == as_json(told)
    assert as_json(race.summary(runs, controls)) == as_json(told)
    assert [row[0] for row in runs[1].meta["reserve"]] == [2, 4]
    assert told["gap_at_equal_seconds"]["values"] == told["gap_at_equal_step"]["values"]
    flops = told["control"]["gigaflops_per_step"]
    assert flops["dense"] < flops["MoE"] < flops[race.CONTROL]


def test_recorded_settings_of_a_race_have_their_seeds_and_verdicts(toy, tmp_path, monkeypatch):
    """What trains alone has the losses of the race of its seed."""
    toy_training = race.race_training

    def training(seed, steps=0):
        return dataclasses.replace(toy_training(seed), validate_every=2, seq_len=32)

    settings = ((4, 1), race_settings.OF_RACE)
    monkeypatch.setattr(race, "race_training", training)
    for name, value in {
        "race_training": training, "SETTINGS": settings, "MEASURE_EVERY": 2, "FINAL_WINDOWS": 1,
    }.items():  # fmt: skip
        monkeypatch.setattr(race_settings, name, value)
    told = race_settings.run(tmp_path, META, 1, lambda *at: None)
    runs, _ = load_snapshots(tmp_path / "runs" / "race_settings.safetensors")
    figures = written(tmp_path / "runs" / "race_settings.json")
    assert [run.label for run in runs] == ["dense", "MoE"], "of the other one `race` has the runs"
    assert runs[1].meta["model"]["moe"]["num_experts"] == 4
    assert figures["seeds"] == [0] and figures["steps"] == [2, 4]
    rows = figures["MoE"]
    assert [(row["experts"], row["top_k"]) for row in rows] == [*settings]
    for run, of_seeds in zip(runs, (figures["dense"], rows[0]), strict=True):
        validation = run.curve.validation[~np.isnan(run.curve.validation)]
        assert of_seeds["validation"] == [pytest.approx(validation, abs=1e-4)]
    dense = np.array(figures["dense"]["reserve"]["values"])
    for row, (name, ahead) in zip(rows, told.items(), strict=True):
        assert name == f"E = {row['experts']}, K = {row['top_k']}" and row["ahead"] == ahead
        gaps = dense - row["reserve"]["values"]
        assert ahead["values"] == pytest.approx(gaps, abs=2e-4) and ahead["verdict"] == "open"
