"""Our SVG as PNG: the picture that stands in a notebook where no kernel runs."""

from __future__ import annotations

import base64
import io
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from moeviz.pictures.svg import Picture

# Set by the builder of the notebooks.
STATIC = "MOEVIZ_STATIC"

OPENING = re.compile(r"var\(\s*(--[\w-]+)\s*")
FONT_FILES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
)


def with_still(picture: Picture | None, bundle: dict[str, Any]) -> dict[str, Any]:
    """A mime bundle with, while notebooks are built, a PNG beside it: what a reader without a
    kernel sees."""
    if picture is not None and os.environ.get(STATIC):
        bundle["image/png"] = base64.b64encode(smaller(png(picture.svg))).decode()
    return bundle


def smaller(image: bytes) -> bytes:
    """A PNG with a palette of 256 colours, a third of the bytes. Areas keep their colours, for the
    median cut gives each of them a place; only pixels on the edges of letters and lines shift."""
    from PIL import Image

    palette = Image.open(io.BytesIO(image)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    data = io.BytesIO()
    palette.save(data, "PNG", optimize=True)
    return data.getvalue()


def png(svg: str, width: int | None = None) -> bytes:
    """Rasterise one SVG string on white, in its own size or scaled to `width` pixels.

    1. every CSS variable `var(--name, fallback)` becomes its fallback, as no stylesheet is here
    2. text is set in the DejaVu fonts that matplotlib carries and in no font of the system, so
       that the same versions give the same bytes on every machine

    Raises ImportError without resvg-py, ValueError for a variable without a fallback or a string
    that is no SVG.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError(
            "A picture becomes PNG with resvg-py, which is missing: run 'pip install resvg-py'."
        ) from error
    return resvg_py.svg_to_bytes(
        svg_string=plain(svg),
        width=width,
        background="#ffffff",
        skip_system_fonts=True,
        font_files=list(_fonts()),
        font_family="DejaVu Sans",
        sans_serif_family="DejaVu Sans",
        serif_family="DejaVu Sans",
        monospace_family="DejaVu Sans Mono",
    )


def plain(svg: str) -> str:
    """The SVG with every `var(--name, fallback)`, nested or not, replaced by its fallback."""
    # The last opening has no other inside it, so working from the end needs no nesting.
    for opening in reversed(list(OPENING.finditer(svg))):
        end = _closing(svg, opening.end())
        if svg[opening.end()] != ",":
            raise ValueError(
                f"The CSS variable {opening.group(1)} has no fallback, which a still picture needs."
            )
        fallback = svg[opening.end() + 1 : end].strip()
        svg = svg[: opening.start()] + fallback + svg[end + 1 :]
    return svg


def _closing(text: str, position: int) -> int:
    """Index of the parenthesis that closes the one opened before `position`."""
    depth = 1
    for index in range(position, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"A parenthesis is never closed in {text[position - 20 : position + 20]!r}.")


@cache
def _fonts() -> tuple[str, ...]:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return tuple(str(folder / name) for name in FONT_FILES)
