"""The pictures of 04_collapse, and the sentences that are made from its recorded figures."""

import io
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from moeviz.experiments.cures import ARMS
from moeviz.pictures.static import png
from moeviz.pictures.training.balance import describe, standing
from moeviz.pictures.training.collapse import collapse
from moeviz.pictures.training.cures import (
    cures,
    failing,
    told_collapse,
    told_cures,
    told_quality,
    told_versus,
)
from moeviz.records.metrics import noise_floor
from moeviz.records.runs import Curve, Snapshot

GOLDEN = Path(__file__).parent / "golden"
SVG = "{http://www.w3.org/2000/svg}"


def make_run(
    label="nothing <&>", points=300, total=300, experts=16, collapse_at=60, router="token_choice"
):
    """Expert 3 of layer 1 takes over from a step on; layer 0 stays nearly even. Whole numbers."""
    step = np.arange(1, points + 1, dtype=np.float64)
    wave = (np.arange(points * 2 * experts) * 7 % 11 + 5.0).reshape(points, 2, experts)
    wave[step > collapse_at, 1] = 0.05
    wave[step > collapse_at, 1, min(3, experts - 1)] = 30.0
    curve = Curve(
        step=step, seconds=step / 8, flops=step * 1e9, loss=3 + 5 / step,
        load=wave / wave.sum(-1, keepdims=True),
        validation=np.where(step % 25 == 0, 3.125 + 5 / step, np.nan),
        entropy=np.stack([1 - step / 4096, 1 - step / 512], 1),
    )  # fmt: skip
    meta = {
        "model": {"moe": {"top_k": 1, "router": router}},
        "train": {"batch_size": 16, "seq_len": 64, "seed": 0},
    }
    return Snapshot(label, points, total, points / 8, 8192.0, 10**6, 10**5, curve, meta)


RUN = make_run()
CASES = {
    "a run": lambda: collapse(RUN, 1, note="<i>", state="a=<x>"),
    "the even layer": lambda: collapse(RUN, 0),
    "beside another": lambda: collapse(
        make_run("now", 120), 1, before=RUN, killed=[(70, 1, 3), (90, 0, 5), (200, 1, 4)]
    ),
    "before the first step": lambda: collapse(RUN.at("step", 0), 1),
    "at the first step": lambda: collapse(RUN.at("step", 1), 1, before=RUN.at("step", 0)),
    "a hash": lambda: collapse(make_run("hash", router="hash"), 1, before=RUN),
    "four experts": lambda: collapse(make_run(experts=4), 1),
    "one expert": lambda: collapse(make_run(experts=1), 1),
    "64 experts": lambda: collapse(make_run(experts=64, collapse_at=400), 1),
    "a long run": lambda: collapse(make_run(points=390, total=2000), 1),
}


def parse(picture):
    return ElementTree.fromstring(picture.svg)


def texts(root):
    return [t.text or "" for t in root.iter(f"{SVG}text")]


def mean_sd(values):
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "values": list(values)}


def summary(seeds=5):
    """Recorded figures with known answers: balance and loss have nothing to do with each other."""
    arms = {}
    for n, name in enumerate(ARMS):
        vio = {"nothing": 12.0, "z-loss 0.001": 13.0, "noise 1": 9.0, "expert choice": 0.0}
        base = vio.get(name, 0.5 + 0.125 * n)
        fell = {"nothing": seeds, "z-loss 0.001": seeds, "noise 1": 3, "shared expert": 1}
        gap = [0.0] * seeds
        if name == "hash":
            gap = [-0.125 - 0.015625 * s for s in range(seeds)]
        elif name == "sign bias":
            gap = [0.0625 + 0.015625 * s for s in range(seeds)]
        elif name != "nothing":
            gap = [0.015625 * n * (-1) ** s for s in range(seeds)]
        arms[name] = {
            "runs": seeds,
            "collapsed": min(fell.get(name, 0), seeds),
            "max_violation": mean_sd([base + 0.0625 * s * (base > 0) for s in range(seeds)]),
            "dead_experts": mean_sd([13.0 if base > 8 else 0.0] * seeds),
            "effective_experts": mean_sd([1.5 if base > 8 else 14.0] * seeds),
            "domain_information": mean_sd([0.25 + 0.03125 * s - 0.01 * n for s in range(seeds)]),
            "validation_loss": mean_sd([3.5 + g for g in gap]),
            "loss_minus_nothing": mean_sd(gap),
        }
    made = {"device": "<8 cores>", "date": "2026-01-01"}
    return {"provenance": made, "steps": 300, "arms": arms}


