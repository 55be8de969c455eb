"""hand.js as HTML that runs it: JavaScript that a page's pictures need once."""

from __future__ import annotations

from html import escape
from importlib.resources import files


def runs(script: str, package: str = "moeviz.pictures") -> str:
    """HTML that runs a script of a package's folder. A widget's <script> would not run; the error
    of an image that is none does."""
    code = files(package).joinpath(script).read_text("utf-8")
    return f'<img alt="" hidden src="data:," onerror="{escape(code)}">'


HAND = runs("hand.js")
