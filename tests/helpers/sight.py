"""Whether the eye finds what is drawn: contrast of texts and marks in both themes, and experts that
are told apart in grey."""

import re
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from helpers.pictures import SVG, corners, extent, text_size
from moeviz.pictures.colours import OKABE_ITO
from moeviz.pictures.svg import INK, RULE

# JupyterLab's colours for what a picture takes from the theme, and its ground.
THEMES = {
    "light": {"--i": "#212121", "--m": "#616161", "--r": "#bdbdbd", "ground": "#ffffff"},
    "dark": {"--i": "#ffffff", "--m": "#b8b8b8", "--r": "#616161", "ground": "#111111"},
}
TEXT, MARK, GREY = 4.5, 3.0, 9.0  # the least contrasts, and the least distance of lightness
IMAGE = "image"  # the fill of one: of all colours
CLOSED, LINES = ("rect", "circle", "polygon", "image"), ("line", "polyline")


def linear(colour):
    v = np.array(list(bytes.fromhex(colour[1:]))) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


@cache
def luminance(colour):
    return float([0.2126729, 0.7151522, 0.0721750] @ linear(colour))


@cache
def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@cache
def lightness(colour):
    """L* of CIE, 0 to 100: what a print without colours shows."""
    y = luminance(colour)
    return 116 * np.cbrt(y) - 16 if y > 216 / 24389 else 24389 / 27 * y


class Mark(NamedTuple):
    """A mark as it is painted. box: left, top, right, bottom; fill and stroke: as written, "" where
    there is none or where one sees through it."""

    kind: str
    box: tuple[float, float, float, float]
    fill: str
    stroke: str
    width: float
    text: str

    def holds(self, x, y):
        left, top, right, bottom = self.box
        return left <= x <= right and top <= y <= bottom

    @property
    def size(self):
        left, top, right, bottom = self.box
        return right - left, bottom - top

    @property
    def middle(self):
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


def _mark(element):
    kind = element.tag.removeprefix(SVG)
    style = dict(pair.split(":", 1) for pair in element.get("style", "").split(";") if ":" in pair)
    number = {name: float(element.get(name, 0)) for name in ("x", "y", "width", "height")}
    if kind == "text":
        (left, right), y = extent(element), number["y"]
        box = left, y - 9, right, y
        if "transform" in element.attrib:
            box = (number["x"], y, number["x"], y)
    elif kind in ("polygon", "polyline"):
        box = *corners(element).min(0), *corners(element).max(0)
    elif kind == "line":
        ends = [float(element.get(name)) for name in ("x1", "y1", "x2", "y2")]
        box = min(ends[::2]), min(ends[1::2]), max(ends[::2]), max(ends[1::2])
    elif kind == "circle":
        x, y, r = (float(element.get(name)) for name in ("cx", "cy", "r"))
        box = x - r, y - r, x + r, y + r
    else:
        box = number["x"], number["y"]
        box += box[0] + number["width"], box[1] + number["height"]
    fill = style.get("fill", element.get("fill", INK if kind == "text" else ""))
    stroke = style.get("stroke", "")
    seen = ["" if paint in ("none", "transparent") else paint for paint in (fill, stroke)]
    if kind == "image":
        seen = [IMAGE, ""]
    if "opacity" in style:
        seen = ["", ""]
    return Mark(kind, box, *seen, float(style.get("stroke-width", 1)), element.text or "")


def marks_of(part):
    """All marks of a part in the order in which they are painted."""
    return [_mark(e) for e in part.iter() if e.tag.removeprefix(SVG) in (*CLOSED, *LINES, "text")]


def _colour(paint, theme):
    """The colour of a paint, None where it has none of its own."""
    variable = re.match(r"var\((--\w)", paint)
    if variable:
        return THEMES[theme].get(variable[1])
    return paint if re.fullmatch("#[0-9a-f]{6}", paint) else None


