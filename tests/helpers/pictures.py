"""What the tests of pictures share: reading an SVG back, and the width of its text."""

import functools
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
from PIL import ImageFont

from moeviz.pictures.svg import MONO

SVG = "{http://www.w3.org/2000/svg}"


def parse(picture):
    return ElementTree.fromstring(picture.svg)


def texts(root):
    return [t.text or "" for t in root.iter(f"{SVG}text")]


def text_size(text):
    return float(re.search(r"(?:^|;)font:(?:600 )?([\d.]+)px ", text.get("style"))[1])


@functools.cache
def _font(kind, size):
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"DejaVuSans{kind}.ttf", size)


@functools.cache
def _length(kind, size, text):
    return _font(kind, size).getlength(text)


def extent(text):
    """Left and right end of a text, in the fonts of the still pictures, wider than most."""
    style = text.get("style")
    kind = ("Mono" if MONO in style else "") + ("-Bold" if "600" in style else "")
    width = _length(kind, text_size(text), text.text or "")
    anchor = (re.search("text-anchor:(\\w+)", style) or ["", "start"])[1]
    left = float(text.get("x")) - width * {"start": 0, "middle": 0.5, "end": 1}[anchor]
    return left, left + width
