"""One MoE layer, stage by stage, on the learner's own text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.controls import button, choice, layer_choice, slider, text_box, whole_slider
from moeviz.panels.player import Player
from moeviz.panels.reading_panel import ReadingPanel, Values, check_source
from moeviz.pictures import Picture
from moeviz.pictures.routing.inside_layer import anatomy
from moeviz.pictures.routing.layer_dispatch import in_token_order
from moeviz.pictures.routing.layer_frame import MAX_TOKENS, NOBODY, STAGES
from moeviz.records.routes import Anatomy

if TYPE_CHECKING:
    from moeviz.panels.shipped_model import Loaded
    from moeviz.watch.pretrained import Pretrained

MOST_ROWS = 4 * MAX_TOKENS  # that a state may name before its own text is known
TOKENS = (("no token", NOBODY), *((f"token {t}", t) for t in range(MAX_TOKENS)))
WEIGHTINGS = (
    ("renormalise after top-k", "renormalise"),
    ("raw: softmax before top-k", "raw"),
)
OPENING = "The cat sat on the mat. 12 + 7 = 19"  # of a checkpoint


class InsideLayer(ReadingPanel):
    """logits → softmax → top-k → dispatch → experts → combine, every matrix real.

    It opens on a recorded layer, without torch; another text, layer or weighting loads the model.
    All rows stand in the order of experts; played, they move there one after the other. The first
    token is followed until a press on another one.

    of: a real checkpoint (see watch.pretrained.load), with its own weighting and number of experts.
    """

    player: Player
    hangs_on: tuple[str, ...] = ("text", "layer", "weighting")
    presets = {
        "From the scores on": {"stage": "logits", "follow": 0},
        "Rows in the order of experts": {"stage": "dispatch"},
        "Weights that do not add up to 1": {"stage": "top-k", "weighting": "raw"},
        "A sum as text": {"stage": "top-k", "text": "12 + 7 = 19"},
    }

    def __init__(self, of: Pretrained | None = None) -> None:
        check_source(of)
        self.of, recorded = of, list[tuple[Values, Anatomy]]()
        if of is None:
            opening = recorded_trace(Anatomy, "inside_layer")
            text, layers, layer = opening.text, opening.model_layers, opening.layer
            recorded = [({name: getattr(opening, name) for name in self.hangs_on}, opening)]
            weighting = {"weighting": choice("Weights", WEIGHTINGS, opening.weighting, "200px")}
        else:  # it has one weighting
            from moeviz.watch.pretrained import layers_of

            layers, weighting = layers_of(of), {}
            text, layer = OPENING, layers[len(layers) // 2]
            self.hangs_on = ("text", "layer")
            self.presets = {n: p for n, p in self.presets.items() if "weighting" not in p}
        rows = whole_slider("Moved", 0, MOST_ROWS, MOST_ROWS, width="420px")
        rows.observe(lambda _: self._moved(), "value")
        self.player = Player(self, rows)
        self._back = button("◀ Back", "moeviz-back", "The stage before", lambda: self._turn(-1))
        self._next = button("Next ▶", "moeviz-next", "The next stage", lambda: self._turn(1))
        super().__init__(
            recorded,
            {"text": text_box(text, "560px")},
            [{"stage": slider("Stage", STAGES, STAGES[0])}, self._back, self._next],
            [self.player.toggle, {"step": rows}],
            more=[
                {"follow": slider("Follow", TOKENS, 0)},
                {"layer": layer_choice(layers, layer)} | weighting,
            ],
        )

    def _moved(self) -> None:
        """Rows move at one stage only: whoever moves one wants to see it."""
        if not self._quiet:
            self.set_controls({"stage": "dispatch"})

    def changed(self) -> None:
        """Who goes to another stage wants to look at it."""
        if self.controls["stage"].value != "dispatch":
            self.player.pause()
        super().changed()

    def check_state(self, given: dict[str, str]) -> None:
        if "step" in given:
            self.player.any_step()

    def _turn(self, by: int) -> None:
        stage = self.controls["stage"]
        place = STAGES.index(stage.value) + by
        if 0 <= place < len(STAGES):
            stage.value = STAGES[place]

    def picture_of(self, layer: Anatomy) -> Picture:
        stage, step = self.controls["stage"].value, self.player.step_of(len(in_token_order(layer)))
        self._back.disabled, self._next.disabled = stage == STAGES[0], stage == STAGES[-1]
        picture = anatomy(layer, stage, self.controls["follow"].value, step)
        return self.shown(picture, layer.meta.get("error"))

    def read(self, real: Pretrained, wanted: Values) -> Anatomy:
        from moeviz.watch import pretrained

        return pretrained.dissect(real, **wanted)

    def compute(self, wanted: Values, loaded: Loaded) -> Anatomy:
        from moeviz.watch.text import dissect

        return dissect(*loaded, **wanted)