def hard_to_see(marks):
    """In words, each text and each mark on the page that stands out too little in a theme.

    A mark is seen by its fill, its edge, a frame around it, a text in it, the hatch over it, or, of
    a line, the wider one below. Rules only help the eye and are left out, as what lies on an image.
    """
    told = {m.box for m in marks if m.fill.startswith("url")}  # hatched
    texts = [m.middle for m in marks if m.kind == "text"]
    wrong, solid, frames = [], [], []
    for mark in marks:
        x, y = mark.middle
        under = next((m for m in reversed(solid) if m.holds(x, y)), None)
        if mark.kind == "text":
            wrong += _pale_texts(mark, under)
            continue
        lost = not under and _is_lost(mark) and mark.box not in told
        if mark.kind in LINES:
            told |= set() if lost else {mark.box}
        else:
            lost = lost and not any(frame.holds(x, y) for frame in frames)
            lost = lost and not any(mark.holds(*text) for text in texts)
            frames += [mark] if _is_frame(mark) else []
            solid += [mark] if mark.fill and not mark.fill.startswith("url") else []
        if lost:
            wrong.append(f"{mark.kind} in {mark.fill or mark.stroke} on the page")
    return wrong


def _pale_texts(text, under):
    for theme, colours in THEMES.items():
        ground = _colour(under.fill, theme) if under else colours["ground"]
        if ground and contrast(_colour(text.fill, theme), ground) < TEXT:
            yield f"{theme}: text {text.text!r} in {text.fill} on {ground}"


def _is_frame(mark):
    hollow = mark.kind == "rect" and not mark.fill
    return hollow and mark.stroke not in ("", RULE) and _stands_out(mark.stroke)


def _is_lost(mark):
    """Whether nothing that it is painted with stands out from the page."""
    if mark.kind in CLOSED and (not mark.fill or min(mark.size) <= 1):
        return False  # an edge that holds nothing, or a hair
    paints = [paint for paint in (mark.fill, mark.stroke) if paint]
    return bool(paints) and not any(map(_stands_out, paints))


@cache
def _stands_out(paint):
    """In both themes; of a rule nobody asks it, and an image or a hatch has all colours."""
    if paint in (RULE, IMAGE) or paint.startswith("url"):
        return True
    grounds = [(_colour(paint, theme), colours["ground"]) for theme, colours in THEMES.items()]
    return all(contrast(*pair) >= MARK for pair in grounds)


def alike_in_grey(marks):
    """In words, each two marks beside each other in colours of their own that a print without
    colours makes one. What has a text of its own or is hatched is told by it."""
    hatched = {m.box for m in marks if m.fill.startswith("url")}
    texts = [m.middle for m in marks if m.kind == "text"]
    areas = [
        m for m in marks if m.kind == "rect" and m.fill in OKABE_ITO and m.box not in hatched
        and min(m.size) > 1
    ]  # fmt: skip
    areas = [m for m in areas if not any(m.holds(*text) for text in texts)]
    return [
        f"{one.fill} beside {other.fill}"
        for one, other in combinations(areas, 2)
        if one.fill != other.fill and _touch(one.box, other.box)
        and abs(lightness(one.fill) - lightness(other.fill)) < GREY
    ]  # fmt: skip


def run_together(part):
    """In words, each two texts of a part that lie on each other; turned ones are left out."""
    found = []
    for text in part.iter(SVG + "text"):
        if "transform" not in text.attrib and (text.text or "").strip():
            (left, right), y, size = extent(text), float(text.get("y")), text_size(text)
            found.append((text.text, (left, y - 0.75 * size, right, y + 0.25 * size)))
    return [
        f"{one!r} runs into {other!r}"
        for (one, a), (other, b) in combinations(found, 2)
        if all(min(a[i + 2], b[i + 2]) - max(a[i], b[i]) > 1 for i in (0, 1))
    ]


def _touch(one, other):
    """Whether two boxes have an edge in common, or nearly."""
    apart = [max(one[i], other[i]) - min(one[i + 2], other[i + 2]) for i in (0, 1)]
    return min(apart) < -2 and -1 < max(apart) < 2.5
