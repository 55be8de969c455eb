"""A live run: commands are obeyed between steps, frames are immutable, and failures are said."""

import dataclasses
import re
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import moeviz.training.live
from helpers.patience import wait
from helpers.training import MODELS
from moeviz.model import ModelConfig
from moeviz.training import LiveRun, TrainConfig, Trainer

FOREVER = TrainConfig(steps=10**6, batch_size=2, seq_len=8, validate_every=0)


def threads():
    return {thread for thread in threading.enumerate() if thread.name == "moeviz-live"}


class Watched(LiveRun):
    """A live run that keeps every frame, and all learners that were built."""

    def __init__(self, build, **options):
        self.frames, self.built = [], []
        super().__init__(lambda: self.keep(build()), self.frames.append, **options)

    def keep(self, learners):
        self.built.append(learners)
        return learners

    def reset(self, build):
        super().reset(lambda: self.keep(build()))

    def steps(self):
        return [trainer.step for trainer in self.built[-1].values()]

    def wait(self, **fields):
        """Until the last frame that was published says so."""
        wait(
            lambda: self.frames and fields.items() <= vars(self.frames[-1]).items(),
            lambda: f"{fields}, but it is {self.frame}",
        )

    def wait_step(self, step):
        wait(lambda: self.built and min(self.steps()) >= step, f"step {step}")

    def play_to(self, step):
        self.play()
        self.wait_step(step)

    def check_stands_still(self):
        held, frames = self.steps() if self.built else None, len(self.frames)
        time.sleep(0.15)
        assert (self.steps() if self.built else None) == held and len(self.frames) == frames

    def statuses(self):
        """In the order shown, repeats left out."""
        shown = [frame.status for frame in self.frames]
        return [s for i, s in enumerate(shown) if i == 0 or s != shown[i - 1]]


@pytest.fixture
def learners(corpus):
    """Builds the dense model and the MoE, with these changes of their training."""

    def build(**changes):
        train = dataclasses.replace(FOREVER, **changes)
        return {name: Trainer(model, train, corpus) for name, model in MODELS.items()}

    return build


@pytest.fixture
def live(learners):
    """Starts live runs, and closes them at the end of the test."""
    before, runs = threads(), []

    def start(build=None, autosave=None, **changes):
        runs.append(Watched(build or (lambda: learners(**changes)), autosave=autosave))
        return runs[-1]

    yield start
    for run in runs:
        run.close()
    wait(lambda: threads() <= before, "the end of all threads")


def test_nothing_is_built_before_it_is_asked_for_and_then_on_a_thread_that_ends_with_python(
    live, learners
):
    builders = []
    run = live(lambda: builders.append(threading.current_thread()) or learners())
    assert (run.frame.status, run.frames, builders) == ("ready", [], [])
    run.step()
    run.wait(status="paused")
    [thread] = builders
    assert thread.daemon and thread in threads() and threading.current_thread() not in threads()


def test_play_trains_both_side_by_side_and_pause_holds(live):
    run = live()
    run.play()
    run.play_to(5)  # pressed twice: it would build once more, or go on after the pause
    assert abs(np.diff(run.steps())[0]) <= 1
    run.pause()
    run.wait(status="paused")
    run.check_stands_still()
    assert run.statuses() == ["preparing", "playing", "paused"] and len(run.built) == 1
    # The last frame shows where the run stands, not where it was a tenth of a second before.
    assert [shot.step for shot in run.frame.learners] == run.steps()
    assert [shot.label for shot in run.frame.learners] == ["dense", "moe"]
    run.play_to(max(run.steps()) + 3)


def test_pause_is_obeyed_after_the_step_in_hand(live):
    run = live()
    for _ in range(5):
        run.play()
        run.wait(status="playing")
        time.sleep(0.05)
        run.pause()
        asked = sum(run.steps())
        run.wait(status="paused")
        assert sum(run.steps()) - asked <= 1


def test_commands_are_obeyed_in_the_order_they_came(live):
    run = live()
    for _ in range(20):
        run.play()
        run.pause()
    run.step()
    run.wait(message="One step done.", status="paused")
    run.check_stands_still()


