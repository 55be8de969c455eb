"""The panel of 05_capacity, driven as a learner would but without a browser."""

import numpy as np
import pytest

from helpers.panels import (
    LOUD,
    drawn,
    said,
)
from moeviz import panels
from moeviz.experiments.slots import RECORDED, decision_of, tokens_of
from moeviz.host import data_path
from moeviz.panels.routing import slots as module
from moeviz.records.routes import Decision
from moeviz.routing.capacity import Priority
from moeviz.watch.text import moe_layers

pytestmark = [*LOUD, pytest.mark.usefixtures("a_reader")]


def test_only_controls_that_matter_can_be_moved():
    panel = panels.Slots()
    off = {name for name, control in panel.controls.items() if control.disabled}
    assert off == {"text", "layer"}
    panel.controls["source"].value = "text"
    off = {name for name, control in panel.controls.items() if control.disabled}
    assert off == {"skew", "tokens", "seed"}


def test_what_is_shown_is_what_the_router_decides(loaded_reader):
    """And the recordings are what this code makes (another machine may round a near tie)."""
    model, tokenizer = loaded_reader.get()
    for name, values in RECORDED.items():
        recorded = Decision.load_file(data_path("traces", f"{name}.safetensors"))
        now = decision_of(values, tokens_of(values, (model, tokenizer)))
        assert recorded.meta["controls"] == values and recorded.tokens == now.tokens
        np.testing.assert_allclose(recorded.score, now.score, atol=1e-4)
        assert (recorded.visits == now.visits).mean() > 0.99
        assert recorded.meta["command"].startswith("python -m moeviz experiment slots")
        for key in ("commit", "date", "device", "versions"):
            assert recorded.meta[key], key
    assert module.LAYERS == moe_layers(model)
    assert module.PRIORITIES == Priority.__args__


def test_the_sliders_first_picture_answers_the_notebooks_question():
    """'About 25 %': what is drawn, what is expected here, and what is expected of a large batch."""
    from moeviz.pictures.routing.slots import drop_share, expected_drop
    from moeviz.records.metrics import expected_drop_rate

    decision = panels.Slots().recorded["synthetic"]
    share = 1 / np.arange(1, 9) / (1 / np.arange(1, 9)).sum()
    rates = (drop_share(decision), expected_drop(decision), expected_drop_rate(share, 4096, 640))
    assert all(0.2 < rate < 0.3 for rate in rates)


def test_more_slots_drop_less_and_waste_more():
    panel = panels.Slots()
    rows = []
    for factor in (0.5, 1.0, 2.0, 4.0, "no limit"):
        panel.controls["factor"].value = factor
        lost = sum(row[4] != "" for row in panel.drawn.rows)
        rows.append((lost, said(panel)))
    lost = [n for n, _ in rows]
    assert lost == sorted(lost, reverse=True) and lost[0] > 15 and lost[-2:] == [0, 0]
    assert "Without a limit no slot" in rows[-1][1]
    panel.controls["factor"].value = 0.5
    panel.controls["overflow"].value = "pad"
    assert "All 40 assignments find a slot. " in said(panel)


def test_the_last_sentence_says_who_sees_the_future():
    panel = panels.Slots()
    panel.controls["top_k"].value, panel.controls["factor"].value = 2, 0.75
    for priority in module.PRIORITIES:
        panel.controls["priority"].value = priority
        ahead = any(row[5] for row in panel.drawn.rows)
        assert ("never looks at later tokens" in said(panel)) == (priority == "position")
        assert ahead == (priority != "position")


@pytest.mark.parametrize("text", ["a", "to be", "x " * 250])
def test_short_and_long_texts(text):
    panel = panels.Slots("text")
    for pool in ("batch", "sequence"):
        panel.controls["pool"].value = pool
        panel.controls["text"].value = text
        assert drawn(panel).get("data-state") == panel.state, said(panel)
