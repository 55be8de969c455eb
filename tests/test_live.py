"""A live run: commands are obeyed between steps, frames are immutable, and failures are said."""

import dataclasses
import shutil
import threading
import time

import numpy as np
import pytest
import torch

import moeviz.training.live
from helpers.live import wait
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import ModelConfig
from moeviz.training.live import LiveRun
from moeviz.training.trainer import TrainConfig, Trainer

DENSE = ModelConfig(vocab_size=300, d_model=16, num_layers=1, num_heads=2, d_ff=16)
MOE = dataclasses.replace(DENSE, moe=MoEConfig(num_experts=4, top_k=2, d_expert=8))
FOREVER = TrainConfig(steps=10**6, batch_size=2, seq_len=8, validate_every=0)


def learners(corpus, **changes):
    train = dataclasses.replace(FOREVER, **changes)
    return {"dense": Trainer(DENSE, train, corpus), "moe": Trainer(MOE, train, corpus)}


class Stage:
    """Live runs that are closed at the end of the test, with every frame kept."""

    def __init__(self, corpus):
        self.corpus, self.runs, self.frames = corpus, [], []

    def live(self, build=None, publish=None, autosave=None, **changes):
        build = build or (lambda: learners(self.corpus, **changes))
        frames = []

        def keep(frame):
            frames.append((time.monotonic(), frame))
            if publish:
                publish(frame)

        run = LiveRun(build, keep, autosave=autosave)
        run.frames = frames
        self.runs.append(run)
        return run


@pytest.fixture
def stage(corpus):
    stage = Stage(corpus)
    yield stage
    for run in stage.runs:
        run.close()
        assert not run._thread.is_alive()


def wait_status(run, status):
    wait(lambda: run.frame.status == status, f"{status}, but it is {run.frame}")


def wait_step(run, step):
    wait(lambda: all(t.step >= step for t in (run._learners or {"": _Zero}).values()), step)


class _Zero:
    step = -1


def steps(run):
    return [trainer.step for trainer in run._learners.values()]


def statuses(run):
    """The statuses in the order shown, repeats left out."""
    shown = [frame.status for _, frame in run.frames]
    return [s for i, s in enumerate(shown) if i == 0 or s != shown[i - 1]]


def test_nothing_is_built_before_it_is_asked_for(stage):
    built = []
    run = stage.live(lambda: built.append(threading.current_thread()) or learners(stage.corpus))
    assert (run.frame.status, run.frames) == ("ready", [])
    run.step()
    wait_status(run, "paused")
    assert built == [run._thread]
    assert run._thread.daemon and run._thread is not threading.current_thread()


def test_play_trains_both_side_by_side_and_pause_holds(stage):
    run = stage.live()
    run.play()
    wait_step(run, 5)
    assert abs(np.diff(steps(run))[0]) <= 1
    run.pause()
    wait_status(run, "paused")
    held, frames = steps(run), len(run.frames)
    time.sleep(0.3)
    assert steps(run) == held and len(run.frames) == frames
    assert statuses(run) == ["preparing", "playing", "paused"]
    # The last frame shows where the run stands, not where it was a tenth of a second before.
    assert [shot.step for shot in run.frame.learners] == held
    assert [shot.label for shot in run.frame.learners] == ["dense", "moe"]
    run.play()
    wait_step(run, max(held) + 3)


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
    built = []
    run = stage.live(lambda: built.append(1) or learners(stage.corpus))
    run.play()
    run.play()
    wait_step(run, 3)
    run.pause()
    wait_status(run, "paused")
    held = steps(run)
    time.sleep(0.2)
    # A second play in the queue would have gone on after the pause, or built once more.
    assert steps(run) == held and built == [1]
    assert statuses(run) == ["preparing", "playing", "paused"]


def test_commands_are_obeyed_in_the_order_they_came(stage):
    run = stage.live()
    for _ in range(20):
        run.play()
        run.pause()
    run.step()
    wait(lambda: run.frame.message == "One step done.", "the step")
    held = steps(run)
    time.sleep(0.2)
    assert steps(run) == held and run.frame.status == "paused"


