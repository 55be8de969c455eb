"""Routers side by side: one picture of all they decide, with a table twin of the same content."""

import io
import re
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageFont

from moeviz.experiments.routers_on_a_text import every_name
from moeviz.pictures.routing.routers import NAMES, WIDTH, compare, facts_of, overview
from moeviz.pictures.static import png
from moeviz.pictures.svg import MONO
from moeviz.records.routes import Decision

SVG = "{http://www.w3.org/2000/svg}"
NASTY = ("<script>alert(1)</script>", "&amp;", '"quoted"', "it's", "]]>", "<b", "x" * 60, "字")
STATE = 'compare_routers?text=%3Cb%3E&a="<x>"'


def make(label="Top-K", tokens=NASTY, num_experts=8, top_k=2, **changes):
    """Token t visits experts t, t + 3, ... with falling weights."""
    num_tokens = len(tokens)
    weight = np.zeros((num_tokens, num_experts), dtype=np.float32)
    for t in range(num_tokens):
        for k in range(top_k):
            weight[t, (t + 3 * k) % num_experts] = 0.75 / (k + 1)
    visits = weight > 0
    load = visits.sum(0).astype(np.int64)
    fields = dict(
        label=label, tokens=tuple(tokens), score=np.full_like(weight, 1 / num_experts),
        weight=weight, visits=visits, dropped=np.zeros_like(visits),
        leaks=np.zeros(num_tokens, dtype=bool), load=load, demand=load, places=None, causal=True,
        soft=False, meta={"top_k": top_k, "training": True, "substitute": "", "learned": 512},
    )  # fmt: skip
    return Decision(**{**fields, **changes})


def limited(label="Switch", tokens=NASTY):
    """The second half finds no place, and looks ahead."""
    whole = make(label, tokens, top_k=1)
    late = np.arange(len(tokens)) >= len(tokens) // 2
    dropped = whole.visits & late[:, None]
    visits = whole.visits & ~dropped
    return make(
        label, tokens, top_k=1, visits=visits, dropped=dropped, weight=whole.weight * visits,
        load=visits.sum(0), demand=whole.load, places=1, leaks=late, causal=False,
    )  # fmt: skip


def mixture(label="Soft MoE", tokens=NASTY):
    weight = np.full((len(tokens), 8), 0.125, dtype=np.float32)
    return make(
        label, tokens, weight=weight, visits=weight > 0, soft=True, causal=False,
        leaks=np.ones(len(tokens), dtype=bool),
    )  # fmt: skip


RULES = ["each token takes its K best experts", 'a <b> & "rule"', "c " * 60, "d"]
LONG = tuple(f"token{i}" for i in range(40))


def four(tokens=LONG):
    dense = make("Dense <i>", tokens, top_k=8)
    return [make(tokens=tokens), limited(tokens=tokens), mixture(tokens=tokens), dense]


CASES = {
    "two": lambda: compare([make(), limited()], RULES[:2], heading="A <text>", state=STATE),
    "three": lambda: compare(
        [limited(), mixture(), make()], RULES[:3], heading="T", note="<note> & so on", state=STATE
    ),
    "four": lambda: compare(four(), RULES, heading="40 tokens", state=STATE),
    "one token": lambda: compare(
        [make(tokens=["a"]), limited(tokens=["a"])], RULES[:2], heading="T", state=STATE
    ),
    "12 experts": lambda: compare(
        [make(num_experts=12), make("B", num_experts=12)], RULES[:2], heading="T", state=STATE
    ),
    "nobody is served": lambda: compare(
        [make(), make("B", visits=np.zeros((8, 8), bool), load=np.zeros(8, np.int64))],
        RULES[:2], heading="T", state=STATE,
    ),
    "all": lambda: overview(four(NASTY), heading="All of <them>", state=STATE),
}  # fmt: skip
each_picture = pytest.mark.parametrize("name", CASES)


def parse(picture):
    return ElementTree.fromstring(picture.svg)


def texts(root):
    return [t.text or "" for t in root.iter(f"{SVG}text")]


