"""A table to read in a notebook and to copy: as HTML, as text, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from numbers import Integral

from moeviz.glossary import meaning
from moeviz.pictures.svg import PAGE_INK, PAGE_MUTED, PAGE_RULE


@dataclass(frozen=True, repr=False)
class Table:
    """Rows under named columns. A notebook shows it; print() gives text, `.csv` a spreadsheet's
    form. caption: one sentence above it."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def __str__(self) -> str:
        lines = [[*self.columns], *([cell_words(value) for value in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    __repr__ = __str__

    @property
    def csv(self) -> str:
        """The same, comma-separated, for a spreadsheet or a chat."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()

    def _repr_html_(self) -> str:
        cell = f'<td style="padding:2px 10px;border-top:1px solid {PAGE_RULE}">'
        head = "".join(
            f'<th scope="col"{_hover(c)} style="text-align:left;padding:2px 10px">{escape(c)}</th>'
            for c in map(str, self.columns)
        )
        body = "".join(
            "<tr>" + "".join(f"{cell}{escape(cell_words(value))}</td>" for value in row) + "</tr>"
            for row in self.rows
        )
        return (
            f'<div style="max-height:320px;overflow:auto;color:{PAGE_INK}" tabindex="0" '
            f'role="group" aria-label="A table"><table style="border-collapse:collapse">'
            f'<caption style="text-align:left;color:{PAGE_MUTED}">{escape(self.caption)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )


def cell_words(value: object) -> str:
    """A cell to read; a spreadsheet takes whole numbers without separators."""
    return f"{value:,}" if isinstance(value, Integral) else str(value)


def _hover(column: str) -> str:
    """What a word of the glossary means, as an attribute."""
    words = meaning(column)
    return f' title="{escape(words)}"' if words else ""
