"""What the experiment on models as experts computes, with a handful of steps and few windows."""

import json

import numpy as np
import pytest
import torch

from moeviz.experiments import models_as_experts, models_measured, one_set, rates, trained_apart
from moeviz.experiments.trained_apart import Lengths, read_text, train_apart
from moeviz.leaving import Stopped
from moeviz.model import LanguageModel, ModelConfig, MoEConfig
from moeviz.records.models_as_experts import (
    ARMS,
    BY_PROMPT,
    DENSE_ALL,
    EVEN,
    HINDSIGHT,
    MIXED,
    MOE_ALL,
    PICKED,
    PROMPT,
    SEEN,
    TOLD,
    UNSEEN,
    MixedText,
)
from moeviz.surgery.mix import average, token_losses
from moeviz.text.corpus import load_corpus
from moeviz.text.tokenizer import Tokenizer

FEW = Lengths(1, 2, 12)
DOMAINS = (*SEEN, *UNSEEN)
WINDOWS = 3  # of each domain


@pytest.fixture(scope="module")
def short():
    """The lengths of the experiment, cut to a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (models_as_experts, models_measured):
            patch.setattr(module, "RECORDED", FEW)
            patch.setattr(module, "TOGETHER", 1)
        patch.setattr(one_set, "STEPS", 1)
        patch.setattr(models_as_experts, "GRID", (8e-3, 16e-3))
        for module in (models_measured, one_set):
            patch.setattr(module, "FINAL_WINDOWS", WINDOWS)

        def collect(path, meta, runs, seeds, on_step, on_seed=None):
            on_step(len(runs) * seeds, len(runs) * seeds)
            return {name: [run(seed) for seed in range(seeds)] for name, run in runs.items()}

        for module in (models_as_experts, rates):
            patch.setattr(module, "collect", collect)
        patch.setattr(rates, "FURTHER", 1)
        yield


@pytest.fixture(scope="module")
def apart():
    return train_apart(1e-2, 0, FEW)


@pytest.fixture(scope="module")
def recorded(short, tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    (out / "runs").mkdir()
    told = []
    models_as_experts.run(out, {"code": "", "versions": {}}, 1, lambda *at: told.append(at))
    assert told[-1][0] == told[-1][1], "it ends where it said that it would"
    return json.loads((out / "runs" / "models_as_experts.json").read_text())


def test_every_arm_has_its_losses_and_costs(recorded):
    assert tuple(recorded["arms"]) == ARMS
    for name, arm in recorded["arms"].items():
        learned_alone = name == TOLD
        assert tuple(arm["domains"]) == (SEEN if learned_alone else DOMAINS)
        assert ("unseen" in arm) != learned_alone
        means = [arm["domains"][domain]["mean"] for domain in SEEN]
        assert arm["seen"]["mean"] == pytest.approx(np.mean(means), abs=2e-4)
        assert 0 < arm["training"] <= 1 and arm["answer"] >= 1
    assert recorded["arms"][DENSE_ALL]["training"] == recorded["arms"][MOE_ALL]["training"] == 1
    assert recorded["arms"][MIXED]["answer"] == 3
    best = recorded["arms"][HINDSIGHT]["seen"]["mean"]
    assert best <= min(recorded["arms"][name]["seen"]["mean"] for name in (TOLD, PICKED)) + 1e-4
    assert {*recorded["gaps"]["seen"]} == {*ARMS} - {"common start", HINDSIGHT, DENSE_ALL}
    assert set(recorded["rates"]) == {"apart", "one dense model", "one MoE", "together"}
    for found in recorded["rates"].values():  # a best rate of two is an end: one more is tried
        assert found["grid"] in ([4e-3, 8e-3, 16e-3], [8e-3, 16e-3, 32e-3])


def test_controls_cost_what_the_whole_way_costs(short):
    steps = models_as_experts.control_steps()
    dense, moe = (
        model.flops_per_token(64)
        for model in (trained_apart.small_model(None), models_measured.moe_model())
    )
    whole = FEW.steps * dense + moe
    assert (FEW.start + steps[DENSE_ALL]) * dense == pytest.approx(whole, abs=dense)
    assert steps[MOE_ALL] * moe == pytest.approx(whole, abs=moe)


def test_branches_learn_their_own_domain_and_begin_alike(apart):
    corpus = load_corpus()
    steps = trained_apart.common_start(0, FEW.start)
    for (name, value), again in zip(
        apart.start.state_dict().items(), steps.state_dict().values(), strict=True
    ):
        assert torch.equal(value, again), name
    assert len(apart.models) == len(SEEN)
    assert not torch.equal(apart.models[0].head.weight, apart.models[1].head.weight)
    alone = trained_apart.trained(
        apart.start.config, corpus.only(SEEN[1]), FEW.apart, 1e-2, 100, start=apart.start
    )
    assert torch.equal(alone.head.weight, apart.models[1].head.weight)


def test_measured_against_a_loop_in_numpy(short, apart):
    found = models_measured.measured(apart, {})
    ids = (
        load_corpus()
        .only(*DOMAINS)
        .windows("reserve", seq_len=64, windows_per_domain=WINDOWS)
        .tokens
    )
    loss = np.stack([token_losses(model, torch.from_numpy(ids)).numpy() for model in apart.models])
    with torch.no_grad():
        log_weight = apart.router(torch.from_numpy(ids[:, :PROMPT])).numpy()
    wanted = {name: [] for name in (PICKED, MIXED, BY_PROMPT, EVEN, HINDSIGHT)}
    for w in range(len(ids)):
        before, after = (
            loss[:, w, : PROMPT - 1].astype(float),
            loss[:, w, PROMPT - 1 :].astype(float),
        )
        probability = np.exp(-after)
        by_prompt = np.exp(-before.sum(1) + before.sum(1).min())
        wanted[PICKED].append(after[log_weight[w].argmax()].mean())
        wanted[MIXED].append(-np.log(np.exp(log_weight[w]) @ probability).mean())
        wanted[BY_PROMPT].append(-np.log(by_prompt / by_prompt.sum() @ probability).mean())
        wanted[EVEN].append(-np.log(probability.mean(0)).mean())
        wanted[HINDSIGHT].append(after.mean(1).min())
    for name, values in wanted.items():
        by_domain = np.reshape(values, (len(DOMAINS), WINDOWS)).mean(1)
        np.testing.assert_allclose(found["loss"][name], by_domain, rtol=1e-5, err_msg=name)
    picks = log_weight.argmax(1).reshape(len(DOMAINS), WINDOWS)
    for m in range(3):
        np.testing.assert_allclose(found["picked"][m], (picks == m).mean(1))
    right = np.mean([(picks[m] == m).mean() for m in range(3)])
    assert found["right"]["picked"] == pytest.approx(right)


def test_one_expert_a_text_is_the_model_with_that_ffn_everywhere(apart):
    ids = torch.from_numpy(load_corpus().tokens("python")[: 4 * 20].reshape(4, 20).astype(np.int64))
    losses = models_measured.one_expert(apart, ids, torch.tensor([0, 2, 2, 1]))
    alone = average(apart.models)
    for row, expert in enumerate((0, 2, 2, 1)):
        for layer, block in enumerate(alone.blocks):
            block.ffn = apart.models[expert].blocks[layer].ffn
        torch.testing.assert_close(losses[row : row + 1], token_losses(alone, ids[row : row + 1]))


def test_how_many_experts_a_text_meets():
    torch.manual_seed(0)
    for router, options, wanted in (
        ("sequence_level", {}, 2),
        ("sequence_level", {"prompt": 4}, 2),
        ("token_choice", {}, None),
    ):
        moe = MoEConfig(6, 2, 8, router=router, options=options)
        model = LanguageModel(ModelConfig(vocab_size=40, d_model=16, num_heads=2, moe=moe))
        ids = torch.randint(0, 40, (5, 12))
        found = one_set.met(model, ids)
        if wanted is None:
            with torch.no_grad(), model.evaluating():
                plans = [route.plan for route in model(ids).routes]
            seen = [
                {int(e) for t, e in zip(plan.token, plan.expert, strict=True) if int(t) // 12 == g}
                for plan in plans
                for g in range(5)
            ]
            wanted = np.mean([len(each) for each in seen])
            assert wanted > 2
        assert found == pytest.approx(wanted)


def test_a_text_under_the_models(apart):
    tokenizer = Tokenizer.default()
    text = "def area(width, height):\n    return width * height\n"
    read = read_text(apart, tokenizer, text)
    assert read.tokens == tuple(tokenizer.pieces(tokenizer.encode(text)))
    assert read.loss.shape == (3, len(read.tokens) - 1)
    assert read.router.sum() == pytest.approx(1) and read.prompt.sum() == pytest.approx(1)
    for m in range(3):
        np.testing.assert_allclose(read.mixed(np.eye(3)[m]), read.loss[m], rtol=1e-6)
    again = MixedText.of_json(json.loads(json.dumps(read.to_json())))
    np.testing.assert_allclose(again.loss, read.loss, atol=6e-5)
    assert again.tokens == read.tokens
    with pytest.raises(ValueError, match="give at least two"):
        read_text(apart, tokenizer, "a")


def test_a_stop_ends_the_training():
    done = []
    with pytest.raises(Stopped):
        train_apart(1e-2, 0, FEW, lambda n, total: done.append((n, total)) or n < 3)
    assert done == [(1, 7), (2, 7), (3, 7)]
