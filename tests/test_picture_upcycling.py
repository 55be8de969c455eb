"""What is told and drawn of grown models, and the panel that grows one live."""

import re

import pytest

from helpers.live import heard_by, note, play, texts, until
from helpers.panels import LOUD, press, said
from helpers.pictures import presses
from helpers.upcycling import FALLS, made_grown, made_upcycling
from moeviz.experiments import grown_models
from moeviz.experiments import upcycling as experiment
from moeviz.panels import Upcycling
from moeviz.pictures.training.upcycling import upcycling
from moeviz.pictures.training.upcycling_told import (
    cosine_sentences,
    lead_sentence,
    lead_sentences,
    recorded_sentences,
    told,
)
from moeviz.predictions import growing as predictions
from moeviz.records.growth import (
    COPIES,
    DENSE,
    DROP,
    EQUAL_COMPUTE,
    EQUAL_STEPS,
    GROWN,
    LEADS,
    PAIRS,
    SCRATCH,
    WAYS,
    name_of,
)


def loss(arm, step, falls=FALLS):
    first, last = falls[arm]
    return first + (last - first) * step / experiment.STEPS


def test_the_headline_says_who_leads_by_how_much_early_and_late():
    made = made_upcycling(spread=0.0)
    at_scratch = [grown_models.steps_of_equal_compute(step)[1] for step in (100, 800)]
    early, late = (
        loss(COPIES, step) - loss(SCRATCH, other)
        for step, other in zip((100, 800), at_scratch, strict=True)
    )
    assert early < 0 < late
    half_early, half_late = (loss(DROP, step) - loss(COPIES, step) for step in (100, 800))
    assert half_late < 0 < half_early
    words = told(made)
    assert re.sub(r"[0-9.]+ nats per token", "# nats per token", words) == (
        "At equal compute, copies are # nats per token ahead of a start from scratch after 100 "
        "steps, and # nats per token behind it after 800. Half drawn anew is # nats per token "
        "behind copies after 100 steps, and # nats per token ahead of them after 800."
    )
    figures = [float(figure) for figure in re.findall("([0-9.]+) nats", words)]
    assert figures == pytest.approx([-early, late, half_early, -half_late], abs=6e-4)


def test_what_is_open_is_told_as_open():
    one = told(made_upcycling(seeds=1))
    assert one == (
        "At equal compute, copies are not told apart from a start from scratch after 100 steps, "
        "nor after 800. Half drawn anew is not told apart from copies after 100 steps, nor after "
        "800."
    )
    mixed = made_upcycling(spread=0.0)
    mixed["gaps"]["late"][name_of((DROP, COPIES, EQUAL_STEPS))]["verdict"] = "open"
    assert told(mixed).endswith("after 100 steps, and not told apart from them after 800.")


def test_a_lead_is_followed_to_its_end():
    made = made_upcycling(spread=0.0)
    pair = (COPIES, DROP, EQUAL_STEPS)
    # Lines 4 - 0.3 s and 4.5 - 1 s cross at s = 5/7 of the steps.
    told_lead = lead_sentence(made, pair)
    assert (
        f"copies over half drawn anew, at equal steps, ends after {round(800 * 5 / 7)}" in told_lead
    )
    never = lead_sentence(
        made_upcycling(FALLS | {SCRATCH: (3.0, 3.0)}), (COPIES, SCRATCH, EQUAL_STEPS)
    )
    assert never == "With every seed copies never lead a start from scratch, at equal steps."
    holds = lead_sentence(
        made_upcycling(FALLS | {SCRATCH: (7.0, 6.0)}), (DROP, SCRATCH, EQUAL_COMPUTE)
    )
    assert holds == (
        "After 800 steps half drawn anew leads a start from scratch, at equal compute, with every "
        "seed."
    )
    some = made_upcycling(FALLS | {SCRATCH: (7.0, 3.7)}, spread=0.05)
    ends = some["lead_ends"][name_of((COPIES, SCRATCH, EQUAL_STEPS))]["seeds"]
    count = sum(step is not None for step in ends)
    assert 0 < count < 5
    told_some = lead_sentence(some, (COPIES, SCRATCH, EQUAL_STEPS))
    assert told_some.startswith("After 800 steps copies lead a start from scratch, at equal steps")
    assert told_some.endswith(f"with {5 - count} of 5 seeds.")
    assert len(lead_sentences(made)) == len(LEADS)


def test_one_seed_has_no_interval_of_a_lead():
    made = made_upcycling(seeds=1)
    assert "interval" not in " ".join(recorded_sentences(made))
    assert "interval" in " ".join(recorded_sentences(made_upcycling(spread=0.05)))


