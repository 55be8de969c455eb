"""Pictures: pure, well-formed, readable by everyone, with a table twin of the same content."""

import base64
import io
import itertools
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from helpers.picture_cases import (
    CASES,
    LONG,
    NASTY,
    PROVENANCE,
    learner,
    make_anatomy,
    make_trace,
    pair,
    seeds,
)
from helpers.pictures import SVG, parse, texts
from moeviz.pictures import svg as kit
from moeviz.pictures.axes import LogScale, Scale, decades, short
from moeviz.pictures.routing.inside_layer import MAX_TOKENS, STAGES, anatomy
from moeviz.pictures.routing.tokens import load_bars, routing_matrix, token_strip
from moeviz.pictures.svg import OKABE_ITO, Svg, expert_colour, heat_colour, ink_on
from moeviz.pictures.training.race import AXES, race
from moeviz.pictures.training.seeds import race_seeds
from moeviz.records.metrics import gap
from moeviz.records.routes import Anatomy


def test_a_nasty_token_stands_in_the_picture_as_it_is_written():
    shown = texts(parse(CASES["strip"]()))
    tips = [t.text for t in parse(CASES["strip"]()).iter(SVG + "title")]
    for token in NASTY[:6] + NASTY[7:]:
        assert token in shown or token[:23] + "…" in shown
        assert any(tip.startswith(f"{token}: expert") for tip in tips)
    assert "x" * 23 + "…" in shown
    assert 'dense <b>&": 12/600 steps' in texts(parse(CASES["race by step"]()))
    assert "<i>" in texts(parse(CASES["race by step"]()))


# The table twins say what the pictures show.


def test_the_twin_of_the_strip():
    trace = make_trace()
    picture = token_strip(trace, 1)
    assert picture.columns == ("#", "token", "experts", "weights")
    assert [row[1] for row in picture.rows] == list(NASTY)
    shown = texts(parse(picture))
    for t, row in enumerate(picture.rows):
        assert row[2] == "·".join(map(str, trace.expert[t, 1])) and row[2] in shown
        assert [float(w) for w in row[3].split()] == pytest.approx(
            list(trace.weight[t, 1]), abs=0.006
        )


def test_the_twin_of_the_matrix():
    trace = make_trace(LONG, 6)
    picture = routing_matrix(trace, 0, max_tokens=30)
    assert len(picture.rows) == 30 and len(picture.columns) == 2 + 6
    found = np.array([[float(v) for v in row[2:]] for row in picture.rows])
    assert found == pytest.approx(trace.score[:30, 0], abs=0.0006)
    root = parse(picture)
    heat = [r for r in root.iter(SVG + "rect") if float(r.get("height")) == 16]
    assert len(heat) == 30 * 6
    chosen = [t for t in root.iter(SVG + "text") if t.text in "12" and "600" in t.get("style")]
    assert len(chosen) == 30 * 2


def test_the_twin_of_the_load():
    trace = make_trace(LONG, 5)
    picture = load_bars(trace.load(), trace.layers)
    assert [row[0] for row in picture.rows] == [1, 2]
    assert np.array([row[1:] for row in picture.rows]).tolist() == trace.load().tolist()
    bars = list(parse(picture).iter(SVG + "rect"))
    heights = np.array([float(r.get("height")) for r in bars]).reshape(2, 5)
    assert heights / heights.max() == pytest.approx(trace.load() / trace.load().max(), abs=0.001)


def test_the_load_says_over_how_many_assignments():
    """Eight tokens cannot reach 64 experts: that the others got nothing is no news."""
    few = load_bars(np.array([[1] * 8 + [0] * 56]), (0,))
    assert "a layer's 8 assignments" in few.summary
    assert "56 of 64 got nothing (8 reach no more than 8 of the 64 of a layer)." in few.summary
    many = load_bars(np.array([[300, 0, 0, 100]]), (0,)).summary
    assert "a layer's 400 assignments" in many and many.endswith("2 of 4 got nothing.")


def test_the_twin_of_the_race():
    dense, moe = learners = pair()
    picture = race(learners, "step")
    assert len(picture.rows) == 2
    for row, one in zip(picture.rows, learners, strict=True):
        named = dict(zip(picture.columns, row, strict=True))
        assert (named["learner"], named["step"]) == (one.label, 12)
        assert (named["parameters"], named["active parameters"]) == (2_000_000, 500_000)
        assert float(named["validation loss"]) == pytest.approx(one.curve.validation[-1], abs=1e-3)
    assert picture.rows[0][-1] == "" and float(picture.rows[1][-1]) > 1
    assert f"{gap(dense.curve, moe.curve, 'step'):.3f}" in picture.summary
    assert "MoE is ahead" in picture.summary


