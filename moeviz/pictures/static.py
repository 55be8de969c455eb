"""Our SVG as PNG: the picture that stands in a notebook where no kernel runs."""

from __future__ import annotations

import base64
import io
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from moeviz.pictures.svg import Picture

# Set by the builder of the notebooks.
STATIC = "MOEVIZ_STATIC"

# A variable whose fallback holds no other.
INNERMOST = re.compile(r"var\(\s*--[\w-]+\s*,\s*([^()]*)\)")
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
    """A PNG with a palette of 256 colours, a third of the bytes. Areas keep their colours, for the
    median cut gives each of them a place; only pixels on the edges of letters and lines shift."""
    palette = Image.open(io.BytesIO(image)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    data = io.BytesIO()
    palette.save(data, "PNG", optimize=True)
    return data.getvalue()


def png(svg: str) -> bytes:
    """Rasterise one SVG string on white, in its own size.

    1. every CSS variable `var(--name, fallback)` becomes its fallback, as no stylesheet is here
    2. text is set in the DejaVu fonts that matplotlib carries and in no font of the system, so
       that the same versions give the same bytes on every machine

    Raises ImportError without resvg-py, ValueError for a string that is no SVG.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError(
            "A picture becomes PNG with resvg-py, which is missing: run 'pip install resvg-py'."
        ) from error
    return resvg_py.svg_to_bytes(
        svg_string=plain(svg),
        background="#ffffff",
        skip_system_fonts=True,
        font_files=_fonts(),
        font_family="DejaVu Sans",
        sans_serif_family="DejaVu Sans",
        serif_family="DejaVu Sans",
        monospace_family="DejaVu Sans Mono",
    )


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