CASES |= {"cures": lambda: cures(summary()), "cures of one seed": lambda: cures(summary(1))}
each = pytest.mark.parametrize("name", CASES)


@each
def test_every_picture_is_well_formed_readable_and_pure(name):
    picture = CASES[name]()
    root = parse(picture)
    assert root.get("role") == "img" and root.find(SVG + "desc").text == picture.summary
    assert picture.summary.endswith(".") and "nan" not in picture.summary
    for element in root.iter():
        for key in ("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "width", "height", "points"):
            for value in re.split("[ ,]", element.get(key, "")):
                assert not value or np.isfinite(float(value)), (element.tag, key, value)
    width, height = float(root.get("width")), float(root.get("height"))
    for text in root.iter(SVG + "text"):
        assert 0 <= float(text.get("y")) <= height and 0 <= float(text.get("x")) <= width
        size = re.search(r"(?:^|;)font:(?:600 )?([\d.]+)px ", text.get("style"))
        assert size and float(size.group(1)) >= 12
    shapes = ("rect", "text", "line", "polyline", "polygon", "circle")
    assert sum(len(list(root.iter(SVG + s))) for s in shapes) < 1000
    assert len(set(picture.columns)) == len(picture.columns)
    assert all(len(row) == len(picture.columns) for row in picture.rows)
    assert "nan" not in [str(v) for row in picture.rows for v in row]
    assert CASES[name]().svg == picture.svg
    assert len(picture.svg) < 200_000
    assert root.get("data-state") == ("a=<x>" if name == "a run" else "")


@pytest.mark.parametrize("name", ["a run", "beside another", "before the first step", "cures"])
def test_it_can_be_rasterised(name):
    pytest.importorskip("resvg_py")
    image = Image.open(io.BytesIO(png(CASES[name]().svg)))
    assert len(image.convert("RGB").getcolors(1 << 20)) > 2


@pytest.mark.parametrize(
    ("file", "name"), [("collapse.svg", "beside another"), ("cures.svg", "cures")]
)  # noqa: E501
def test_golden_strings(file, name):
    """Look at the change, then renew them with:
    MOEVIZ_RENEW_GOLDEN=1 python -P -m pytest tests/test_picture_collapse.py -k golden
    """
    found, path = CASES[name]().svg.replace("><", ">\n<") + "\n", GOLDEN / file
    if os.environ.get("MOEVIZ_RENEW_GOLDEN"):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


# What the picture says is what the run did.


def test_the_sentence_is_of_the_last_steps():
    found = standing(RUN, 1)
    load_E = RUN.curve.load[-30:, 1].mean(0)
    assert found.busiest == 3 and found.share == pytest.approx(load_E[3])
    assert found.dead == 15 and found.max_violation == pytest.approx(16 * load_E[3] - 1)
    assert found.floor == noise_floor(30 * 1024, 16, 1)
    early = standing(RUN.at("step", 9), 1)
    assert early.floor == noise_floor(9 * 1024, 16, 1) and early.dead == 0
    assert describe(RUN, 1).startswith(
        "nothing <&>, layer 1, step 300 of 300, over the last 30 steps: expert 3 takes 98% of the "
        "tokens; 15 of 16 experts get less than a tenth"
    )


def test_the_sentence_of_a_recording_with_fewer_points_is_the_same():
    """Recorded curves hold means of three steps."""
    curve = RUN.curve
    groups = np.arange(300).reshape(100, 3)
    lasts = ("step", "seconds", "flops", "validation")
    columns = {
        name: values[groups[:, -1]] if name in lasts else values[groups].mean(1)
        for name, values in vars(curve).items()
    }
    small = Snapshot(**{**vars(RUN), "curve": Curve(**columns)})
    assert describe(small, 1) == describe(RUN, 1)
    shares = [ribbon(collapse(run, 1)) for run in (RUN, small)]
    np.testing.assert_allclose(*shares, atol=0.02)


def ribbon(picture):
    """Corner points of the ribbon's first bands."""
    found = [p.get("points") for p in parse(picture).iter(SVG + "polygon")][:4]
    return np.array([[float(v) for v in re.split("[ ,]", points)] for points in found])


def test_the_bands_fill_the_ribbon_and_are_hatched_from_the_eighth_on():
    root = parse(collapse(RUN, 0))
    bands = list(root.iter(SVG + "polygon"))
    hatched = [p for p in bands if "url(#mv-hatch)" in p.get("style")]
    assert len(bands) == 24 and len(hatched) == 8 and root.find(f".//{SVG}pattern") is not None
    heights = 0.0
    for band in (b for b in bands if b not in hatched):
        points = np.array([[float(v) for v in p.split(",")] for p in band.get("points").split()])
        upper, lower = points[: len(points) // 2], points[len(points) // 2 :][::-1]
        np.testing.assert_allclose(upper[:, 0], lower[:, 0])
        heights = heights + lower[:, 1] - upper[:, 1]
    np.testing.assert_allclose(heights, 276 - 80, atol=0.2)


def test_the_hatch_is_there_for_bands_that_are_gone_at_the_end():
    root = parse(collapse(RUN, 1))  # only expert 3 is left
    assert root.find(f".//{SVG}pattern") is not None
    assert any("url(#mv-hatch)" in p.get("style") for p in root.iter(SVG + "polygon"))


def test_the_level_of_chance_is_drawn_for_the_tokens_of_one_point():
    floor = noise_floor(6 * 1024, 16, 1)
    assert f"about {floor:.2f}" in texts(parse(collapse(RUN, 1)))
    assert "MaxVio of 6 steps: 0 is even" in texts(parse(collapse(RUN, 1)))
    assert "MaxVio of 40 steps: 0 is even" in texts(parse(CASES["a long run"]()))


def test_only_the_dead_of_this_layer_and_of_the_past_are_marked():
    marks = [t for t in texts(parse(CASES["beside another"]())) if t.startswith("✕")]
    assert marks == ["✕ expert 3"]


def test_a_hash_has_no_entropy():
    picture = CASES["a hash"]()
    assert "a hash has no gate" in texts(parse(picture))
    at = picture.columns.index("gate entropy")
    assert {row[at] for row in picture.rows if row[0] == "hash"} == {""}
    assert "" not in {row[at] for row in picture.rows if row[0] != "hash"}


def test_the_table_has_the_validations_and_the_end():
    picture = collapse(make_run(points=110), 1)
    assert [row[1] for row in picture.rows] == [25, 50, 75, 100, 110]
    assert picture.rows[-1][2:4] == (3, "98%") and picture.rows[-1][-1] == ""


# What the recorded figures say.


def test_the_words_of_the_cures():
    s = summary()
    assert failing(s) == ["z-loss 0.001", "noise 1"]
    assert told_collapse(s).startswith(
        "Without a cure 5 of 5 recorded runs collapsed: in the least"
    )
    words = told_cures(s)
    assert "At least half of the runs still collapsed under z-loss 0.001 and noise 1." in words
    assert "Some did under shared expert." in words and "No run collapsed under balancing" in words
    quality = told_quality(s)
    assert "Better than nothing with every seed: hash (-0.156 ± 0.025)." in quality
    assert "Worse with every seed: sign bias (+0.094 ± 0.025)." in quality
    assert "The most even of all, expert choice, has rank" in quality
    versus = told_versus(s, "hash", "nothing", "validation_loss", "Validation loss")
    wanted = "Validation loss: 3.344 ± 0.025 with hash, 3.500 ± 0.000 with nothing; lower with hash"
    assert versus == f"{wanted} in 5 of 5 seeds."


def test_the_words_where_nothing_is_cured_or_worse():
    s = summary()
    for arm in s["arms"].values():
        arm["collapsed"] = arm["runs"]
    assert told_cures(s).startswith("No cure saved every run. At least half")
    for arm in s["arms"].values():
        arm["loss_minus_nothing"] = mean_sd([0.0] * 5)
    assert "with every seed: none." in told_quality(s)


def test_the_rank_correlation_is_spearmans():
    stats = pytest.importorskip("scipy.stats")
    s = summary()
    for n, arm in enumerate(s["arms"].values()):  # no ties
        arm["validation_loss"]["mean"] = 3 + (n * 5 % 14) / 8
    pairs = [(a["max_violation"]["mean"], a["validation_loss"]["mean"]) for a in s["arms"].values()]
    wanted = stats.spearmanr(*zip(*pairs, strict=True)).statistic
    assert f"rank correlation of MaxVio and loss is {wanted:.2f} (" in told_quality(s)


def test_one_dot_for_each_seed_and_figure():
    root = parse(cures(summary()))
    assert len(list(root.iter(SVG + "circle"))) == 5 * (3 * len(ARMS) - 1)
