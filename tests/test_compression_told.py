"""What is drawn and said of compression follows its recording, and a smaller model its recipes."""

import numpy as np
import pytest
import torch

from helpers.compression import made_compression
from helpers.pictures import presses, texts
from moeviz.experiments import compression, recipes
from moeviz.experiments.smaller import PARTS, Smaller
from moeviz.model import LanguageModel, MoEConfig
from moeviz.model.transformer import ModelConfig
from moeviz.pictures.compression import names
from moeviz.pictures.compression.smaller import points, smaller
from moeviz.pictures.compression.verdicts import (
    told_bytes,
    told_errors,
    told_merging,
    told_regimes,
    told_tuning,
    told_whom,
)
from moeviz.predictions import compression as predictions
from moeviz.predictions.prediction import OPEN
from moeviz.records.compressed import Compressed
from moeviz.systems.packed_model import pack_model


def test_the_names_are_those_of_the_recording():
    assert {*names.SHORT} - {names.TUNED} == {*recipes.RECIPES, recipes.CHANCE}
    assert {*names.REGIMES} == {*compression.REGIMES}
    assert names.CRITERIA == recipes.CRITERIA and names.MERGES == recipes.MERGES
    amounts = {amount for each in recipes.RECIPES.values() for amount in each}
    assert amounts <= {*names.AMOUNTS} and {*names.KEYS} <= {*recipes.RECIPES}


@pytest.mark.parametrize(
    ("factor", "verdict", "words"),
    [(0.8, "lower", "1 of 5 beat"), (1.0, "open", "nobody"), (1.2, "higher", "nobody")],
)
def test_whom_to_prune_follows_the_verdicts(factor, verdict, words):
    figures = made_compression({names.REAP: factor})
    gap = figures["judged"]["chance"][names.REAP]["4"]
    assert gap["verdict"] == verdict
    assert f"pruning by REAP {gap['mean']:+.3f} ({verdict})" in told_whom(figures)
    rule = "holds" if factor < 1 else "does not hold"
    assert told_whom(figures).endswith(f"REAP beats load {rule}.")


def test_merging_tuning_and_regimes_follow_their_figures():
    figures = made_compression({names.HC: 0.5}, of_regime={"bias": 2.0}, tuned=0.25)
    cheap = figures["judged"]["merging"][names.HC]["4"]["mean"]
    assert f"merging by output (HC-SMoE) {cheap:+.3f} (lower)" in told_merging(figures)
    assert "75 % came back" in told_tuning(figures) and "tuning mends it" in told_tuning(figures)
    assert "that does not mend it" in told_tuning(made_compression(tuned=0.9))
    assert "a bias +2.400" in told_regimes(figures) and "a bias +1.200 (higher)" in told_regimes(
        figures
    )
    assert "is shown to cost more than INT4" in told_bytes(figures)
    dear = made_compression({names.BITS: 90.0})
    assert "a higher cost than INT4's is not shown for" in told_bytes(dear)
    assert "a bias 0.50 and 0.30." in told_regimes(figures)
    assert "leaves 13.3 %: less than either average" in told_errors(made_compression(seeds=1))


def test_a_curve_has_a_mark_for_each_amount_and_the_live_model_its_own_place():
    figures = made_compression()
    at = {("bits", "int4"): {"stored": "INT4"}, ("prune by load", "4"): {"kept": 4}}
    found = Compressed(("a", "b"), np.array([0.1, 0.3]), 0.5, 2e6, 1e6, "x", "y\n", "z")
    picture = smaller(figures, found, "experts in INT8", presses=at)
    assert [sets for _, sets in presses(picture)] == [{"stored": "INT4"}, {"kept": "4"}]
    drawn = " ".join(texts(picture))
    assert "+0.200 nats per token at 50 % of the experts' bytes." in drawn and "y⏎" in drawn
    assert (
        "b loses most: +0.300" in picture.summary and "1.00 MB instead of 2.00" in picture.summary
    )
    assert len(picture.rows) == sum(map(len, points(figures, "batch").values())) + 1


@pytest.fixture
def bench(corpus):
    torch.manual_seed(0)
    moe = MoEConfig(8, 2, 64)
    config = ModelConfig(
        vocab_size=corpus.tokenizer.vocab_size, d_model=64, num_heads=2, num_layers=2, moe=moe
    )
    return Smaller(LanguageModel(config).eval(), corpus.tokenizer, corpus)


@pytest.mark.parametrize("part", PARTS)
def test_the_bytes_of_bits_are_those_of_the_packed_weights(bench, part):
    model, bits = bench.made(8, names.LOAD, (names.BITS, "int4"), part)
    assert {*bits} >= {*PARTS[part]}
    from moeviz.costs.cost.quantisation import QuantPlan

    plan = QuantPlan.mixed("int4", "fp16", **dict.fromkeys(PARTS[part], "int4"))
    packed = pack_model(bench.calibrated.model, plan).bytes()
    assert {name: size / 8 for name, size in bits.items()} == pytest.approx(packed)


def test_experts_that_go_or_merge_take_their_bytes_with_them(bench):
    whole = bench.made(8, names.LOAD, ("", ""), "experts")[1]
    pruned, less = bench.made(4, names.LOAD, ("", ""), "experts")
    merged, as_few = bench.made(4, names.HC, ("", ""), "experts")
    assert pruned.config.moe.num_experts == 4 and merged.config.moe.num_experts == 8
    for found in (less, as_few):
        assert found["routed_experts"] == whole["routed_experts"] / 2
    assert less["router"] == whole["router"] / 2 and as_few["router"] == whole["router"]
    _, both = bench.made(4, names.LOAD, (names.RANK, "half"), "experts")
    assert both["routed_experts"] <= less["routed_experts"] / 2


@pytest.mark.parametrize(
    ("factors", "of_regime", "options"),
    [
        ({}, {}, ("half of the bits", "none of them", OPEN, "no such difference is shown")),
        (
            {names.REAP: 0.5, names.BITS: 5000.0, names.HC: 0.4},
            {"bias": 1.5},
            ("half by merging", "some of them", "merging costs less", "yes, by a tenth"),
        ),
        ({names.CHANCE: 2.0, names.HC: 1.5}, {}, (None, "all of them", "merging costs more", None)),
    ],
)
def test_predictions_follow_the_recorded_verdicts(factors, of_regime, options, monkeypatch):
    figures = made_compression(factors, of_regime=of_regime)
    monkeypatch.setattr(predictions, "recorded_run", lambda name: figures)
    asked = predictions.half, predictions.whom, predictions.merge, predictions.regime
    for ask, option in zip(asked, options, strict=True):
        assert option is None or ask().option.startswith(option)
        assert ask().figure and ask().because
