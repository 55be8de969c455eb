"""A prediction: nothing is chosen for the learner, it is stored once, and what was measured is told
after it and not before."""

import html
import json

import pytest

from helpers.panels import LOUD, family
from moeviz import panels
from moeviz.predictions import ANSWERS, PREDICTIONS, predictions
from moeviz.predictions.prediction import Measured, prediction

pytestmark = [*LOUD, pytest.mark.usefixtures("fresh_kernel")]
KEY = "99.test"


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """A prediction of which the second answer is right, while a test runs."""
    monkeypatch.setattr("moeviz.predictions.prediction.PREDICTIONS", PREDICTIONS)
    measured = []

    @prediction(KEY, "What <b>?", "one & two", "<i>")
    def measure():
        measured.append(1)
        return Measured("<i>", "it weighs <u>7", "that is so")

    yield measured
    del PREDICTIONS[KEY]


def words(panel):
    """All that a panel says on the page."""
    state = [widget.get_state() for widget in family(panel)]
    return html.unescape(json.dumps(state, default=str, ensure_ascii=False))


def test_nothing_is_chosen_and_nothing_can_be_locked_in_before_a_choice(asked):
    box, outcome = panels.Predict(KEY), panels.Outcome(KEY)
    assert box.choice.value is None and box.lock.disabled and not box.choice.disabled
    box.lock.click()
    assert ANSWERS == {}
    box.choice.value = "one & two"
    assert not box.lock.disabled and ANSWERS == {}
    assert "weighs" not in words(box) + words(outcome) and not asked


def test_locked_in_it_is_stored_once_and_the_outcome_tells_it_beside_what_was_said():
    box, outcome = panels.Predict(KEY), panels.Outcome(KEY)
    box.choice.value = "one & two"
    box.lock.click()
    assert ANSWERS == {KEY: "one & two"} and box.choice.disabled and box.lock.disabled
    told = "You said “one & two”; it is “<i>”: it weighs <u>7, because that is so."
    assert told in html.unescape(outcome.answer.value) and "<u>" not in outcome.answer.value
    assert "weighs" not in words(box), "the answer stands after the picture, not before it"
    box.choice.value = "<i>"
    box.lock.click()
    assert ANSWERS == {KEY: "one & two"}


def test_made_anew_it_stands_as_it_was_answered():
    box = panels.Predict(KEY)
    box.choice.value = "<i>"
    box.lock.click()
    again, outcome = panels.Predict(KEY), panels.Outcome(KEY)
    assert again.choice.value == "<i>" and again.choice.disabled and again.lock.disabled
    assert "You said “<i>”, and so it is: it weighs <u>7" in html.unescape(outcome.answer.value)


def test_without_a_kernel_the_question_and_what_was_measured_are_text(stills, monkeypatch):
    box, outcome = panels.Predict(KEY), panels.Outcome(KEY)
    asked, told = box._repr_mimebundle_(), outcome._repr_mimebundle_()
    view = "application/vnd.jupyter.widget-view+json"
    assert asked[view]["model_id"] == box.model_id and told[view]["model_id"] == outcome.model_id
    assert "What &lt;b&gt;? (one &amp; two / &lt;i&gt;;" in asked["text/html"]
    assert "It is “&lt;i&gt;”: it weighs &lt;u&gt;7, because" in told["text/html"]
    assert box._ipython_display_ is None and outcome._ipython_display_ is None
    monkeypatch.delenv("MOEVIZ_STATIC")
    for bundle in (box._repr_mimebundle_(), outcome._repr_mimebundle_()):
        assert set(bundle) == {view, "text/plain"} and "weighs" not in bundle["text/plain"]


def test_a_recording_that_is_missing_is_told(monkeypatch):
    def missing():
        raise FileNotFoundError("Nothing is recorded.")

    prediction("99.none", "Why?", "a", "b")(missing)
    ANSWERS["99.none"] = "a"
    assert "Nothing is recorded." in panels.Outcome("99.none").answer.value
    del PREDICTIONS["99.none"]


def test_a_question_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"^prediction must be one of .*, got '99\.nothing'"):
        panels.Predict("99.nothing")


def test_the_table_tells_what_was_measured_of_answered_questions_only(asked):
    untold = predictions()
    assert "weighs <u>7" not in untold.csv and not asked
    ANSWERS[KEY] = "one & two"
    table = predictions()
    row = next(row for row in table.rows if row[0] == KEY)
    assert row[2:] == ("one & two", "✘", "It is “<i>”: it weighs <u>7, because that is so.")
    assert table.caption.startswith("1 of ") and table.caption.endswith(", 0 of them right.")
    keys = [row[0].split(".")[0] for row in table.rows]
    assert keys == sorted(keys)
