"""What the tests of pictures share: a picture is named, legible and inside its frame."""

import re
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
WIDTH = 900


def check_frame(picture, most):
    """The picture's root, and its marks, fewer than `most`: each inside, each text large enough."""
    root = ElementTree.fromstring(picture.svg)
    assert root.get("role") == "img" and root.find(f"{SVG}title").text
    assert root.find(f"{SVG}desc").text == picture.summary
    sizes = [float(s) for s in re.findall(r"font:(?:600 )?([\d.]+)px", picture.svg)]
    assert sizes and min(sizes) >= 12
    width, height = map(float, root.get("viewBox").split()[2:])
    assert width == WIDTH
    marks = [e for e in root.iter() if e.tag != f"{SVG}title"]
    assert len(marks) < most and "nan" not in picture.svg
    for mark in marks:
        for name, least, limit in (
            ("x", -0.01, width), ("x2", 0, width), ("cx", 0, width), ("y", 0, height),
            ("y2", 0, height), ("cy", 0, height),
        ):  # fmt: skip
            if mark.get(name):
                assert least <= float(mark.get(name)) <= limit, ElementTree.tostring(mark)
        if mark.tag == f"{SVG}rect":
            assert float(mark.get("x")) + float(mark.get("width")) <= width + 1
    assert {len(row) for row in picture.rows} <= {len(picture.columns)}
    return root, marks
