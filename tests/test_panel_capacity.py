"""The panel of 05_capacity, driven as a learner would but without a browser."""

import base64
import time

import ipywidgets
import numpy as np
import pytest

from helpers.live import wait
from helpers.panels import (
    LOUD,
    NASTY,
    at_rest,
    check_no_markup,
    content,
    drawn,
    everything,
    opened,
    said,
    twin,
)
from moeviz import panels
from moeviz.experiments.seats import RECORDED, decision_of, tokens_of
from moeviz.host import data_path
from moeviz.panels.routing import seats as module
from moeviz.records.routes import Decision
from moeviz.routing.capacity import Priority
from moeviz.watch.text import moe_layers

pytestmark = [*LOUD, pytest.mark.usefixtures("a_reader")]
MOVES = {
    "factor": 0.5, "top_k": 2, "priority": "batch", "overflow": "pad", "pool": "sequence",
    "source": "text", "skew": 0.0, "tokens": 64, "seed": 3, "text": "another text", "layer": 2,
}  # fmt: skip


def test_both_open_without_torch_and_well_within_3_seconds():
    took, has_torch, pictures, _ = opened("panels.Seats()", 'panels.Seats("text")')
    assert took < 2 and not has_torch and pictures == ["<svg", "<svg"]


@pytest.mark.parametrize("source", ["synthetic", "text"])
def test_nothing_moves_by_itself_on_opening(source):
    panel = at_rest(lambda: panels.Seats(source))
    assert "unexpected" not in panel.status.value
    assert said(panel) == panel.drawn.summary


def test_another_source_is_refused():
    with pytest.raises(ValueError, match=r"^source must be one of synthetic, text, got 'poem'\.$"):
        panels.Seats("poem")


@pytest.mark.parametrize("name", MOVES)
def test_every_control_changes_the_picture_and_the_state(name):
    of_text = name in ("text", "layer")
    panel = panels.Seats("text" if of_text else "synthetic")
    if name == "priority":
        panel.controls["top_k"].value = 2
    old, state = content(panel), panel.state
    panel.controls[name].value = MOVES[name]
    assert content(panel) != old and panel.state != state
    assert drawn(panel).get("data-state") == panel.state == panel.state_box.value
    assert "unexpected" not in panel.status.value


def test_every_control_is_tried_above_and_there_is_no_dropdown():
    panel = panels.Seats()
    assert MOVES.keys() == panel.controls.keys()
    assert not [c for c in panel.controls.values() if isinstance(c, ipywidgets.Dropdown)]


def test_only_controls_that_matter_can_be_moved():
    panel = panels.Seats()
    off = {name for name, control in panel.controls.items() if control.disabled}
    assert off == {"text", "layer"}
    panel.controls["source"].value = "text"
    off = {name for name, control in panel.controls.items() if control.disabled}
    assert off == {"skew", "tokens", "seed"}


def test_what_is_shown_is_what_the_router_decides():
    """And the recordings are what this code makes (another machine may round a near tie)."""
    tokenizer, model = module.READER.tokenizer, module.READER.model
    for name, values in RECORDED.items():
        recorded = Decision.load_file(data_path("traces", f"{name}.safetensors"))
        now = decision_of(values, tokens_of(values, (model, tokenizer)))
        assert recorded.meta["controls"] == values and recorded.tokens == now.tokens
        np.testing.assert_allclose(recorded.score, now.score, atol=1e-4)
        assert (recorded.visits == now.visits).mean() > 0.99
        assert recorded.meta["command"].startswith("python -m moeviz experiment seats")
        for key in ("commit", "date", "device", "versions"):
            assert recorded.meta[key], key
    assert module.LAYERS == moe_layers(model)
    assert module.PRIORITIES == Priority.__args__


def test_the_sliders_first_picture_answers_the_notebooks_question():
    """'About 25 %': what is drawn, what is expected here, and what is expected of a large batch."""
    from moeviz.pictures.routing.seats import drop_share, expected_drop
    from moeviz.records.metrics import expected_drop_rate

    decision = panels.Seats().recorded["synthetic"]
    share = 1 / np.arange(1, 9) / (1 / np.arange(1, 9)).sum()
    rates = (drop_share(decision), expected_drop(decision), expected_drop_rate(share, 4096, 640))
    assert all(0.2 < rate < 0.3 for rate in rates)