@each_picture
def test_a_picture_is_well_formed_and_says_what_it_is(name):
    picture = CASES[name]()
    assert CASES[name]().svg == picture.svg
    root = parse(picture)
    title, description = root.find(SVG + "title"), root.find(SVG + "desc")
    assert description.text == picture.summary and picture.summary.endswith(".")
    assert root.get("aria-label") == f"{title.text}. {picture.summary}"
    assert root.get("data-state") == STATE and root.get("role") == "img"
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
        "svg", "title", "desc", "defs", "pattern", "g", "rect", "text", "line", "polyline", "image",
    }  # fmt: skip
    assert len([e for e in root.iter() if e.tag != SVG + "title"]) < 2200


def extent(text):
    """Left and right end of a text, in the fonts of the still pictures, wider than most."""
    style = text.get("style")
    size = float(re.search(r"font:(?:600 )?([\d.]+)px ", style)[1])
    assert size >= 12
    kind = ("Mono" if MONO in style else "") + ("-Bold" if "600" in style else "")
    face = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{kind}.ttf"
    width = ImageFont.truetype(face, size).getlength(text.text or "")
    x = float(text.get("x"))
    anchor = (re.search("text-anchor:(\\w+)", style) or ["", "start"])[1]
    left = x - width * {"start": 0, "middle": 0.5, "end": 1}[anchor]
    return left, left + width


@each_picture
def test_no_text_is_small_or_leaves_the_picture(name):
    root = parse(CASES[name]())
    height = float(root.get("height"))
    for text in root.iter(SVG + "text"):
        left, right = extent(text)
        assert -0.5 <= left and right <= WIDTH + 0.5, text.text
        assert 0 <= float(text.get("y")) <= height


@pytest.mark.parametrize("count", [2, 3, 4])
def test_texts_of_one_line_do_not_touch(count):
    """With the longest label, rule and facts that there are."""
    label, rule = (
        max((getattr(named, part) for named in every_name().values()), key=len)
        for part in ("title", "rule")
    )
    busy = replace(limited(tokens=LONG), label=label, demand=np.full(8, 20))
    many = [replace(busy, label=f"{label[:-1]}{n}") for n in range(count)]
    picture = compare(many, [rule] * count, heading="T")
    lines = defaultdict(list)
    for text in parse(picture).iter(SVG + "text"):
        lines[text.get("y")].append((*extent(text), text.text))
    for line in lines.values():
        line.sort()
        for (_, end, before), (start, _, after) in pairwise(line):
            assert end <= start, (before, after)
    shown = " ".join(texts(parse(picture)))
    for word in rule.split():
        assert word in shown, f"{rule!r} needs more than two lines"


@pytest.mark.parametrize("rule", [named.rule for named in every_name().values()])
def test_every_rule_fits_its_two_lines(rule):
    picture = compare(four(), [rule] * 4, heading="T")
    assert all(" ".join(texts(parse(picture))).count(word) >= 4 for word in rule.split())


@each_picture
def test_the_table_twin_is_rectangular(name):
    picture = CASES[name]()
    assert len(set(picture.columns)) == len(picture.columns)
    assert all(len(row) == len(picture.columns) for row in picture.rows)
    assert "nan" not in [str(v) for row in picture.rows for v in row]


@pytest.mark.parametrize("name", ["two", "four", "all"])
def test_a_picture_can_be_rasterised(name):
    pytest.importorskip("resvg_py")
    picture = CASES[name]()
    image = Image.open(io.BytesIO(png(picture.svg)))
    assert image.size == (WIDTH, round(float(parse(picture).get("height"))))
    assert len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_the_twin_says_of_each_token_what_the_row_shows():
    top, switch = make(), limited()
    picture = compare([top, switch], RULES[:2], heading="T")
    assert picture.columns == ("#", "token", "Top-K", "Switch")
    named = {row[1]: row for row in picture.rows if row[0] == ""}
    assert [named[n][3] for n in NAMES] == list(facts_of(switch))
    assert named["load"][2:] == ("2 2 2 2 2 2 2 2", "1 1 1 1 0 0 0 0")
    tokens = [row for row in picture.rows if row[0] != ""]
    assert [row[1] for row in tokens] == list(NASTY)
    assert tokens[0][2:] == ("e0 0.75, e3 0.38", "e0 0.75")
    assert tokens[7][3] == "no expert; dropped at e7; sees later tokens"
    tips = [t.text for t in parse(picture).iter(SVG + "title")]
    for row in tokens:
        assert f"{row[1]}: {row[2]}" in tips and f"{row[1]}: {row[3]}" in tips


