"""The drawing kit of every picture: marks, things, the theme, and the Picture they end in.

A picture is a string and the same input gives the same string. Colours of text and lines follow
the notebook's theme through CSS variables, so one SVG reads well in light and dark. Marks between
`with svg.thing(…)` stand for one thing; what it does under a hand is hand.js's.
"""

from __future__ import annotations

import base64
import io
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from urllib.parse import urlencode

import numpy as np
from PIL import Image

from moeviz.glossary import meaning
from moeviz.pictures.colours import hatch_of, hatch_on, heat_table

# The theme's colours on a page, with what stands where there is no theme.
PAGE_INK = (
    "var(--jp-ui-font-color1, var(--colab-primary-text-color, var(--vscode-foreground, #1f2328)))"
)
PAGE_MUTED = (
    "var(--jp-ui-font-color2, var(--colab-primary-text-color, var(--vscode-foreground, #59636e)))"
)
PAGE_RULE = (
    "var(--jp-border-color1, var(--colab-border-color, var(--vscode-panel-border, #b6bec8)))"
)
PAGE_GROUND = (
    "var(--jp-layout-color0, var(--colab-primary-surface-color, "
    "var(--vscode-editor-background, #ffffff)))"
)
# In a picture nearly every mark needs one of them, so they stand once, on its root, under a short
# name: half the string to send and to parse at each move of a slider.
ROOT_STYLE = (
    f"--i:{PAGE_INK};--m:{PAGE_MUTED};--r:{PAGE_RULE};"
    "--s:system-ui, 'DejaVu Sans', sans-serif;--t:'DejaVu Sans Mono', Menlo, Consolas, monospace;"
)
INK, MUTED, RULE = "var(--i,#1f2328)", "var(--m,#59636e)", "var(--r,#b6bec8)"
SANS, MONO = "var(--s,sans-serif)", "var(--t,monospace)"

SMALLEST = 12
# In a narrower place a part shrinks until its smallest text is of so many pixels, and then scrolls.
LEAST_ON_PAGE = 9
# What most texts are: said once for all of a part.
COMMON_FILL, COMMON_FONT = INK, f"{SMALLEST}px {SANS}"
Points = Sequence[tuple[float, float]]
NO_STATE = 'data-state=""'


# How the parts of a picture stand on a page: beside each other while there is room, then below each
# other, each in its own size, so that text keeps its size too.
PARTS_STYLE = "display:flex;flex-wrap:wrap;align-items:flex-start;column-gap:24px;overflow-x:auto;"


@dataclass(frozen=True)
class Picture:
    """An SVG, or several in a row that wraps, what it says in one sentence, and the same content
    as a table."""

    svg: str
    summary: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]

    def at(self, state: str) -> Picture:
        """The same with a panel's state on its root, for tests and exports; once is enough."""
        root = f'data-state="{escape(state)}"'
        return replace(self, svg=self.svg.replace(NO_STATE, root, 1))


def text_width(text: str, size: float) -> float:
    """Width in pixels of monospaced text; East Asian wide characters count twice."""
    cells = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return 0.605 * size * cells


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def number(value: float) -> str:
    """A coordinate: two decimals at most, so that the string is short and stable."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"


def si(value: float, unit: str) -> str:
    """1.23e12, "FLOP" -> "1.2 TFLOP"."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{three(value / factor)} {prefix}{unit}"
    return f"{three(value)} {unit}"


