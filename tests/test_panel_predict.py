"""A prediction: asked in a panel of its own, stored once, and nothing revealed before."""

import html
import json

import ipywidgets
import pytest

from helpers.panels import LOUD, family
from moeviz import panels
from moeviz.panels import predict
from moeviz.panels.base import view_bundle

pytestmark = [*LOUD, pytest.mark.usefixtures("fresh_kernel")]


def ask():
    return panels.Predict("test.key", "What <b>?", ["one & two", "<i>"], reveal="It is <u>.")


def test_a_prediction_is_stored_once_and_nothing_is_revealed_before():
    asked = ask()
    asked.choice.value = "<i>"
    assert asked.answer.value == "" and predict.ANSWERS == {}
    assert "It is" not in json.dumps([w.get_state() for w in family(asked)], default=str)
    asked.lock.click()
    assert predict.ANSWERS == {"test.key": "<i>"}
    assert asked.choice.disabled and asked.lock.disabled
    answer = asked.answer.value
    assert html.unescape(answer).count("You said: <i>. It is <u>.") == 1
    assert "<i>" not in answer and "<u>" not in answer and "<b>?" not in asked.children[0].value
    asked.choice.value = "one & two"
    asked.lock.click()
    assert predict.ANSWERS == {"test.key": "<i>"} and asked.answer.value == answer
    again = ask()  # as when its cell runs again
    assert predict.ANSWERS == {} and not again.lock.disabled


def test_what_is_displayed_where_no_widget_can_be(stills, monkeypatch):
    asked = ask()
    bundle = asked._repr_mimebundle_(include=None, exclude=None)
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == asked.model_id and "run the notebook to" in bundle["text/plain"]
    assert "What &lt;b&gt;? (one &amp; two / &lt;i&gt;;" in bundle["text/html"]
    assert asked._ipython_display_ is None
    monkeypatch.delenv("MOEVIZ_STATIC")
    assert set(asked._repr_mimebundle_()) == {*bundle} - {"text/html"}
    assert view_bundle(ipywidgets.Label("x"), "words")["text/plain"] == "words"
