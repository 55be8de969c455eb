"""Panels, driven as a learner would but without a browser: controls, states, refusals, runs."""

import errno
import html
import json
import os
import re
import shutil
import threading
import time
from types import SimpleNamespace

import ipywidgets
import pytest

import moeviz.training.live
from helpers.live import end_of_kernel, settle, wait
from helpers.panels import (
    LOUD,
    drawn,
    family,
    press,
    said,
)
from helpers.prose import WORDS
from moeviz import panels
from moeviz.host import autosave_folder, data_path
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import ModelConfig
from moeviz.panels import predict
from moeviz.panels.base import view_bundle
from moeviz.panels.training.race import Race
from moeviz.text.corpus import load_corpus
from moeviz.text.tokenizer import Tokenizer
from moeviz.training.trainer import TrainConfig

pytestmark = [*LOUD, pytest.mark.usefixtures("a_reader", "fresh_kernel")]


def test_the_stage_buttons_go_back_and_forth_and_stop_at_the_ends():
    panel = panels.InsideLayer()
    seen = []
    for _ in range(7):
        seen.append(panel.controls["stage"].value)
        press(panel, "next")
    assert seen == ["logits", "softmax", "top-k", "dispatch", "experts", "combine", "combine"]
    for _ in range(7):
        press(panel, "back")
    assert panel.controls["stage"].value == "logits"


# The shipped model.


@pytest.mark.parametrize("kind", [panels.RouteText, panels.InsideLayer])
@pytest.mark.parametrize("fault", ["damaged", "missing", "foreign", "pickle"])
def test_a_model_file_that_cannot_be_read_gets_one_sentence_and_another_try(
    kind, fault, unloaded, monkeypatch, tmp_path
):
    file = tmp_path / "model.safetensors"
    if fault == "damaged":
        whole = data_path("models", "start_here.safetensors").read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    elif fault == "pickle":
        file.write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.")
    names = {"foreign": ("traces", "start_here.safetensors"), "missing": ("models", "gone")}
    wanted = {
        "damaged": "is not a readable safetensors file",
        "pickle": "moeviz loads no pickles",
        "foreign": "is of the kind 'trace'; here 'model' is needed",
        "missing": 'the file "models/gone" that ships with moeviz is missing',
    }[fault]
    with monkeypatch.context() as patch:
        patch.setattr(
            "moeviz.panels.shipped_model.data_path",
            lambda *parts: data_path(*names[fault]) if fault in names else file,
        )
        panel = kind()
        picture = panel.picture.value
        panel.controls["text"].value = "own text"
        wait(lambda: wanted in said(panel), wanted)
        assert said(panel).startswith("The small model could not be loaded: ")
        assert panel.picture.value == picture and "unexpected" not in panel.status.value
    panel.controls["text"].value = "own text again"
    wait(lambda: panel.picture.value != picture, "the picture, with the file back in its place")


def test_a_loader_that_fails_unexpectedly_is_marked_and_does_not_leave_the_panel_waiting(
    unloaded, monkeypatch, caplog
):
    def broken(*args):
        raise KeyError("boom")

    panel = panels.RouteText()
    with monkeypatch.context() as patch:
        patch.setattr("moeviz.watch.text.load_model", broken)
        panel.controls["text"].value = "own text"
        wait(lambda: "KeyError('boom')" in said(panel), "the sentence")
    assert 'class="moeviz-unexpected"' in panel.status.value
    assert caplog.records[-1].exc_info[0] is KeyError
    caplog.clear()
    panel.controls["text"].value = "own text again"
    wait(lambda: drawn(panel).get("data-state") == panel.state, "the picture, at the next try")
    assert "unexpected" not in panel.status.value


# What a notebook displays.


def make_predict():
    return panels.Predict("test.key", "What <b>?", ["one & two", "<i>"], reveal="It is <u>.")


def test_a_prediction_has_a_bundle_for_places_that_show_none():
    asked = make_predict()
    bundle = asked._repr_mimebundle_(include=None, exclude=None)
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == asked.model_id and "run the notebook to" in bundle["text/plain"]
    assert asked._ipython_display_ is None


def test_any_widget_can_be_shown():
    label = ipywidgets.Label("x")
    assert view_bundle(label, "words")["text/plain"] == "words"


# Predictions.


