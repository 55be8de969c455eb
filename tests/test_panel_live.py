"""What holds for both panels that train, driven by their buttons, controls and states."""

import json
import shutil
import threading
import time
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import scipy.stats

import moeviz.training.live
from helpers.live import (
    end_of_kernel,
    heard_by,
    interrupt,
    learners,
    live_threads,
    note,
    obey,
    play,
    shown_step,
    step,
    steps,
    texts,
    trained,
    until,
    wait,
)
from helpers.panels import LOUD, press, said, sent_by
from helpers.pictures import presses
from helpers.processes import another_process
from helpers.prose import WORDS
from moeviz.experiments import race
from moeviz.host import read_figures
from moeviz.panels import Collapse, LoudAndQuiet, MemoryOrThinking, Race, Upcycling
from moeviz.panels.training.race import CHOICES, EXPERTS
from moeviz.pictures.training.race import NOT_YET
from moeviz.predictions import ANSWERS
from moeviz.records.compare import band_of_luck
from moeviz.records.lock import release
from moeviz.records.metrics import gap
from moeviz.text.corpus import load_corpus
from moeviz.text.tokenizer import Tokenizer
from moeviz.training.config import TrainConfig

pytestmark = [*LOUD, pytest.mark.usefixtures("fresh_kernel")]
both = pytest.mark.parametrize("kind", [Race, Collapse])
# A control that makes another run of it, with its value then, and one that only shows it otherwise.
OTHER = {Race: ("experts", 4), Collapse: ("bias", "sign")}
SCORES = {Race: 2, Collapse: 1}  # a panel tells of each run: at equal steps and at equal seconds
VIEW = {Race: ("axis", "flops"), Collapse: ("layer", 0)}


@both
def test_play_pause_step_and_reset(kind, track):
    panel = kind()
    assert said(panel).startswith("Recorded ") and note(panel).startswith("recorded, not live")
    press(panel, "pause")
    assert said(panel).startswith("Nothing trains yet. Press Play to train ")
    press(panel, "reset")
    assert said(panel).startswith("Ready. Press Play to train ") and kind.run is None
    press(panel, "play")
    play(panel, 3)  # pressed twice it is one run
    assert len(live_threads()) == 1 and said(panel) == "Training."
    obey(panel, "pause", "Paused.")
    stood = steps(kind)
    time.sleep(0.05)
    assert steps(kind) == stood and shown_step(panel) == stood[-1]
    assert max(stood) - min(stood) <= 1
    assert step(panel, 2) == [s + 2 for s in stood]
    play(panel, stood[0] + 5)
    press(panel, "pause")  # it saves the run, which must not come back after the reset
    obey(panel, "reset", "Ready.")
    assert step(panel) == [1] * len(stood)


@both
def test_a_step_done_is_said_after_its_picture_was_sent(kind, track, monkeypatch):
    """Who reads the sentence, a screen reader too, must find the picture that it speaks of."""
    panel = kind()
    step(panel)
    panel.say("between two steps")
    order = sent_by(monkeypatch, panel)
    step(panel)
    assert "picture" in order and order[-1] == "sentence"


@both
def test_a_frame_that_comes_while_a_picture_is_drawn_is_shown_after_it(kind, track, monkeypatch):
    panel, read, threads = kind(), kind.live.fget, []
    step(panel)
    empty = replace(kind.run.frame, learners=(), message="Ready.")

    def live(self):
        """The learners; as they are read, a reset takes them away."""
        found = read(self)
        if not threads:
            threads.append(threading.Thread(target=panel._on_frame, args=(empty,)))
            threads[0].start()
            threads[0].join(0.1)
        return found

    monkeypatch.setattr(kind, "live", property(live))
    panel.refresh()
    threads[0].join()
    assert said(panel) == "Ready." and note(panel).startswith("recorded")