def test_the_summary_names_who_does_what():
    picture = compare([make(), limited(), mixture()], RULES[:3], heading="A text, K = 2")
    assert picture.summary == (
        "A text, K = 2. See later tokens: Switch, Soft MoE. Drop assignments: Switch. "
        "Leave tokens without an expert: Switch."
    )
    assert "Drop assignments: none." in compare([make()] * 2, RULES[:2], heading="T").summary


def test_the_facts():
    assert facts_of(make()) == ("no", "nothing", "none", "0.00")
    assert facts_of(limited()) == ("yes: 4 of 8 tokens", "4 of 8 (50%)", "4 of 8 tokens", "1.00")
    quiet = make(causal=False)
    assert facts_of(quiet)[0] == "may, not caught here"
    meta = {"training": False, "substitute": "by some other rule"}
    assert facts_of(make(causal=False, meta=meta))[0] == "no: another rule"
    nobody = make(load=np.zeros(8, np.int64), visits=np.zeros((8, 8), bool))
    assert facts_of(nobody)[2:] == ("8 of 8 tokens", "no load")


def test_marks_are_counted_by_what_was_decided():
    top, switch = make(), limited()
    root = parse(compare([top, switch], RULES[:2], heading="T"))
    # One cross for each dropped assignment and one in the legend; badges likewise.
    crosses = list(root.iter(SVG + "polyline"))
    assert len(crosses) == int(switch.dropped.sum()) + 1
    shown = texts(root)
    assert shown.count("∅") == int((~switch.visits.any(1)).sum()) + 1
    assert shown.count("↓") == int(switch.leaks.sum()) + 1
    assert shown.count(".75") == 8 + 4 and shown.count(".38") == 8


def test_bars_are_the_load_with_the_even_share_and_the_places():
    switch = limited()
    root = parse(compare([switch, make()], RULES[:2], heading="T"))
    bars = [r for r in root.iter(SVG + "rect") if (t := r.find(SVG + "title")) is not None
            and t.text.startswith("expert ")]  # fmt: skip
    heights = np.array([float(r.get("height")) for r in bars])
    assert heights * 2 / 48 == pytest.approx([*switch.load, *make().load], abs=0.01)
    assert bars[0].find(SVG + "title").text == "expert 0: 1 of 1 assignments"
    dashed = [e for e in root.iter(SVG + "line") if "dasharray" in e.get("style")]
    assert len(dashed) == 3  # two blocks and the legend
    limits = [e for e in root.iter(SVG + "line") if "#d55e00" in e.get("style")]
    assert len(limits) == 2  # Switch and the legend


def test_the_overview_names_who_does_what():
    hashed = make("Hash", meta={"learned": 0, "substitute": ""})
    base = make("BASE", causal=False, meta={"learned": 512, "substitute": "another"})
    picture = overview([make(), limited(), mixture(), hashed, base], heading="All")
    assert "2 of 5 see later tokens: Switch, Soft MoE." in picture.summary
    assert "1 of 5 drop assignments: Switch." in picture.summary
    assert "1 of 5 learn nothing: Hash." in picture.summary
    by_name = {row[0]: dict(zip(picture.columns, row, strict=True)) for row in picture.rows}
    assert [by_name[n]["generates"] for n in by_name] == ["yes", "no", "no", "yes", "by another rule"]  # fmt: skip # noqa: E501
    assert by_name["Switch"]["dropped"] == "4 of 8 (50%)" and by_name["Switch"]["MaxVio"] == "1.00"
    assert by_name["Soft MoE"]["experts a token"] == "mixtures"
    assert by_name["Top-K"]["experts a token"] == "2.00"
    assert by_name["Hash"]["learned numbers"] == "none"