def test_a_step_is_one_of_each_and_pauses_a_run_that_plays(stage):
    run = stage.live()
    for n in (1, 2, 3):
        run.step()
        wait(lambda n=n: run._learners and steps(run) == [n, n], f"step {n}")
    wait_status(run, "paused")
    run.play()
    wait_step(run, 6)
    run.step()
    wait(lambda: run.frame.message == "One step done." and run.frame.status == "paused", "pause")
    held = steps(run)
    time.sleep(0.2)
    assert steps(run) == held


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
    run = stage.live()
    run.play()
    wait_step(run, 8)
    old = run._learners
    run.reset(lambda: learners(stage.corpus, seed=7))
    wait(lambda: run._learners is not old and run._learners, "new learners")
    wait_step(run, 3)
    assert {t.config.seed for t in run._learners.values()} == {7}
    assert run.frame.status == "playing"
    # Nothing trains the old ones any more.
    held = [trainer.step for trainer in old.values()]
    time.sleep(0.1)
    assert [trainer.step for trainer in old.values()] == held


def test_reset_while_paused_waits_to_be_played(stage):
    run = stage.live()
    run.step()
    wait_status(run, "paused")
    run.reset(lambda: learners(stage.corpus, seed=8))
    wait_status(run, "ready")
    assert run._learners is None and run.frame.learners == ()
    run.step()
    wait_status(run, "paused")
    assert steps(run) == [1, 1]


def test_a_second_run_pauses_the_first(stage):
    one, two = stage.live(), stage.live()
    one.play()
    wait_step(one, 2)
    two.play()
    wait_status(one, "paused")
    assert one.frame.message == "Paused: another run is training now."
    held = steps(one)
    wait_step(two, 3)
    assert steps(one) == held
    one.play()
    wait_status(two, "paused")


def test_closing_ends_the_thread_and_keeps_the_state(stage, tmp_path):
    run = stage.live(autosave=tmp_path)
    run.play()
    wait_step(run, 3)
    run.close()
    assert not run._thread.is_alive()
    assert run.frame.status == "paused" and run.frame.message == "Closed."
    saved = Trainer.resume(tmp_path / "moe.safetensors", stage.corpus)
    assert saved.step == run._learners["moe"].step
    held, frames = steps(run), len(run.frames)
    run.play()  # to a closed run: nothing happens
    time.sleep(0.1)
    assert steps(run) == held and len(run.frames) == frames


# --- failures ---


def test_a_build_that_cannot_be_is_one_sentence_and_the_run_lives_on(stage):
    def build():
        ModelConfig(d_model=7)

    run = stage.live(build)
    run.play()
    wait_status(run, "failed")
    assert run.frame.message == "d_model must be a multiple of num_heads, got 7 and 4."
    assert not run.frame.unexpected and run.frame.learners == ()
    run.reset(lambda: learners(stage.corpus))
    run.play()
    wait_step(run, 2)


def test_moeviz_own_fault_is_marked_and_logged(stage, caplog):
    run = stage.live(lambda: {"a": 1 / 0})
    run.play()
    wait_status(run, "failed")
    assert run.frame.unexpected
    assert run.frame.message.startswith("Something broke inside moeviz: ZeroDivisionError")
    assert "ZeroDivisionError" in caplog.text


def test_divergence_is_said_and_the_last_good_state_is_shown(stage):
    run = stage.live(learning_rate=1e30, warmup=0)
    run.play()
    wait_status(run, "failed")
    assert "stopped being a finite number" in run.frame.message
    assert not run.frame.unexpected
    shot = run.frame.learners[0]
    assert shot.step == 0 and len(shot.curve) == 0
    assert all(torch.isfinite(p).all() for p in run._learners["dense"].model.parameters())


def test_a_failed_run_is_not_going_on_in_secret(stage):
    run = stage.live(learning_rate=1e30, warmup=0)
    run.play()
    wait_status(run, "failed")
    frames = len(run.frames)
    time.sleep(0.2)
    assert len(run.frames) == frames


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