@both
def test_the_timeline_shows_the_past_while_training_goes_on(kind, track):
    panel = kind()
    panel.timeline.value = 40  # at the first frame there is no point yet to go back to
    heard = heard_by(panel)
    play(panel, 20)
    panel.timeline.value = 50
    past, went = shown_step(panel), steps(kind)[-1]
    assert 0 < past < went and "timeline at 50 %" in note(panel)
    play(panel, went + 5)
    obey(panel, "pause", "Paused.")
    assert shown_step(panel) == pytest.approx(steps(kind)[-1] / 2, abs=2)
    for share, shown in ((0, 0), (100, steps(kind)[-1])):
        panel.timeline.value = share
        assert shown_step(panel) == shown and ("timeline" in note(panel)) == (share < 100)
    assert heard == {
        "Loading PyTorch: some seconds, once…", "Preparing the text and the models…",
        "Training.", "Paused.",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "control", "value", "name"),
    [
        (Race, "experts", 4, "E = 4, K = 2, seed 0"),
        (Race, "top_k", 1, "E = 16, K = 1, seed 0"),
        (Race, "seed", 5, "E = 16, K = 2, seed 5"),
        (Collapse, "z", True, "z-loss 0.001, seed 1"),
        (Collapse, "seed", 5, "no balancing, seed 5"),
    ],
)
def test_another_configuration_trains_from_the_start_and_another_view_goes_on(
    kind, control, value, name, track
):
    panel = kind()
    play(panel, 5)
    went, heard = steps(kind)[-1], heard_by(panel)
    panel.controls[VIEW[kind][0]].value = VIEW[kind][1]
    play(panel, went + 2)
    assert heard <= {"Training."}
    before = panel.controls[control].value
    panel.controls[control].value = value
    wait(lambda: note(panel).startswith("live") and trained(panel) == name, name)
    assert any(words.endswith("Preparing the text and the models…") for words in heard)
    assert any(f"the {kind.called} before ended at step " in words for words in heard)
    obey(panel, "pause", "Paused.")
    panel.controls[control].value = before
    until(panel, "Ready.")
    assert learners(kind) == (), "paused it waits for Play"


@both
def test_a_panel_made_anew_takes_the_run_over(kind, track):
    (name, value), first = OTHER[kind], kind()
    before = first.controls[name].value
    first.controls[name].value = value
    play(first, 3)
    second = kind()
    # It goes on, so its next frame may have been said by now.
    going_on = f"This {kind.called} was going on already."
    assert said(second).startswith((going_on, "Training."))
    assert second.state == first.state and len(live_threads()) == 1
    obey(second, "pause", "Paused.")
    run, left = trained(second), first.picture.value
    step(second)
    assert first.picture.value == left and second.picture.value != left
    second.controls[name].value = before
    until(second, "Ready.")
    third = kind()
    assert third.state == second.state != first.state
    step(third)
    assert trained(third) != run and third.values[name] == before


def seeds_finished(kind):
    frame = kind.run.frame
    done = frame.learners if frame.status == "finished" else ()
    return {learner.meta["train"]["seed"] for learner in done}


@both
def test_finished_runs_are_scored_once_and_the_series_ends_at_the_last_seed(
    kind, track, monkeypatch, fresh_kernel
):
    monkeypatch.setattr(moeviz.training.live, "AUTOSAVE_SECONDS", 0.0)
    track.steps, track.validate_every = 4, 2
    ANSWERS[{Race: "01.step", Collapse: "04.survivors"}[kind]] = "<b>MoE</b>"
    panel = kind()
    panel.series.value = True
    for seed in (9997, 9998):  # the second time over runs that were scored before
        panel.controls["seed"].value = seed
        press(panel, "play")
        wait(lambda: panel.values["seed"] == 9999, "the last seed")
        wait(lambda: seeds_finished(kind) == {9999}, "its end")
        until(panel, "Finished.")
        score = panel.score.value
        assert score.partition("You said")[0].count(" of 3") == SCORES[kind], score
    if kind is Race:
        gaps = [scored["step"] for scored in Race._scores.values()]
        low, high = scipy.stats.t.interval(0.95, 2, np.mean(gaps), scipy.stats.sem(gaps))
        ends = f"by {np.mean(gaps):+z.3f} nats (95 % interval {low:+z.3f} to {high:+z.3f})"
        assert ends in score.partition("at equal seconds")[0]
    assert "You said " in score and "“&lt;b&gt;MoE&lt;/b&gt;”" in score
    assert kind().score.value == score
    end_of_kernel(kind)
    assert not list(fresh_kernel[kind].glob("*.safetensors"))
    assert said(kind()).startswith("Recorded "), "a finished run is not interrupted"


