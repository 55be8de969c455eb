"""The drawing kit: colours that everyone can tell apart, scales, numbers, and our SVG as PNG."""

import base64
import io
import itertools
import sys
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from helpers.picture_cases import CASES, judged_figure, make_trace
from helpers.pictures import SVG, marks, parse, tips
from helpers.sight import contrast, lightness, linear
from moeviz.pictures.axes import LogScale, Scale, decades, short
from moeviz.pictures.colours import OKABE_ITO, expert_colour, heat_colour, ink_on
from moeviz.pictures.over_seeds import gap_cell, gap_dots, told_gap
from moeviz.pictures.plot import Key, curve, spots
from moeviz.pictures.routing.tokens import SHOWN_EXPERTS, load_bars, token_strip
from moeviz.pictures.static import plain, png, smaller, standalone
from moeviz.pictures.svg import Svg, number, si

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
VISIONS = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
          [0.0193339, 0.1191920, 0.9503041]]  # fmt: skip
WHITE = [0.95047, 1.0, 1.08883]  # D65
HEAT = [heat_colour(i / 255) for i in range(256)]


def lab(colour, vision):
    """CIE L*a*b* of a colour as it is seen."""
    v = np.array(TO_XYZ) @ np.clip(VISIONS[vision] @ linear(colour), 0, 1) / WHITE
    f = np.where(v > 216 / 24389, np.cbrt(v), (24389 / 27 * v + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISIONS)
def test_every_kind_of_colour_vision_tells_experts_apart_and_sees_heat_grow_lighter(vision):
    seen = [lab(expert_colour(e), vision) for e in range(8)]
    for (a, first), (b, second) in itertools.combinations(enumerate(seen), 2):
        assert np.linalg.norm(first - second) >= 10, f"experts {a} and {b}"
    assert (np.diff([lab(c, vision)[0] for c in HEAT[::8]]) > 0).all()


def test_a_print_without_colours_tells_neighbours_among_experts_apart():
    seen = [lightness(expert_colour(e)) for e in range(8)]
    assert np.abs(np.diff(seen)).min() >= 14


def test_ink_reads_on_every_colour():
    for colour in (*OKABE_ITO, *HEAT, heat_colour(float("nan"))):
        assert contrast(colour, ink_on(colour)) >= 4.5, colour


def test_a_hatch_is_of_the_ink_that_reads_on_its_area_in_any_theme():
    svg = Svg(40, 20)
    for x, colour in ((0, "#ffffff"), (20, "#0072b2")):
        svg.hatch(x, 0, 20, 20, colour)
    picture = svg.picture((), ())
    inks = {p.get("id"): p[0].get("stroke") for p in marks(picture, "pattern")}
    fills = [m.get("fill").removeprefix("url(#")[:-1] for m in marks(picture, "rect")]
    assert [inks[name] for name in fills] == [ink_on("#ffffff"), ink_on("#0072b2")]
    assert len({*inks.values()}) == 2


def test_beyond_eight_experts_colours_come_again_with_a_hatch_and_the_number():
    assert [expert_colour(e) for e in range(8, 16)] == [expert_colour(e) for e in range(8)]
    trace = make_trace(["a", "b", "c"], 40, 1)
    listed = np.argsort(-trace.load()[0], kind="stable")[:SHOWN_EXPERTS]
    beyond = int((trace.expert[:, 0, 0] >= 8).sum()) + int((listed >= 8).sum())
    bars = [(load_bars(np.ones((1, e)), (0,)), max(e - 8, 0)) for e in (8, 9, 40)]
    for picture, count in [*bars, (token_strip(trace, 0), beyond)]:
        fills = [r.get("fill") for r in marks(picture, "rect")]
        assert sum("mv-hatch" in (fill or "") for fill in fills) == count
        assert bool(marks(picture, "pattern")) == bool(count)
    told = {tip.partition(":")[0] for tip in tips(bars[-1][0])}
    assert {f"layer 0, expert {e}" for e in range(40)} <= told


def test_every_hatched_picture_has_a_pattern_of_its_own():
    """JupyterLab leaves out what is off screen, and its patterns with it."""
    few, many = (load_bars(np.ones((1, e)), (0,)) for e in (9, 40))
    names, others = ({m.get("id") for m in marks(p, "pattern")} for p in (many, few))
    assert not names & others
    fills = {m.get("fill") for m in marks(many, "rect") if "url" in (m.get("fill") or "")}
    assert fills == {f"url(#{name})" for name in names}


def test_a_heat_image_has_a_pixel_for_every_value_in_its_colour():
    svg = Svg(30, 20, "Heat", "Six values.")
    svg.heat(0, 0, 30, 20, np.array([[0.0, 0.25, 1.0], [2.0, -1.0, np.nan]]))
    (image,) = marks(svg.picture((), ()), "image")
    data = base64.b64decode(image.get("href").removeprefix("data:image/png;base64,"))
    decoded = Image.open(io.BytesIO(data))
    assert decoded.size == (3, 2) and decoded.mode == "RGB"
    drawn = ["#" + bytes(pixel).hex() for pixel in np.asarray(decoded).reshape(-1, 3)]
    assert drawn == [HEAT[level] for level in (0, 64, 255, 255, 0, 128)]


# Scales and numbers.


def test_logarithmic_axes():
    scale = LogScale(1, 1000, 0, 300)
    assert [scale(v) for v in (1, 10, 1000)] == pytest.approx([0, 100, 300])
    assert scale.ticks() == [1, 10, 100, 1000]
    assert decades([0.3, 20]) == (0.1, 100) and decades([10, 10]) == (10, 100)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 600), (-0.02, 0.03), (0, 1.3e15), (2.1, 2.1000001), (5, 5)]
)
def test_ticks_are_round_and_inside(low, high):
    ticks = Scale(low, high, 0, 100).ticks()
    assert 1 <= len(ticks) <= 12
    margin = 1e-6 * (high - low)
    assert low - margin <= min(ticks) and max(ticks) <= high + margin


