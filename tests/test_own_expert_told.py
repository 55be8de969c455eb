"""What is said of recorded experts of one's own follows the figures, as does what an experiment
makes of its runs."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor

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
    told_without,
)
from moeviz.predictions import own_expert as predictions


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


END = " (the lowest or highest that was tried, so that a better one may lie beyond)"


@pytest.mark.parametrize(
    ("scores", "taken", "end"),
    [
        ({"1": 0.5, "3": 0.9, "6": 0.8}, "3", "taken 3, which is the best."),
        ({"1": 0.5, "3": 0.9}, "3", f"taken 3, which is the best{END}."),
        (
            {"3": 0.8, "6": 0.9, "12": 0.7}, "3",
            "taken 3. 6 is the best, but a step then reads 1.8 times as much text.",
        ),
        (
            {"3": 0.8, "6": 0.9}, "3",
            f"taken 3. 6 is the best{END}, but a step then reads 1.8 times as much text.",
        ),
        ({"0": 0.9, "3": 0.8}, "3", "taken 3, though 0 is the best."),  # nothing lies beyond
        ({"0.5": 0.9, "3": 0.8}, "3", f"taken 3, though 0.5 is the best{END}."),
    ],
)  # fmt: skip
def test_replay_is_told_beside_what_more_and_less_of_it_would_do(scores, taken, end):
    figures = made()
    figures["replay"] = {n: {"score": {"mean": score}} for n, score in scores.items()}
    figures["replay"]["chosen"] = taken
    *rates, told = told_settings(figures)
    assert told.endswith(end) and all(f"{n}: {score:.2f}" in told for n, score in scores.items())
    assert rates[0] == f"whole, learning rate: score 0.001: 0.90, 0.01: 0.90; chosen 0.01{END}."


def test_no_replay_is_told_at_the_rate_that_suits_it():
    figures = made()
    figures["replay"] = {
        "0": {"rate": "0.001", "gain": {"mean": 0.9}, "forgotten": {"mean": 0.2}},
        "3": {"rate": "0.003", "gain": {"mean": 1.1}, "forgotten": {"mean": -0.1}},
        "chosen": "3",
    }
    (told,) = told_without(figures)
    assert told.endswith(
        "Without replay it is 0.001, where the texts gain 0.90 and the domains change by +0.20; "
        "with 3 pieces 0.003, where the texts gain 1.10 and the domains change by -0.10."
    )


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


def test_the_setting_with_the_best_score_is_chosen():
    def tried(score):
        return {"gain": score + 0.1, "forgotten": 0.1, "score": score}

    found = experiment.best({"a": [tried(0.1), tried(0.3)], "b": [tried(0.5), tried(0.0)]})
    assert found["chosen"] == "b" and found["a"]["score"]["mean"] == 0.2


def test_each_form_and_each_replay_has_the_best_of_its_rates(tmp_path, monkeypatch):
    """By name: the more replay, the higher the best rate, and the better the score."""
    monkeypatch.setattr(recording, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(experiment, "RATES", {WHOLE: (1, 2, 4), RANK: (2, 4), ALL: (1, 2)})
    best = {WHOLE: 2, RANK: 4, ALL: 1}
    learnt, openings, told = [], [], []

    def tried(form, rate, replay, seed):
        wanted = best[form] * (2 if replay > experiment.REPLAY else 1)
        return {"gain": 1.0, "forgotten": 0.0, "score": replay - abs(rate - wanted) + seed}

    def one(arm, rate, replay, seed):
        learnt.append((arm, rate, replay, seed))
        return {"figures": {"gain": 1.0, "forgotten": 0.0}, "expert": {}}

    monkeypatch.setattr(experiment, "tried", tried)
    monkeypatch.setattr(experiment, "learnt", one)
    monkeypatch.setattr(experiment, "together", lambda *_: {})
    monkeypatch.setattr(experiment, "tables", lambda *_: {})
    monkeypatch.setattr(experiment, "write_openings", lambda *given: openings.append(given[2]))
    (tmp_path / "runs").mkdir()
    meta = {"code": "", "versions": {}}
    experiment.run(tmp_path, meta, 2, lambda *at: told.append(at))
    figures = json.loads((tmp_path / "runs" / "own_expert.json").read_text())
    assert {form: of["chosen"] for form, of in figures["grid"].items()} == {
        form: f"{rate}" for form, rate in best.items()
    }
    assert openings == [best]
    replay = figures["replay"]
    assert replay.pop("chosen") == "3" and {*replay} == {"0", "1", "3", "6", "12"}
    assert {n: of["rate"] for n, of in replay.items()} == {
        "0": "2", "1": "2", "3": "2", "6": "4", "12": "4"
    }  # fmt: skip
    assert all(of["score"]["mean"] == float(n) + 0.5 for n, of in replay.items())
    assert {at[2] for at in learnt} == {3.0} and {at[3] for at in learnt} == {0, 1}
    assert {at[:2] for at in learnt} == {
        (arm, best[form]) for arm, (form, _, _) in experiment.ARMS.items()
    }
    assert told[-1] == (len(told), len(told)) == (2 * (7 + 4 * 3) + 2 * 8,) * 2


@pytest.mark.parametrize("seeds", [1, 6])
def test_as_many_seeds_as_texts_and_a_partner_for_each(seeds, tmp_path):
    with pytest.raises(ValueError, match=f"seeds must be .* at least 2 and at most 5, got {seeds}"):
        experiment.run(tmp_path, {}, seeds, lambda *_: None)
