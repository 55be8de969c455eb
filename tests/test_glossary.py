"""The glossary: one meaning a word, plain sentences, and hover text that reaches panels."""

import html
import re
from pathlib import Path

import ipywidgets

from moeviz.glossary import TERMS, as_markdown, meaning
from moeviz.panels.controls import choice, explain, slider
from moeviz.pictures.svg import Svg
from moeviz.pictures.table import Table

SOURCES = Path(__file__).resolve().parent.parent / "notebooks" / "src"


def test_every_word_has_one_meaning():
    names = [name.lower() for term in TERMS for name in (term.word, *term.also)]
    assert len({*names}) == len(names)


def test_a_meaning_is_one_or_two_sentences():
    for term in TERMS:
        ends = re.findall(r"[.](?= [A-Z]|$)", term.meaning)
        assert term.meaning.endswith(".") and 1 <= len(ends) <= 2 and len(term.meaning) < 260, term


def test_the_notebook_that_a_word_is_said_to_come_from_uses_it():
    for term in TERMS:
        pages = SOURCES.glob(f"{term.notebook[:2]}*.md")  # 03 has several parts
        words = " ".join(page.read_text("utf-8") for page in pages).replace("*", "").split()
        text = " ".join(words).lower()
        assert any(name.lower().rstrip("s") in text for name in (term.word, *term.also)), term


def test_the_page_has_every_word_once_in_order():
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", as_markdown(), re.MULTILINE)
    assert words == sorted((term.word for term in TERMS), key=str.lower)
    assert as_markdown().count("\n|") == len(TERMS) + 2, "no meaning breaks the table"


def test_a_control_is_explained_by_its_label():
    plain, known = choice("x-axis", ("a",), "a", "40px"), slider("MaxVio", ("a",), "a")
    name = "tooltip" if hasattr(known, "tooltip") else "description_tooltip"
    assert getattr(plain, name) in (None, "")
    explain(plain)
    explain(known)
    assert getattr(plain, name) in (None, "") and getattr(known, name) == meaning("maxvio")
    assert isinstance(known, ipywidgets.DOMWidget)


def test_a_picture_and_a_table_explain_their_words():
    svg = Svg(100, 50, "t", "d.")
    svg.text(0, 20, "MaxVio")
    svg.text(0, 40, "MaxVio of layer 1")
    picture = svg.picture(("MaxVio", "other"), ())
    assert html.unescape(picture.svg).count(meaning("MaxVio")) == 1
    headed = html.unescape(Table("", ("MaxVio", "other"), ())._repr_html_())
    assert headed.count(f'title="{meaning("MaxVio")}"') == 1 and headed.count("title=") == 1
