"""Routers side by side: one picture of all they decide, with a table twin of the same content."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from helpers.picture_cases import LONG as TOKENS
from helpers.picture_cases import NASTY, RULES, four, limited, mixture
from helpers.picture_cases import make_decision as make
from helpers.pictures import SVG, extent, parse, texts
from moeviz.experiments.routers_on_a_text import every_name
from moeviz.pictures.routing.routers import NAMES, compare, facts_of, overview


@pytest.mark.parametrize("count", [2, 3, 4])
def test_texts_of_one_line_do_not_touch(count):
    """With the longest label, rule and facts that there are."""
    label, rule = (
        max((getattr(named, part) for named in every_name().values()), key=len)
        for part in ("title", "rule")
    )
    busy = replace(limited(tokens=TOKENS[:40]), label=label, demand=np.full(8, 20))
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
