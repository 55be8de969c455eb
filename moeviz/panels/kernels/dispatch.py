"""One batch on its way through the kernels, program by program."""

from __future__ import annotations

import sys

from moeviz.checks import check_choice
from moeviz.experiments.recorded import recorded_trace
from moeviz.panels import shipped_model
from moeviz.panels.controls import choice, seed_box, skew_slider, text_box, whole_slider
from moeviz.panels.player import Player
from moeviz.panels.reading_panel import ReadingPanel, Values
from moeviz.pictures import Picture
from moeviz.pictures.kernels.dispatch import dispatch
from moeviz.records.dispatch import DispatchTrace

SOURCES = (("your text", "text"), ("synthetic tokens", "synthetic"))
FILES = {"text": "dispatch", "synthetic": "dispatch_zipf"}
LAYERS = (0, 1, 2)  # of the shipped model
BLOCKS = (4, 8, 16)
MOST_STEPS = 400  # that a state may name before its own batch is known


class Dispatch(ReadingPanel):
    """histogram → scan → scatter → tiles → GEMM → combine, one step a program.

    It opens on a recorded dispatch, without torch. Another batch or block runs the kernels, on the
    GPU or in Triton's interpreter, in the background.
    """

    hangs_on = ("source", "tokens", "top_k", "sort_block", "tile_block")
    of_source = {"text": ("text", "layer"), "synthetic": ("skew", "seed")}
    presets = {
        "A few experts get most": {
            "source": "synthetic", "skew": 1.0, "seed": 0, "tokens": 16, "top_k": 2,
            "sort_block": 8, "tile_block": 4,
        },
        "One expert a token": {"top_k": 1, "step": 12},
        "Higher tiles": {"tile_block": 16, "step": 17},
    }  # fmt: skip

    def __init__(self, source: str = "text") -> None:
        check_choice("source", source, FILES)
        self.recorded = {name: recorded_trace(DispatchTrace, file) for name, file in FILES.items()}
        recorded = {name: trace.meta["controls"] for name, trace in self.recorded.items()}
        opening = recorded["text"] | recorded["synthetic"] | recorded[source]
        self._position: tuple[DispatchTrace, int] | None = None  # the batch and its step
        # It opens where the rows have come to their experts: before, nothing has moved.
        step = self.recorded[source].step_at("tiles") - 1
        self.player = Player(self, whole_slider("Step", 0, MOST_STEPS, step, width="420px"))
        super().__init__(
            [(recorded[name], trace) for name, trace in self.recorded.items()],
            self.player.bar,
            {
                "top_k": choice("K", (1, 2), opening["top_k"], "44px"),
                "sort_block": choice("Sort block", BLOCKS, opening["sort_block"], "44px"),
                "tile_block": choice("BLOCK_M", BLOCKS, opening["tile_block"], "44px"),
            },
            more=[
                {
                    "source": choice("Batch", SOURCES, opening["source"], "140px"),
                    "tokens": whole_slider("Tokens", 4, 24, opening["tokens"]),
                },
                {
                    "layer": choice("Layer", LAYERS, opening["layer"], "44px"),
                    "text": text_box(opening["text"], "560px", "72px"),
                },
                {"skew": skew_slider(opening["skew"]), "seed": seed_box(opening["seed"])},
            ],
        )

    def check_state(self, given: dict[str, str]) -> None:
        """Until its batch is known any step may be meant, as it is given: not as a place within
        the stage that is shown."""
        self.controls["step"].max = MOST_STEPS
        self._position = None

    # Drawing.

    def picture_of(self, trace: DispatchTrace) -> Picture:
        return self.shown(dispatch(trace, self._step_for(trace), note=_where(trace)))

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
        return step

    def make(self, wanted: Values) -> None:
        loads = "" if "triton" in sys.modules else " PyTorch and Triton load: some seconds, once."
        self.say(f"The kernels run on this batch…{loads}")
        self.worker.ask(lambda: self._compute(wanted))

    def _compute(self, wanted: Values) -> None:
        """On the worker's thread."""
        from moeviz.experiments.dispatch import dispatch_of

        loaded = shipped_model.READER.get() if wanted["source"] == "text" else None
        self.keep(wanted, dispatch_of(wanted, loaded))
        if wanted == self.wanted():
            self.refresh()


def _where(trace: DispatchTrace) -> str:
    where = f"computed by the kernels, {trace.meta['where']}"
    return f"{where}, {trace.meta['date']}" if "date" in trace.meta else where
