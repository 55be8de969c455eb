"""The panel of an expert of one's own: trained, stopped, taken out, saved, given away."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.live import wait
from helpers.own_runs import made_run
from helpers.panels import LOUD, NASTY, at_ease, content, press, said
from moeviz.experiments import own_run
from moeviz.model import LanguageModel, ModelConfig, MoEConfig
from moeviz.panels.many_models import own_expert as panel_file
from moeviz.panels.many_models.own_expert import OwnExpert
from moeviz.pictures.many_models.own_expert import finding, own_expert, told
from moeviz.records.own_runs import OwnRun
from moeviz.records.store import load_records, save_records
from moeviz.surgery.own_training import OwnTraining
from moeviz.text.corpus import load_corpus
from moeviz.text.own_texts import MOST_BYTES, own_text, read_file
from moeviz.text.tokenizer import Tokenizer

pytestmark = [*LOUD, pytest.mark.usefixtures("a_reader", "fresh_kernel")]


@pytest.fixture
def quick(monkeypatch):
    """Trainings of a few steps of a tiny model, and a friend's expert that has learnt nothing."""
    torch.manual_seed(0)
    experts = MoEConfig(4, 2, 8)
    config = ModelConfig(d_model=16, num_layers=3, num_heads=2, moe=experts, ffn_scale=1.0)
    model, tokenizer = LanguageModel(config), Tokenizer.default()
    reader = SimpleNamespace(get=lambda: (model, tokenizer))
    monkeypatch.setattr(panel_file, "shipped_model", SimpleNamespace(READER=reader))
    monkeypatch.setattr(panel_file, "STEPS", (1, 3, 2000))
    monkeypatch.setattr(panel_file, "LOOK_EVERY", 2)
    monkeypatch.setattr(own_run, "WINDOWS", 1)
    monkeypatch.setattr(panel_file, "_openings", lambda: ({}, ""))
    kept = []

    def friend():
        if not kept:
            ids = tokenizer.encode(own_text("german"))
            kept.append(OwnTraining(model, ids, load_corpus(), name="german", rank=1).expert())
        return kept[0]

    monkeypatch.setattr(panel_file, "_friend", friend)


def pressed(panel, name):
    press(panel, name)
    at_ease(panel)
    wait(lambda: not panel.worker.busy, "the end of the work")
    return said(panel)


def test_it_is_trained_taken_out_bit_for_bit_saved_and_given_to_a_friend(quick, tmp_path):
    panel = OwnExpert()
    assert "not trained yet" in said(panel)
    assert pressed(panel, "run").startswith("After 3 steps the loss of notes ")
    assert panel._live.plugged == ("notes",) and panel._live.now != panel._live.base
    assert len(panel._live.loss_step) == 2 and panel._live.visits.shape == (3, 3)
    panel.file.value = str(tmp_path / "mine.safetensors")
    assert "bytes. A friend plugs it into the same model." in pressed(panel, "save")
    assert "bit for bit the model that ships" in pressed(panel, "unplug")
    assert panel._live.now == panel._live.base and np.array_equal(
        panel._live.after, panel._live.before
    )
    assert "the same, bit for bit" in panel.picture.value
    before = content(panel)
    assert "No expert called 'notes' is plugged in; there is none." in pressed(panel, "unplug")
    assert pressed(panel, "load") == "The expert 'notes' is plugged in."
    assert "'notes' is plugged in already" in pressed(panel, "load")
    assert "'notes' is plugged in already" in pressed(panel, "plug")
    assert content(panel) != before and panel._live.plugged == ("notes",)
    friend = OwnExpert()  # another kernel's would be
    friend.file.value = panel.file.value
    assert pressed(friend, "load") == "The expert 'notes' is plugged in."
    assert friend._live.now == panel._live.now
    panel.file.value = str(tmp_path / "none.safetensors")
    assert pressed(panel, "load").startswith("There is no file ")
    panel.controls["seed"].value = 5
    assert "No expert was trained here for this setting" in pressed(panel, "save")


def test_a_text_that_is_too_long_is_cut_and_the_reader_is_told(quick, monkeypatch):
    monkeypatch.setattr(own_run, "MOST", 400)
    panel = OwnExpert()
    panel.controls["steps"].value = 1
    whole = len(Tokenizer.default().encode(own_text("notes")))
    told = f" Only the first 400 of the text's {whole:,} tokens are read."
    assert pressed(panel, "run").endswith(told)
    assert len(panel._running_model.trained.seen) == 320, "its last fifth is held out"
    assert pressed(panel, "unplug").endswith(told)
    panel.controls["seed"].value = 1
    assert "read." not in said(panel), "nothing is read for a setting that is not trained yet"
    monkeypatch.setattr(own_run, "MOST", whole)
    assert "tokens are read" not in pressed(panel, "run")