def test_a_prediction_is_stored_once_and_nothing_is_revealed_before():
    asked = make_predict()
    asked.choice.value = "<i>"
    assert asked.answer.value == "" and predict.ANSWERS == {}
    assert "It is" not in json.dumps([w.get_state() for w in family(asked)], default=str)
    asked.lock.click()
    assert predict.ANSWERS == {"test.key": "<i>"}
    assert asked.choice.disabled and asked.lock.disabled
    assert html.unescape(asked.answer.value).count("You said: <i>. It is <u>.") == 1
    assert "<i>" not in asked.answer.value and "<u>" not in asked.answer.value
    asked.choice.value = "one & two"
    asked.lock.click()
    assert predict.ANSWERS == {"test.key": "<i>"} and "You said: &lt;i&gt;" in asked.answer.value
    assert "<b>?" not in asked.children[0].value


def test_a_prediction_may_be_made_anew_when_its_cell_runs_again():
    make_predict().lock.click()
    again = make_predict()
    assert predict.ANSWERS == {} and not again.lock.disabled


def test_the_still_of_a_prediction_escapes_its_question():
    still = make_predict()._repr_mimebundle_()
    assert "What &lt;b&gt;? (one &amp; two / &lt;i&gt;;" in still["text/html"]


# The race.


@pytest.fixture
def track(monkeypatch, corpus):
    """Small races."""
    track = SimpleNamespace(steps=10**6, validate_every=0)  # what a test may change

    def models(num_experts, top_k):
        experts = MoEConfig(num_experts=num_experts, top_k=top_k, d_expert=8 // top_k)
        moe = ModelConfig(vocab_size=300, d_model=8, num_layers=1, num_heads=2, moe=experts)
        return {"dense": moe.dense_twin(), "MoE": moe}

    def training(seed, steps=0):
        return TrainConfig(
            steps=track.steps, seed=seed, batch_size=2, seq_len=8, schedule="constant",
            validate_every=track.validate_every, warmup=0,
        )  # fmt: skip

    race = "moeviz.experiments.race"
    monkeypatch.setattr(f"{race}.load_corpus", lambda: corpus)
    monkeypatch.setattr(f"{race}.race_models", models)
    monkeypatch.setattr(f"{race}.race_training", training)
    # Frames come fast enough that no test waits for one.
    monkeypatch.setattr(moeviz.training.live, "PUBLISH_SECONDS", 0.01)
    return track


def learner_steps():
    learners = Race.run._learners or {}
    return [trainer.step for trainer in learners.values()]


def wait_step(step):
    wait(lambda: learner_steps() and min(learner_steps()) >= step, f"step {step}")


def wait_status(status):
    wait(lambda: Race.run.frame.status == status, f"{status}, not {Race.run.frame.status}")


def shown_step(panel):
    return int(drawn(panel).get("data-state").rpartition("step=")[2])


def note(panel):
    return next(t.text for t in drawn(panel).iter("{http://www.w3.org/2000/svg}text"))


def live_threads():
    return [t for t in threading.enumerate() if t.name == "moeviz-live"]


def test_play_pressed_twice_quickly_is_one_run(track):
    panel = panels.Race()
    assert note(panel).startswith("recorded, not live")
    press(panel, "play")
    press(panel, "play")
    wait_step(5)
    assert len(live_threads()) == 1
    first = Race.run._learners
    press(panel, "play")
    wait_step(min(learner_steps()) + 3)
    assert Race.run._learners is first
    wait(lambda: note(panel) == "live: E = 16, K = 2, seed 0", "the live picture")
    dense, moe = (trainer.step for trainer in first.values())
    assert abs(dense - moe) <= 1


def test_pause_stops_step_goes_one_further_and_play_goes_on(track):
    panel = panels.Race()
    press(panel, "play")
    wait_step(3)
    press(panel, "pause")
    wait(lambda: said(panel) == "Paused.", "the pause")
    settle(Race)
    stood = learner_steps()
    time.sleep(0.05)
    assert learner_steps() == stood
    press(panel, "step")
    press(panel, "step")
    settle(Race)
    assert learner_steps() == [s + 2 for s in stood] and said(panel) == "One step done."
    assert shown_step(panel) == stood[1] + 2
    press(panel, "play")
    wait_step(max(stood) + 5)
    assert said(panel) == "Training."


def test_a_step_done_is_said_after_its_picture_was_sent(track, monkeypatch):
    """Who reads the sentence, a screen reader too, must find the picture that it speaks of."""
    panel = panels.Race()
    sent = []

    def send_state(widget, key=None):
        if widget in (panel.status, panel.picture) and key:
            sent.append(said(panel) if widget is panel.status else shown_step(panel))

    monkeypatch.setattr(ipywidgets.HTML, "send_state", send_state)
    for at in (1, 2):
        press(panel, "step")
        settle(Race)
        assert said(panel) == "One step done." and sent[-2:] == [at, "One step done."], sent
        panel.say("between two steps")


def test_pause_before_anything_trains_says_so_and_starts_nothing():
    panel = panels.Race()
    press(panel, "pause")
    assert said(panel).startswith("Nothing trains yet.") and Race.run is None


def test_reset_before_anything_trains_is_ready():
    panel = panels.Race()
    press(panel, "reset")
    assert said(panel).startswith("Ready.") and Race.run is None


def test_reset_right_after_pause_begins_at_step_0(track):
    """The pause saves the race: it must not come back after the reset."""
    panel = panels.Race()
    press(panel, "play")
    wait_step(4)
    press(panel, "pause")
    press(panel, "reset")
    settle(Race)
    assert said(panel) == "Ready."
    press(panel, "step")
    settle(Race)
    assert learner_steps() == [1, 1] and shown_step(panel) == 1


@pytest.mark.parametrize(("name", "value"), [("experts", 8), ("top_k", 1), ("seed", 5)])
def test_another_configuration_races_from_the_start(name, value, track):
    panel = panels.Race()
    press(panel, "play")
    wait_step(5)
    old = Race.run._learners
    panel.controls[name].value = value
    wait(lambda: Race.run._learners not in (None, old), "the new race")
    wait_step(2)
    settle(Race)
    trainer = Race.run._learners["MoE"]
    found = {
        "experts": trainer.model_config.moe.num_experts,
        "top_k": trainer.model_config.moe.top_k,
        "seed": trainer.config.seed,
    }
    assert found == {"experts": 16, "top_k": 2, "seed": 0, name: value}
    wanted = "live: E = {experts}, K = {top_k}, seed {seed}".format(**found)
    wait(lambda: note(panel) == wanted, wanted)
    press(panel, "pause")
    wait_status("paused")
    panel.controls[name].value = {"experts": 16, "top_k": 2, "seed": 0}[name]
    settle(Race)
    assert Race.run._learners is None and said(panel) == "Ready."  # paused it waits for Play


def test_the_axis_may_be_switched_while_it_trains(track):
    panel = panels.Race()
    press(panel, "play")
    wait_step(3)
    learners = Race.run._learners
    for axis in ("flops", "seconds", "step"):
        panel.controls["axis"].value = axis
        assert f"axis={axis}" in drawn(panel).get("data-state")
    assert Race.run._learners is learners


def test_the_timeline_shows_the_past_while_the_race_goes_on(track):
    panel = panels.Race()
    press(panel, "play")
    wait_step(40)
    wait(lambda: shown_step(panel) >= 40, "40 steps in the picture")
    panel.timeline.value = 50
    past, went = shown_step(panel), min(learner_steps())
    assert 0 < past < went and "timeline at 50 %" in note(panel)
    wait_step(went + 20)
    press(panel, "pause")
    wait_status("paused")
    settle(Race)
    assert shown_step(panel) == pytest.approx(max(learner_steps()) / 2, abs=2)
    panel.timeline.value = 0
    assert shown_step(panel) == 0
    panel.timeline.value = 100
    assert shown_step(panel) == learner_steps()[1] and "timeline" not in note(panel)


def test_play_with_the_timeline_pulled_back_is_no_fault(track):
    """At the first frame there is no point yet to go back to."""
    panel = panels.Race()
    panel.timeline.value = 40
    heard = []
    panel.status.observe(lambda change: heard.append(change["new"]), "value")
    press(panel, "play")
    wait_step(5)
    press(panel, "pause")
    wait_status("paused")
    wait(lambda: said(panel) == "Paused.", "the pause")
    sentences = {html.unescape(re.sub("<[^>]*>", "", s)) for s in heard}
    assert sentences <= {
        "Loading PyTorch: some seconds, once…", "Preparing the text and the models…",
        "Training.", "Paused.",
    }  # fmt: skip


def test_a_second_panel_takes_the_run_over(track):
    first = panels.Race()
    first.controls["experts"].value = 8
    press(first, "play")
    wait_step(3)
    second = panels.Race()
    # The race goes on, so its next frame may have been said by now.
    assert said(second).startswith(("This race was going on already.", "Training."))
    assert second.controls["experts"].value == 8 and len(live_threads()) == 1
    settle(Race)
    frozen = first.picture.value
    wait_step(min(learner_steps()) + 10)
    wait(lambda: note(second) == "live: E = 8, K = 2, seed 0", "the picture of the second")
    assert first.picture.value == frozen
    press(second, "pause")
    wait_status("paused")
    wait(lambda: said(second) == "Paused.", "the pause")


def test_a_panel_made_anew_after_a_reset_races_what_was_chosen(track):
    first = panels.Race()
    press(first, "step")
    first.controls["experts"].value = 4
    settle(Race)
    assert Race.run.frame.learners == ()
    second = panels.Race()
    assert second.controls["experts"].value == 4
    press(second, "step")
    settle(Race)
    assert note(second) == "live: E = 4, K = 2, seed 0"
    assert Race.run._learners["MoE"].model_config.moe.num_experts == 4


def test_finished_races_are_scored_and_the_series_goes_on_with_the_next_seed(track, monkeypatch):
    monkeypatch.setattr(moeviz.training.live, "AUTOSAVE_SECONDS", 0.0)
    track.steps, track.validate_every = 6, 2
    predict.ANSWERS["race.step"] = "<b>MoE</b>"
    panel = panels.Race()
    panel.series.value = True
    press(panel, "play")
    wait(lambda: len(Race._scores) >= 2, "two finished races")
    panel.series.value = False
    wait(lambda: (16, 2, panel.controls["seed"].value) in Race._scores, "the end of the last")
    settle(Race)
    seeds = sorted(Race._scores)
    assert seeds == [(16, 2, seed) for seed in range(len(seeds))]
    assert panel.controls["seed"].value == len(seeds) - 1
    score = re.sub("<[^>]*>", " ", panel.score.value)
    counts = re.findall(r"at equal (steps|seconds) MoE ahead in \d+ of (\d+), by", score)
    assert counts == [("steps", str(len(seeds))), ("seconds", str(len(seeds)))]
    assert "You predicted, per step: &lt;b&gt;MoE&lt;/b&gt;." in score
    assert not list(autosave_folder("race").glob("*.safetensors"))
    assert panels.Race().score.value == panel.score.value
    end_of_kernel(Race)
    assert said(panels.Race()).startswith("Recorded race."), "a finished race is not interrupted"


def test_the_series_goes_on_over_a_seed_that_was_raced_before_and_ends_at_the_last(track):
    track.steps, track.validate_every = 2, 1
    panel = panels.Race()
    panel.controls["seed"].value = 9998
    for series in (False, True):
        press(panel, "reset")
        panel.series.value = series
        press(panel, "play")
        wait(lambda: (16, 2, 9999 if panel.series.value else 9998) in Race._scores, "the race")
    wait_status("finished")
    settle(Race)
    assert panel.controls["seed"].value == 9999 and said(panel) == "Finished."


# An interrupted race.


def interrupted(steps=6, experts=8):
    """A race that a kernel left behind; the folder and how far it had come."""
    panel = panels.Race()
    panel.controls["experts"].value = experts
    press(panel, "play")
    wait_step(steps)
    press(panel, "pause")
    settle(Race)
    stood = learner_steps()
    end_of_kernel(Race)
    return autosave_folder("race"), stood


def test_an_interrupted_race_is_found_and_goes_on(track):
    _, stood = interrupted()
    panel = panels.Race()
    assert f"A race interrupted at step {stood[1]} was kept" in said(panel)
    assert panel.controls["experts"].value == 8 and Race.run is None
    press(panel, "step")
    settle(Race)
    assert learner_steps() == [s + 1 for s in stood]
    curve = Race.run.frame.learners[1].curve
    assert curve.step.tolist() == list(range(1, stood[1] + 2)), "the past is there too"


def test_a_killed_kernel_loses_only_what_came_after_the_autosave(track, monkeypatch):
    monkeypatch.setattr(moeviz.training.live, "AUTOSAVE_SECONDS", 0.0)
    panel = panels.Race()
    press(panel, "play")
    wait_step(3)
    folder = autosave_folder("race")
    kept = folder.parents[1] / "kept" / "live" / "race"

    def copied():  # both files of one moment, as a killed process would leave them
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*.partial"))
        return len(list(kept.iterdir())) == 2

    wait(copied, "an autosave of both")
    end_of_kernel(Race)
    monkeypatch.setenv("MOEVIZ_HOME", str(kept.parents[1]))
    panel = panels.Race()
    found = re.search(r"interrupted at step (\d+) was kept", said(panel))
    assert found and int(found.group(1)) >= 1


def test_reset_throws_the_interrupted_race_away(track):
    folder, _ = interrupted()
    panel = panels.Race()
    press(panel, "reset")
    assert not list(folder.glob("*.safetensors"))
    press(panel, "step")
    settle(Race)
    assert learner_steps() == [1, 1]
    assert Race.run._learners["MoE"].model_config.moe.num_experts == 8


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "pickle", "one is missing", "both dense", "unknown size"]
)
def test_a_damaged_autosave_is_not_gone_on_from(damage, track):
    folder, _ = interrupted(experts=8)
    dense, moe = folder / "dense.safetensors", folder / "MoE.safetensors"
    if damage == "cut":
        moe.write_bytes(moe.read_bytes()[:-100])
    elif damage == "empty":
        dense.write_bytes(b"")
    elif damage == "pickle":
        moe.write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.")
    elif damage == "one is missing":
        dense.unlink()
    elif damage == "both dense":
        shutil.copy(dense, moe)
    else:  # a size that the panel does not offer
        moe.write_bytes(moe.read_bytes().replace(b'\\"top_k\\": 2', b'\\"top_k\\": 3'))
    panel = panels.Race()
    assert said(panel).startswith("Recorded race.")
    assert [panel.controls[k].value for k in ("experts", "top_k", "seed")] == [16, 2, 0]
    panel.controls["experts"].value = 8
    press(panel, "step")
    settle(Race)
    assert learner_steps() == [1, 1]