def test_cosines_and_rates_are_those_of_the_file():
    made = made_upcycling(spread=0.0)
    copies, *_, scratch = cosine_sentences(made)
    assert copies.startswith("Copies: ") and "begins at 1.00 and ends at 0.900 ± 0.000" in copies
    assert "begins at 0.00 and ends at 0.050 ± 0.000" in scratch
    *_, rates, _ = recorded_sentences(made)
    assert rates.startswith("Learning rates: parent 0.008, dense 0.008, copies 0.008, ")
    assert rates.endswith(f"a better one may lie beyond: {DROP}.")
    for found in made["rates"].values():
        found["at_edge"] = False
    made["rates"][COPIES] |= {"grid": [2e-3, 4e-3, 8e-3], "losses": [3.98, 3.94, None]}
    *_, rates, closest = recorded_sentences(made)
    assert rates.endswith("None of them is the lowest or the highest that was tried.")
    assert closest == "The closest choice: copies with 0.002 lost 0.040 nats per token more."


def test_every_comparison_has_a_row_that_shows_its_way():
    picture = upcycling(made_upcycling(), DROP, made_grown(), "step")
    shown = [sets["grow"] for _, sets in presses(picture)]
    assert shown == [grown for grown, _, _ in PAIRS] and {*shown} == {*GROWN}
    assert len(picture.rows) == 3 + 2 * len(PAIRS)
    assert "grown 3.963, from scratch 4.063, dense 4.163" in picture.summary


def test_compute_counts_the_parents():
    """A grown model's curve begins where its parent's training ended, and the fresh one's at 0."""

    def first_place(axis, name):
        picture = upcycling(None, DROP, made_grown(), axis)
        line = f'data-kin="{name}"[^>]*><polyline[^>]*points="([0-9.]+),'
        return float(re.findall(line, picture.svg)[-1])  # the losses come after the cosines

    assert first_place("step", "grown") == pytest.approx(first_place("step", "dense"))
    assert first_place("flops", "grown") > 200 > first_place("flops", "from_scratch")


# What is predicted.


@pytest.mark.parametrize(
    ("end", "option"),
    [(6.0, "it is lower"), (3.0, "it is higher"), (3.675, "no difference that the seeds can show")],
)
def test_the_answer_on_growing_follows_the_verdict(end, option, monkeypatch):
    """The fresh model's line reaches `end` after 800 steps; beside the copies it goes on longer."""
    spread = 0.1 if option.startswith("no") else 0.01
    last = grown_models.steps_of_equal_compute(800)[1] / 800
    falls = FALLS | {
        SCRATCH: (7.0, 7 - (7 - end) / last) if option.startswith("no") else (7.0, end)
    }
    made = made_upcycling(falls, spread=spread)
    monkeypatch.setattr(predictions, "recorded_run", lambda _: made)
    measured = predictions.grow()
    assert measured.option == option and "after 800 steps its loss is" in measured.figure
    assert ("what the dense model learned" in measured.because) == (option == "it is lower")


@pytest.mark.parametrize(
    ("cosine", "option"), [(0.95, "above 0.9"), (0.6, "from 0.5 to 0.9"), (0.1, "below 0.5")]
)
def test_the_answer_on_likeness_is_the_recorded_cosine(cosine, option, monkeypatch):
    made = made_upcycling()
    made["arms"][COPIES]["cosine"][-1] = {"mean": cosine, "sd": 0.01, "values": [cosine]}
    monkeypatch.setattr(predictions, "recorded_run", lambda _: made)
    measured = predictions.alike()
    assert measured.option == option and f"it is {cosine:.2f} ± 0.01" in measured.figure
    assert ("too few and too small" in measured.because) == (cosine > 0.9)


# The panel.


@pytest.mark.usefixtures("fresh_kernel")
class TestPanel:
    pytestmark = LOUD

    def test_it_grows_what_is_chosen_and_keeps_the_score(self, track, monkeypatch):
        monkeypatch.setattr("moeviz.panels.training.upcycling.TOLD_EVERY", 2)
        track.steps = 4
        panel = Upcycling()
        heard = heard_by(panel)
        panel.controls["grow"].value = "all drawn anew"
        play(panel, 4)
        until(panel, "Finished.")
        assert "Training the dense parent first: step 2 of 2…" in heard
        assert note(panel).startswith("live: all drawn anew, seed 0")
        assert "Grown here by all drawn anew, seed 0: validation loss" in panel.score.value
        assert "How alike the experts are" in texts(panel)
        grown = Upcycling.run.frame.learners[-1]
        assert grown.meta["notes"]["way"] == "all drawn anew"
        assert grown_models.live_parent(0).step == grown_models.PARENT_STEPS

    def test_another_way_begins_anew_from_the_same_parent(self, track):
        panel = Upcycling()
        play(panel, 1)
        press(panel, "pause")
        until(panel, "Paused.")
        parent = grown_models.live_parent(0)
        panel.controls["grow"].value = DROP
        assert said(panel).startswith("Another setting begins anew")
        play(panel, 1)
        assert grown_models.live_parent(0) is parent
        press(panel, "pause")
        until(panel, "Paused.")

    def test_every_way_is_on_a_button(self):
        assert [*Upcycling().controls["grow"].options] == [*WAYS]
        assert DENSE not in WAYS