def test_the_race_marks_every_validation_and_never_tells_by_colour_alone():
    root = parse(race([learner("dense", 40), learner("MoE", 40, 8)], "step"))
    first, second = (STYLE.get("style") for STYLE in root.iter(SVG + "polyline"))
    assert "dasharray" not in first and "dasharray" in second
    assert len(list(root.iter(SVG + "circle"))) == 10 + 1  # the dense marks and their legend
    squares = [r for r in root.iter(SVG + "rect") if r.get("width") in ("6.8", "8")]
    assert len(squares) == 10 + 1


def test_the_race_is_drawn_on_the_axis_it_names():
    wide = {}
    for axis, (label, _) in AXES.items():
        root = parse(race(pair(), axis))
        assert label in texts(root)
        ends = [p.get("points").split()[-1] for p in root.iter(SVG + "polyline")]
        wide[axis] = [float(end.split(",")[0]) for end in ends]
    # At equal steps both are as far; in seconds the slower one is further.
    assert wide["step"][0] == wide["step"][1] == wide["flops"][0]
    assert wide["seconds"][0] == pytest.approx(60 + (500 - 60) * 0.5 / 0.75, abs=0.1)
    assert wide["seconds"][1] == 500


def test_a_race_that_cannot_be_judged_says_so():
    for name in ("race without points", "race without validation", "race of one learner"):
        assert CASES[name]().summary == "No validation loss of both to compare here yet."


def test_the_twin_of_the_seeds():
    picture = race_seeds(seeds(), PROVENANCE)
    assert [row[0] for row in picture.rows] == [0, 1, 2]
    assert [row[1] for row in picture.rows] == ["-0.250", "+0.000", "+0.250"]
    root = parse(picture)
    ticks = [float(t.get("x1")) for t in root.iter(SVG + "line") if "#d55e00" in t.get("style")]
    assert len(ticks) == 3 * 3
    assert ticks[0] < ticks[1] == 430 < ticks[2]
    means = [float(c.get("cx")) for c in root.iter(SVG + "circle")]
    assert means == [430] * 3
    assert "MoE is ahead in 1 of 3 seeds, by +0.000 ± 0.250" in picture.summary


@pytest.mark.parametrize("stage", STAGES)
def test_the_twins_of_a_layer(stage):
    layer = make_anatomy(LONG[:20], num_experts=6)
    picture = anatomy(layer, stage)
    table = {"logits": layer.logits, "softmax": layer.score}.get(stage)
    if table is not None:
        found = np.array([[float(v) for v in row[2:]] for row in picture.rows])
        assert found == pytest.approx(table, abs=0.0006)
    elif stage == "top-k":
        for t, row in enumerate(picture.rows):
            got = [float(row[2 + e]) for e in layer.expert[t]]
            assert got == pytest.approx(layer.weight[t], abs=0.0006)
    elif stage == "dispatch":
        assert [row[1] for row in picture.rows] == layer.row_expert.tolist()
        assert [row[2] for row in picture.rows] == [layer.tokens[t] for t in layer.row_token]
    elif stage == "experts":
        lengths = np.linalg.norm(layer.row_output, axis=1)
        for row in picture.rows:
            assert row[1] == layer.row_expert[row[0]]
            assert float(row[3]) == pytest.approx(lengths[row[0]], abs=0.0006)
    else:
        lengths = np.linalg.norm(layer.y, axis=1)
        assert [float(r[3]) for r in picture.rows] == pytest.approx(lengths, abs=0.0006)
    shown = texts(parse(picture))
    assert layer.tokens[MAX_TOKENS - 1] in shown and layer.tokens[MAX_TOKENS] not in shown


def test_combine_says_when_the_layer_is_not_the_sum_of_its_rows():
    layer = make_anatomy()
    assert "to the last bit" in anatomy(layer, "combine").summary
    wrong = Anatomy(**{**vars(layer), "y": layer.y + 1})
    assert "at most 1e+00" in anatomy(wrong, "combine").summary


def test_top_k_tells_raw_weights_from_renormalised_ones():
    assert "every row's weights sum to 1" in anatomy(make_anatomy(), "top-k").summary
    raw = anatomy(make_anatomy(weighting="raw"), "top-k")
    sums = make_anatomy(weighting="raw").weight.sum(1)
    assert f"rows sum to {sums.min():.2f} to {sums.max():.2f}" in raw.summary


