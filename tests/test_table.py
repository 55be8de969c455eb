"""A table to copy says the same in each of its forms."""

import csv
import io
import re
from html import unescape

from hypothesis import given
from hypothesis import strategies as st

from moeviz.pictures.table import Table

CELLS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12)
TABLES = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=4)
)


@given(TABLES)
def test_csv_and_html_hold_every_cell_as_it_is(rows):
    columns, *body = rows
    table = Table("All <of> them.", columns, body)
    assert [*csv.reader(io.StringIO(table.csv))] == rows
    html = table._repr_html_()
    found = [unescape(v) for v in re.findall(r"<t[hd] [^>]*>(.*?)</t[hd]>", html)]
    assert found == [cell for row in rows for cell in row]
    assert "All &lt;of&gt; them." in html


def test_text_stands_in_columns_and_numbers_are_easy_to_read():
    table = Table("", ("exercise", "tries"), [("01.1", 2), ("a longer one", 1000)])
    assert str(table).splitlines() == [
        "exercise      tries",
        "01.1          2",
        "a longer one  1,000",
    ]
    assert ">1,000<" in table._repr_html_() and table.csv.endswith(",1000\n"), "a spreadsheet's"
