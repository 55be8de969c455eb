"""SVG to PNG: variables resolved, own fonts only, the same bytes every time."""

import importlib.util
import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from moeviz.pictures.static import plain, png, smaller
from moeviz.pictures.svg import Svg, expert_colour

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="60" height="20" viewBox="0 0 60 20">'
    '<rect width="20" height="20" fill="var(--a, var(--b, rgb(200, 30, 60)))"/>'
    '<text x="22" y="15" font-family="var(--font, system-ui, sans-serif)">Ab→</text></svg>'
)
needs_resvg = pytest.mark.skipif(
    importlib.util.find_spec("resvg_py") is None, reason="resvg-py is not installed"
)


def size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("var(--a, red)", "red"),
        ("var( --a , red )", "red"),
        ("var(--a,var(--b,var(--c,#123)))", "#123"),
        ("var(--a, rgb(1, 2, 3)) var(--b, url(#x))", "rgb(1, 2, 3) url(#x)"),
        ("calc(var(--a, 1px) + var(--b, 2px))", "calc(1px + 2px)"),
        ("var(--a,)", ""),
        ("f = var(x, 3)", "f = var(x, 3)"),
        ("no variable", "no variable"),
    ],
)
def test_variables_become_their_fallbacks(text, expected):
    assert plain(text) == expected


def test_a_variable_without_fallback_is_named():
    with pytest.raises(ValueError, match=r"--jp-ui has no fallback"):
        plain('<rect fill="var(--jp-ui)"/>')


def test_an_open_parenthesis_is_shown():
    with pytest.raises(ValueError, match="never closed"):
        plain('<rect fill="var(--a, red"/>')


@needs_resvg
def test_the_size_is_the_svgs_own_or_the_width_asked_for():
    assert size(png(SVG)) == (60, 20)
    assert size(png(SVG, width=180)) == (180, 60)


@needs_resvg
def test_the_same_bytes_every_time_and_text_is_drawn():
    assert png(SVG) == png(SVG)
    assert png(SVG) != png(SVG.replace("Ab→", ""))


@needs_resvg
def test_unknown_font_families_fall_back_to_our_own_font():
    assert png(SVG.replace("system-ui, sans-serif", "Nowhere Sans")) == png(SVG)


@needs_resvg
def test_what_is_no_svg_is_refused():
    with pytest.raises(ValueError):
        png("<p>no picture</p>")


def test_without_resvg_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ImportError, match="pip install resvg-py"):
        png(SVG)


@needs_resvg
def test_a_smaller_png_keeps_the_colours_of_areas():
    """256 bars of cividis and the eight experts' colours, with text over them."""
    svg = Svg(640, 80, "t", "d")
    svg.heat(0, 0, 512, 20, np.linspace(0, 1, 200)[None])
    for expert in range(8):
        svg.rect(60 * expert, 30, 60, 20, expert_colour(expert))
        svg.text(60 * expert, 70, f"expert {expert}")
    large = png(svg.close())
    small = smaller(large)
    assert len(small) < len(large)
    before, after = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        for data in (large, small)
    )
    colours, count = np.unique(before.reshape(-1, 3), axis=0, return_counts=True)
    for colour in colours[count > 150]:
        assert np.abs(after[(before == colour).all(-1)] - colour).max() <= 2
    assert smaller(large) == small