def test_a_step_is_one_of_each_and_pauses_a_run_that_plays(live):
    run = live()
    for n in (1, 2, 3):
        run.step()
        wait(lambda n=n: run.built and run.steps() == [n, n], f"step {n}")
    run.play_to(6)
    run.step()
    run.wait(status="paused", message="One step done.")
    run.check_stands_still()


def test_a_run_finishes_and_a_step_more_changes_nothing(live):
    run = live(steps=4)
    run.play()
    run.wait(status="finished")
    assert run.steps() == [4, 4]
    frames = len(run.frames)
    run.step()
    wait(lambda: len(run.frames) > frames, "an answer")
    run.wait(status="finished", message="Finished.")
    assert run.steps() == [4, 4]


@pytest.mark.parametrize("playing", [True, False])
def test_reset_takes_new_learners_and_goes_on_as_before(live, learners, playing):
    run = live()
    run.play_to(8)
    if not playing:
        run.pause()
    run.reset(lambda: learners(seed=7))
    if not playing:
        run.wait(status="ready", learners=())
        run.check_stands_still()
        assert len(run.built) == 1
        run.step()
    wait(lambda: len(run.built) == 2, "new learners")
    run.wait_step(3 if playing else 1)
    run.wait(status="playing" if playing else "paused")
    assert {shot.meta["train"]["seed"] for shot in run.frame.learners} == {7}
    # Nothing trains the old ones any more.
    held = [trainer.step for trainer in run.built[0].values()]
    time.sleep(0.1)
    assert [trainer.step for trainer in run.built[0].values()] == held


def test_a_second_run_pauses_the_first(live):
    one, two = live(), live()
    one.play_to(2)
    two.play_to(2)
    one.wait(status="paused", message="Paused: another run is training now.")
    one.check_stands_still()
    one.play()
    two.wait(status="paused")


# --- failures ---


@pytest.mark.parametrize(
    "build,sentence,unexpected",
    [
        (lambda _: ModelConfig(d_model=7), "d_model must be a multiple of num_heads, got 7", False),
        (lambda _: {"a": 1 / 0}, "Something broke inside moeviz: ZeroDivisionError", True),
        (lambda build: build(learning_rate=1e30, warmup=0), "The .* stopped being a finite", False),
    ],
)
def test_a_failure_is_said_and_the_run_lives_on(
    live, learners, caplog, build, sentence, unexpected
):
    run = live(lambda: build(learners))
    run.play()
    run.wait(status="failed", unexpected=unexpected)
    assert re.match(sentence, run.frame.message)
    assert ("ZeroDivisionError" in caplog.text) is unexpected
    if run.built:  # the one that diverged is shown at its last good state, and stays there
        shot, trainer = run.frame.learners[0], run.built[0]["dense"]
        assert shot.step == 0 and len(shot.curve) == 0
        assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    run.check_stands_still()
    run.reset(learners)
    run.play_to(2)


def test_a_listener_that_fails_does_not_end_the_training(live, caplog):
    run = live()
    run.publish = lambda frame: 1 / 0
    run.play_to(3)
    assert run.frame.status == "playing" and "ZeroDivisionError" in caplog.text


# --- frames ---


def test_frames_are_immutable_and_come_at_most_ten_times_a_second(live, monkeypatch):
    looks, came = [0.0], []

    def look():
        """At a clock that stands still until the next look."""
        looks.append(looks[-1] + 0.03)
        return looks[-1]

    monkeypatch.setattr(moeviz.training.live, "time", SimpleNamespace(monotonic=look))
    run = live()
    run.publish = lambda frame: (came.append(looks[-1]), run.frames.append(frame))
    run.play()
    wait(lambda: len(run.frames) >= 6, "frames")
    run.pause()
    run.wait(status="paused")
    playing = [frame for frame in run.frames if frame.status == "playing"]
    gaps = np.diff(
        [at for at, frame in zip(came, run.frames, strict=True) if frame.status == "playing"]
    )
    assert len(gaps) >= 4 and gaps.min() >= 0.1 and gaps.max() < 0.2, gaps
    # An early frame still says what it said, however far the run has come.
    at = [frame.learners[0].step for frame in playing]
    assert at == sorted(at) and at[0] < at[-1]
    assert [len(frame.learners[0].curve.loss) for frame in playing[:2]] == at[:2]
    for frozen, field in ((playing[0], "status"), (playing[0].learners[0], "step")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, field, 3)


