"""What is drawn and said of ways to adapt follows the recording, and the recording its runs."""

import copy
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.adapting import made_adapting, made_selection
from helpers.pictures import texts
from moeviz.experiments import adapting as experiment
from moeviz.experiments import esft_selection as esft
from moeviz.experiments import rates, recording
from moeviz.experiments.adapting import OWN_RATE
from moeviz.model import LanguageModel, ModelConfig
from moeviz.pictures.routing import esft_selection as chosen
from moeviz.pictures.training import adapting as picture
from moeviz.predictions import adapting as predictions
from moeviz.records.adapting import (
    ALL_SMALL,
    ATTENTION,
    BASE,
    BY_GATE,
    BY_LOT,
    EQUAL,
    WAYS,
    WHOLE,
    at_gain,
)
from moeviz.surgery.lora import num_trained
from moeviz.text.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("wanted", "cost"), [(0.0, 0.0), (0.5, 0.1), (1.0, 0.2), (1.5, 0.6), (2.0, 1.0), (9, 0.9)]
)
def test_the_cost_of_a_gain_lies_on_the_lines_between_what_was_measured(wanted, cost):
    assert at_gain(wanted, [1.0, 2.0, 1.9], [0.2, 1.0, 0.9]) == pytest.approx(cost)


def test_the_table_is_the_differences_to_the_experts_by_gate():
    figures = made_adapting(gain={ATTENTION: 0.5}, elsewhere={ATTENTION: 1.0})
    of_task = figures["tasks"]["c"]
    for measure in ("task", "elsewhere", "at_equal_gain"):
        values = {way: of_task["ways"][way][measure]["values"] for way in WAYS}
        for way, gap in of_task["gaps"][measure].items():
            want = np.mean(values[way]) - np.mean(values[BASE])
            assert gap["mean"] == pytest.approx(want, abs=2e-4)
        assert of_task["gaps"][measure][ATTENTION]["verdict"] == "higher"
        assert of_task["gaps"][measure][WHOLE]["verdict"] == "open"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    moe = dataclasses.replace(experiment.EXPERTS, d_expert=32)
    config = ModelConfig(vocab_size=256, d_model=32, d_ff=64, moe=moe, ffn_scale=1.0)
    return LanguageModel(config).eval()


def test_ways_of_equal_size_are_of_equal_size_and_the_lot_is_as_large(model):
    ids = np.random.default_rng(0).integers(0, 256, 200)
    corpus = SimpleNamespace(tokenizer=Tokenizer.default())
    choices = experiment.choices(model, ids, seed=3)
    lengths = [[len(layer) for layer in choices[way]] for way in (BY_GATE, BY_LOT, WHOLE)]
    assert lengths[0] == lengths[1] == lengths[2] and choices[BY_LOT] != choices[BY_GATE]
    sizes = {}
    for way in WAYS:
        training, rank = experiment.training_of(model, ids, corpus, way, choices, 1e-2, 3)
        sizes[way] = num_trained(model.state_dict(), training.targets)
        assert (rank == 0) == (way not in EQUAL and way != experiment.ALL)
    wanted = sizes[ALL_SMALL]
    assert all(abs(sizes[way] - wanted) < 0.25 * wanted for way in EQUAL)
    assert min(sizes[way] for way in WAYS if way not in EQUAL) > 1.5 * wanted


def test_the_recording_is_of_every_way_at_a_rate_that_was_looked_for(monkeypatch, tmp_path):
    """The whole way of it, with a tiny model that nobody trained and two steps for each way."""
    torch.manual_seed(0)
    moe = dataclasses.replace(experiment.EXPERTS, num_experts=4, d_expert=8)
    config = ModelConfig(d_model=16, num_layers=1, num_heads=2, d_ff=16, moe=moe, ffn_scale=1.0)
    model = LanguageModel(config).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(recording, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(rates, "FURTHER", 1)
    own = {way: (kind, (1e-3, 3e-3)) for way, (kind, _) in experiment.OWN_RATE.items()}
    for name, value in {
        "TASKS": ("c",), "OWN_RATE": own, "STEPS": 2, "MEASURED": (1, 2), "SAMPLE": 200,
        "RANK": 2, "SEQUENCES": 2, "base_model": lambda seed: model,
    }.items():  # fmt: skip
        monkeypatch.setattr(experiment, name, value)
    (tmp_path / "runs").mkdir()
    told = []
    experiment.run(tmp_path, {"code": "", "versions": {}}, 1, lambda *at: told.append(at))
    of_task = json.loads((tmp_path / "runs" / "adapting.json").read_text())["tasks"]["c"]
    assert told[-1] == (2 * len(own) + 1,) * 2
    assert {*of_task["rates"]} == {*own} and [*of_task["ways"]] == [*WAYS]
    for rate in of_task["rates"].values():  # a best rate of two is an end: one more is tried
        assert rate["grid"] in ([5e-4, 1e-3, 3e-3], [1e-3, 3e-3, 6e-3])
    for way in of_task["ways"].values():
        assert len(way["gain"]["values"]) == 1 and len(way["curve"]["elsewhere"]) == 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (
            {ATTENTION: 1.3},
            "is lower for attention (-0.30); higher for experts by lot (+0.40); open for",
        ),
        ({ATTENTION: 0.7}, "is higher for experts by lot (+0.40) and attention; open for"),
        ({BY_LOT: 1.0}, "(nats per token) is open for 5 of them,"),
    ],
)
def test_the_finding_follows_the_verdicts(gain, words):
    assert words in picture.finding(made_adapting(gain=gain), "c", "task")


