"""What is said of recorded experts of one's own follows the figures, as does what an experiment
makes of its runs."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from moeviz.experiments import own_expert as experiment
from moeviz.experiments import recording
from moeviz.experiments.recording import figures_over, judged, mean_sd
from moeviz.host import read_figures
from moeviz.pictures.many_models import own_arms
from moeviz.pictures.many_models.own_arms import (
    ALL,
    COPY,
    RANK,
    WHOLE,
    WITHOUT,
    answer,
    told_all,
    told_forgotten,
    told_forms,
    told_gain,
    told_replay,
    told_settings,
    told_together,
)
from moeviz.predictions import own_expert as predictions
from moeviz.text.own_texts import GRID


def made(**rises):
    """Five texts that gain about 1 nat in each arm; the domains rise by 0.1 or as told by arm."""
    noise = [0.01, -0.02, 0.0, 0.02, -0.01]
    arms = {}
    for number, arm in enumerate(experiment.ARMS):
        rise = rises.get(arm, 0.1)
        runs = [
            {
                "before": 5.0 + n, "after": 4.0 + n - 0.01 * number + 0.001 * k,
                "gain": 1.0 + 0.01 * number - 0.001 * k, "forgotten": rise + n,
                "domains": [rise + n, rise + 0.05], "seconds": 10.0, "bytes": 1000 * (number + 1),
                "visits": 0.6, "elsewhere": 0.3,
            }
            for k, n in enumerate(noise)
        ]  # fmt: skip
        arms[arm] = figures_over(runs)
    clash = [0.2 + n for n in noise]
    pairs = {
        "clash": mean_sd(clash), "forgotten": mean_sd(noise), "alone": mean_sd(noise),
        "clash_TT": [[0.0] * 5, [0.1] * 5, [0.0] * 5, [0.0] * 5, [0.3, 0.0, 0.0, 0.0, 0.0]],
    }  # fmt: skip
    of = {"gain": {"mean": 1.0}, "forgotten": {"mean": 0.1}, "score": {"mean": 0.9}}
    rates = {f"{rate:g}": of for rate in (0.001, 0.01)} | {"chosen": "0.01"}
    return {
        "steps": 120, "domains": ["python", "c"],
        "texts": ["notes", "german", "javascript", "svg", "log"],
        "provenance": {"device": "a CPU", "date": "2026-01-01", "text": "abc"},
        "grid": dict.fromkeys(experiment.RATES, rates), "replay": rates, "arms": arms,
        "together": pairs, "judged": experiment.tables(arms, pairs),
    }  # fmt: skip


def test_the_names_are_those_of_the_experiment():
    names = ("WHOLE", "ALL", "RANK", "COPY")
    assert all(getattr(own_arms, name) == getattr(experiment, name) for name in names)
    assert {WITHOUT, ALL, COPY, *experiment.ARMS} == {*experiment.ARMS}
    assert {*read_figures("own_expert")["arms"]} == {*experiment.ARMS}


def test_the_tables_are_paired_differences_of_the_arms():
    figures = made()
    tables, after = figures["judged"], {a: f["after"]["values"] for a, f in figures["arms"].items()}
    assert tables["gain"] == judged(
        {arm: (after[arm], of["before"]["values"]) for arm, of in figures["arms"].items()}
    )
    assert WHOLE not in tables["own"] and WHOLE not in tables["forgotten"]
    assert tables["own"][ALL]["mean"] == pytest.approx(-0.06, abs=1e-4)
    assert tables["together"]["clash"]["verdict"] == "higher"


@pytest.mark.parametrize(
    ("rise", "start", "verdict"), [(0.9, "Yes: ", "higher than"), (0.1, "Open: ", "(open)")]
)
def test_whether_replay_matters_follows_its_verdict(rise, start, verdict):
    figures = made(**{WITHOUT: rise})
    assert answer(figures).startswith(start) and verdict in told_replay(figures)
    assert f"change by +{rise:.3f}" in told_replay(figures)


def test_sentences_have_the_figures_of_the_recording():
    figures = made()
    first, sure, took = told_gain(figures)
    assert "by 1.00 ± 0.00 nats" in first and "5 of 5 texts gain" in first
    assert sure.startswith("The change of the mean is lower than zero")
    assert "took 10.0 ± 0.0 seconds" in took and "has 1,000 bytes" in took
    figures["judged"]["gain"][WHOLE]["verdict"] = "open"
    assert "its verdict is open" in [*told_gain(figures)][1]
    lost, copied, _ = told_forgotten(figures)
    assert "c most: +0.150" in lost and "30 % visit" in lost and "own 60 %" in lost
    assert "costs +0.100 ± 0.016 already" in copied
    forms = [*told_forms(figures)]
    assert len(forms) == 4 and "3.0 times the bytes" in forms[0]
    assert "text's loss is -0.060" in told_all(figures)
    beside, worst, _ = told_together(figures)
    assert "is +0.20 ± 0.02" in beside and "(higher; " in beside
    assert worst == "The worst pair: log beside the expert of notes, +0.30."
    assert [*told_settings(figures)][-1].endswith(
        "score 0.001: 0.90, 0.01: 0.90; chosen 0.01 (the "
        "lowest or highest that was tried, so that a better one may lie beyond)."
    )
    tried = figures["replay"]["0.01"]
    figures["replay"] |= {"0.1": tried}
    assert [*told_settings(figures)][-1].endswith("chosen 0.01.")
    figures["replay"] |= {"0": tried, "chosen": "0"}  # no replay at all: nothing lies beyond
    assert [*told_settings(figures)][-1].endswith("chosen 0.")


@pytest.mark.parametrize(
    ("rise", "option"),
    [(0.001, predictions.NOTHING), (0.1, predictions.LITTLE), (0.5, predictions.MUCH)],
)
def test_the_first_prediction_follows_the_rise(rise, option, monkeypatch):
    monkeypatch.setattr(predictions, "recorded_run", lambda name: made(**{WHOLE: rise}))
    assert predictions.own().option == option


@pytest.mark.parametrize("verdict", ["lower", "higher", "open"])
def test_the_second_prediction_follows_the_verdict(verdict, monkeypatch):
    figures = copy.deepcopy(made())
    figures["judged"]["own"][ALL]["verdict"] = verdict
    monkeypatch.setattr(predictions, "recorded_run", lambda name: figures)
    found = predictions.every_weight()
    assert found.option == {"open": predictions.OPEN}.get(verdict, verdict)
    assert (
        "do not let stand" in found.figure if verdict == "open" else "let stand" not in found.figure
    )


# The search.


def settings_of(cost, tmp_path, monkeypatch):
    """What the search finds where a setting costs cost(form, rate, replay); and what it tried."""
    monkeypatch.setattr(recording, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    tried = []

    def counted(form, rate, replay, seed):
        tried.append((form, rate, replay, seed))
        return cost(form, rate, replay)

    monkeypatch.setattr(experiment, "cost", counted)
    told = []
    rates, replay = experiment.settings(
        tmp_path / "some.part", {"code": "", "versions": {}},
        lambda begun: lambda done, _: told.append(begun + done),
    )  # fmt: skip
    assert told[0] == 1
    return rates, replay, tried


def far(value, best):
    return abs(math.log2(value / best))


def test_replay_and_rates_beyond_the_ends_of_their_grids_are_found(tmp_path, monkeypatch):
    def cost(form, rate, replay):
        return far(replay, 12) + far(rate, {RANK: 6e-2}.get(form, 3e-3))

    rates, replay, tried = settings_of(cost, tmp_path, monkeypatch)
    assert replay["chosen"] == 12 and replay["rate"] == 3e-3 and not replay["at_edge"]
    assert replay["grid"] == [1, 3, 6, 12, 24]
    assert {*rates} == {WHOLE, RANK, ALL}
    assert rates[RANK]["chosen"] == 6e-2 and not rates[RANK]["at_edge"]
    assert rates[WHOLE]["chosen"] == 3e-3
    assert {seed for *_, seed in tried} == {0, 1}, "on both texts"
    assert {replay for form, _, replay, _ in tried if form != WHOLE} == {12}


def test_the_replay_is_chosen_anew_where_another_rate_suits_the_expert(tmp_path, monkeypatch):
    """Beside much replay a higher rate is better, at which less replay is."""

    def cost(form, rate, replay):
        best = 6 if rate == 3e-3 else 3
        return far(replay, best) + 3 * far(rate, 1e-2)

    rates, replay, _ = settings_of(cost, tmp_path, monkeypatch)
    assert rates[WHOLE]["chosen"] == replay["rate"] == 1e-2 and replay["chosen"] == 3


def test_what_a_setting_costs_is_the_texts_loss_and_the_domains_rise(monkeypatch):
    """By name: the model that has learnt, and how far it is from the one that ships."""
    training = SimpleNamespace(held_out="the end")
    corpus = SimpleNamespace(windows=lambda part, **_: {"validation": 1.0}[part])
    monkeypatch.setattr(experiment, "load_corpus", lambda: corpus)
    monkeypatch.setattr(experiment, "recorded_model", lambda: ("base", None))
    monkeypatch.setattr(experiment, "trained", lambda *of: (of, training, 0.0))
    monkeypatch.setattr(
        experiment, "by_window", lambda model, rise: np.array([2.0, 4.0]) + rise * (model != "base")
    )
    monkeypatch.setattr(experiment, "text_loss", lambda model, ids: {"the end": model[3]}[ids])
    assert experiment.cost(RANK, 0.25, 3.0, 1) == 0.25 + 1
    monkeypatch.setattr(experiment, "text_loss", lambda model, _: [*GRID].index(model[1]))
    assert [experiment.cost(RANK, 0.25, 3.0, place) for place in (0, 1)] == [1, 2]


@pytest.mark.parametrize("seeds", [1, 6])
def test_as_many_seeds_as_texts_and_a_partner_for_each(seeds, tmp_path):
    with pytest.raises(ValueError, match=f"seeds must be .* at least 2 and at most 5, got {seeds}"):
        experiment.run(tmp_path, {}, seeds, lambda *_: None)