def test_the_history_of_a_long_run_is_bounded(stage):
    # Validation is off and a step takes no time: the points are what counts.
    run = stage.live()
    run.step()
    wait_status(run, "paused")
    for trainer in run._learners.values():
        trainer.history.capacity = 10
    run.play()
    wait_step(run, 60)
    run.pause()
    wait_status(run, "paused")
    for shot in run.frame.learners:
        assert len(shot.curve) <= 11 and shot.curve.step[-1] == shot.step


# --- telling the learners something ---


def test_what_is_told_is_done_between_two_steps_and_training_goes_on(stage):
    run = stage.live()
    run.play()
    wait_step(run, 3)
    seen = []

    def act(learners):
        seen.append((threading.current_thread(), [t.step for t in learners.values()]))
        learners["moe"].kill(0, 3)
        return "Done."

    run.tell(act)
    wait(lambda: any(frame.message == "Done." for _, frame in run.frames), "the sentence")
    told = next(frame for _, frame in run.frames if frame.message == "Done.")
    assert told.status == "playing" and seen[0][0] is run._thread
    at = run._learners["moe"].step
    wait_step(run, at + 5)
    run.pause()
    wait_status(run, "paused")
    load = run._learners["moe"].history.curve().load[:, 0, 3]
    assert (load[seen[0][1][1] :] == 0).all()


def test_what_is_told_to_a_paused_run_leaves_it_paused_and_a_refusal_is_said(stage):
    run = stage.live()
    run.step()
    wait_status(run, "paused")

    def refuse(learners):
        raise ValueError("Not now.")

    for action, message in ((lambda learners: "Done.", "Done."), (refuse, "Not now.")):
        run.tell(action)
        wait(lambda message=message: run.frame.message == message, message)
        assert run.frame.status == "paused" and steps(run) == [1, 1]
    run.play()
    wait_step(run, 3)


# --- autosave ---


def test_an_autosave_is_written_and_can_be_resumed(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(moeviz.training.live, "AUTOSAVE_SECONDS", 0.05)
    run = stage.live(autosave=tmp_path / "live")
    run.play()
    wait(lambda: (tmp_path / "live" / "moe.safetensors").is_file(), "an autosave while playing")
    run.pause()
    wait_status(run, "paused")
    run.step()  # the thread is past its save once this is done
    wait(lambda: run.frame.message == "One step done.", "the step")
    for label, trainer in run._learners.items():
        saved = Trainer.resume(tmp_path / "live" / f"{label}.safetensors", stage.corpus)
        assert saved.step == trainer.step - 1
        next(saved)
        for a, b in zip(saved.model.parameters(), trainer.model.parameters(), strict=True):
            # Nearly: the live thread may run with another number of threads than this one.
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    assert {f.name for f in (tmp_path / "live").iterdir()} == {
        "dense.safetensors",
        "moe.safetensors",
    }


def test_without_a_folder_nothing_is_kept(stage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = stage.live(steps=2)
    run.play()
    wait_status(run, "finished")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_until_it_is_over_and_training_goes_on(stage, tmp_path, monkeypatch):
    """A file where the folder should be: like a full disk, every save fails with an OSError."""
    monkeypatch.setattr(moeviz.training.live, "AUTOSAVE_SECONDS", 0.25)
    (tmp_path / "live").touch()
    run = stage.live(autosave=tmp_path / "live")
    run.play()
    wait(lambda: "Could not save" in run.frame.message, "the warning")
    assert "Errno" not in run.frame.message and run.frame.status == "playing"
    at = max(steps(run))
    wait_step(run, at + 5)
    # Still said a while later, beside the usual message.
    wait(lambda: run.frame.message.startswith("Training. Could not save"), "the warning again")
    assert run.frame.message.endswith(".") and "\n" not in run.frame.message
    (tmp_path / "live").unlink()
    wait(lambda: run.frame.message == "Training.", "the end of the warning")
    shutil.rmtree(tmp_path / "live", ignore_errors=True)
