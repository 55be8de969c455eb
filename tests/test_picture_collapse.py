"""The pictures of 04_collapse, and the sentences that are made from its recorded figures."""

import re

import numpy as np
import pytest

from helpers.picture_cases import CASES, RUN, make_run
from helpers.picture_cases import figure as mean_sd
from helpers.picture_cases import summary_of_cures as summary
from helpers.pictures import SVG, parse, texts
from moeviz.experiments.cures import ARMS
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
    assert "MaxVio of 40 steps: 0 is even" in texts(parse(CASES["collapse of a long run"]()))


def test_only_the_dead_of_this_layer_and_of_the_past_are_marked():
    marks = [t for t in texts(parse(CASES["collapse beside another"]())) if t.startswith("✕")]
    assert marks == ["✕ expert 3"]


def test_a_hash_has_no_entropy():
    picture = CASES["collapse of a hash"]()
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


def test_a_tick_for_each_seed_and_a_mark_for_each_figure():
    root = parse(cures(summary()))
    heights = [float(t.get("y1")) - float(t.get("y2")) for t in root.iter(SVG + "line")]
    assert sum(height == -12 for height in heights) == 5 * (3 * len(ARMS) - 1)
    assert len(list(root.iter(SVG + "circle"))) == 3 * len(ARMS) - 1
