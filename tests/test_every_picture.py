"""What holds for every picture: well-formed, named, legible, inside its frame, pure, with a twin.

A new picture needs its file and a line in helpers/picture_cases.py; the first test asks for it.
"""

import functools
import hashlib
import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import moeviz.pictures
from helpers.picture_cases import CASES, make_trace
from helpers.pictures import SVG, corners, extent, parse, text_size, texts, tips
from helpers.sight import alike_in_grey, hard_to_see, marks_of, run_together
from moeviz.pictures.routing.tokens import token_strip

STATE = 'route_text?text=%3Cb%3E&a="<x>"'
SHAPES = ("rect", "text", "line", "polyline", "polygon", "circle", "image")
TAGS = {"svg", "title", "defs", "pattern", "g", *SHAPES}
WIDEST = 560  # what a notebook's cell has room for, beside the file browser at 1000 pixels
NUMBERS = ("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "width", "height")


def test_every_public_picture_has_a_case():
    drawn = {draw.func for draw in CASES.values()}
    for module in pkgutil.walk_packages(moeviz.pictures.__path__, "moeviz.pictures."):
        for name, function in inspect.getmembers(importlib.import_module(module.name)):
            public = inspect.isfunction(function) and not name.startswith("_")
            if public and function.__module__ == module.name:
                returns = inspect.signature(function).return_annotation
                assert returns != "Picture" or function in drawn, f"{module.name}.{name}"


def _is_named(root, picture):
    pressed = root.findall(".//*[@data-press]")
    assert root.tag == "div" and root.get("role") == ("group" if pressed else "img")
    title, _, description = root.get("aria-label").partition(". ")
    assert title and description == picture.summary and picture.summary.endswith(".")
    # Text from a user never becomes a tag.
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {"div", *TAGS}


def _has_things(root):
    for thing in root.findall(".//*[@class='k']"):
        assert thing.get("data-kin").strip(), "a name of its own"
        assert not thing.findall(".//*[@class='k']"), "things do not nest"
    for part in root:
        pressed = part.findall(".//*[@data-press]")
        assert all(mark.get("aria-label") for mark in pressed)
        for mark in pressed:
            sizes = [shape.size for shape in marks_of(mark)]
            assert any(min(size) >= 2 for size in sizes), ("no room for a hand", mark.attrib)
        # The keyboard enters a part once.
        assert [m.get("tabindex") for m in pressed] == ["0", *["-1"] * len(pressed)][: len(pressed)]


def _is_inside(part):
    width, height = map(float, part.get("viewBox").split()[2:])
    assert (float(part.get("width")), float(part.get("height"))) == (width, height)
    for mark in (m for m in part.iter() if m.tag.removeprefix(SVG) in SHAPES):
        found = {key: float(mark.get(key)) for key in NUMBERS if mark.get(key)}
        points = corners(mark).T if mark.get("points") else ((), ())
        ends = {"width": width, "height": height}
        for axis, (size, end), way in zip("xy", ends.items(), points, strict=True):
            names = (axis, f"{axis}1", f"{axis}2", f"c{axis}")
            places = [*way, *(found[name] for name in names if name in found)]
            if size in found:
                places.append(found[axis] + found[size])
            assert places and np.isfinite(places).all(), mark.attrib
            assert all(-1 <= place <= end + 1 for place in places), (mark.text, mark.attrib)
        style = mark.get("style", "")
        assert "fill:none" not in style or re.search("stroke:(?!none)", style), mark.attrib
        if mark.tag == SVG + "text":
            assert text_size(mark) >= 12
            if "transform" not in mark.attrib:
                left, right = extent(mark)
                assert left >= -8 and right <= width + 8, (mark.text, left, right)
                # A g or a _ is not cut off: DejaVu goes 0.24 of its size below the line.
                assert found["y"] + 0.24 * text_size(mark) <= height, mark.text


def _is_easy_to_see(part):
    marks = marks_of(part)
    assert hard_to_see(marks) == []
    assert run_together(part) == []
    assert alike_in_grey(marks) == [], "in a print without colours"


def _has_a_twin(picture):
    assert len(set(picture.columns)) == len(picture.columns)
    assert all(len(row) == len(picture.columns) for row in picture.rows)
    assert not {"nan", "None"} & {str(v) for row in picture.rows for v in row}


@functools.cache
def drawn(name):
    """The first time that it is drawn."""
    return CASES[name]()


@pytest.mark.parametrize("name", CASES)
def test_every_picture(name):
    draw, picture = CASES[name], drawn(name)
    assert draw() == picture, "the same input, another picture"
    root = parse(picture)
    _is_named(root, picture)
    _has_things(root)
    for part in root:
        assert float(part.get("width")) <= WIDEST
        _is_inside(part)
        _is_easy_to_see(part)
    words = " ".join(filter(None, texts(picture) + tips(picture)))
    assert not re.findall(r"(?<![\w.,/])(\d{5,}(?!\w)|\d{4} (?:step|token|assign))", words), "1,000"
    _has_a_twin(picture)
    assert "nan" not in re.sub(r"base64,[\w+/=]+", "", picture.svg).lower().replace("nano", "")
    assert len(picture.svg) < 200_000
    assert 0 < sum(len(list(root.iter(SVG + shape))) for shape in SHAPES) <= 2200


def test_the_state_stands_on_the_root():
    picture = CASES["strip"]().at(STATE)
    assert parse(picture).get("data-state") == STATE and picture.at("later") == picture


def digests(every):
    return {
        name: hashlib.sha256(drawn(name).svg.encode()).hexdigest() for name in [*CASES][::every]
    }


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_the_same_string_in_a_fresh_process(every):
    """Another hash seed: the order of a set would show."""
    code = (
        f"import json, runpy; print(json.dumps(runpy.run_path({__file__!r})['digests']({every})))"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": paths}
    command = [sys.executable, "-P", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(run.stdout) == digests(every)


def test_golden_string():
    """Look at the change, then renew it with MOEVIZ_RENEW_GOLDEN=1 and `-k golden`."""
    picture = token_strip(make_trace(("def", "·<x>", "⏎", "&"), 9, 2), 1)
    found = picture.svg.replace("><", ">\n<") + "\n"
    path = Path(__file__).parent / "golden" / "strip.svg"
    if os.environ.get("MOEVIZ_RENEW_GOLDEN"):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")
    assert "·<x>" in texts(picture)
