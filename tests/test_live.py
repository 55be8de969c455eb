"""A live run: commands are obeyed between steps, frames are immutable, and failures are said."""

import dataclasses
import threading
import time

import numpy as np
import pytest
import torch

import moeviz.training.live
from helpers.live import wait
from helpers.training import DENSE, MOE
from moeviz.model.transformer import ModelConfig
from moeviz.training.live import LiveRun
from moeviz.training.trainer import TrainConfig, Trainer

FOREVER = TrainConfig(steps=10**6, batch_size=2, seq_len=8, validate_every=0)


def threads():
    return {thread for thread in threading.enumerate() if thread.name == "moeviz-live"}


class Stage:
    """Live runs that are closed at the end of the test, with every frame and all learners kept."""

    def __init__(self, corpus):
        self.corpus, self.runs = corpus, []

    def learners(self, **changes):
        train = dataclasses.replace(FOREVER, **changes)
        models = {"dense": DENSE, "moe": MOE}
        return {name: Trainer(model, train, self.corpus) for name, model in models.items()}

    def live(self, build=None, autosave=None, **changes):
        frames, built = [], []

        def kept():
            built.append(build() if build else self.learners(**changes))
            return built[-1]

        run = LiveRun(
            kept, lambda frame: frames.append((time.monotonic(), frame)), autosave=autosave
        )
        run.frames, run.built = frames, built
        self.runs.append(run)
        return run

    def stepped(self, **options):
        """A run that has made its first step."""
        run = self.live(**options)
        run.step()
        wait_status(run, "paused")
        return run

    def played(self, step, **options):
        """A run that plays, and has come to this step."""
        run = self.live(**options)
        run.play()
        wait_step(run, step)
        return run


@pytest.fixture
def stage(corpus):
    before, stage = threads(), Stage(corpus)
    yield stage
    for run in stage.runs:
        run.close()
    assert threads() <= before


def steps(run):
    return [trainer.step for trainer in run.built[-1].values()]


def wait_frame(run, **fields):
    """Until the last frame that was published says so."""
    wait(
        lambda: run.frames and fields.items() <= vars(run.frames[-1][1]).items(),
        f"{fields}, but it is {run.frame}",
    )


def wait_status(run, status):
    wait_frame(run, status=status)


def wait_step(run, step):
    wait(lambda: run.built and min(steps(run)) >= step, f"step {step}")


def check_stands_still(run):
    held, frames = steps(run), len(run.frames)
    time.sleep(0.2)
    assert steps(run) == held and len(run.frames) == frames


def statuses(run):
    """The statuses in the order shown, repeats left out."""
    shown = [frame.status for _, frame in run.frames]
    return [s for i, s in enumerate(shown) if i == 0 or s != shown[i - 1]]


def test_nothing_is_built_before_it_is_asked_for_and_then_on_a_thread_that_ends_with_python(stage):
    builders = []
    run = stage.live(lambda: builders.append(threading.current_thread()) or stage.learners())
    assert (run.frame.status, run.frames, builders) == ("ready", [], [])
    run.step()
    wait_status(run, "paused")
    [thread] = builders
    assert thread.daemon and thread in threads() and threading.current_thread() not in threads()


def test_play_trains_both_side_by_side_and_pause_holds(stage):
    run = stage.played(5)
    assert abs(np.diff(steps(run))[0]) <= 1
    run.pause()
    wait_status(run, "paused")
    check_stands_still(run)
    assert statuses(run) == ["preparing", "playing", "paused"]
    # The last frame shows where the run stands, not where it was a tenth of a second before.
    assert [shot.step for shot in run.frame.learners] == steps(run)
    assert [shot.label for shot in run.frame.learners] == ["dense", "moe"]
    run.play()
    wait_step(run, max(steps(run)) + 3)


def test_pause_is_obeyed_within_a_quarter_of_a_second(stage):
    run = stage.live()
    for _ in range(5):
        run.play()
        wait_status(run, "playing")
        time.sleep(0.05)
        asked = time.monotonic()
        run.pause()
        wait_status(run, "paused")
        assert time.monotonic() - asked < 0.25


