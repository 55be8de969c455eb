"""What is particular to panels that read the shipped model, and how that is loaded."""

import json

import numpy as np
import pytest

from helpers.live import wait
from helpers.panels import LOUD, drawn, move, press, said
from moeviz import panels
from moeviz.experiments.slots import RECORDED, decision_of, tokens_of
from moeviz.experiments.slots_at_once import UNLIMITED, decision_at_once
from moeviz.host import data_path
from moeviz.panels.routing.slots import LAYERS, PRIORITIES
from moeviz.panels.shipped_model import Reader
from moeviz.records.metrics import expected_drop_rate
from moeviz.records.routes import Decision
from moeviz.routing.capacity import Priority
from moeviz.watch.text import moe_layers

pytestmark = [*LOUD, pytest.mark.usefixtures("a_reader")]
DATA_PATH = "moeviz.panels.shipped_model.data_path"


# The shipped model.


def test_a_loaded_model_stays_and_a_failure_is_tried_again(monkeypatch):
    reader = Reader()
    with monkeypatch.context() as patch:
        patch.setattr(DATA_PATH, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            reader.get()
        assert reader.failed
    model, _ = reader.get()
    assert not reader.failed and reader.get()[0] is model


@pytest.mark.parametrize("kind", [panels.RouteText, panels.InsideLayer])
@pytest.mark.parametrize(
    ("names", "size", "sentence"),
    [
        (("models", "start_here.safetensors"), 5000, "is not a readable safetensors file"),
        (("traces", "start_here.safetensors"), None, "is of the kind 'trace'; here 'model' is"),
        (("models", "gone"), None, 'the file "models/gone" that ships with moeviz is missing'),
        ((), 0, "moeviz loads no pickles"),
    ],
)
def test_a_model_file_that_cannot_be_read_gets_one_sentence_and_another_try(
    kind, names, size, sentence, unloaded, monkeypatch, tmp_path
):
    def damaged(*_):
        file = tmp_path / "model.safetensors"
        pickle = b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94."
        file.write_bytes(data_path(*names).read_bytes()[:size] if names else pickle)
        return file

    with monkeypatch.context() as patch:
        patch.setattr(DATA_PATH, damaged)
        panel = kind()
        picture = panel.picture.value
        panel.controls["text"].value = "own text"
        wait(lambda: sentence in said(panel), sentence)
        assert said(panel).startswith("The small model could not be loaded: ")
        assert panel.picture.value == picture and "unexpected" not in panel.status.value
    panel.controls["text"].value = "own text again"
    wait(lambda: panel.picture.value != picture, "the picture, with the file back in its place")


def test_a_loader_that_fails_unexpectedly_is_marked_and_does_not_leave_the_panel_waiting(
    unloaded, monkeypatch, caplog
):
    panel = panels.RouteText()
    with monkeypatch.context() as patch:
        patch.setattr("moeviz.watch.text.load_model", lambda *_: {}["boom"])
        panel.controls["text"].value = "own text"
        wait(lambda: "KeyError('boom')" in said(panel), "the sentence")
    assert 'class="moeviz-unexpected"' in panel.status.value
    wait(lambda: caplog.records, "the log")
    assert caplog.records[-1].exc_info[0] is KeyError
    caplog.clear()
    panel.controls["text"].value = "own text again"
    wait(lambda: drawn(panel).get("data-state") == panel.state, "the picture, at the next try")
    assert "unexpected" not in panel.status.value


# One layer, stage by stage.


def test_the_stage_buttons_go_back_and_forth_and_stop_at_the_ends():
    panel, seen = panels.InsideLayer(), []
    for _ in range(7):
        seen.append(panel.controls["stage"].value)
        press(panel, "next")
    assert seen == ["logits", "softmax", "top-k", "dispatch", "experts", "combine", "combine"]
    for _ in range(7):
        press(panel, "back")
    assert panel.controls["stage"].value == "logits"


# Slots.


def test_what_is_shown_is_what_the_router_decides(loaded_reader):
    """And the recordings are what this code makes (another machine may round a near tie)."""
    for name, values in RECORDED.items():
        recorded = Decision.load_file(data_path("traces", f"{name}.safetensors"))
        now = decision_of(values, tokens_of(values, loaded_reader.get()))
        assert recorded.meta["controls"] == values and recorded.tokens == now.tokens
        np.testing.assert_allclose(recorded.score, now.score, atol=1e-4)
        assert (recorded.visits == now.visits).mean() > 0.99
    assert moe_layers(loaded_reader.get()[0]) == LAYERS
    assert Priority.__args__ == PRIORITIES


@pytest.mark.parametrize("factor", [0.25, 1.25, UNLIMITED])
@pytest.mark.parametrize("top_k", [1, 4])
@pytest.mark.parametrize("pool", ["batch", "sequence"])
@pytest.mark.parametrize("overflow", ["drop", "pad"])
def test_what_is_shown_at_once_is_what_the_router_decides(factor, top_k, pool, overflow):
    """42 tokens: four sequences of two lengths."""
    values = RECORDED["slots_zipf"] | {
        "tokens": 42, "factor": factor, "top_k": top_k, "pool": pool, "overflow": overflow,
    }  # fmt: skip
    fast, plain = decision_at_once(values), decision_of(values, tokens_of(values, None))
    for name, value in vars(plain).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(getattr(fast, name), value, atol=1e-6, err_msg=name)
        elif name != "meta":
            assert getattr(fast, name) == value, name
    assert json.loads(json.dumps(fast.meta)) == plain.meta


def test_the_sliders_first_picture_answers_the_notebooks_question():
    """'About 25 %': what is drawn, what is expected here, and what is expected of a large batch."""
    from moeviz.pictures.routing.slots import drop_share, expected_drop

    decision = panels.Slots().recorded["synthetic"]
    share = 1 / np.arange(1, 9) / (1 / np.arange(1, 9)).sum()
    rates = (drop_share(decision), expected_drop(decision), expected_drop_rate(share, 4096, 640))
    assert all(0.2 < rate < 0.3 for rate in rates)


def test_more_slots_drop_less_and_all_tokens_find_one_where_buffers_are_padded():
    panel, lost = panels.Slots(), []
    for factor in (0.5, 1.0, 2.0, 4.0, "no limit"):
        move(panel, "factor", factor)
        lost.append(sum(row[4] != "" for row in panel.drawn.rows))
    assert lost == sorted(lost, reverse=True) and lost[0] > 15 and lost[-2:] == [0, 0]
    assert "Without a limit no slot" in said(panel)
    panel.state = "slots?factor=0.5&overflow=pad"
    assert "All 40 assignments find a slot. " in said(panel)


def test_assignments_come_one_by_one_and_all_are_there_in_another_batch():
    panel = panels.Slots()
    step = panel.controls["step"]
    assert (step.value, step.max) == (40, 40) and "assignments have come" not in said(panel)
    press(panel, "back")
    assert step.value == 39 and "39 of 40 assignments have come" in said(panel)
    move(panel, "factor", 2.0)
    assert step.value == 39 and "39 of 40 assignments have come" in said(panel)
    press(panel, "play")
    wait(lambda: not panel.busy, "the last one")
    assert step.value == 40
    move(panel, "tokens", 64)
    assert (step.value, step.max) == (64, 64)
    panel.state = "slots?tokens=16&top_k=2&step=20"
    assert (step.value, step.max) == (20, 32) and "20 of 32 assignments have come" in said(panel)
    panel.state = "slots?tokens=16&top_k=1&step=20"
    assert (step.value, step.max) == (16, 16)


def test_the_last_sentence_says_who_sees_the_future():
    panel = panels.Slots()
    panel.state = "slots?top_k=2&factor=0.75"
    for priority in PRIORITIES:
        move(panel, "priority", priority)
        ahead = any(row[5] for row in panel.drawn.rows)
        assert ("never looks at later tokens" in said(panel)) == (priority == "position")
        assert ahead == (priority != "position")


@pytest.mark.parametrize("text", ["a", "to be", "x " * 250])
def test_short_and_long_texts(text):
    panel = panels.Slots("text")
    for pool in ("batch", "sequence"):
        panel.controls["pool"].value = pool
        move(panel, "text", text)
        assert drawn(panel).get("data-state") == panel.state, said(panel)


def test_where_fewer_layers_are_on_offer_the_slider_never_stands_beyond_the_last():
    """A page would send the last one back, and a preset would show that one."""
    panel = panels.RealModels()
    move(panel, "layer", 25)
    layer, places = panel.controls["layer"], []
    layer.observe(lambda _: places.append((layer.index, len(layer.options))), "_options_labels")
    move(panel, "model", "olmoe")
    assert places and all(index < count for index, count in places)