def test_numbers_are_short():
    assert [number(v) for v in (0, 1, 1.5, 100, 10.10)] == ["0", "1", "1.5", "100", "10.1"]
    flops = [si(v, "FLOP") for v in (0, 999, 999.7e9, 1.23e12, 2e15, 3e18)]
    assert flops == ["0 FLOP", "999 FLOP", "1 TFLOP", "1.23 TFLOP", "2 PFLOP", "3,000 PFLOP"]
    assert [short(v) for v in (0.1, 64, 1024, 10_000, 1e6)] == ["0.1", "64", "1,024", "10 k", "1 M"]


# Differences with a verdict.

GAPS = [
    (judged_figure(-0.2, -0.1, -0.3, verdict="lower"), "a ends 0.200 nats per token below b ("),
    (judged_figure(0.2, 0.1, 0.3, verdict="higher"), "a ends 0.200 nats per token above b ("),
    (judged_figure(0.2, -0.1, -0.1), "Whether a differs from b is open: the difference is +0.000"),
    (judged_figure(0.2), "Whether a differs from b is open: only one seed is recorded."),
]


@pytest.mark.parametrize(("gap", "words"), GAPS)
def test_a_verdict_is_told_with_its_interval_in_words_and_in_a_cell(gap, words):
    told, cell = told_gap("a", "b", gap), gap_cell(gap)
    assert told.lower().startswith(words.lower()) and cell.endswith(f", {gap['verdict']}")
    if gap["low"] is None:
        assert "(one seed)" in cell
    else:
        ends = f"{gap['low']:+z.3f} to {gap['high']:+z.3f})"
        assert f"95 % interval {ends}" in told and f"({ends}" in cell


@pytest.mark.parametrize(("gap", "words"), GAPS)
def test_a_verdict_is_drawn_as_a_shape_and_its_interval_as_a_bar(gap, words):
    svg = Svg(100, 20, "t", "d.")
    x = Scale(-1, 1, 0, 100)
    gap_dots(svg, x, 10, gap)
    picture = svg.picture(("a",), [])
    bar, *squares = marks(picture, "rect")
    ends = [gap["low"], gap["high"]] if gap["low"] is not None else [gap["mean"]] * 2
    drawn = [float(bar.get("x")), float(bar.get("x")) + float(bar.get("width"))]
    assert drawn == pytest.approx([min(max(x(end), 0), 100) for end in ends], abs=0.02)
    assert len(squares) == (gap["verdict"] == "higher")
    ring = marks(picture, "circle", "fill:none")
    assert len(ring) == (gap["verdict"] == "open")
    assert len(marks(picture, "line")) == len(gap["values"])


@pytest.mark.parametrize("count", [1, 25, 26, 400])
def test_a_curve_has_hover_text_at_so_many_points_as_a_hand_can_part(count):
    svg = Svg(400, 20, "t", "d.")
    spots(svg, ["a b"], [(i, 10) for i in range(count)], [f"point {i}" for i in range(count)])
    found = [t.text for t in marks(svg.picture(("a",), []), "title")]
    assert found[0] == f"point {count - 1}" and 1 <= len(found) <= 25
    gaps = np.diff([int(tip.split()[1]) for tip in found])
    assert len({*gaps.tolist()}) <= 1


