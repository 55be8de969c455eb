"""What is drawn and said of compression follows its recording, and a smaller model its recipes."""

import numpy as np
import pytest
import torch

from helpers.compression import made_compression
from helpers.pictures import presses, texts
from moeviz.experiments import compression, recipes
from moeviz.experiments.smaller import PARTS, Smaller
from moeviz.model import LanguageModel, MoEConfig
from moeviz.model.config import ModelConfig
from moeviz.pictures.compression import names
from moeviz.pictures.compression.smaller import points, smaller
from moeviz.pictures.compression.stored import told_parts
from moeviz.pictures.compression.verdicts import (
    RULES,
    WORTH,
    merging,
    told_bytes,
    told_claims,
    told_errors,
    told_merging,
    told_regimes,
    told_tuning,
    told_whom,
)
from moeviz.predictions import compression as predictions
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
    rule = "holds" if factor < 1 else "is not shown"
    assert told_whom(figures).endswith(f"REAP beats load {rule}.")
    shown = "pruning by REAP" if factor < 1 else "none"
    assert f"With 6 of 8 experts kept a lower cost than chance is shown for {shown}." in told_whom(
        figures
    )


def test_merging_tuning_and_regimes_follow_their_figures():
    figures = made_compression({names.HC: 0.5}, of_regime={"bias": 2.0}, tuned=0.25)
    cheap = figures["judged"]["merging"][names.HC]["4"]["mean"]
    assert f"merging by output (HC-SMoE) {cheap:+.3f} (lower)" in told_merging(figures)
    assert "With 6 of 8 experts left: merging by output (HC-SMoE) " in told_merging(figures)
    assert "75 % came back" in told_tuning(figures) and "gains: it does." in told_tuning(figures)
    assert "gains: it does not." in told_tuning(made_compression(tuned=0.9))
    assert "a bias +2.400" in told_regimes(figures) and "a bias +1.200 (higher)" in told_regimes(
        figures
    )
    assert "is shown to cost more than INT4" in told_bytes(figures)
    dear = made_compression({names.BITS: 90.0})
    assert "a higher cost than INT4's is not shown for" in told_bytes(dear)
    assert "a bias 0.50 and 0.30." in told_regimes(figures)


@pytest.mark.parametrize(
    ("factor", "answer"),
    [
        (0.7, "Merging beats pruning, by the rule written before the runs."),
        (1.0, "Merging is not shown to beat pruning, by the rule written before the runs."),
        (1.5, "No: merging is shown to cost more in 6 of 6 comparisons, and less in none."),
    ],
)
def test_the_picture_of_merging_says_what_is_shown_and_not_only_what_is_not(factor, answer):
    assert answer in texts(merging(made_compression(dict.fromkeys(names.MERGES, factor))))


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ({}, "leaves 13.3 %: less than either average. So here the best fixed mix loses less than"),
        ({"pruned": 0.35}, "leaves 35.0 %: less than one average and more than the other. So"),
        ({"pruned": 0.6, "mixture": 0.2}, "leaves 60.0 %: more than either average. So here the "
         "best fixed mix loses half or more of what such averages lose."),
    ],
)  # fmt: skip
def test_what_a_layer_loses_is_told_by_its_errors(errors, told):
    figures = made_compression(seeds=1)
    of_layers = figures["regimes"]["batch"]["errors"]
    # Made: 0.067 for the mix in the mean over layers, and 0.533 for the average without matching.
    of_layers |= {name: [{"mean": mean}] for name, mean in errors.items()}
    of_layers["matched"] = [{"mean": 0.3}]
    assert told in told_errors(figures)


def test_every_claim_is_told_with_its_rule():
    figures = made_compression()
    lines = [*told_claims(figures)]
    assert len(lines) == len(figures["claims"]) and RULES.keys() < figures["claims"].keys()
    assert lines[0] == f"not shown  {names.LOAD} is worth it: {WORTH}"
    assert sum(WORTH in line for line in lines) == len(names.CRITERIA)


def test_weight_for_weight_is_told_in_one_digit():
    rises = {"router": 0.0083, "routed_experts": 0.029}
    figures = {
        "probe": "int3",
        "components": {n: {"loss": {"mean": v, "sd": 0.001}} for n, v in rises.items()},
        "weights": {"router": 1_536, "routed_experts": 589_824},
    }
    told = told_parts(figures)
    assert told.endswith(
        "the router suffers most and the routed experts least, some 100 times less."
    )


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
    untouched = smaller(figures, Compressed(("a", "b"), np.zeros(2)), "nothing", presses=at)
    assert "at 100 % of the experts' bytes" in " ".join(texts(untouched))


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
        ({}, {}, ("half of the bits", "none of them", "no such difference is shown")),
        (
            {names.REAP: 0.5, names.BITS: 5000.0, names.HC: 0.4},
            {"bias": 1.5},
            ("half by merging", "some of them", "yes, by a tenth"),
        ),
        ({names.CHANCE: 2.0, names.HC: 1.5}, {}, (None, "all of them", None)),
    ],
)
def test_predictions_follow_the_recorded_verdicts(factors, of_regime, options, monkeypatch):
    figures = made_compression(factors, of_regime=of_regime)
    monkeypatch.setattr(predictions, "recorded_run", lambda name: figures)
    asked = predictions.half, predictions.whom, predictions.regime
    for ask, option in zip(asked, options, strict=True):
        assert option is None or ask().option.startswith(option)
        assert ask().figure and ask().because


@pytest.mark.parametrize(
    ("mixture", "option"),
    [(0.02, "about a tenth of it"), (0.07, "about a third of it"), (0.2, "about as large")],
)
def test_what_no_merge_avoids_is_a_part_of_what_an_average_loses(mixture, option, monkeypatch):
    figures = made_compression()
    errors = figures["regimes"]["batch"]["errors"]
    errors |= {"mixture": [{"mean": mixture}], "merged": [{"mean": 0.2}]}
    monkeypatch.setattr(predictions, "recorded_run", lambda name: figures)
    found = predictions.merge()
    assert (
        found.option == option
        and f"which is {mixture / 0.2:.0%} of that".replace("%", " %") in found.figure
    )


@pytest.mark.parametrize(
    ("means", "told"),
    [((-0.1,) * 4, "all of the other 4"), ((-0.1, 0.1, 0.1, 0.1), "1 of the other 4"),
     ((0.1,) * 4, "none of the other 4")],
)  # fmt: skip
def test_criteria_that_are_not_shown_to_beat_chance_may_do_so(means, told, monkeypatch):
    figures = made_compression({names.NAEE: 0.5})
    others = [c for c in names.CRITERIA if c != names.NAEE]
    for criterion, mean in zip(others, means, strict=True):
        figures["judged"]["chance"][criterion]["4"]["mean"] = mean
    monkeypatch.setattr(predictions, "recorded_run", lambda name: figures)
    assert f"{told} cost less on average too" in predictions.whom().because
