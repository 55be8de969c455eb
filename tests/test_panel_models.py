"""ModelsAsExperts: recorded texts at first, then three models trained here, which read any text."""

import pytest

from helpers.models_as_experts import made_models, made_text
from helpers.panels import LOUD, at_ease, family, said
from helpers.patience import wait
from moeviz.experiments import trained_apart
from moeviz.experiments.trained_apart import Lengths
from moeviz.panels.many_models import models_as_experts as room
from moeviz.records.models_as_experts import SEEN, TEXTS

pytestmark = LOUD


@pytest.fixture
def panel(monkeypatch):
    recorded = made_models()
    recorded["texts"] = {
        name: {"text": text} | made_text(text, place).to_json()
        for place, (name, text) in enumerate(TEXTS.items())
    }
    monkeypatch.setattr(room, "recorded_run", lambda name: recorded)
    monkeypatch.setattr(room.ModelsAsExperts, "_apart", {})
    monkeypatch.setattr(trained_apart, "LIVE", Lengths(1, 1, 6))
    made = room.ModelsAsExperts()
    yield made
    made.close()


def run(panel):
    (button,) = (w for w in family(panel) if "moeviz-run" in getattr(w, "_dom_classes", ()))
    button.click()
    wait(lambda: not panel.busy, lambda: f"rest; it says: {said(panel)}")


def test_it_opens_on_a_recorded_text_and_says_where_others_come_from(panel):
    assert "recorded, not live: seed 0" in panel.picture.value
    panel.controls["text"].value = "<b>my own</b> text"
    assert "no models of seed 0 are here yet" in panel.picture.value
    assert "Nobody has read this text yet." in said(panel)
    panel.controls["text"].value = TEXTS["English"]
    assert "recorded, not live" in panel.picture.value
    panel.controls["seed"].value = 5
    assert "no models of seed 5 are here yet" in panel.picture.value


def test_models_trained_here_read_any_text_and_another_panel_has_them(panel):
    panel.controls["text"].value = "def <b>f</b>(x):\n    return x"
    run(panel)
    assert "live: models trained here, seed 0" in panel.picture.value
    first = panel.picture.value
    assert all(f">{name}</text>" in first for name in ("learned", *SEEN)) and "&lt;" in first
    panel.controls["way"].value = "even"
    assert panel.picture.value != first
    panel.controls["text"].value = "a"
    assert "give at least two" in said(at_ease(panel))
    other = room.ModelsAsExperts()
    assert "live: models trained here, seed 0" in other.picture.value
    other.close()


def test_a_stop_makes_no_models(panel, monkeypatch):
    whole = trained_apart.train_apart

    def stopped(rate, seed, lengths, go_on):
        panel._stop.set()
        return whole(rate, seed, lengths, go_on)

    monkeypatch.setattr(trained_apart, "train_apart", stopped)
    run(panel)
    assert said(panel) == panel.stopped and not room.ModelsAsExperts._apart