def test_a_friends_expert_goes_in_beside_it_and_out_again(quick):
    panel = OwnExpert()
    pressed(panel, "run")
    alone = panel._live
    panel.controls["beside"].value = "friend"
    wait(lambda: panel._live.plugged == ("notes", "german"), "the friend's expert")
    at_ease(panel)
    assert panel._live.rows[:2] == ("notes", "german") and np.isfinite(panel._live.alone[:2]).all()
    assert panel._live.alone[0] == pytest.approx(alone.after[0])
    assert "2 experts are plugged in." in said(panel)
    panel.controls["beside"].value = "nobody"
    wait(lambda: panel._live.plugged == ("notes",), "the friend's expert is out")
    assert panel._live.now == alone.now


def test_stop_keeps_what_was_learnt_so_far(quick):
    panel = OwnExpert()
    panel.controls["steps"].value = 2000
    press(panel, "run")
    wait(lambda: panel._live is not None, "the first look")
    press(panel, "save")
    assert "Training goes on: wait, or press Stop first." in said(panel) or not panel._running
    press(panel, "stop")
    wait(lambda: not panel.worker.busy, "the end")
    assert said(panel) == "Stopped: what the expert has learnt so far is plugged in."
    assert 0 < panel._live.step < 2000 and panel._live.loss_step[-1] == panel._live.step
    assert panel._live.plugged == ("notes",)


def test_texts_that_cannot_be_learnt_get_one_sentence_and_change_nothing(quick, tmp_path):
    panel = OwnExpert()
    panel.controls["text"].value = "yours"
    missing = tmp_path / "none.txt"
    for text, words in (
        ("  ", "Paste a text into the box, or give the path of a text file."),
        ("too short", "The text has 4 tokens; give one of 256 or more"),
        (str(missing), "There is no file "),
    ):
        panel.controls["own"].value = text
        assert words in pressed(panel, "run") and "unexpected" not in panel.status.value
        assert panel._live is None
    file = tmp_path / "notes.txt"
    file.write_text((NASTY + own_text("notes"))[:900], encoding="utf-8")
    panel.controls["own"].value = str(file)
    pressed(panel, "run")
    assert panel._live.name == "mine" and "<script" not in panel.picture.value
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_file(file)
    file.write_bytes(b" " * (MOST_BYTES + 1))
    with pytest.raises(ValueError, match="is larger than 2,000,000 bytes"):
        read_file(file)
    if Path("/proc/self/mem").is_file():  # a file that even its owner cannot read
        with pytest.raises(ValueError, match=r'"/proc/self/mem" cannot be read \(.+\); give'):
            read_file(Path("/proc/self/mem"))


def test_what_a_run_says_follows_its_figures():
    run = made_run()
    assert finding(run) == "notes: -1.00 nats per token. The six domains: +0.12 on average."
    words = told(run, 0)
    assert "the loss of notes falls from 6.00 to 5.00 nats per token" in words
    assert "change by +0.12 on average, most that of brackets (+0.25)." in words
    assert words.endswith("In layer 0, 50 % of its tokens visit the expert.")
    two = told(made_run("mine", ("german",)), 1)
    assert two.endswith("Beside its own expert alone: mine +0.25, german +0.50.")
    worse = dataclasses.replace(run, after=run.before + 0.5)
    assert "the loss of notes rises from 6.00 to 6.50" in told(worse, 0)
    out = made_run(plugged=False)
    assert "bit for bit the model that ships. Its fingerprint is ab12cd34." in told(out, 0)
    odd = dataclasses.replace(out, now="0" * 64)
    assert "bit for bit" not in told(odd, 0) and "the same" not in own_expert(odd, 0).svg


def test_a_run_comes_back_from_its_file(tmp_path):
    run = made_run("mine", ("german",))
    save_records(tmp_path / "runs.safetensors", {"two": run}, {"date": "2026-01-01"})
    again = load_records(tmp_path / "runs.safetensors", OwnRun)[0]["two"]
    assert own_expert(again, 0) == own_expert(run, 0)
