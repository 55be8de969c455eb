"""Sentences and pictures of models as experts: made from the figures, whatever they are."""

import re

import pytest

from helpers.models_as_experts import made_loads, made_models, made_text
from helpers.pictures import texts
from moeviz.pictures.many_models import loaded_experts, models_told
from moeviz.pictures.many_models.models_as_experts import models_as_experts
from moeviz.pictures.many_models.models_on_a_text import told_text, weight_of
from moeviz.predictions import PREDICTIONS, mixing
from moeviz.predictions.prediction import OPEN
from moeviz.records.models_as_experts import BY_PROMPT, MIXED, MOE_ALL, SEEN, TOLD, TUNED


@pytest.mark.parametrize(
    ("above", "words"), [(-0.1, "0.10. nats per token below"), (0.2, "0.2.. nats per token above")]
)
def test_a_difference_is_told_by_its_verdict(above, words):
    recorded = made_models(above={MIXED: above})
    assert re.search(
        f"The router's mixture ends {words} one dense model", models_told.told(recorded)
    )
    assert re.search(words, " ".join(models_told.told_together(recorded)))


def test_what_is_open_is_told_as_open():
    recorded = made_models()
    assert models_told.told(recorded).startswith("Whether the router's mixture differs")
    for told in (models_told.told_together, models_told.told_unseen):
        sentences = [s for s in told(recorded) if "open" in s]
        assert len(sentences) >= 3


def test_who_picks_rightly_and_what_it_costs_are_the_recorded_figures():
    recorded = made_models(right=(0.61, 0.93))
    choice = " ".join(models_told.told_choice(recorded))
    assert "model 61 % of the time" in choice and "domain's own 93 % of the time" in choice
    cost = models_told.told_cost(recorded)
    assert "computes 3 dense models" in cost
    assert f"{100 * recorded['arms'][MIXED]['training']:.0f} %" in cost


def test_one_set_is_told_with_what_a_text_meets():
    recorded = made_models(one_set_gain=0.03)
    sentences = models_told.told_one_set(recorded)
    assert "met 11.5 of the 16 experts" in sentences[0] and "and 2.0 where" in sentences[0]
    assert len(sentences) == 1 + len(recorded["one_set"]["gaps"])
    assert re.search(
        "One set of experts by the prompt ends 0.0(29|30|31) nats per token below a choice for "
        "every token", " ".join(sentences)
    )  # fmt: skip


def test_a_text_is_told_by_the_way_that_it_is_weighed():
    text = made_text()
    for way in ("router", "prompt", "even", "picked"):
        mixed = text.after(text.mixed(weight_of(text, way)))
        told = told_text(text, SEEN, way)
        assert told.endswith(f"they have a loss of {mixed:.2f}.")
        assert told.startswith("The router gives python 70 %, which is the best after the prompt")
    assert weight_of(text, "picked").tolist() == [1, 0, 0]


def test_a_row_says_what_nobody_has_learned_and_its_press_sets_the_way():
    recorded = made_models()
    picture = models_as_experts(recorded, None, where="unseen")
    assert "nobody to be told of" in texts(picture) and "Nobody has read this text yet." in texts(
        picture
    )
    rows = {row[0]: row for row in picture.rows}
    assert rows[TOLD][1] == "" and rows[MOE_ALL][1] and rows[TUNED][3] == "× 1.36"
    assert 'data-press="way=prompt"' in picture.svg and BY_PROMPT in rows


@pytest.mark.parametrize(
    ("above", "options"),
    [(-0.1, "the mixture's"), (0.1, "the dense model's"), (0.0, OPEN)],
)
def test_predictions_follow_the_recording(above, options, monkeypatch):
    recorded = made_models(above={MIXED: above}, one_set_gain=above / 5, right=(0.66, 0.9))
    monkeypatch.setattr(mixing, "recorded_run", lambda name: recorded)
    assert mixing.apart().option == options
    assert "picked without a fault" not in mixing.apart().because
    assert mixing.right().option == "about two thirds"
    way = {
        "the mixture's": "a choice for every token",
        "the dense model's": "one choice for the text",
    }
    assert mixing.beacon().option == (way[options] if above else OPEN)
    for key in ("14.apart", "14.right", "14.beacon"):
        made = PREDICTIONS[key].measure()
        assert made.option in PREDICTIONS[key].options and "nan" not in made.figure


def test_a_mixture_is_behind_for_its_models_where_the_right_one_is_behind_too(monkeypatch):
    recorded = made_models(above={MIXED: 0.1, TOLD: 0.2})
    monkeypatch.setattr(mixing, "recorded_run", lambda name: recorded)
    own = recorded["gaps"]["seen"][TOLD]["mean"]
    assert f"picked without a fault, ends {own:.3f} nats per token higher" in mixing.apart().because


def test_loads_are_told_and_foretold(monkeypatch):
    recorded = made_loads()
    told = " ".join(loaded_experts.told(recorded))
    assert "2 loads in one topic, 24 where it changes" in told
    assert "gathered by topic need 6; a choice for every token 90." in told
    assert "are 393 kB in 2 layers, a whole model 1.57 MB" in told
    assert "A text took 20 ms in one topic and 20 where it changes, and 20 with a choice" in told
    assert "in memory the two ways took 9 and 9 ms" in told
    monkeypatch.setattr(mixing, "recorded_run", lambda name: recorded)
    assert "changed its choice" not in told
    assert mixing.loads().option == "about 20" and "loads 90" in mixing.loads().because
    for run in recorded["runs"]:
        if (run["way"], run["stream"]) == ("text", "one topic"):
            run["loads"] = 6
    assert "changed its choice 2 times" in " ".join(loaded_experts.told(recorded))


def test_rates_at_an_end_of_their_grid_are_named():
    recorded = made_models()
    told = models_told.told_rates(recorded)
    assert told.startswith("Learning rates: the three models 0.008, the one dense model 0.008, the")
    assert told.endswith("None of them is the lowest or the highest that was tried.")
    recorded["rates"]["apart"]["at_edge"] = recorded["rates"]["one MoE"]["at_edge"] = True
    told = models_told.told_rates(recorded)
    assert told.endswith("a better one may lie beyond: the three models, the one MoE.")