# Colours.

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
VISIONS = {
    "all cones": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
HEAT = [heat_colour(i / 255) for i in range(256)]


def linear(colour):
    v = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def lab(linear_rgb):
    """CIE L*a*b*, D65."""
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    v = np.array(to_xyz) @ linear_rgb / [0.95047, 1.0, 1.08883]
    f = np.where(v > 216 / 24389, np.cbrt(v), (24389 / 27 * v + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISIONS)
def test_eight_experts_can_be_told_apart_by_every_kind_of_colour_vision(vision):
    seen = [lab(np.clip(VISIONS[vision] @ linear(expert_colour(e)), 0, 1)) for e in range(8)]
    for a, b in itertools.combinations(range(8), 2):
        difference = float(np.linalg.norm(seen[a] - seen[b]))
        assert difference >= 10, f"experts {a} and {b}: delta E {difference:.1f}"


@pytest.mark.parametrize("vision", VISIONS)
def test_heat_grows_lighter_for_every_kind_of_colour_vision(vision):
    lightness = [lab(np.clip(VISIONS[vision] @ linear(c), 0, 1))[0] for c in HEAT[::8]]
    assert (np.diff(lightness) > 0).all()


def test_ink_reads_on_every_colour():
    for colour in (*OKABE_ITO, *HEAT, heat_colour(float("nan"))):
        a, b = sorted((luminance(colour), luminance(ink_on(colour))))
        assert (b + 0.05) / (a + 0.05) >= 4.5, colour


def test_beyond_eight_experts_colours_come_again_with_a_hatch_and_the_number():
    assert [expert_colour(e) for e in range(8, 16)] == [expert_colour(e) for e in range(8)]
    for experts, hatched in ((8, 0), (9, 1), (40, 32)):
        root = parse(load_bars(np.ones((1, experts)), (0,)))
        fills = [r for r in root.iter(SVG + "rect") if r.get("fill") == "url(#mv-hatch)"]
        assert len(fills) == hatched
        assert (root.find(f"{SVG}defs/{SVG}pattern") is not None) == bool(hatched)
        assert {str(e) for e in range(experts)} <= set(texts(root))
    strip = make_trace(["a", "b", "c"], 40, 1)
    hatched = parse(token_strip(strip, 0)).findall(f".//{SVG}g/{SVG}rect")
    assert len(hatched) == int((strip.expert[:, 0, 0] >= 8).sum()) > 0


def pixel(image, column, row):
    return "#" + "".join(f"{v:02x}" for v in image.getpixel((column, row)))


def test_a_heat_image_has_a_pixel_for_every_value_in_its_colour():
    share = np.array([[0.0, 0.25, 1.0], [2.0, -1.0, np.nan]])
    svg = Svg(30, 20, "Heat", "Six values.")
    svg.heat(0, 0, 30, 20, share)
    (image,) = ElementTree.fromstring(svg.close()).iter(SVG + "image")
    data = base64.b64decode(image.get("href").removeprefix("data:image/png;base64,"))
    decoded = Image.open(io.BytesIO(data))
    assert decoded.size == (3, 2) and decoded.mode == "RGB"
    found = [pixel(decoded, c, r) for r in (0, 1) for c in range(3)]
    levels = [0, 64, 255, 255, 0, 128]
    assert found == [HEAT[level] for level in levels]


def test_the_heat_of_a_race_is_its_load():
    moe = learner("MoE", 60, 8)
    images = list(parse(race([learner("dense", 60), moe], "step")).iter(SVG + "image"))
    data = base64.b64decode(images[0].get("href").split(",", 1)[1])
    decoded = Image.open(io.BytesIO(data))
    assert decoded.size == (60, 8)
    # Three times an even share is the top of the scale; the last column is the last point.
    wanted = [HEAT[round(min(v * 8 / 3, 1) * 255)] for v in moe.curve.load[-1, -1]]
    assert [pixel(decoded, 59, e) for e in range(8)] == wanted


# The kit.


def test_logarithmic_axes():
    scale = LogScale(1, 1000, 0, 300)
    assert [scale(v) for v in (1, 10, 1000)] == pytest.approx([0, 100, 300])
    assert scale.ticks() == [1, 10, 100, 1000]
    assert decades([0.3, 20]) == (0.1, 100) and decades([10, 10]) == (10, 100)
    assert [short(v) for v in (0.1, 64, 1024, 10_000, 1e6)] == ["0.1", "64", "1,024", "10 k", "1 M"]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 600), (-0.02, 0.03), (0, 1.3e15), (2.1, 2.1000001), (5, 5)]
)
def test_ticks_are_round_and_inside(low, high):
    ticks = Scale(low, high, 0, 100).ticks()
    assert 1 <= len(ticks) <= 12
    span = high - low
    assert all(low - 1e-6 * span <= t <= high + 1e-6 * span for t in ticks)


def test_numbers_are_short_and_stable():
    written = [kit.number(v) for v in (0, 1, 1.5, 1.005, -0.001, 100, 10.10)]
    assert written[:3] == ["0", "1", "1.5"] and written[5:] == ["100", "10.1"]
    assert [kit.si(v, "FLOP") for v in (0, 999, 1.23e12, 2e15)] == [
        "0 FLOP", "999 FLOP", "1.23 TFLOP", "2 PFLOP",
    ]  # fmt: skip