def three(value: float) -> str:
    """Three figures, never in powers of ten."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


class Svg:
    """Collects marks and closes them into one picture: of one <svg>, or with parts `beside` it."""

    def __init__(self, width: float, height: float, title: str = "", description: str = "") -> None:
        self.width, self.height = width, height
        self.title, self.description = title, description
        self._marks: list[str] = []
        self._parts = [self]
        self._pressable = False

    def beside(self, width: float, height: float) -> Svg:
        """A further part of this picture, with coordinates of its own."""
        part = Svg(width, height)
        self._parts.append(part)
        return part

    @contextmanager
    def thing(
        self,
        *kin: str,
        tip: str = "",
        press: Mapping[str, object] | None = None,
        drag: bool = False,
    ) -> Iterator[None]:
        """The marks drawn within stand for one thing, as a token or an expert.

        kin: names, first its own ("t3"), then those that it belongs to ("e5"). Under the pointer or
        the keyboard's focus all things with its own name, in all parts, are lit. tip: its hover
        text. press: values of the panel's controls that a click on it sets; with drag also a
        pointer that is moved over it while held. Things do not nest.
        """
        names = " ".join(name.replace(" ", "_") for name in kin)
        attributes = f' class="k" data-kin="{escape(names)}"' if kin else ""
        if press:
            # Tab goes to the first, arrow keys from there to the others.
            first = "-1" if self._pressable else "0"
            self._pressable = True
            attributes += (
                f' role="button" tabindex="{first}" aria-label="{escape(tip)}" '
                f'data-press="{escape(urlencode(press))}"'
            )
        if drag:
            attributes += ' data-drag=""'
        self._marks.append(f"<g{attributes}>")
        if tip:
            self._marks.append(f"<title>{escape(tip)}</title>")
        yield
        self._marks.append("</g>")

    @contextmanager
    def arriving(self, dx: float, dy: float) -> Iterator[None]:
        """What is drawn within comes from so far away once its picture is on the page; where no
        motion is wanted it stands in its place at once."""
        self._marks.append(f'<g class="a" style="--x:{number(dx)}px;--y:{number(dy)}px">')
        yield
        self._marks.append("</g>")

    @contextmanager
    def fading(self) -> Iterator[None]:
        """What is drawn within fades in once its picture is on the page, over what lies below it;
        where no motion is wanted it is there at once."""
        self._marks.append('<g class="f">')
        yield
        self._marks.append("</g>")

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str, *,
        stroke: str = "none", radius: float = 0, opacity: float = 1, tip: str = "",
        stroke_width: float = 1,
    ) -> None:  # fmt: skip
        edge = None if stroke == "none" or stroke_width == 1 else number(stroke_width)
        self._mark(
            "rect", f"<title>{escape(tip)}</title>" if tip else "",
            _style(fill=fill, stroke=stroke, stroke_width=edge, opacity=_opacity(opacity)),
            x=x, y=y, width=max(width, 0), height=max(height, 0), rx=radius or None,
        )  # fmt: skip

    def text(
        self, x: float, y: float, text: str, *, size: float = SMALLEST, fill: str = INK,
        anchor: str = "start", mono: bool = False, bold: bool = False, rotate: float = 0,
        halo: bool = False,
    ) -> None:  # fmt: skip
        """Nothing where there are no words; a word of the glossary has hover text. halo: a rim in
        the page's colour, for words that lines run through."""
        font = f"{'600 ' if bold else ''}{number(size)}px {MONO if mono else SANS}"
        rim = dict(paint_order="stroke", stroke=PAGE_GROUND, stroke_width="4") if halo else {}
        style = _style(
            fill=None if fill == COMMON_FILL else fill,
            font=None if font == COMMON_FONT else font,
            text_anchor=None if anchor == "start" else anchor,
            **rim,
        )
        if rotate:
            style += f' transform="rotate({number(rotate)} {number(x)} {number(y)})"'
        if text:
            words = meaning(text)
            tip = f"<title>{escape(words)}</title>" if words else ""
            self._mark("text", f"{escape(text)}{tip}", style, x=x, y=y)

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *,
        stroke: str = RULE, width: float = 1, dash: str = "",
    ) -> None:  # fmt: skip
        style = _style(stroke=stroke, stroke_width=number(width), stroke_dasharray=dash or None)
        self._mark("line", "", style, x1=x1, y1=y1, x2=x2, y2=y2)

    def polyline(
        self, points: Points, *, stroke: str, width: float = 2, opacity: float = 1, dash: str = ""
    ) -> None:
        style = _style(
            fill="none", stroke=stroke, stroke_width=number(width), stroke_linejoin="round",
            stroke_dasharray=dash or None, opacity=_opacity(opacity),
        )  # fmt: skip
        self._mark("polyline", "", style, points=_path(points))

    def polygon(
        self, points: Points, *, fill: str, opacity: float = 1, stroke: str | None = None
    ) -> None:
        style = _style(fill=fill, stroke=stroke, opacity=_opacity(opacity))
        self._mark("polygon", "", style, points=_path(points))

    def circle(self, x: float, y: float, radius: float, fill: str, *, stroke: str = "none") -> None:
        self._mark("circle", "", _style(fill=fill, stroke=stroke), cx=x, cy=y, r=radius)

    def hatch(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        """Diagonal lines over a rectangle: what sets expert 8 apart from expert 0."""
        shape = dict(x=x, y=y, width=max(width, 0), height=max(height, 0))
        self._mark("rect", "", f' fill="{hatch_on(fill)}"', **shape)

    def heat(self, x: float, y: float, width: float, height: float, share_RC: np.ndarray) -> None:
        """A matrix [rows, columns] of shares 0..1 as one cividis image: light where marks of its
        own for every cell would be thousands."""
        level_RC = (np.nan_to_num(share_RC, nan=0.5).clip(0, 1) * 255).round().astype(np.uint8)
        image = io.BytesIO()
        Image.fromarray(heat_table()[level_RC]).save(image, "PNG")
        data = base64.b64encode(image.getvalue()).decode()
        style = (
            ' preserveAspectRatio="none" image-rendering="optimizeSpeed" '
            f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"'
        )
        self._mark("image", "", style, x=x, y=y, width=width, height=height)

    def _mark(self, tag: str, inside: str, style: str, **shape: float | str | None) -> None:
        for name, value in shape.items():
            if value is not None:
                tag += f' {name}="{value if isinstance(value, str) else number(value)}"'
        end = f">{inside}</{tag.partition(' ')[0]}>" if inside else "/>"
        self._marks.append(f"<{tag}{style}{end}")

    def picture(self, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Picture:
        """The finished picture with its table twin."""
        # What an image holds cannot be pressed: a picture with buttons is a group.
        role = "group" if any(part._pressable for part in self._parts) else "img"
        html = (
            f'<div class="mv" role="{role}" tabindex="0" '
            f'aria-label="{escape(self.title)}. {escape(self.description)}" '
            f'style="{ROOT_STYLE}{PARTS_STYLE}" data-lm-suppress-shortcuts="" {NO_STATE}>'
            f"{''.join(part._svg() for part in self._parts)}</div>"
        )
        return Picture(html, self.description, columns, tuple(rows))

    def _svg(self) -> str:
        marks = "".join(self._marks)
        # Of its own: a page that leaves out what is off screen leaves out its patterns too.
        own = f"{zlib.crc32(marks.encode()):08x}"
        hatch = ""
        for ink in ("#000000", "#ffffff"):
            name = f"mv-hatch-{own}{ink[1]}"
            if (wanted := hatch_of(ink)) in marks:
                marks = marks.replace(wanted, f"url(#{name})")
                hatch += (
                    f'<defs><pattern id="{name}" width="6" height="6" '
                    'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
                    f'<line x1="0" y1="0" x2="0" y2="6" stroke="{ink}" stroke-width="1.5" '
                    'stroke-opacity="0.55"/></pattern></defs>'
                )
        size = f"{number(self.width)} {number(self.height)}"
        least = self.width * LEAST_ON_PAGE / SMALLEST
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" '
            f'width="{number(self.width)}" height="{number(self.height)}" '
            f'style="flex:none;height:auto;max-width:100%;min-width:{number(least)}px;'
            f'fill:{COMMON_FILL};font:{COMMON_FONT}">{hatch}{marks}</svg>'
        )


def _path(points: Points) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in points)


def _opacity(value: float) -> str | None:
    return None if value == 1 else number(value)


def _style(**values: str | None) -> str:
    pairs = [
        f"{name.replace('_', '-')}:{value}"
        for name, value in values.items()
        if value is not None and (name, value) != ("stroke", "none")  # as it is without
    ]
    return f' style="{";".join(pairs)}"' if pairs else ""