# A run that a kernel left behind.


@pytest.mark.parametrize("button", ["step", "reset"])
@both
def test_an_interrupted_run_goes_on_or_is_thrown_away(kind, button, track, fresh_kernel):
    (name, value), panel = OTHER[kind], kind()
    panel.controls[name].value, panel.controls["seed"].value = value, 2
    stood = interrupt(panel, 4)
    panel = kind()
    sentence = f"A {kind.called} interrupted at step {stood[-1]} was kept: Play goes on from it"
    assert said(panel).startswith(sentence) and kind.run is None
    assert (panel.values[name], panel.values["seed"]) == (value, 2)
    if button == "step":
        press(panel, "step")
        wait(lambda: steps(kind) == [s + 1 for s in stood], "one step more")
        past = learners(kind)[-1].curve.step
        assert past.tolist() == list(range(1, stood[-1] + 2)), "the past is there too"
    else:
        obey(panel, "reset", "Ready.")
        assert not list(fresh_kernel[kind].glob("*.safetensors"))
        assert step(panel) == [1] * len(stood)
    assert str(value)[:4] in trained(panel) and trained(panel).endswith("seed 2")


def cut(folder):
    file = folder / "MoE.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickled(folder):
    (folder / "MoE.safetensors").write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c.")


def empty_first(folder):
    min(folder.glob("*.safetensors")).write_bytes(b"")


def first_missing(folder):
    min(folder.glob("*.safetensors")).unlink()


def of_the_first(folder):
    shutil.copy(folder / "dense.safetensors", folder / "MoE.safetensors")


def not_on_offer(folder):
    file = folder / "MoE.safetensors"
    data = file.read_bytes().replace(b'\\"top_k\\": 2', b'\\"top_k\\": 3')
    file.write_bytes(data.replace(b"num_shared", b"num_sharks"))


@pytest.mark.parametrize(
    "damage", [cut, pickled, empty_first, first_missing, of_the_first, not_on_offer]
)
@both
def test_a_damaged_autosave_is_not_gone_on_from(kind, damage, track, fresh_kernel):
    if damage is of_the_first and kind is Collapse:
        pytest.skip("it has one learner")
    (name, value), panel = OTHER[kind], kind()
    at_first = panel.values
    panel.controls[name].value = value
    interrupt(panel)
    damage(fresh_kernel[kind])
    panel = kind()
    assert said(panel).startswith("Recorded ") and panel.values == at_first
    panel.controls[name].value = value
    assert set(step(panel)) == {1}


@both
def test_an_autosave_of_another_text_is_not_gone_on_from_and_that_is_said(
    kind, track, monkeypatch, tmp_path
):
    interrupt(kind())
    text = "\n".join(f"{word} {other}" for word in WORDS for other in WORDS)
    (tmp_path / "other.txt").write_text(text)
    other = load_corpus(tmp_path / "other.txt", tokenizer=Tokenizer.train([text], 300))
    monkeypatch.setattr(f"moeviz.experiments.{kind.kind}.load_corpus", lambda: other)
    panel = kind()
    assert set(step(panel)) == {1}
    assert f"the interrupted {kind.called} is of another text or version" in note(panel)


# Another kernel, and two presses at once.


