"""One batch on its way through the kernels, program by program."""

from __future__ import annotations

import threading
from typing import Any

import ipywidgets as widgets

from moeviz.checks import check_choice
from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.base import Panel
from moeviz.panels.controls import button, choice, seed_box, skew_slider, text_box
from moeviz.panels.shipped_model import READER
from moeviz.panels.worker import Worker
from moeviz.pictures import Picture
from moeviz.pictures.kernels.dispatch import dispatch
from moeviz.records.dispatch import STAGES, DispatchTrace

SOURCES = (("your text", "text"), ("synthetic tokens", "synthetic"))
FILES = {"text": "dispatch", "synthetic": "dispatch_zipf"}
LAYERS = (0, 1, 2)  # of the shipped model
BLOCKS = (4, 8, 16)
# What the dispatch hangs on, by source.
OF_SOURCE = {"text": ("text", "layer"), "synthetic": ("skew", "seed")}
SHAPE = ("source", "tokens", "top_k", "sort_block", "tile_block")
PLAY_SECONDS = 0.8
LOAD_SECONDS = 120
MOST_STEPS = 400  # that a state may name before its own batch is known
KEPT = 30  # dispatches: a slider that is moved back finds them again


class Dispatch(Panel):
    """histogram → scan → scatter → tiles → GEMM → combine, one step a program.

    It opens on a recorded dispatch, without torch. Another batch or block runs the kernels, on the
    GPU or in Triton's interpreter, in the background.
    """

    kind = "dispatch"

    def __init__(self, source: str = "text") -> None:
        check_choice("source", source, FILES)
        self.recorded = {name: recorded_trace(DispatchTrace, file) for name, file in FILES.items()}
        self._kept = [(trace.meta["controls"], trace) for trace in self.recorded.values()]
        self._position: tuple[DispatchTrace, int] | None = None  # the batch and its step
        self._worker = Worker(self)
        self._stop_playing: threading.Event | None = None
        opening: dict[str, Any] = {}
        for name in ("text", "synthetic", source):
            opening |= self.recorded[name].meta["controls"]
        self.stage = choice("Stage", STAGES, STAGES[0], "86px").add_class("moeviz-stage")
        self.stage.observe(lambda _: self._jump(), "value")
        buttons = [
            button("◀ Back", "moeviz-back", "The step before", lambda: self._turn(-1)),
            button("Next ▶", "moeviz-next", "The next step", lambda: self._turn(1)),
            button("▶ Play", "moeviz-play", "Step by step, to the end", self._play),
            button("▮▮ Pause", "moeviz-pause", "Stay at this step", self._pause),
        ]
        rows = [
            [self.stage],
            ["step", *buttons],
            ["top_k", "sort_block", "tile_block"],
            ["source", "tokens"],
            ["layer", "text"],
            ["skew", "seed"],
        ]
        super().__init__(_controls(opening), rows)
        self.refresh()

    def check_state(self, given: dict[str, str]) -> None:
        """Until its batch is known any step may be meant, as it is given: not as a place within
        the stage that is shown."""
        self.controls["step"].max = MOST_STEPS
        self._position = None

    # Moving.

    def _turn(self, by: int) -> None:
        step = self.controls["step"]
        step.value = min(max(step.value + by, step.min), step.max)

    def _jump(self) -> None:
        if not self._quiet and self._position is not None:
            trace, step = self._position
            if trace.at(step)[0] != self.stage.value:
                self.controls["step"].value = trace.step_at(self.stage.value)

    def _play(self) -> None:
        if self._stop_playing is not None and not self._stop_playing.is_set():
            return
        step, stop = self.controls["step"], threading.Event()
        self._stop_playing = stop
        if step.value == step.max:
            step.value = 0

        def run() -> None:
            with self.guarded():
                while not stop.wait(PLAY_SECONDS) and step.value < step.max:
                    step.value += 1
            stop.set()

        threading.Thread(target=run, name="moeviz-dispatch-play", daemon=True).start()

    def _pause(self) -> None:
        if self._stop_playing is not None:
            self._stop_playing.set()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """Where no kernel runs, the scatter's last step says more than the first of all."""
        drawn, trace = self.drawn, next(iter(self.recorded.values()))
        if self._position is not None:
            trace = self._position[0]
        step = trace.step_at("tiles") - 1
        self.drawn = dispatch(trace, step, note=_where(trace)).at(self.state)
        try:
            return super()._repr_mimebundle_(**options)
        finally:
            self.drawn = drawn

    # Drawing.

    def draw(self) -> Picture | None:
        source = self.controls["source"].value
        for of, names in OF_SOURCE.items():
            for name in names:
                self.controls[name].disabled = of != source
        trace = self._current()
        if trace is None:
            return None
        step = self._step_for(trace)
        return self.shown(dispatch(trace, step, note=_where(trace)))

    def _step_for(self, trace: DispatchTrace) -> int:
        """The step to show, and the controls set to it: in another batch the learner stays at the
        stage that they were looking at."""
        control = self.controls["step"]
        step: int = control.value
        batch, place = self._position or (trace, step)
        if batch is not trace and place == step:
            step = trace.step_at(*batch.at(step))
        step = min(step, trace.steps - 1)
        with self.quietly():
            control.value = min(step, control.max)
            control.max = trace.steps - 1
            control.value = step
            self._position = trace, step
            self.stage.value = trace.at(step)[0]
        return step

    def _wanted(self) -> dict[str, Any]:
        values = self.values
        return {name: values[name] for name in (*SHAPE, *OF_SOURCE[values["source"]])}

    def _current(self) -> DispatchTrace | None:
        wanted = self._wanted()
        for values, trace in self._kept:
            if values == wanted:
                return trace
        self.say("The kernels run on this batch…")
        self._worker.ask(lambda: self._compute(wanted))
        return None

    def _compute(self, wanted: dict[str, Any]) -> None:
        """On the worker's thread."""
        from moeviz.experiments.dispatch import dispatch_of

        loaded = None
        if wanted["source"] == "text":
            done = threading.Event()
            READER.load(done.set)
            if not done.wait(LOAD_SECONDS):
                raise ValueError(
                    "The small model did not load in time: move a control to try again."
                )
            if READER.model is None or READER.tokenizer is None:
                self.say(READER.error, unexpected=READER.unexpected)
                return
            loaded = READER.model, READER.tokenizer
        trace = dispatch_of(wanted, loaded)
        self._kept = [*self._kept[: len(FILES)], *self._kept[len(FILES) :][-KEPT:], (wanted, trace)]
        if wanted == self._wanted():
            self.refresh()


def _where(trace: DispatchTrace) -> str:
    where = f"computed by the kernels, {trace.meta['where']}"
    return f"{where}, {trace.meta['date']}" if "date" in trace.meta else where


def _controls(opening: dict[str, Any]) -> dict[str, widgets.Widget]:
    """The controls, by their names in a state string."""
    return {
        "step": widgets.IntSlider(
            0, min=0, max=MOST_STEPS, description="Step",
            layout=widgets.Layout(width="420px", max_width="100%"),
        ),
        "source": choice("Batch", SOURCES, opening["source"], "140px"),
        "top_k": choice("K", (1, 2), opening["top_k"], "44px"),
        "sort_block": choice("Sort block", BLOCKS, opening["sort_block"], "44px"),
        "tile_block": choice("BLOCK_M", BLOCKS, opening["tile_block"], "44px"),
        "tokens": widgets.IntSlider(opening["tokens"], min=4, max=24, description="Tokens"),
        "layer": choice("Layer", LAYERS, opening["layer"], "44px"),
        "skew": skew_slider(opening["skew"]),
        "seed": seed_box(opening["seed"]),
        "text": text_box(opening["text"], "620px", "72px"),
    }  # fmt: skip
