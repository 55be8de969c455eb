"""A picture as one SVG of its own, and as PNG: what stands in a notebook where no kernel runs."""

from __future__ import annotations

import base64
import io
import os
import re
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from moeviz.pictures.svg import Picture, number

# Set by the builder of the notebooks.
STATIC = "MOEVIZ_STATIC"

SVG = "http://www.w3.org/2000/svg"
# Parts stand beside each other up to this width, in pixels, with this much air.
SHEET, AIR = 980, 24
# A variable whose fallback holds no other.
INNERMOST = re.compile(r"var\(\s*--[\w-]+\s*,\s*([^()]*)\)")
# On the edges of letters and lines: values of green, and how fine red and blue follow it.
SHADES, TINT = 10, 8
FONT_KINDS = ("", "-Bold", "Mono", "Mono-Bold")


def stills_wanted() -> bool:
    """Whether what is displayed is kept for readers without a kernel."""
    return bool(os.environ.get(STATIC))


def with_still(picture: Picture | None, bundle: dict[str, Any]) -> dict[str, Any]:
    """A mime bundle with, while notebooks are built, a PNG beside it: what a reader without a
    kernel sees."""
    if picture is not None and stills_wanted():
        bundle["image/png"] = base64.b64encode(smaller(png(picture.svg))).decode()
    return bundle


def smaller(image: bytes) -> bytes:
    """A PNG with a palette of at most 256 colours, a third of the bytes. Areas keep their
    colours. The other pixels, on the edges of letters and lines, take one of SHADES values of green
    and keep their hue: the eye sees no difference, and a file that repeats itself more is
    smaller."""
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    rgb_HW3 = np.asarray(picture).astype(int)
    green_HW1, step = rgb_HW3[..., 1:2], 255 / (SHADES - 1)
    tint_HW3 = (rgb_HW3 - green_HW1) / TINT
    coarse_HW3 = np.rint(np.rint(green_HW1 / step) * step) + np.rint(tint_HW3) * TINT
    kept_HW1 = _in_colours_of_areas(rgb_HW3)[..., None]
    pixels_HW3 = np.where(kept_HW1, rgb_HW3, coarse_HW3.clip(0, 255)).astype(np.uint8)
    pixels = Image.fromarray(pixels_HW3)
    if pixels.getcolors(256) is None:  # a heat map: the median cut chooses better among its own
        pixels = picture
    data = io.BytesIO()
    pixels.quantize(256, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    return data.getvalue()


def _in_colours_of_areas(rgb_HW3: np.ndarray) -> np.ndarray:
    """Where a pixel has the colour of an area, bool [H, W]: a colour that stands somewhere three
    times in a corner."""
    colour_HW = rgb_HW3 @ np.array([1 << 16, 1 << 8, 1])
    here = colour_HW[:-1, :-1]
    corner = (here == colour_HW[1:, :-1]) & (here == colour_HW[:-1, 1:])
    return np.isin(colour_HW, here[corner])


def png(svg: str) -> bytes:
    """Rasterise a picture's string on white, in its own size.

    Text is set in the DejaVu fonts that matplotlib carries and in no font of the system, so that
    the same versions give the same bytes on every machine.

    Raises ImportError without resvg-py, ValueError for a string that is no picture.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError(
            "A picture becomes PNG with resvg-py, which is missing: run 'pip install resvg-py'."
        ) from error
    return resvg_py.svg_to_bytes(
        svg_string=standalone(svg),
        background="#ffffff",
        skip_system_fonts=True,
        font_files=_fonts(),
        font_family="DejaVu Sans",
        sans_serif_family="DejaVu Sans",
        serif_family="DejaVu Sans",
        monospace_family="DejaVu Sans Mono",
    )


def standalone(svg: str) -> str:
    """A picture's string as one <svg> that needs no page around it: its parts beside each other as
    far as there is room, and no CSS variables. ValueError for a string that is no picture."""
    ElementTree.register_namespace("", SVG)
    try:
        parts = list(ElementTree.fromstring(plain(svg)).iter(f"{{{SVG}}}svg"))
    except ElementTree.ParseError:
        parts = []
    if not parts:
        raise ValueError(f"Expected the SVG of a picture, got '{svg[:40]}'.")
    x, y, width, height = 0.0, 0.0, 0.0, 0.0
    for part in parts:
        wide, high = float(part.get("width", 0)), float(part.get("height", 0))
        if x and x + wide > SHEET:
            x, y = 0.0, height
        part.set("x", number(x))
        part.set("y", number(y))
        x += wide + AIR
        width, height = max(width, x - AIR), max(height, y + high)
    size = {"width": number(width), "height": number(height)}
    sheet = ElementTree.Element(f"{{{SVG}}}svg", size)
    sheet.extend(parts)
    return ElementTree.tostring(sheet, encoding="unicode")


def plain(svg: str) -> str:
    """The SVG with every `var(--name, fallback)`, nested or not, replaced by its fallback."""
    count = 1
    while count:
        svg, count = INNERMOST.subn(r"\1", svg)
    return svg


@cache
def _fonts() -> list[str]:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [str(folder / f"DejaVuSans{kind}.ttf") for kind in FONT_KINDS]
