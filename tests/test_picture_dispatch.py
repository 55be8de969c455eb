"""The pictures of 12_kernels: pure, readable, and with the numbers they claim."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from helpers.picture_cases import CPU, LAYER, TRACES, evil_case
from helpers.picture_cases import dispatch_by_hand as by_hand
from helpers.pictures import parse
from moeviz.costs import distinct_experts
from moeviz.experiments.recorded import recorded_machines
from moeviz.host import data_path
from moeviz.pictures.kernels.contenders import contenders
from moeviz.pictures.kernels.dispatch import dispatch
from moeviz.pictures.kernels.roofline import all_experts, roofline, works
from moeviz.pictures.kernels.tile_waste import (
    BLOCKS,
    expected_waste,
    padding_rows,
    tile_waste,
    waste_curves,
    zipf_load,
)
from moeviz.pictures.svg import text_width


@pytest.mark.parametrize("name", TRACES)
def test_the_picture_keeps_its_height_from_step_to_step(name):
    trace = TRACES[name]
    drawn = [parse(dispatch(trace, step)).get("viewBox") for step in range(trace.steps)]
    assert len(set(drawn)) == 1


def test_every_step_says_something_else():
    trace = TRACES["dispatch"]
    said = [dispatch(trace, step).summary for step in range(trace.steps)]
    drawn = [re.sub("aria-label=.*?data", "", dispatch(trace, s).svg) for s in range(trace.steps)]
    assert len(set(said)) == len(set(drawn)) == trace.steps
    assert max(map(len, said)) < 125, "one line above the picture, or it jumps from step to step"


def test_by_hand_each_stage_has_its_numbers():
    trace = by_hand()
    assert trace.steps == 1 + 2 + 2 + 2 + 1 + 3 + 3
    said = {}
    for step in range(trace.steps):
        picture = dispatch(trace, step)
        said[trace.at(step)] = picture.summary
    assert said["top-k", 0] == "3 tokens ask for 1 expert each: 3 assignments, in token order."
    assert "of 2 assignments 1 to e0, 1 to e1." in said["histogram", 0]
    assert said["scan", 1].endswith("adds up the column of expert 1; it will have 2 rows.")
    assert said["scatter", 0].endswith("writes assignments 0 to 1 to rows 1, 0.")
    assert "2 tiles of 4 rows for 3 rows: 5 of 8 computed rows are padding" in said["tiles", 0]
    assert said["tiles", 0].endswith("of the GEMM's 3 programs 1 find no tile.")
    assert said["GEMM", 1].endswith("2 rows of expert 1, 2 padding.")
    assert said["GEMM", 2].endswith("no tile is left, it returns at once.")
    assert said["combine", 2].endswith("y differs by 2e-07 of its length.")
    assert picture.rows[2] == (2, "2 " + "x" * 50, 1, "0.250", 1, 2, 1, 1)
    assert (
        "drawn in tiles of 4; this GPU computed in tiles of 16"
        in dispatch(trace, trace.step_at("GEMM")).svg
    )


def test_the_scatters_arithmetic_is_written_out():
    trace = TRACES["dispatch"]
    for program in range(len(trace.count)):
        text = dispatch(trace, trace.step_at("scatter", program)).svg
        sums = re.findall(r"row = (\d+) \+ (\d+) \+ (\d+) = (\d+)", text)
        assert len(sums) == trace.sort_block
        assert all(int(a) + int(b) + int(c) == int(d) for a, b, c, d in sums)


# Tile waste.


def test_padding_by_hand():
    assert padding_rows(np.array([70, 3, 0, 129, 16]), 16) == 38
    assert padding_rows(np.array([16, 32]), 16) == 0 and padding_rows(np.array([0, 0]), 64) == 0


def test_the_rule_of_thumb_holds_where_experts_have_many_rows():
    for block in BLOCKS:
        curve = waste_curves(64 * 4096, 64, 0)[BLOCKS.index(block)]
        assert curve[0] == pytest.approx(expected_waste(64 * 4096, 64, block), rel=0.25)


def test_loads_are_drawn_once_for_each_seed():
    load_E = zipf_load(1000, 16, 1.0, 3)
    assert load_E.sum() == 1000 and load_E[0] > load_E[-1]
    np.testing.assert_array_equal(load_E, zipf_load(1000, 16, 1.0, 3))
    assert (load_E != zipf_load(1000, 16, 1.0, 4)).any()


def test_the_notebooks_prediction_is_answered():
    """'About 20 %'."""
    said = tile_waste(tokens=1024, experts=64, top_k=8, skew=0.0, block=64).summary
    assert 15 < float(re.search(r"padding, ([\d.]+)%", said).group(1)) < 25


def test_what_is_said_of_tile_waste():
    waste = {t: waste_curves(8 * t, 64, 0) for t in (64, 1024, 4096)}
    assert (waste[64] > waste[1024]).all() and (waste[1024] > waste[4096]).all(), "fewer: worse"
    assert (np.diff(waste[1024], axis=0) > 0).all(), "larger tiles: worse"


# Roofline.


def test_the_formulas_by_hand():
    # One token, four experts of 64: their weights once, x and y once.
    work = all_experts(1, LAYER, 4)
    assert work.flops == 6 * 4 * 512 * 256
    assert work.size == pytest.approx(4 * (4 * 3 * 512 * 256 + 2 * 512))
    assert distinct_experts(64, 4, 1).total == pytest.approx(4)
    assert distinct_experts(64, 4, 10**6).total == 64
    up, down = works(8, LAYER, 2)[2:4]
    assert up.flops == 2 * down.flops == pytest.approx(2 / 3 * all_experts(8, LAYER, 2).flops)


def test_what_is_said_of_the_roofline():
    """Half a FLOP per byte at T = 1 in float32; a dense FFN climbs sooner; combine never."""
    assert all_experts(1, LAYER, 4).intensity == pytest.approx(0.5, rel=0.01)
    for tokens in (16, 256, 4096):
        dense, experts, *_ = works(tokens, LAYER, 4)
        assert dense.intensity > 2 * experts.intensity
    assert {round(works(t, LAYER, 4)[4].intensity, 3) for t in (1, 64, 4096)} == {0.2}
    assert max(works(t, LAYER, 4)[5].intensity for t in (1, 64, 4096)) < 1


def test_the_roofline_says_what_bounds_this_device():
    assert "not measured yet" in roofline(None, LAYER, 1).summary
    assert roofline(CPU, LAYER, 1).summary.endswith("bound by memory.")
    assert roofline(CPU, LAYER, 4096).summary.endswith("bound by arithmetic.")


# Contenders.


def test_contenders_are_drawn_and_left_out_ones_named():
    case = evil_case()
    picture = contenders(case, where="here <i>")
    assert "<b>why" not in picture.svg and "&lt;evil&gt;: not run" in picture.svg
    assert len(picture.rows) == len(case["contenders"])
    empty = contenders(None, where="here")
    assert empty.summary == "Nothing is measured on here yet." and empty.rows == ()


def test_the_long_names_of_the_layer_benchmark_stand_inside_the_picture():
    path = Path(__file__).parent.parent / "benchmarks" / "results" / "layer_cpu.json"
    for case in json.loads(path.read_text())["cases"]:
        svg = contenders(case, where="x86_64 CPU, 2 cores").svg
        names = re.findall(r'<text x="([\d.]+)"[^>]*text-anchor:end[^>]*>([^<]+)<', svg)
        assert len(names) >= 5
        for x, name in names:
            assert text_width(name, 13) <= float(x), name


def test_a_time_and_its_quartiles_are_of_one_unit():
    case = json.loads(data_path("runs", "kernels.json").read_text())["cases"][-1]
    case["contenders"] = {"slow": {"forward_ms": {"median": 2150.0, "q1": 2077.5, "q3": 12345.0}}}
    assert "2.15 s (2.08 to 12.3)" in contenders(case, where="here").svg


def test_what_is_said_of_the_recorded_contest():
    """Forward the loops are alike; backward W[e] costs more the more experts there are, and no
    interpreter was timed."""
    run = json.loads(data_path("runs", "kernels.json").read_text())
    assert run["provenance"]["command"].startswith("python -m moeviz experiment kernels")
    naive, unbound, grouped = "loop over W[e]", "loop over W.unbind()", "grouped_mm"
    ratios = []
    for case in run["cases"]:
        found = case["contenders"]
        ratios.append(found[naive]["both_ms"]["median"] / found[unbound]["both_ms"]["median"])
        forward = found[naive]["forward_ms"]["median"] / found[unbound]["forward_ms"]["median"]
        assert 0.5 < forward < 2
        assert found[grouped]["both_ms"]["median"] < found[unbound]["both_ms"]["median"]
        assert run["device"]["kind"] == "cuda" or "not_run" in found["Triton"]
    assert ratios == sorted(ratios) and ratios[-1] > 5


def test_recorded_machines_are_found_and_a_damaged_file_is_none(tmp_path, monkeypatch):
    from moeviz.experiments import recorded as machines

    run = json.loads(data_path("runs", "kernels.json").read_text())
    gpu = {**run, "device": {**run["device"], "kind": "cuda", "name": "A GPU"}}
    (tmp_path / "layer_gpu.json").write_text(json.dumps(gpu))
    (tmp_path / "kernels.json").write_text(json.dumps(run))
    (tmp_path / "layer_bad.json").write_text("{")
    (tmp_path / "layer_other.json").write_text("[1]")
    monkeypatch.setattr(machines, "data_path", lambda *parts: tmp_path)
    found = recorded_machines()
    assert [name.split(",")[0] for name in found] == ["A GPU", run["device"]["name"].split(",")[0]]