def test_a_light_line_has_a_dark_edge():
    for colour in OKABE_ITO:
        svg = Svg(100, 20, "t", "d.")
        curve(svg, Scale(0, 1, 0, 100), Scale(0, 1, 0, 20), [(0, 0), (1, 1)], Key("a", colour))
        a, b = sorted(TO_XYZ[1] @ linear(c) for c in (colour, "#ffffff"))
        lines = marks(svg.picture(("a",), []), "polyline")
        assert len(lines) == 1 + ((b + 0.05) / (a + 0.05) < 2.5), colour


# PNG.


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("var( --a , red )", "red "),
        ("var(--a,var(--b,var(--c,#123)))", "#123"),
        ("calc(var(--a, 1px) + var(--b, 2px))", "calc(1px + 2px)"),
        ("f = var(x, 3)", "f = var(x, 3)"),
    ],
)
def test_variables_become_their_fallbacks(text, resolved):
    assert plain(text) == resolved


def test_no_picture_keeps_a_variable():
    for name in ("strip", "race by step", "dispatch, step 9", "recorded layer, experts"):
        assert "var(" not in plain(CASES[name]().svg)


def test_text_is_set_in_our_own_font_and_the_same_bytes_come_every_time():
    pytest.importorskip("resvg_py")
    svg = CASES["strip"]().svg
    assert png(svg) == png(svg) == png(svg.replace("sans-serif", "'Nowhere Sans'"))
    assert png(svg) != png(svg.replace("quoted", "edited"))
    with pytest.raises(ValueError):
        png("<p>no picture</p>")


def test_without_resvg_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ImportError, match="pip install resvg-py"):
        png("<svg/>")


def test_a_smaller_png_keeps_the_size_and_the_colours_of_areas():
    """256 bars of cividis and the eight experts' colours, with text over them."""
    pytest.importorskip("resvg_py")
    svg = Svg(640, 80, "t", "d")
    svg.heat(0, 0, 512, 20, np.linspace(0, 1, 200)[None])
    for expert in range(8):
        svg.rect(60 * expert, 30, 60, 20, expert_colour(expert))
        svg.text(60 * expert, 70, f"expert {expert}")
    large = png(svg.picture((), ()).svg)
    small = smaller(large)
    assert len(small) < len(large) and smaller(large) == small
    before, after = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        for data in (large, small)
    )
    assert before.shape == (80, 640, 3)
    areas = before[:50].reshape(-1, 3)  # above the text
    colours, count = np.unique(areas, axis=0, return_counts=True)
    assert (count > 30).sum() > 100
    for colour in colours[count > 30]:
        assert np.abs(after[(before == colour).all(-1)] - colour).max() <= 2


def test_a_smaller_png_of_letters_differs_too_little_to_be_seen_and_saves_a_tenth():
    pytest.importorskip("resvg_py")
    large = png(CASES["strip"]().svg)
    before = Image.open(io.BytesIO(large)).convert("RGB")
    palette = io.BytesIO()
    before.quantize(256, dither=Image.Dither.NONE).save(palette, "PNG", optimize=True)
    small = smaller(large)
    assert len(small) < 0.9 * len(palette.getvalue())
    after = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).astype(int)
    assert np.abs(after - np.asarray(before)).max() <= 20
    grey = np.ptp(np.asarray(before), axis=-1) <= 12
    assert np.ptp(after[grey], axis=-1).max() <= 16  # it becomes no tint


# Things and parts.


def test_a_thing_is_named_by_its_kin_and_pressed_by_the_values_that_it_sets():
    svg = Svg(100, 40, "t", "d.")
    for layer in (1, 2):
        with svg.thing("layer 1", 'e"5', tip="a < b", press={"layer": layer, "text": "a&b = c"}):
            svg.rect(0, 0, 10, 10, "#000000")
    svg.rect(20, 0, 10, 10, "#000000")
    picture = svg.picture((), ())
    first, second = parse(picture).findall(".//*[@data-press]")
    assert first.get("data-kin") == 'layer_1 e"5'
    assert first.findtext(SVG + "title") == first.get("aria-label") == "a < b"
    assert dict(parse_qsl(second.get("data-press"))) == {"layer": "2", "text": "a&b = c"}
    assert [len(mark.findall(SVG + "rect")) for mark in (first, second)] == [1, 1]


def test_parts_stand_beside_each_other_alone_too_as_far_as_there_is_room():
    svg = Svg(600, 100, "t", "d.")
    for width, height in ((300, 150), (200, 40)):
        svg.beside(width, height).rect(0, 0, width, height, "#ff0000")
    alone = ElementTree.fromstring(standalone(svg.picture((), ()).svg))
    places = [(part.get("x"), part.get("y")) for part in alone]
    assert places == [("0", "0"), ("624", "0"), ("0", "150")]
    assert (alone.get("width"), alone.get("height")) == ("924", "190")
    with pytest.raises(ValueError, match="Expected the SVG of a picture"):
        standalone("<p>no picture</p>")