def test_play_pressed_twice_is_one_play(stage):
    run = stage.live()
    run.play()
    run.play()
    wait_step(run, 3)
    run.pause()
    wait_status(run, "paused")
    # A second play in the queue would have gone on after the pause, or built once more.
    check_stands_still(run)
    assert len(run.built) == 1 and statuses(run) == ["preparing", "playing", "paused"]


def test_commands_are_obeyed_in_the_order_they_came(stage):
    run = stage.live()
    for _ in range(20):
        run.play()
        run.pause()
    run.step()
    wait_frame(run, message="One step done.")
    check_stands_still(run)
    assert run.frame.status == "paused"


def test_a_step_is_one_of_each_and_pauses_a_run_that_plays(stage):
    run = stage.live()
    for n in (1, 2, 3):
        run.step()
        wait(lambda n=n: run.built and steps(run) == [n, n], f"step {n}")
    run.play()
    wait_step(run, 6)
    run.step()
    wait_frame(run, status="paused", message="One step done.")
    check_stands_still(run)


def test_a_run_finishes_and_a_step_more_changes_nothing(stage):
    run = stage.live(steps=4)
    run.play()
    wait_status(run, "finished")
    assert steps(run) == [4, 4]
    frames = len(run.frames)
    run.step()
    wait(lambda: len(run.frames) > frames, "an answer")
    assert (run.frame.status, run.frame.message) == ("finished", "Finished.")
    assert steps(run) == [4, 4]


def test_reset_takes_new_learners_and_goes_on_playing(stage):
    run = stage.played(8)
    old = run.built[-1]
    run.reset(lambda: run.built.append(stage.learners(seed=7)) or run.built[-1])
    wait(lambda: len(run.built) == 2, "new learners")
    wait_step(run, 3)
    assert run.frame.status == "playing"
    assert {shot.meta["train"]["seed"] for shot in run.frame.learners} == {7}
    # Nothing trains the old ones any more.
    held = [trainer.step for trainer in old.values()]
    time.sleep(0.1)
    assert [trainer.step for trainer in old.values()] == held


def test_reset_while_paused_waits_to_be_played(stage):
    run, new = stage.stepped(), []
    run.reset(lambda: new.append(stage.learners()) or new[-1])
    wait_status(run, "ready")
    assert run.frame.learners == () and not new
    run.step()
    wait_status(run, "paused")
    assert [trainer.step for trainer in new[0].values()] == [1, 1]


def test_a_second_run_pauses_the_first(stage):
    one = stage.played(2)
    two = stage.played(2)
    wait_status(one, "paused")
    assert one.frame.message == "Paused: another run is training now."
    check_stands_still(one)
    one.play()
    wait_status(two, "paused")


def test_closing_ends_the_thread_and_keeps_the_state(stage, tmp_path):
    run = stage.played(3, autosave=tmp_path)
    before = threads()
    run.close()
    assert len(before - threads()) == 1
    assert run.frame.status == "paused" and run.frame.message == "Closed."
    saved = Trainer.resume(tmp_path / "moe.safetensors", stage.corpus)
    assert saved.step == run.built[0]["moe"].step
    run.play()  # to a closed run: nothing happens
    check_stands_still(run)


# --- failures ---


def test_a_build_that_cannot_be_is_one_sentence_and_the_run_lives_on(stage):
    def build():
        ModelConfig(d_model=7)

    run = stage.live(build)
    run.play()
    wait_status(run, "failed")
    assert run.frame.message == "d_model must be a multiple of num_heads, got 7 and 4."
    assert not run.frame.unexpected and run.frame.learners == ()
    run.reset(stage.learners)
    run.play()
    wait_status(run, "playing")


def test_moeviz_own_fault_is_marked_and_logged(stage, caplog):
    run = stage.live(lambda: {"a": 1 / 0})
    run.play()
    wait_status(run, "failed")
    assert run.frame.unexpected
    assert run.frame.message.startswith("Something broke inside moeviz: ZeroDivisionError")
    assert "ZeroDivisionError" in caplog.text


def test_divergence_is_said_and_the_last_good_state_is_shown_and_stays(stage):
    run = stage.live(learning_rate=1e30, warmup=0)
    run.play()
    wait_status(run, "failed")
    assert "stopped being a finite number" in run.frame.message
    assert not run.frame.unexpected
    shot = run.frame.learners[0]
    assert shot.step == 0 and len(shot.curve) == 0
    assert all(torch.isfinite(p).all() for p in run.built[0]["dense"].model.parameters())
    check_stands_still(run)


