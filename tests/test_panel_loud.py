"""The slider of how loud an MoE starts: what is recorded at each scale, and what Play trains."""

import math
import re
from pathlib import Path

import pytest

from helpers.live import interrupt, note, play, step, wait
from helpers.panels import LOUD, said
from helpers.pictures import presses
from moeviz.experiments import loud_and_quiet
from moeviz.model.transformer import LanguageModel
from moeviz.panels import LoudAndQuiet
from moeviz.panels.training.loud_and_quiet import NAMES, SCALES

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
pytestmark = [*LOUD, pytest.mark.usefixtures("fresh_kernel")]


@pytest.fixture
def small(track):
    """Both models small, for four steps."""
    track.steps = track.validate_every = 4
    loud_and_quiet.build(1.0, 0)  # what it imports takes seconds on a busy machine


def test_the_slider_has_the_scales_that_are_recorded_and_trained():
    scales = [scale for _, scale in SCALES]
    assert sorted(scales) == [loud_and_quiet.WRITTEN, *loud_and_quiet.SCALES]
    panel = LoudAndQuiet()
    sizes = {wave["scale"]: wave["size"] for wave in panel._start["MoE"]}
    in_order = [sizes[scale] for scale in scales]
    assert in_order == sorted(in_order), "from quiet to loud, as written in its place too"
    for scale in scales:
        panel.controls["scale"].value = scale
        dense, moe = panel._recorded[scale, 0]
        assert (moe.meta["model"]["ffn_scale"] or 0.0, dense.meta["model"]["moe"]) == (scale, None)
        assert dense.step == moe.step == loud_and_quiet.STEPS
        assert f"scale {NAMES[scale]}, seed 0" in note(panel)
        times = sizes[scale] / panel._start["dense"]["size"]
        assert panel.drawn.summary.startswith(f"An MoE that starts {times:#.2g} times as loud as ")
        assert not math.isnan(moe.curve.validation[-1])
        assert {"scale": f"{scale}", "seed": "0"} in [sets for _, sets in presses(panel.drawn)]
    assert said(panel).startswith("A recorded run of this setting.")
    panel.controls["seed"].value = 1
    assert said(panel) == "This setting is not recorded. Press Play to train it here."
    assert note(panel).startswith("not recorded") and panel.drawn.rows[0][1] == 0


def test_the_table_of_the_notebook_has_what_the_panel_has_at_each_scale(capsys):
    """The panel's slider and the recording have their scales in two orders."""
    source = (NOTEBOOKS / "src" / "03c_trained_and_compared.md").read_text(encoding="utf-8")
    cells = re.findall(r"```{code-cell} ipython3\n(.*?)```", source, re.DOTALL)
    (cell,) = (cell for cell in cells if "MoE minus dense, after" in cell)
    exec(cell, {})
    lines = capsys.readouterr().out.splitlines()[1:]
    settings = LoudAndQuiet()._settings()
    for line, (name, _), setting in zip(lines, SCALES, settings, strict=True):
        assert line.startswith(name) and f"{-setting.ahead:+.3f} nats per token" in line


def test_the_contestants_differ_by_the_scale_of_the_moe_alone():
    for scale in loud_and_quiet.SCALES:
        models = loud_and_quiet.contestants(scale)
        assert models["dense"] == loud_and_quiet.contestants(0.0)["dense"]
        assert models["dense"].ffn_scale == 1.0 and models["MoE"].ffn_scale == scale
        assert models["dense"].d_ff == 256 and models["MoE"].moe.d_expert == 128
    ffn = LanguageModel(loud_and_quiet.contestants(0.0)["MoE"]).blocks[0].ffn
    assert ffn.factor_P is None and ffn.router.weighting == "raw"


def test_play_trains_the_scale_of_the_slider_and_another_one_begins_anew(small):
    panel = LoudAndQuiet()
    panel.controls["scale"].value = 0.25
    assert step(panel, 1) == [1, 1] and note(panel).startswith("live: scale 1/4")
    play(panel, 4)
    wait(lambda: "Trained here, scale 1/4, seed 0: MoE " in panel.score.value, "the score")
    panel.controls["scale"].value = 4.0
    wait(lambda: note(panel).startswith("recorded, not live: scale 4"), "the other scale")
    play(panel, 4)
    wait(lambda: "Trained here, scale 4, seed 0: MoE " in panel.score.value, "its score")
    assert "scale 1/4, seed 0" in panel.score.value
    assert panel.score.value.count("of luck alone") == 2, "no winner without a verdict"


def test_an_interrupted_run_goes_on(track):
    panel = LoudAndQuiet()
    panel.controls["scale"].value = 0.5
    assert interrupt(panel, 2)[-1] >= 2
    again = LoudAndQuiet()
    assert "interrupted at step" in said(again) and again.values == {"scale": 0.5, "seed": 0}