def test_every_way_has_its_row_and_larger_ones_stand_apart():
    figures = made_adapting()
    small = picture.adapting(figures, task="c")
    every = picture.adapting(figures, task="c", larger=True)
    assert [row[0] for row in small.rows] == [*EQUAL]
    assert [row[0] for row in every.rows] == [*WAYS]
    gap = figures["tasks"]["c"]["gaps"]["task"][BY_LOT]
    assert f"{gap['mean']:+z.3f}" in small.rows[EQUAL.index(BY_LOT)][-1]
    assert "everything" in texts(every) and "everything" not in texts(small)
    with pytest.raises(ValueError, match="measure must be one of"):
        picture.adapting(figures, task="c", measure="loss")


def test_what_is_told_is_of_both_texts_and_all_ways():
    figures = made_adapting(gain={ATTENTION: 0.5})
    lines = [*picture.told_chosen(figures)]
    assert len(lines) == 2 and "takes 4.5 of 16 experts a layer (top_p 0.5), and 90 %" in lines[0]
    first, second = picture.told_rates(figures)
    assert first.startswith("Learning rates on c: experts by gate 0.1, all experts 0.1, ")
    assert second.endswith("beyond: " + ", ".join(picture.KEYS[way].name for way in OWN_RATE) + ".")
    told = [*picture.told_choice(figures)]
    gap = figures["tasks"]["arithmetic"]["gaps"]["task"][BY_LOT]
    assert len(told) == 4 and told[2].startswith("arithmetic: as many experts by lot beside")
    assert f"the loss of the new text {gap['mean']:+z.3f} (" in told[2] and ", higher" in told[2]


# Predictions.


@pytest.mark.parametrize(
    ("lot", "option"), [(0.6, predictions.MATTERS), (1.4, predictions.LOT), (1.0, predictions.OPEN)]
)
def test_whether_the_choice_matters_follows_its_verdict(lot, option, monkeypatch):
    made = made_adapting(gain={BY_LOT: lot})
    monkeypatch.setattr(predictions, "recorded_run", lambda name: made)
    assert predictions.who().option == option


@pytest.mark.parametrize("best", predictions.PLACES)
def test_who_forgets_least_follows_the_means(best, monkeypatch):
    made = made_adapting(elsewhere={predictions.PLACES[best]: 0.05})
    monkeypatch.setattr(predictions, "recorded_run", lambda name: made)
    assert predictions.forget().option == best


def test_where_nothing_is_shown_nobody_forgets_least(monkeypatch):
    monkeypatch.setattr(predictions, "recorded_run", lambda name: made_adapting())
    found = predictions.forget()
    assert found.option == predictions.OPEN and "none of the 3 others is shown" in found.because


@pytest.mark.parametrize(("mean", "option"), [(1.4, "1 or 2"), (4.7, "3 to 6"), (12.8, "12 or")])
def test_a_fifth_of_the_choices_is_counted(mean, option, monkeypatch):
    made = copy.deepcopy(made_selection())
    for of in made["tasks"].values():
        of["again"]["token, experts"]["mean"] = mean
    monkeypatch.setattr(predictions, "recorded_run", lambda name: made)
    found = predictions.fifth()
    assert found.option.startswith(option) and f"law {mean:.1f}" in found.figure


# ESFT's choice.


def test_the_picture_of_the_choice_counts_equal_layers():
    whole, less = (chosen.esft_selection(made_selection(equal)) for equal in (26, 20))
    assert "104 of 104" in whole.summary and "80 of 104" in less.summary
    assert "80 of 104" in texts(less) and "8 of 104" in texts(less)
    assert {*chosen.RULES} == {*made_selection()["tasks"]["law"]["again"]}
    assert {*chosen.TASKS} == {*esft.PUBLISHED}
    lines = [*chosen.told_halves(made_selection())]
    assert len(lines) == 4 and "90 % are chosen from the other half too; without the 20" in lines[0]


def test_the_rules_are_those_of_the_recording():
    from test_important import made_traces

    assert [*chosen.RULES] == [*esft.again(made_traces(1))]


def test_equal_size_ranks_are_in_the_table():
    rows = [*picture.adapting(made_adapting(), task="c", larger=True).rows]
    assert rows[WAYS.index(ALL_SMALL)][1] == "4"
