"""Training while a notebook stays alive: one daemon thread, commands in, snapshots out.

The thread never prints and never touches an Output widget: what is printed from a thread gets lost
or lands in another cell. It hands immutable Frames to a callback, at most ten a second.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from moeviz.leaving import begin
from moeviz.records.runs import Snapshot
from moeviz.training.config import leave_a_core_free
from moeviz.training.trainer import NonFiniteLossError, Trainer

Status = Literal["ready", "preparing", "playing", "paused", "finished", "failed"]
PUBLISH_SECONDS = 0.1
AUTOSAVE_SECONDS, AUTOSAVE_SHARE = 15.0, 0.05  # between two at least; of the time at most

log = logging.getLogger("moeviz")


@dataclass(frozen=True)
class Frame:
    """What a live run shows at one moment: status, one sentence about it, and its learners.
    unexpected marks a failure that is moeviz's own fault."""

    status: Status
    message: str
    learners: tuple[Snapshot, ...] = ()
    unexpected: bool = False


Learners = dict[str, Trainer]


class LiveRun:
    """Trains the learners that build() makes, in turns of one step each, on one daemon thread.

    build: makes the named trainers; it runs on the thread, for it may take seconds.
    publish: called on the thread with each Frame.
    autosave: a folder for the learners' checkpoints while they train, so that a restarted kernel
        loses little; None keeps nothing.

    One run trains at a time in a process: play() pauses whichever was playing.
    """

    _playing: LiveRun | None = None
    _playing_lock = threading.Lock()

    def __init__(
        self,
        build: Callable[[], Learners],
        publish: Callable[[Frame], None],
        *,
        autosave: Path | None = None,
    ) -> None:
        self.publish = publish
        self.frame = Frame("ready", "Ready.")
        self.autosave = autosave
        self._build = build
        self._learners: Learners | None = None
        self._commands: queue.Queue[Callable[[], None]] = queue.Queue()
        self._going = False
        self._closed = False
        self._unsaved = ""  # why the last autosave failed: said until one succeeds
        self._published_at = self._saved_at = self._save_seconds = 0.0
        self._thread = begin("moeviz-live", self._loop, self._leave)

    @property
    def busy(self) -> bool:
        """Whether it trains or has a command to obey: more Frames may come."""
        return self._going or self._commands.unfinished_tasks > 0

    # Commands: each returns at once, and the thread obeys between two steps.

    def play(self) -> None:
        """Go on training until pause() or the end. Pressed twice, it is one play."""
        with LiveRun._playing_lock:
            other, LiveRun._playing = LiveRun._playing, self
        if other is not None and other is not self:
            other._commands.put(lambda: other._stop("Paused: another run is training now."))
        self._commands.put(self._start)

    def pause(self) -> None:
        """Stop after the step in hand and keep everything."""
        self._commands.put(lambda: self._stop("Paused."))

    def step(self) -> None:
        """One step of each learner, then pause."""
        self._commands.put(self._single_step)

    def tell(self, action: Callable[[Learners], str]) -> None:
        """Do something to the learners between two steps and show the sentence that it returns, or
        that of its ValueError; training goes on if it went on."""
        self._commands.put(lambda: self._obey(action))

    def reset(self, build: Callable[[], Learners]) -> None:
        """Throw the learners away and take those of a new build(); go on playing if it played."""
        self._commands.put(lambda: self._replace(build))

    def close(self) -> None:
        """Stop for good and wait for the thread (at most five seconds)."""
        self._commands.put(self._finish)
        self._thread.join(5)
        with LiveRun._playing_lock:
            if LiveRun._playing is self:
                LiveRun._playing = None

    # What the thread does.

    def _loop(self) -> None:
        leave_a_core_free()
        while not self._closed:
            if self._going and self._commands.empty():
                self._turn(self._advance)
            else:
                self._turn(self._commands.get())
                self._commands.task_done()

    def _turn(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (NonFiniteLossError, ValueError, OSError) as error:
            self._fail(str(error), unexpected=False)
        except Exception as error:
            log.exception("A live run failed")
            self._fail(f"Something broke inside moeviz: {error!r}.", unexpected=True)

    def _fail(self, sentence: str, *, unexpected: bool) -> None:
        snapshots = () if self._learners is None else self._snapshots(self._learners)
        self._show(Frame("failed", sentence, snapshots, unexpected))
        self._going = False

    def _start(self) -> None:
        if self._going:
            return
        self._ready()
        self._going = True
        self._saved_at = time.monotonic()
        self._report("playing", "Training.")

    def _stop(self, message: str) -> None:
        if self._going:
            self._going = False
            self._report("paused", message)
            self._save()

    def _finish(self) -> None:
        self._closed = True
        self._stop("Closed.")

    def _leave(self) -> None:
        """Python ends, and nobody is left to show frames to."""
        self.publish = lambda _: None
        self._commands.put(self._finish)

    def _single_step(self) -> None:
        self._going = False
        learners = self._ready()
        for trainer in learners.values():
            next(trainer, None)
        if all(trainer.step >= trainer.config.steps for trainer in learners.values()):
            self._report("finished", "Finished.")
        else:
            self._report("paused", "One step done.")
            self._save()

    def _obey(self, action: Callable[[Learners], str]) -> None:
        learners = self._ready()
        try:
            message = action(learners)
        except ValueError as error:
            message = str(error)
        self._report("playing" if self._going else "paused", message)

    def _replace(self, build: Callable[[], Learners]) -> None:
        self._build, self._learners = build, None
        if self._going:
            self._ready()
            self._report("playing", "Training.")
        else:
            self._show(Frame("ready", "Ready."))

    def _ready(self) -> Learners:
        """The learners, built where they are not yet."""
        if self._learners is None:
            self._show(Frame("preparing", "Preparing the text and the models…"))
            self._learners = self._build()
        return self._learners

    def _advance(self) -> None:
        learners = self._ready()
        # Turns by steps: the learner that is behind goes first, so the two stay side by side.
        unfinished = [t for t in learners.values() if t.step < t.config.steps]
        if not unfinished:
            self._report("finished", "Finished.")
            self._going = False  # not before it was shown: see busy
            return
        behind = min(unfinished, key=lambda trainer: trainer.step)
        next(behind)
        now = time.monotonic()
        if now - self._published_at >= PUBLISH_SECONDS:
            self._report("playing", "Training.")
        if now - self._saved_at >= max(AUTOSAVE_SECONDS, self._save_seconds / AUTOSAVE_SHARE):
            self._save()

    def _report(self, status: Status, message: str) -> None:
        self._show(Frame(status, message + self._unsaved, self._snapshots(self._ready())))

    def _show(self, frame: Frame) -> None:
        self._published_at = time.monotonic()
        self.frame = frame
        try:
            self.publish(frame)
        except Exception:  # a listener that fails must not end the training
            log.exception("A live run's listener failed")

    def _snapshots(self, learners: Learners) -> tuple[Snapshot, ...]:
        return tuple(trainer.snapshot(label) for label, trainer in learners.items())

    def _save(self) -> None:
        """Autosave. A failure is said, and training goes on: nothing that exists is harmed."""
        if self.autosave is None or self._learners is None:
            return
        began = time.monotonic()
        try:
            for label, trainer in self._learners.items():
                trainer.save(self.autosave / f"{label}.safetensors")
        except OSError as error:
            self._unsaved = f" {error}"
            self._show(replace(self.frame, message=self._unsaved.strip()))
        else:
            self._unsaved = ""
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - began