def test_a_listener_that_fails_does_not_end_the_training(stage, caplog):
    run = stage.live()
    run.publish = lambda frame: 1 / 0
    run.play()
    wait_step(run, 3)
    assert run.frame.status == "playing" and "ZeroDivisionError" in caplog.text


# --- frames ---


def test_frames_are_immutable_and_come_at_most_ten_times_a_second(stage):
    run = stage.live()
    run.play()
    wait_status(run, "playing")
    time.sleep(1.0)
    run.pause()
    wait_status(run, "paused")
    playing = [(at, frame) for at, frame in run.frames if frame.status == "playing"]
    gaps = np.diff([at for at, _ in playing])
    assert (gaps > 0.09).all(), gaps
    assert len(playing) >= 4
    # An early frame still says what it said, however far the run has come.
    at = [frame.learners[0].step for _, frame in playing]
    assert at == sorted(at) and at[0] < at[-1]
    assert [len(frame.learners[0].curve.loss) for _, frame in playing[:2]] == at[:2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        playing[0][1].status = "ready"
    with pytest.raises(dataclasses.FrozenInstanceError):
        playing[0][1].learners[0].step = 3


# --- telling the learners something ---


def test_what_is_told_is_done_between_two_steps_and_training_goes_on(stage):
    run, seen = stage.played(3), []

    def act(learners):
        seen.append((threading.current_thread() in threads(), learners["moe"].step))
        learners["moe"].kill(0, 3)
        return "Done."

    run.tell(act)
    wait(lambda: any(frame.message == "Done." for _, frame in run.frames), "the sentence")
    told = next(frame for _, frame in run.frames if frame.message == "Done.")
    [(on_the_thread, at)] = seen
    assert told.status == "playing" and on_the_thread
    wait_step(run, at + 5)
    run.pause()
    wait_status(run, "paused")
    assert (run.frame.learners[1].curve.load[at:, 0, 3] == 0).all()


def test_what_is_told_to_a_paused_run_leaves_it_paused_and_a_refusal_is_said(stage):
    run = stage.stepped()

    def refuse(learners):
        raise ValueError("Not now.")

    for action, message in ((lambda learners: "Done.", "Done."), (refuse, "Not now.")):
        run.tell(action)
        wait_frame(run, message=message)
        assert run.frame.status == "paused" and steps(run) == [1, 1]


# --- autosave ---


def test_an_autosave_is_written_and_can_be_resumed(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(moeviz.training.live, "AUTOSAVE_SECONDS", 0.05)
    run = stage.played(1, autosave=tmp_path / "live")
    wait(lambda: (tmp_path / "live" / "moe.safetensors").is_file(), "an autosave while playing")
    run.pause()
    wait_status(run, "paused")
    run.step()  # the thread is past its save once this is done
    wait_frame(run, message="One step done.")
    for label, trainer in run.built[0].items():
        saved = Trainer.resume(tmp_path / "live" / f"{label}.safetensors", stage.corpus)
        assert saved.step == trainer.step - 1
        next(saved)
        for a, b in zip(saved.model.parameters(), trainer.model.parameters(), strict=True):
            # Nearly: the live thread may run with another number of threads than this one.
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    assert len(list((tmp_path / "live").iterdir())) == 2


def test_a_full_disk_is_said_until_it_is_over_and_training_goes_on(stage, tmp_path, monkeypatch):
    """A file where the folder should be: like a full disk, every save fails with an OSError."""
    monkeypatch.setattr(moeviz.training.live, "AUTOSAVE_SECONDS", 0.25)
    (tmp_path / "live").touch()
    run = stage.played(1, autosave=tmp_path / "live")
    wait(lambda: "Could not save" in run.frame.message, "the warning")
    assert "Errno" not in run.frame.message and run.frame.status == "playing"
    wait_step(run, max(steps(run)) + 5)
    # Still said a while later, beside the usual message.
    wait(lambda: run.frame.message.startswith("Training. Could not save"), "the warning again")
    assert run.frame.message.endswith(".") and "\n" not in run.frame.message
    (tmp_path / "live").unlink()
    wait_frame(run, message="Training.")