def test_more_seats_drop_less_and_waste_more():
    panel = panels.Seats()
    rows = []
    for factor in (0.5, 1.0, 2.0, 4.0, "no limit"):
        panel.controls["factor"].value = factor
        lost = sum(row[4] != "" for row in panel.drawn.rows)
        rows.append((lost, said(panel)))
    lost = [n for n, _ in rows]
    assert lost == sorted(lost, reverse=True) and lost[0] > 15 and lost[-2:] == [0, 0]
    assert "Without a limit no seat" in rows[-1][1]
    panel.controls["factor"].value = 0.5
    panel.controls["overflow"].value = "pad"
    assert "All 40 assignments find a seat. " in said(panel)


def test_the_last_sentence_says_who_sees_the_future():
    panel = panels.Seats()
    panel.controls["top_k"].value, panel.controls["factor"].value = 2, 0.75
    for priority in module.PRIORITIES:
        panel.controls["priority"].value = priority
        ahead = any(row[5] for row in panel.drawn.rows)
        assert ("never looks at later tokens" in said(panel)) == (priority == "position")
        assert ahead == (priority != "position")


@pytest.mark.parametrize(
    "values",
    [
        {"factor": "no limit", "top_k": 4, "tokens": 128},
        {"source": "text", "text": NASTY, "layer": 0, "pool": "sequence"},
        {"skew": 2.0, "seed": 77, "priority": "probability", "overflow": "pad"},
    ],
)
def test_a_state_reproduces_the_picture_in_another_panel(values):
    first, second = panels.Seats(), panels.Seats("text")
    for name, value in values.items():
        first.controls[name].value = value
    second.state_box.value = f"  {first.state_box.value}\n"
    assert everything(second) == everything(first)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("race?seed=1", "begin with 'seats?', this one with 'race'"),
        ("seats?factor=9", "factor must be one of 0.25, 0.3"),
        ("seats?top_k=3", "top_k must be one of 1, 2, 4, got '3'"),
        ("seats?skew=5", "skew must lie in 0.0 to 2.0, got 5"),
        ("seats?tokens=1000", "tokens must lie in 16 to 128, got 1000"),
        ("seats?priority=luck", "priority must be one of position, choice"),
        ("seats?seats=1", "has no seats; it has factor"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(state, sentence):
    panel = panels.Seats()
    before = everything(panel)
    panel.state_box.value = state
    assert sentence in said(panel) and everything(panel) == before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "The text is empty; type a few words."),
        ("a b " * 600, "tokens; at most 512 fit"),
    ],
)
def test_a_text_that_cannot_be_read_gets_one_sentence(text, sentence):
    panel = panels.Seats("text")
    picture = panel.picture.value
    panel.controls["text"].value = text
    assert sentence in said(panel) and panel.picture.value == picture
    panel.controls["text"].value = "better"
    assert panel.picture.value != picture


def test_a_nasty_text_is_shown_and_never_run():
    panel = panels.Seats("text")
    panel.show_table.value = True
    panel.controls["text"].value = NASTY
    check_no_markup(panel)


@pytest.mark.parametrize("text", ["a", "to be", "x " * 250])
def test_short_and_long_texts(text):
    panel = panels.Seats("text")
    for pool in ("batch", "sequence"):
        panel.controls["pool"].value = pool
        panel.controls["text"].value = text
        assert drawn(panel).get("data-state") == panel.state, said(panel)


def test_another_rule_loads_the_model_in_the_background_and_the_latest_wins(unloaded, held_model):
    held, _ = held_model
    panel = panels.Seats()
    picture = panel.picture.value
    for factor in (1.3, 1.35, 2.0):
        panel.controls["factor"].value = factor
        assert "Loading PyTorch" in said(panel) and panel.picture.value == picture
    held.set()
    wait(lambda: drawn(panel).get("data-state") == panel.state, "the picture of the latest")
    assert "factor=2.0" in panel.state
    panel.controls["factor"].value = 1.25
    assert panel._current() is panel.recorded["synthetic"]


def test_the_table_twin_follows_the_picture():
    panel = panels.Seats()
    panel.show_table.value = True
    for factor in (1.25, 0.5):
        panel.controls["factor"].value = factor
        rows, caption = twin(panel)
        assert rows[1:] == [[str(v) for v in row] for row in panel.drawn.rows]
        assert caption == panel.drawn.summary
    panel.show_table.value = False
    assert panel.table.value == ""


def test_a_move_is_quick():
    """A generous bound, for test machines are shared; measured: see the panel's own figures."""
    panel = panels.Seats()
    panel.controls["tokens"].value, panel.controls["top_k"].value = 128, 4
    took = []
    for factor in module.FACTORS:
        begun = time.process_time()
        panel.controls["factor"].value = factor
        took.append(time.process_time() - begun)
        assert len(panel.picture.value) < 150_000
    assert np.median(took) < 0.2


def test_the_still_stands_beside_the_widget(stills):
    bundle = panels.Seats("text")._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
