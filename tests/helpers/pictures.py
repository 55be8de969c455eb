"""What the tests of pictures share: reading a picture back, and the width of its text."""

import functools
import re
from pathlib import Path
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import matplotlib
import numpy as np
from PIL import ImageFont

from moeviz.pictures.svg import MONO, SMALLEST

SVG = "{http://www.w3.org/2000/svg}"


def parse(picture):
    return ElementTree.fromstring(picture.svg)


def marks(picture, shape, style="", tip=""):
    """All marks of a shape with this in their style and at the beginning of their tip."""
    return [
        m for m in parse(picture).iter(SVG + shape)
        if style in m.get("style", "") and m.findtext(SVG + "title", "").startswith(tip)
    ]  # fmt: skip


def texts(picture, style=""):
    return [m.text for m in marks(picture, "text", style)]


def tips(picture):
    return [m.text for m in marks(picture, "title")]


def things(picture, name):
    """The marks of each thing that belongs to this name."""
    return [g for g in parse(picture).iter(SVG + "g") if name in g.get("data-kin", "").split()]


def presses(picture):
    """(tip, what it sets) of each mark that can be pressed."""
    found = parse(picture).iterfind(".//*[@data-press]")
    return [(m.get("aria-label"), dict(parse_qsl(m.get("data-press")))) for m in found]


def values(found, attribute):
    """A number of each mark."""
    return np.array([float(m.get(attribute)) for m in found])


def corners(mark):
    """The points of a line or an area, [N, 2]."""
    return np.array([[float(v) for v in p.split(",")] for p in mark.get("points").split()])


def table(picture, *columns):
    """Columns of the table twin as numbers, [rows, columns]."""
    places = [picture.columns.index(name) for name in columns]
    return np.array([[float(row[place]) for place in places] for row in picture.rows])


def text_size(text):
    font = re.search(r"(?:^|;)font:(?:600 )?([\d.]+)px ", text.get("style", ""))
    return float(font[1]) if font else SMALLEST


@functools.cache
def _font(kind, size):
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"DejaVuSans{kind}.ttf", size)


@functools.cache
def text_length(text, size, kind=""):
    """Pixels of a text in the font of the still pictures. kind: of it, as in its file's name."""
    return _font(kind, size).getlength(text)


def extent(text):
    """Left and right end of a text, in the fonts of the still pictures, wider than most."""
    style = text.get("style", "")
    kind = ("Mono" if MONO in style else "") + ("-Bold" if "600" in style else "")
    width = text_length(text.text or "", text_size(text), kind)
    anchor = (re.search("text-anchor:(\\w+)", style) or ["", "start"])[1]
    left = float(text.get("x")) - width * {"start": 0, "middle": 0.5, "end": 1}[anchor]
    return left, left + width