# --- telling the learners something ---


def test_what_is_told_is_done_between_two_steps_and_training_goes_on(live):
    run, seen = live(), []
    run.play_to(3)

    def act(learners):
        seen.append((threading.current_thread() in threads(), learners["moe"].step))
        learners["moe"].kill(0, 3)
        return "Done."

    run.tell(act)
    wait(lambda: any(frame.message == "Done." for frame in run.frames), "the sentence")
    assert {f.status for f in run.frames if f.message == "Done."} == {"playing"}
    [(on_the_thread, at)] = seen
    assert on_the_thread
    run.wait_step(at + 5)
    run.pause()
    run.wait(status="paused")
    assert (run.frame.learners[1].curve.load[at:, 0, 3] == 0).all()


def test_what_is_told_to_a_paused_run_leaves_it_paused_and_a_refusal_is_said(live):
    run = live()
    run.step()
    run.wait(status="paused")

    def refuse(learners):
        raise ValueError("Not now.")

    for action, message in ((lambda learners: "Done.", "Done."), (refuse, "Not now.")):
        run.tell(action)
        run.wait(message=message, status="paused")
        assert run.steps() == [1, 1]


# --- autosave ---


def test_it_saves_while_it_plays_and_when_it_is_closed_which_ends_the_thread(
    live, tmp_path, monkeypatch, corpus
):
    monkeypatch.setattr(moeviz.training.live, "AUTOSAVE_SECONDS", 0.05)
    run = live(autosave=tmp_path / "live")
    run.play_to(1)
    wait(lambda: (tmp_path / "live" / "moe.safetensors").is_file(), "an autosave while playing")
    monkeypatch.setattr(moeviz.training.live, "AUTOSAVE_SECONDS", 1e6)
    run.wait_step(max(run.steps()) + 3)
    run.close()
    wait(lambda: not run._thread.is_alive(), "the end of its thread")
    run.wait(status="paused", message="Closed.")
    for label, trainer in run.built[0].items():
        saved = Trainer.resume(tmp_path / "live" / f"{label}.safetensors", corpus)
        assert saved.step == trainer.step
        for a, b in zip(saved.model.parameters(), trainer.model.parameters(), strict=True):
            assert torch.equal(a, b)
    assert len(list((tmp_path / "live").iterdir())) == 2
    run.play()  # to a closed run: nothing happens
    run.check_stands_still()


def test_a_slow_disk_takes_a_twentieth_of_the_time(live, tmp_path, monkeypatch):
    monkeypatch.setattr(moeviz.training.live, "AUTOSAVE_SECONDS", 0.0)
    times, save = [], Trainer.save

    def slow(self, path):
        times.append(time.monotonic())
        time.sleep(0.01)
        save(self, path)
        times.append(time.monotonic())

    monkeypatch.setattr(Trainer, "save", slow)
    live(autosave=tmp_path / "live").play()
    wait(lambda: len(times) >= 12, "three saves of both learners")
    for began, ended, after in ((times[0], times[3], times[4]), (times[4], times[7], times[8])):
        assert after - ended >= 20 * (ended - began)


def test_a_full_disk_is_said_until_it_is_over_and_training_goes_on(live, tmp_path, monkeypatch):
    """A file where the folder should be: like a full disk, every save fails with an OSError."""
    monkeypatch.setattr(moeviz.training.live, "AUTOSAVE_SECONDS", 0.25)
    (tmp_path / "live").touch()
    run = live(autosave=tmp_path / "live")
    run.play_to(1)
    wait(lambda: "Could not save" in run.frame.message, "the warning")
    assert "Errno" not in run.frame.message and run.frame.status == "playing"
    run.wait_step(max(run.steps()) + 5)
    # Still said a while later, beside the usual message.
    wait(lambda: run.frame.message.startswith("Training. Could not save"), "the warning again")
    assert run.frame.message.endswith(".") and "\n" not in run.frame.message
    (tmp_path / "live").unlink()
    run.wait(message="Training.")