def test_a_run_that_another_kernel_keeps_is_neither_offered_nor_thrown_away(track, fresh_kernel):
    interrupt(Race())
    folder = fresh_kernel[Race]
    release(folder)
    files = {path: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert len(files) == 2
    with another_process(folder):
        panel = Race()
        assert said(panel).startswith("Recorded ")
        press(panel, "reset")
        assert set(step(panel)) == {1}
        assert "not kept: another kernel keeps its own race" in note(panel)
        obey(panel, "reset", "Ready.")
        assert {path: path.read_bytes() for path in folder.glob("*.safetensors")} == files
    press(panel, "reset")  # the other has gone; its run has not
    assert set(step(panel)) == {1}
    assert {path: path.read_bytes() for path in folder.glob("*.safetensors")} == files
    end_of_kernel(Race)
    assert "interrupted at step" in said(Race())


@both
def test_two_presses_at_once_begin_one_run(kind, track):
    panel, together = kind(), threading.Barrier(2)

    def both_press():
        together.wait()
        press(panel, "play")

    other = threading.Thread(target=both_press)
    other.start()
    both_press()
    other.join()
    assert len(live_threads()) == 1


# What goes wrong.


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("There is no text on this machine."), "There is no text on this machine."),
        (KeyError("boom"), "Something broke inside moeviz: KeyError('boom')."),
    ],
)
@both
def test_a_run_that_cannot_be_built_says_why_and_can_be_tried_again(
    kind, error, sentence, track, monkeypatch, caplog
):
    def fail():
        raise error

    panel = kind()
    with monkeypatch.context() as patch:
        patch.setattr(f"moeviz.experiments.{kind.kind}.load_corpus", fail)
        obey(panel, "play", sentence)
    wait(lambda: kind.run.frame.status == "failed", "the failure")
    assert ("unexpected" in panel.status.value) == isinstance(error, KeyError)
    caplog.clear()
    play(panel, 2)
    until(panel, "Training.")
    assert "unexpected" not in panel.status.value


# What is recorded.


def test_every_button_of_the_race_shows_a_recorded_race_of_its_own():
    panel, told = Race(), read_figures("race_settings")
    rows = {(row["experts"], row["top_k"]): row for row in told["MoE"]}
    listed = [sets for _, sets in presses(panel.drawn)]
    for experts, top_k in product(EXPERTS, CHOICES):
        assert {"experts": f"{experts}", "top_k": f"{top_k}", "seed": "0"} in listed
        panel.state = f"race?experts={experts}&top_k={top_k}"
        assert note(panel).startswith(f"recorded, not live: E = {experts}, K = {top_k}, seed 0 ")
        dense, moe = panel._learners()[0][:2]
        models, training = race.race_models(experts, top_k), race.race_training(0)
        for run, model in ((dense, models["dense"]), (moe, models["MoE"])):
            assert run.meta["model"] == json.loads(json.dumps(model.to_dict()))
            # What came later than the recording stands at its default.
            assert TrainConfig(**run.meta["train"]) == training
            assert run.step == run.total_steps == race.STEPS
        ahead = gap(dense.curve, moe.curve, "step")
        assert f"{ahead:+z.3f}" in texts(panel)
        row = rows[experts, top_k]
        assert f"{row['ahead']['mean']:+z.3f}" in texts(panel), "over seeds, on other text"
        gap_RP = np.subtract(told["dense"]["validation"], row["validation"])
        assert f"± {band_of_luck(gap_RP)[-1]:.3f}" in panel.drawn.summary, "of its own seeds"
        slowed = (experts, top_k) != (race.NUM_EXPERTS, race.TOP_K)  # recorded beside others
        assert (f"{dense.tokens_per_second:,.0f}" not in texts(panel)) == slowed
        assert ("Speed, against dense" in texts(panel)) == slowed
        assert f"{moe.label if ahead > 0 else dense.label} is ahead by" in panel.drawn.summary
    assert len(listed) == len(EXPERTS) * len(CHOICES)


@pytest.mark.parametrize("kind", [Race, Collapse, LoudAndQuiet, MemoryOrThinking, Upcycling])
def test_a_setting_that_is_not_recorded_says_in_its_frame_what_trains_it(kind):
    panel = kind()
    assert NOT_YET not in texts(panel)
    panel.controls["seed"].value = 9998
    assert NOT_YET in texts(panel) and note(panel).startswith("not recorded")
    panel.controls["seed"].value = 0
    assert NOT_YET not in texts(panel)