def test_an_autosave_of_another_corpus_is_not_gone_on_from(track, monkeypatch, tmp_path):
    interrupted()
    text = "\n".join(f"{word} {other}" for word in WORDS for other in WORDS)
    (tmp_path / "other.txt").write_text(text)
    other = load_corpus(tmp_path / "other.txt", tokenizer=Tokenizer.train([text], 300))
    monkeypatch.setattr("moeviz.experiments.race.load_corpus", lambda: other)
    panel = panels.Race()
    press(panel, "step")
    settle(Race)
    assert learner_steps() == [1, 1]


def test_a_full_disk_is_said_and_training_goes_on(track, monkeypatch):
    monkeypatch.setattr(moeviz.training.live, "AUTOSAVE_SECONDS", 0.02)
    panel = panels.Race()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        press(panel, "play")
        wait(lambda: "No space left on device" in said(panel), "the sentence")
        wait_step(min(learner_steps()) + 10)
        assert "Traceback" not in said(panel) and "unexpected" not in panel.status.value
        assert "what stood there before is untouched" in said(panel)
        assert not list(autosave_folder("race").glob("*.safetensors"))
    wait(lambda: said(panel) == "Training.", "no complaint once there is room again")
    assert Race.run.frame.status == "playing"


def test_a_race_that_cannot_be_built_says_why_and_can_be_tried_again(track, monkeypatch):
    def refuse():
        raise ValueError("There is no text on this machine.")

    panel = panels.Race()
    with monkeypatch.context() as patch:
        patch.setattr("moeviz.experiments.race.load_corpus", refuse)
        press(panel, "play")
        wait(lambda: said(panel) == "There is no text on this machine.", "the sentence")
        settle(Race)
    press(panel, "play")
    wait_step(2)
    wait(lambda: said(panel) == "Training.", "the race")


def test_a_fault_on_the_training_thread_reaches_the_panel_marked(track, monkeypatch, caplog):
    def broken():
        raise KeyError("boom")

    panel = panels.Race()
    monkeypatch.setattr("moeviz.experiments.race.load_corpus", broken)
    press(panel, "step")
    settle(Race)
    assert 'class="moeviz-unexpected"' in panel.status.value and "KeyError('boom')" in said(panel)
    assert caplog.records[-1].exc_info[0] is KeyError
    caplog.clear()
